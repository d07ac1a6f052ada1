"""Descent with a schedule, checkpoints from which it goes on exactly, and a progress bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from ..network import save_tensors
from .objective import Losses
from .progress import progress

_WARM_UP, _COOL_DOWN = 30, 0.7  # steps; the last fraction of the steps, with falling rate
_CLIP = 20.0  # norm of the gradients, which only the wildest pairs exceed
_MEMORY = 100  # steps that an average of the parameters reaches back, fewer at the start

Record = Callable[[int, dict[str, float]], None]


class Diverged(RuntimeError):
    """The loss or a gradient is no longer finite; the last checkpoint is untouched."""


def soap(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """SOAP (Vyas et al., arXiv:2409.11321)."""
    from pytorch_optimizer import SOAP

    return SOAP(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, precondition_frequency=10)


def schedule(step: int, steps: int, cool_down: float = _COOL_DOWN) -> float:
    """The rate's share at a step: a short warm-up, and a fall to 0 over the last fraction."""
    return min((step + 1) / _WARM_UP, (steps - step) / (cool_down * steps), 1)


def descend(
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], tuple[Tensor, Losses]],
    checkpoint: Path,
    *,
    facts: dict[str, str],
    steps: int,
    lr: float,
    every: int,
    averages: dict[str, Tensor] | None = None,
    on_checkpoint: Callable[[], None] = lambda: None,
    record: Record = lambda step, numbers: None,
    first: bool = True,
) -> int:
    """Minimise ``loss(step)`` from the checkpoint, if there is one of the same facts.

    Args:
        averages: where the exponential moving averages of the parameters are kept.
        every: steps from one checkpoint to the next.
        record: told each step's number, losses, rate, norm of the gradients and seconds.
        first: of several processes that do the same, only the first writes and shows anything.
    """
    state: dict[str, Tensor] = {**parameters, **_prefixed(averages or {})}
    start = _resume(state, optimizer, checkpoint, facts) if checkpoint.is_file() else 0
    for step, report in progress(range(start, steps), shown=first):
        began = perf_counter()
        rate = lr * schedule(step, steps)
        optimizer.param_groups[0]["lr"] = rate
        total, losses = loss(step)
        optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(parameters.values(), _CLIP)
        if not torch.isfinite(total + norm):
            raise Diverged(
                f"step {step}: the loss is {total.item()} and the gradient's norm {norm.item()}; "
                f"go on from the last good state, {checkpoint}, with a smaller lr"
            )
        optimizer.step()
        for name, average in (averages or {}).items():
            average.lerp_(parameters[name].detach(), 1 / min(_MEMORY, step + 1))
        report(vars(losses))
        seconds = perf_counter() - began
        record(step, {**vars(losses), "rate": rate, "norm": norm.item(), "seconds": seconds})
        if first and ((step + 1) % every == 0 or step + 1 == steps):
            _save_checkpoint(state, optimizer, checkpoint, {**facts, "step": str(step + 1)})
            on_checkpoint()
    return max(start, steps)


def _prefixed(averages: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"average of {name}": average for name, average in averages.items()}


def _save_checkpoint(
    state: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    path: Path,
    facts: dict[str, str],
) -> None:
    tensors = {f"parameter/{name}": p.detach() for name, p in state.items()}
    aside = json.dumps(_aside(optimizer.state_dict()["state"], tensors))
    save_tensors(tensors, path, {**facts, "optimizer": aside})


def _aside(tree: object, tensors: dict[str, Tensor]) -> object:
    """A tree of dictionaries, lists and numbers, its tensors put aside and named in their place."""
    if isinstance(tree, dict):
        return {str(key): _aside(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_aside(value, tensors) for value in tree]
    if not isinstance(tree, Tensor):
        return tree
    name = f"optimizer/{len(tensors)}"
    tensors[name] = tree
    return name


def _resume(
    parameters: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    path: Path,
    facts: dict[str, str],
) -> int:
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

            def put_back(tree: object) -> object:
                if isinstance(tree, dict):
                    return {key: put_back(value) for key, value in tree.items()}
                if isinstance(tree, list):
                    return [put_back(value) for value in tree]
                return file.get_tensor(tree) if isinstance(tree, str) else tree

            for name, parameter in parameters.items():
                parameter.data.copy_(file.get_tensor(f"parameter/{name}"))
            state = put_back(json.loads(found["optimizer"]))
            step = int(found["step"])
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of this network; remove it to start anew"
        ) from error
    groups = optimizer.state_dict()["param_groups"]
    for group in groups:
        group["step"] = step  # SOAP counts there, Adam in its state
    assert isinstance(state, dict)
    by_number = {int(number): value for number, value in state.items()}
    optimizer.load_state_dict({"state": by_number, "param_groups": groups})
    return step
