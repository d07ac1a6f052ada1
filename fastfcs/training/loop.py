"""The training loop: SOAP with a schedule, exactly resumable checkpoints, and a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from ..files import atomic
from ..progress import progress_bar
from .config import Precision
from .soap import SOAP

_WARM_UP = 30  # steps in which the rate rises
_COOL_DOWN = 0.7  # fraction of the run, at its end, in which the rate falls
_CLIP = 20.0  # largest norm of the gradients; only the wildest pairs exceed it
_AVERAGED_STEPS = 100  # time constant of the parameters' averages, shorter at the start
_BUFFERED_STEPS = 20  # steps on a GPU whose numbers are fetched together
_CHECKPOINT_SECONDS = 30  # between checkpoints of a run that is limited by minutes

Record = Callable[[int, dict[str, float]], None]
"""Called with a step and its losses, "rate", "norm" (of the gradients) and "seconds"."""


class Diverged(RuntimeError):
    """The loss or a gradient is no longer finite; the last checkpoint is untouched.

    Examples:
        >>> from fastfcs.training import Diverged
        >>> raise Diverged("step 7: the loss is nan")
        Traceback (most recent call last):
        fastfcs.training.loop.Diverged: step 7: the loss is nan
    """


def autocast(precision: Precision, device: str) -> torch.autocast:
    """Make a context in which convolutions run in the given precision.

    Args:
        precision: "float32", or "bfloat16" for mixed precision.
        device: device of the convolutions.

    Returns:
        The context manager; in it, losses and parameters stay float32.

    Examples:
        >>> import torch
        >>> from fastfcs.training.loop import autocast
        >>> image, kernel = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
        >>> with autocast("bfloat16", "cpu"):
        ...     torch.nn.functional.conv2d(image, kernel).dtype
        torch.bfloat16
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")


def schedule(step: int, progress: float, cool_down: float = _COOL_DOWN) -> float:
    """Compute the learning rate of a step as a fraction of the highest.

    The rate rises for 30 steps, stays constant, and falls linearly to 0 at the end.

    Args:
        step: number of steps taken.
        progress: the fraction of the run that is over, 1 at its end.
        cool_down: the fraction of the run, at its end, in which the rate falls.

    Returns:
        A factor in [0, 1].

    Examples:
        >>> from fastfcs.training.loop import schedule
        >>> [round(schedule(step, step / 1000), 2) for step in (0, 29, 300, 650, 1000)]
        [0.03, 1.0, 1.0, 0.5, 0.0]
    """
    return max(0.0, min((step + 1) / _WARM_UP, (1 - progress) / cool_down, 1.0))


def descend(
    parameters: dict[str, nn.Parameter],
    loss: Callable[[int], tuple[Tensor, dict[str, Tensor]]],
    checkpoint: Path,
    *,
    metadata: Mapping[str, str],
    steps: int | None,
    minutes: float | None = None,
    lr: float,
    every: int,
    averages: Mapping[str, Tensor] | None = None,
    on_checkpoint: Callable[[int], None] = lambda step: None,
    record: Record = lambda step, numbers: None,
    is_first: bool = True,
) -> int:
    """Minimise ``loss(step)`` by SOAP, from the checkpoint if there is one.

    Args:
        parameters: the parameters to optimise, by name.
        loss: returns the loss of a step, a scalar, and its terms to be shown, scalars by name.
        checkpoint: the file to resume from and to write.
        metadata: the run's settings; a checkpoint must have the same.
        steps, minutes: the run ends after whichever comes first; None is no limit. Minutes include
            those before the checkpoint, and the writing of the last one.
        lr: the highest learning rate.
        every: steps between checkpoints; a run limited by minutes also writes one every 30 s.
        averages: exponential moving averages of parameters, by name, updated in place.
        on_checkpoint: called with the number of steps done.
        record: called once per step, on a GPU some steps later.
        is_first: whether this process writes files and shows progress; with several processes, only
            one does.

    Returns:
        The number of steps done, including those before the checkpoint.

    Raises:
        Diverged: the loss or a gradient is no longer finite.
        ValueError: the checkpoint is damaged or belongs to another run.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from torch import nn
        >>> from fastfcs.training.loop import descend
        >>> import tempfile
        >>> x, file = nn.Parameter(torch.ones(2)), Path(tempfile.mkdtemp()) / "x.checkpoint.pt"
        >>> def loss(step):
        ...     return x.square().sum(), {}
        >>> descend({"x": x}, loss, file, metadata={}, steps=100, lr=0.05, every=50)
        100
        >>> bool(x.abs().max() < 0.5), file.is_file()
        (True, True)
    """
    averages = averages or {}
    optimizer = SOAP(parameters.values())
    state = _State(checkpoint, metadata, parameters, averages, optimizer)
    done, seconds = state.load() if checkpoint.is_file() else (0, 0.0)
    clock = _Clock(steps, minutes, seconds)
    on_gpu = any(p.is_cuda for p in parameters.values())
    numbers = _Numbers(checkpoint, record, _BUFFERED_STEPS if on_gpu else 1)
    saved, saved_at = done, clock.seconds

    def save() -> None:
        nonlocal saved, saved_at
        numbers.fetch()  # raises before anything that is not finite is saved
        begin = clock.seconds
        if is_first:
            state.save(done, begin)
            on_checkpoint(done)
        saved, saved_at = done, clock.seconds
        clock.reserve = max(clock.reserve, saved_at - begin)

    for step, report in progress_bar(clock.steps(done), done, steps, is_first):
        rate = lr * schedule(step, clock.progress(step))
        total, terms = loss(step)
        optimizer.zero_grad()
        torch.autograd.backward(total)
        norm = nn.utils.clip_grad_norm_(parameters.values(), _CLIP)
        numbers.add(step, rate, total, norm, terms, report)
        optimizer.step(rate)
        _update(averages, parameters, 1 / min(_AVERAGED_STEPS, step + 1))
        done = step + 1
        late = minutes is not None and clock.seconds - saved_at > _CHECKPOINT_SECONDS
        if late or done % every == 0:
            save()
    if saved < done:
        save()
    return done


def _update(
    averages: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], weight: float
) -> None:
    """Move the averages towards the parameters."""
    if averages:
        values = [parameters[name].detach() for name in averages]
        torch._foreach_lerp_(list(averages.values()), values, weight)


class _State:
    """The content of a checkpoint: all that a run needs to continue exactly where it was."""

    def __init__(
        self,
        path: Path,
        metadata: Mapping[str, str],
        parameters: Mapping[str, Tensor],
        averages: Mapping[str, Tensor],
        optimizer: SOAP,
    ) -> None:
        self._path, self._metadata, self._optimizer = path, dict(metadata), optimizer
        self._tensors = {"parameters": parameters, "averages": averages}

    def save(self, step: int, seconds: float) -> None:
        """Write the checkpoint, atomically."""
        checkpoint = {
            "metadata": self._metadata,
            "step": step,
            "seconds": seconds,
            "optimizer": self._optimizer.state_dict(),
            **{
                kind: {name: tensor.detach() for name, tensor in tensors.items()}
                for kind, tensors in self._tensors.items()
            },
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(self._path) as partial:
            torch.save(checkpoint, partial)

    def load(self) -> tuple[int, float]:
        """Read the checkpoint; return the steps and the seconds of the run so far."""
        try:
            checkpoint = torch.load(self._path, map_location="cpu", weights_only=True)
            self._check(checkpoint["metadata"])
            for kind, tensors in self._tensors.items():
                for name, tensor in tensors.items():
                    tensor.data.copy_(checkpoint[kind][name])
            self._optimizer.load_state_dict(checkpoint["optimizer"])
            return checkpoint["step"], checkpoint["seconds"]
        except (OSError, _OtherRun):
            raise
        except Exception as error:  # a damaged file raises errors of half a dozen types
            raise ValueError(
                f"{self._path} is not a checkpoint of this network; remove it to start from scratch"
            ) from error

    def _check(self, metadata: Mapping[str, str]) -> None:
        for name, value in self._metadata.items():
            if metadata[name] != value:
                raise _OtherRun(
                    f"{self._path} must be the checkpoint of a run with {name} {value}, "
                    f"got {metadata[name]}; remove it to start from scratch"
                )


class _OtherRun(ValueError):
    """The checkpoint belongs to a run with other settings."""


class _Clock:
    """Measures how much of a run is over: of its steps or of its minutes, whichever end first."""

    def __init__(self, steps: int | None, minutes: float | None, seconds: float) -> None:
        self._step_limit = math.inf if steps is None else steps
        self._second_limit = math.inf if minutes is None else 60 * minutes
        self._begin = perf_counter() - seconds
        self.reserve = 0.0  # seconds, for the last checkpoint

    @property
    def seconds(self) -> float:
        """The duration of the run so far."""
        return perf_counter() - self._begin

    def progress(self, step: int) -> float:
        """The fraction that is over before a step; 1 or more at the end."""
        elapsed = (self.seconds + self.reserve) / self._second_limit
        return max(step / self._step_limit, elapsed)

    def steps(self, start: int) -> Iterator[int]:
        """All steps from ``start`` to the end."""
        while self.progress(start) < 1:
            yield start
            start += 1


class _Numbers:
    """The losses of recent steps, fetched together because the host waits for each fetch."""

    def __init__(self, checkpoint: Path, record: Record, capacity: int) -> None:
        self._checkpoint, self._record, self._capacity = checkpoint, record, capacity
        self._pending: list[tuple[int, float, Tensor]] = []
        self._since = perf_counter()

    def add(
        self,
        step: int,
        rate: float,
        total: Tensor,
        norm: Tensor,
        terms: Mapping[str, Tensor],
        report: Callable[[Mapping[str, float]], None],
    ) -> None:
        """Add a step; its terms are reported to the progress bar when they are fetched."""
        self._names, self._report = list(terms), report
        numbers = [x.detach().float() for x in (total, norm, *terms.values())]
        self._pending.append((step, rate, torch.stack(numbers)))
        if len(self._pending) == self._capacity:
            self.fetch()

    def fetch(self) -> None:
        """Report and record all pending steps; raises Diverged if one is not finite."""
        if not self._pending:
            return
        rows: list[list[float]] = torch.stack([row for *_, row in self._pending]).tolist()
        seconds = (perf_counter() - self._since) / len(rows)
        for (step, rate, _), (total, norm, *values) in zip(self._pending, rows, strict=True):
            if not math.isfinite(total + norm):
                raise Diverged(
                    f"step {step}: the loss is {total} and the norm of the gradients {norm}; "
                    f"continue from the last good state, {self._checkpoint}, with a smaller lr"
                )
            terms = dict(zip(self._names, values, strict=True))
            self._report(terms)
            self._record(step, {**terms, "rate": rate, "norm": norm, "seconds": seconds})
        self._pending.clear()
        self._since = perf_counter()
