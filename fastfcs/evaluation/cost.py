"""Time and peak memory of a call."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


def measure_cost(call: Callable[[], T], device: str) -> tuple[T, float, float | None]:
    """Measure the time and the additional peak memory of one call.

    Args:
        call: the function.
        device: "cpu", or a CUDA device that the call works on.

    Returns:
        The call's result, its duration in seconds, and its peak memory (`peak_memory`) beyond the
        memory in use before, in MB, or None if the system does not report it.

    Examples:
        >>> import torch
        >>> from fastfcs.evaluation.cost import measure_cost
        >>> result, seconds, megabytes = measure_cost(lambda: torch.ones(2, 2).sum().item(), "cpu")
        >>> result, seconds > 0
        (4.0, True)
    """
    cuda = device.startswith("cuda")
    try:
        before: int | None = reset_peak_memory(device)
    except (OSError, AttributeError, TypeError):  # not Linux with glibc
        before = None
    start = time.perf_counter()
    result = call()
    if cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    return result, seconds, None if before is None else (peak_memory(device) - before) / 1e6


def reset_peak_memory(device: str) -> int:
    """Reset the peak that `peak_memory` reports to the memory in use.

    Args:
        device: "cpu" or a CUDA device.

    Returns:
        The memory in use, bytes.

    Raises:
        OSError, AttributeError, TypeError: on the CPU, if the system is not Linux with glibc.

    Examples:
        >>> from fastfcs.evaluation.cost import reset_peak_memory
        >>> reset_peak_memory("cpu") > 10**6
        True
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)  # return freed memory, whose reuse would not show in the peak
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak of VmRSS
    return _status("VmRSS")


def peak_memory(device: str) -> int:
    """Read the peak memory since `reset_peak_memory`.

    Args:
        device: "cpu" or a CUDA device.

    Returns:
        Bytes: on CUDA those that torch has allocated on the device, on the CPU the resident pages
        of the process.

    Examples:
        >>> import torch
        >>> from fastfcs.evaluation.cost import peak_memory, reset_peak_memory
        >>> before = reset_peak_memory("cpu")
        >>> _ = torch.ones(4_000_000)
        >>> peak_memory("cpu") - before > 15_000_000
        True
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024
