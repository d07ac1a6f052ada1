"""Descent with a schedule, checkpoints from which it goes on exactly, and a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from ..files import save_tensors
from ..progress import progress_bar
from .soap import SOAP

_WARM_UP, _COOL_DOWN = 30, 0.7  # steps; the last share of the run, with falling rate
_CLIP = 20.0  # norm of the gradients, which only the wildest pairs exceed
_MEMORY = 100  # steps that an average of the parameters reaches back, fewer at the start
_UNSEEN = 20  # steps on a GPU whose numbers are fetched together
_UNKEPT = 30  # seconds from one checkpoint to the next in a run of given minutes

Record = Callable[[int, dict[str, float]], None]


class Diverged(RuntimeError):
    """The loss or a gradient is no longer finite; the last checkpoint is untouched."""


def schedule(step: int, share: float, cool_down: float = _COOL_DOWN) -> float:
    """The rate's share: a short warm-up, and a fall to 0 over the last share of the run.

    Args:
        share: how much of the run is over, 1 at its end.
    """
    return max(0, min((step + 1) / _WARM_UP, (1 - share) / cool_down, 1))


class _Clock:
    """Says how much of a run is over: of its steps or of its minutes, whichever end first."""

    def __init__(self, steps: int | None, minutes: float | None, spent: float) -> None:
        self._steps = math.inf if steps is None else steps
        self._seconds = math.inf if minutes is None else 60 * minutes
        self._began = perf_counter() - spent
        self.reserve = 0.0  # seconds, for the last checkpoint

    @property
    def spent(self) -> float:
        return perf_counter() - self._began

    def share(self, step: int) -> float:
        """How much is over before a step; 1 or more at the end."""
        return max(step / self._steps, (self.spent + self.reserve) / self._seconds)

    def steps(self, start: int) -> Iterator[int]:
        while self.share(start) < 1:
            yield start
            start += 1


class _Numbers:
    """What is told of each step. To fetch them makes the host wait, so it is done for several."""

    def __init__(self, checkpoint: Path, record: Record, several: int) -> None:
        self._checkpoint, self._record, self._several = checkpoint, record, several
        self._pending: list[tuple[int, float, Tensor]] = []
        self._since = perf_counter()

    def add(
        self,
        step: int,
        rate: float,
        total: Tensor,
        norm: Tensor,
        losses: Mapping[str, Tensor],
        report: Callable[[Mapping[str, float]], None],
    ) -> None:
        self._names, self._report = list(losses), report
        numbers = [x.detach().float() for x in (total, norm, *losses.values())]
        self._pending.append((step, rate, torch.stack(numbers)))
        if len(self._pending) == self._several:
            self.fetch()

    def fetch(self) -> None:
        """Tell of all steps so far.

        Raises:
            Diverged: one has a loss or a gradient that is not finite.
        """
        if not self._pending:
            return
        found = torch.stack([numbers for *_, numbers in self._pending]).tolist()
        seconds = (perf_counter() - self._since) / len(found)
        for (step, rate, _), (total, norm, *each) in zip(self._pending, found, strict=True):
            if not math.isfinite(total + norm):
                raise Diverged(
                    f"step {step}: the loss is {total} and the gradient's norm {norm}; "
                    f"go on from the last good state, {self._checkpoint}, with a smaller lr"
                )
            losses = dict(zip(self._names, each, strict=True))
            self._report(losses)
            self._record(step, {**losses, "rate": rate, "norm": norm, "seconds": seconds})
        self._pending.clear()
        self._since = perf_counter()


def descend(
    parameters: dict[str, nn.Parameter],
    loss: Callable[[int], tuple[Tensor, dict[str, Tensor]]],
    checkpoint: Path,
    *,
    facts: dict[str, str],
    steps: int | None,
    minutes: float | None = None,
    lr: float,
    every: int,
    averages: dict[str, Tensor] | None = None,
    on_checkpoint: Callable[[int], None] = lambda done: None,
    record: Record = lambda step, numbers: None,
    first: bool = True,
) -> int:
    """Minimise ``loss(step)`` by SOAP from the checkpoint, if there is one of the same facts.

    Args:
        loss: of a step, what is minimised, and the terms to show: scalars.
        steps, minutes: the run ends after whichever comes first; None is no limit. Minutes count
            those before the checkpoint that it goes on from, and the writing of the last one.
        averages: where the exponential moving averages of the parameters are kept.
        every: steps from one checkpoint to the next; a run of minutes has one every 30 s as well.
        on_checkpoint: told how many steps are done.
        record: told each step's number, losses, rate, norm of the gradients and seconds.
        first: of several processes that do the same, only the first writes and shows anything.

    Returns:
        How many steps were done, those before the checkpoint included.
    """
    averages = averages or {}
    optimizer = SOAP(parameters.values())
    state: dict[str, Tensor] = {**parameters, **_named("average of ", averages)}
    done, spent = 0, 0.0
    if checkpoint.is_file():
        done, spent = _resume(state, optimizer, checkpoint, facts)
    clock = _Clock(steps, minutes, spent)
    on_gpu = any(p.is_cuda for p in parameters.values())
    numbers = _Numbers(checkpoint, record, several=_UNSEEN if on_gpu else 1)
    kept, kept_at = done, clock.spent

    def keep() -> None:
        nonlocal kept, kept_at
        numbers.fetch()  # nothing that is not finite is ever kept
        begun = clock.spent
        if first:
            about = {**facts, "step": str(done), "seconds": str(begun)}
            save_tensors(_contents(state, optimizer), checkpoint, about)
            on_checkpoint(done)
        kept, kept_at = done, clock.spent
        clock.reserve = max(clock.reserve, kept_at - begun)

    for step, report in progress_bar(clock.steps(done), done, steps, shown=first):
        rate = lr * schedule(step, clock.share(step))
        total, losses = loss(step)
        optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(parameters.values(), _CLIP)
        numbers.add(step, rate, total, norm, losses, report)
        optimizer.step(rate)
        if averages:
            values = [parameters[name].detach() for name in averages]
            torch._foreach_lerp_(list(averages.values()), values, 1 / min(_MEMORY, step + 1))
        done = step + 1
        late = minutes is not None and clock.spent - kept_at > _UNKEPT
        if late or done % every == 0:
            keep()
    if kept < done:
        keep()
    return done


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _contents(state: dict[str, Tensor], optimizer: SOAP) -> dict[str, Tensor]:
    return {**_named("parameter/", state), **_named("optimizer/", optimizer.state)}


def _resume(
    state: dict[str, Tensor], optimizer: SOAP, path: Path, facts: dict[str, str]
) -> tuple[int, float]:
    """Steps and seconds of the run so far."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
            for name, value in facts.items():
                if found[name] != value:
                    raise ValueError(
                        f"{path} is the checkpoint of a run with {name} "
                        f"{found[name]}, not {value}; remove it to start anew"
                    )
            for name, tensor in _contents(state, optimizer).items():
                tensor.data.copy_(file.get_tensor(name))
            optimizer.steps = int(found["step"])
            return optimizer.steps, float(found["seconds"])
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of this network; remove it to start anew"
        ) from error
