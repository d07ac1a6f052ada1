"""Several processes that train one network, as ``torchrun`` starts them; or just this one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def joined(device: str) -> Iterator[tuple[int, int]]:
    """This process's rank and the number of processes; "cuda" is then this process's own device."""
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


def parallel(module: nn.Module) -> nn.Module:
    """The module, its gradients averaged over the processes."""
    return DistributedDataParallel(module) if distributed.is_initialized() else module


def mean(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each scalar averaged over the processes."""
    if not distributed.is_initialized():
        return losses
    found = torch.stack([loss.detach() for loss in losses.values()])
    distributed.all_reduce(found)
    return dict(zip(losses, found / distributed.get_world_size(), strict=True))
