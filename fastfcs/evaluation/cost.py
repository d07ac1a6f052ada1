"""What a call costs."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


def measured(call: Callable[[], T], device: str) -> tuple[T, float, float | None]:
    """The result of ``call()``, its seconds, and the MB it takes at its peak beyond what was there.

    On CUDA the memory is torch's on the device; on the CPU it is resident pages, which Linux alone
    tells (None elsewhere).
    """
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before: int | None = torch.cuda.memory_allocated(device)
    else:
        before = _resident_from_now()
    start = time.perf_counter()
    result = call()
    if cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    if before is None:
        return result, seconds, None
    peak = torch.cuda.max_memory_allocated(device) if cuda else _status("VmHWM")
    return result, seconds, (peak - before) / 1e6


def _resident_from_now() -> int | None:
    """Bytes resident, their peak being reset; None where the system does not tell."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory freed but kept would hide what the call takes
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak of VmRSS
        return _status("VmRSS")
    except (OSError, AttributeError, TypeError):  # not Linux with glibc
        return None


def _status(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024
