"""How much memory is free, and whether an error means that it was not enough."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MEMINFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")  # version 2
_SHARE = 0.8  # of the free memory; others need some, too


def free_memory(device: torch.device) -> int | None:
    """Tell how much memory may be taken without harm to others.

    Args:
        device: the device where the memory is.

    Returns:
        Bytes: four fifths of what is free on a CUDA device, or on Linux in main memory and within
        the limit of a container. None if that is unknown.

    Examples:
        >>> import torch
        >>> from fastfcs.memory import free_memory
        >>> free_memory(torch.device("meta"))
    """
    import torch  # `fastfcs.cli` starts without it

    if device.type == "cuda" and torch.cuda.is_available():  # there may be fake tensors without
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        found = [torch.cuda.mem_get_info(device)[0] + unused]
    elif device.type == "cpu":
        found = [free for free in (_free_on_linux(), _free_in_container()) if free is not None]
    else:
        found = []
    return int(_SHARE * min(found)) if found else None


def _free_on_linux() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        return None


def _free_in_container() -> int | None:
    try:
        limit, used = (
            int((_CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current")
        )
        lines = (_CONTAINER / "memory.stat").read_text().splitlines()
        numbers = {name: int(number) for name, number in map(str.split, lines)}
        return limit - used + numbers["active_file"] + numbers["inactive_file"]
    except (OSError, ValueError, KeyError):  # no container, or "max": no limit
        return None


def return_freed() -> None:
    """Return freed memory to the system, of which glibc would keep hundreds of megabytes.

    Does nothing with other allocators, and while a program is compiled or exported.

    Examples:
        >>> from fastfcs.memory import return_freed
        >>> return_freed()
    """
    import torch

    if not torch.compiler.is_compiling():
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def is_exhausted(error: BaseException) -> bool:
    """Tell whether an error means that there was not enough memory.

    Args:
        error: any exception.

    Returns:
        Whether Python, torch or CUDA could not allocate memory.

    Examples:
        >>> from fastfcs.memory import is_exhausted
        >>> is_exhausted(RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"))
        True
        >>> is_exhausted(ValueError("strength must be in [0, 1], got 2"))
        False
    """
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
