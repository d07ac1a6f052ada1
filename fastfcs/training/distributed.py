"""Training of one network by several processes that ``torchrun`` starts, or by this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def process_group(device: str) -> Iterator[tuple[int, int]]:
    """Join the processes that ``torchrun`` started, if any.

    Args:
        device: if it is "cuda", each process gets a GPU of its own as the current device.

    Yields:
        This process's rank and the number of processes.

    Examples:
        >>> from fastfcs.training.distributed import process_group
        >>> with process_group("cpu") as (rank, processes):
        ...     rank, processes
        (0, 1)
    """
    if not distributed.is_torchelastic_launched():
        yield 0, 1
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        distributed.destroy_process_group()


def data_parallel(module: nn.Module) -> nn.Module:
    """Let a module average its gradients over all processes.

    Args:
        module: the same in every process.

    Returns:
        The module in DistributedDataParallel; the module itself with a single process.

    Examples:
        >>> from torch import nn
        >>> from fastfcs.training.distributed import data_parallel
        >>> module = nn.Linear(1, 1)
        >>> data_parallel(module) is module
        True
    """
    return DistributedDataParallel(module) if distributed.is_initialized() else module


def average(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Average losses over all processes.

    Args:
        losses: scalars by name, the same names in every process.

    Returns:
        Their averages; the losses themselves with a single process.

    Examples:
        >>> import torch
        >>> from fastfcs.training.distributed import average
        >>> average({"content": torch.tensor(0.5)})
        {'content': tensor(0.5000)}
    """
    if not distributed.is_initialized():
        return dict(losses)
    values = torch.stack([loss.detach() for loss in losses.values()])
    distributed.all_reduce(values)
    return dict(zip(losses, values / distributed.get_world_size(), strict=True))
