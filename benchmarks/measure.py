"""What the benchmarks share: the clock, ceilings of the machine, peak memory, the report."""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import signal
import statistics
import time
from argparse import ArgumentParser, Namespace, RawTextHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from goals import GOALS

from fastfcs import _C

ROTATED = 2**27  # bytes of inputs taken in turn: beyond the caches of CPUs and GPUs
BUDGET = {"cpu": 0.3, "cuda": 0.1}  # seconds of samples a measurement: from 3 to 100 of them
ROUNDS = ((0.02, 7), (0.5, 3), (math.inf, 1))  # of a comparison on the CPU, by its seconds per call
AHEAD = 400_000  # cycles, some 0.2 ms, that the GPU waits for the host before a sample
MEASURES = {
    *("ms", "floor", "bound", "bound_by", "ratio", "microseconds", "megabytes", "bytes_a_pixel"),
    *("value", "error", "spread"),
}  # keys of a row
PR_SET_THP_DISABLE = 41  # <linux/prctl.h>
COPIED = {"cpu": 2**26, "cuda": 2**28}  # floats
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices; a quarter for half types on the CPU


def options(
    doc: str | None, sizes: Sequence[float] | None, meaning: str, **subsets: Sequence[Any]
) -> Namespace:
    """The command line, the same for every benchmark.

    Args:
        subsets: what may be measured in part: --NAME takes some of these values, by default all.
    """
    parser = ArgumentParser(description=doc, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", type=float, nargs="+", default=sizes, help=meaning)
    for name, values in subsets.items():
        kind, shown = type(values[0]), f"by default {' '.join(map(str, values))}"
        parser.add_argument(
            f"--{name}", type=kind, nargs="+", choices=values, default=values, help=shown
        )
    parser.add_argument("--json", type=Path, help="put the results into this file, one a machine")
    parser.add_argument(
        "--add", action="store_true", help="keep the rows that the file has, measure what it lacks"
    )
    parser.add_argument("--dry-run", action="store_true", help="measure nothing, need no device")
    given = parser.parse_args()
    if given.dry_run:
        print(f"would measure {vars(given)}")
        parser.exit()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    # A shell that starts this in the background would have it ignore an interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return given


class Rotated(list[tuple[Any, ...]]):
    """Enough inputs that none is still in a cache when its turn comes again."""

    def __init__(self, make: Callable[[], tuple[Any, ...]]) -> None:
        first = make()
        size = sum(x.nbytes for x in first)
        super().__init__([first, *(make() for _ in range(min(255, ROTATED // size)))])
        self.make = make


def seconds(call: Callable[..., Any], inputs: Iterable[tuple[Any, ...]], device: str) -> float:
    """The median time of ``call(*inputs)``, inputs in turn, after two calls that warm up.

    On CUDA it is the time between two events. The GPU is kept waiting while the host launches, for
    launching is measured apart, by `host_seconds`; a call that takes the host longer than that, as
    a whole network does, is measured as the user has it.
    """
    if device == "cpu":
        return alternating((call, inputs))[0]
    turn = cycle(inputs)
    warm = []
    for _ in range(2):
        start = time.perf_counter()
        call(*next(turn))
        torch.cuda.synchronize()
        warm.append(time.perf_counter() - start)
    events = [
        [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        for _ in range(_samples(min(warm), device))
    ]
    for before, after in events:
        arguments = next(turn)
        torch.cuda._sleep(AHEAD)
        before.record()
        call(*arguments)
        after.record()
    torch.cuda.synchronize()
    return statistics.median(before.elapsed_time(after) / 1e3 for before, after in events)


def alternating(*calls: tuple[Callable[..., Any], Iterable[tuple[Any, ...]]]) -> list[float]:
    """The median times of several calls on the CPU, each with its inputs, that take turns.

    A CPU's clock, and what else runs on it, change from second to second: only times taken in turns
    can be compared.
    """
    turns = [(call, cycle(inputs)) for call, inputs in calls]

    def once(call: Callable[..., Any], turn: Iterator[tuple[Any, ...]]) -> float:
        arguments = next(turn)
        start = time.perf_counter()
        call(*arguments)
        return time.perf_counter() - start

    warm = [[once(*turn) for turn in turns] for _ in range(2)]
    samples = _samples(min(max(times) for times in warm), "cpu")
    found = [[once(*turn) for turn in turns] for _ in range(samples)]
    return [statistics.median(times) for times in zip(*found, strict=True)]


def compared(
    ours: tuple[Callable[..., Any], Iterable[tuple[Any, ...]]],
    theirs: tuple[Callable[..., Any], Iterable[tuple[Any, ...]]],
) -> tuple[float, float]:
    """The time of theirs, and its ratio to that of ours: medians of several alternating rounds.

    Every round after the first makes its inputs anew, for where they lie in the caches is chance.
    """

    def anew(inputs: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
        return Rotated(inputs.make) if isinstance(inputs, Rotated) else inputs

    rounds = [alternating(ours, theirs)]
    wanted = next(count for limit, count in ROUNDS if max(rounds[0]) < limit)
    while len(rounds) < wanted:
        rounds.append(alternating(*((call, anew(inputs)) for call, inputs in (ours, theirs))))
    time_of_theirs = statistics.median(their for _, their in rounds)
    return time_of_theirs, statistics.median(their / our for our, their in rounds)


def _samples(each: float, device: str) -> int:
    return int(min(100, max(3, BUDGET[device] / each)))


def host_seconds(call: Callable[[], Any], device: str) -> float:
    """How long a call keeps the host: median of 20 runs of 20 calls, the GPU not waited for."""
    found = []
    for _ in range(21):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            call()
        found.append((time.perf_counter() - start) / 20)
    return statistics.median(found[1:])


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """Memory that a call takes at its peak, results included, beyond what was there.

    The least of three calls on the CPU, where it is seen as resident pages, anyone's; of 4 KB, for
    a page of 2 MB counts whole as soon as one byte of it is touched.
    """
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    found = []
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    for _ in range(3):
        libc.malloc_trim(0)  # memory freed but kept would hide what the call takes
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak of VmRSS
        before = _status("VmRSS")
        call()
        found.append(max(0, _status("VmHWM") - before))
    libc.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)
    return min(found)


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def free_bytes(device: str) -> int:
    """Memory that can still be had."""
    if device == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for its next tensors can be had, too
        return torch.cuda.mem_get_info()[0]
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    return 1024 * int(found[1])


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """e of the power law time ~ size^e that fits best."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def machine(device: str) -> dict[str, Any]:
    """What the numbers depend on."""
    name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "device": device,
        "cpu": name[1] if name else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "l2_bytes": torch.cuda.get_device_properties().L2_cache_size if device == "cuda" else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "fastfcs": _C.build_info(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


class Report:
    """The rows of one benchmark: printed as they come, compared, and put into a JSON file.

    What was measured is in the file at once, so that a benchmark may be stopped at any time, and
    continued by --add.
    """

    def __init__(
        self,
        script: str,
        given: Namespace,
        judge: Callable[[Report], None],
        dtypes: Sequence[torch.dtype] = (torch.float32,),
    ) -> None:
        self.script, self.device, self.path = script, given.device, given.json
        self.judge = judge
        self.machine = machine(self.device)
        before = self._sections().get(script, {}) if given.add else {}
        self.rows: list[dict[str, Any]] = before.get("rows", [])
        self.left_out: list[str] = []
        self.goals: dict[str, float] = {}
        self._ours: dict[Any, tuple[tuple[Any, Any], int]] = {}
        print(json.dumps(self.machine))
        if before:  # their rows' ceilings
            self.copy = 1e9 * before["copy_gb_s"]
            known = before["multiply_adds_g_s"]
            self.rates = {dtype: 1e9 * known[_name(dtype)] for dtype in dtypes}
        else:
            self.copy, self.rates = self._ceilings(dtypes)

    def _ceilings(self, dtypes: Sequence[torch.dtype]) -> tuple[float, dict[torch.dtype, float]]:
        """Bytes a second of a copy, read and written; multiply-adds a second of matrix products."""
        source = torch.rand(COPIED[self.device], device=self.device)
        target = torch.empty_like(source)
        copy = 2 * source.nbytes / seconds(target.copy_, [(source,)], self.device)
        print(f"ceilings: copy {copy / 1e9:.1f} GB/s", end="")
        rates = {}
        for dtype in dtypes:
            slow = self.device == "cpu" and dtype != torch.float32
            side = SIDE[self.device] // (4 if slow else 1)
            a, b = torch.rand(2, side, side, device=self.device).to(dtype)
            rate = side**3 / seconds(torch.mm, [(a, b)], self.device)
            rates[dtype] = max(rate, *rates.values(), 0)  # a kernel may convert to a faster type
            print(f", {_name(dtype)} {rates[dtype] / 1e9:.1f} G multiply-adds/s", end="")
        print(flush=True)
        return copy, rates

    def time(
        self,
        operation: str,
        method: str,
        call: Callable[..., Any],
        inputs: Iterable[tuple[Any, ...]],
        *,
        device: str | None = None,
        steps: int = 1,
        bytes: float | None = None,
        moved: float | None = None,
        multiply_adds: float | None = None,
        dtype: torch.dtype = torch.float32,
        **size: Any,
    ) -> float:
        """Measure a call of so many steps; milliseconds a step.

        On the CPU, a method's calls alternate with those of fastfcs. The ratio is of these times,
        not of those in the rows, which were taken minutes apart.

        Args:
            operation, size: what is done; methods of the same operation and size are compared.
            method: by what, "fastfcs" first. One that fails is left out, unless it is "fastfcs".
            device: if not the benchmark's own.
            bytes, multiply_adds: a step must move and do at least so many.
            moved: bytes that it must move as it is designed, if more.
        """
        subject, device = (operation, frozenset(size.items())), device or self.device
        if method == "fastfcs":
            self._ours[subject] = (call, inputs), steps
        for known in self.find(operation, method, **size):
            return float(known["ms"])
        ratio = None
        try:
            if device == "cpu" and method != "fastfcs" and subject in self._ours:
                ours, our_steps = self._ours[subject]
                found, ratio = compared(ours, (call, inputs))
                ratio *= our_steps / steps
            else:
                found = seconds(call, inputs, device)
        except Exception as error:
            if method == "fastfcs":
                raise
            self.leave_out(f"{operation} by {method}, {size}: {type(error).__name__}: {error}")
            return math.nan
        ms = 1e3 * found / steps
        row: dict[str, Any] = {"operation": operation, **size, "method": method, "ms": ms}
        if bytes is not None:
            traffic = 1e3 * bytes / self.copy
            row["floor"] = traffic / ms
        if bytes is not None and multiply_adds is not None:
            traffic = 1e3 * (moved or bytes) / self.copy
            arithmetic = 1e3 * multiply_adds / self.rates[dtype]
            row["bound"] = max(traffic, arithmetic) / ms
            row["bound_by"] = "traffic" if traffic >= arithmetic else "arithmetic"
        reference = self.find(operation, "fastfcs", **size)
        if reference and method != "fastfcs":
            row["ratio"] = ratio or ms / reference[0]["ms"]
        self.add(row)
        return ms

    def forget(self) -> None:
        """Let go of the calls of fastfcs and their inputs; rivals no longer alternate with them."""
        self._ours.clear()

    def add(self, row: dict[str, Any]) -> None:
        """Put a row in; one that was read from the file and tells of the same makes way."""
        self.rows = [other for other in self.rows if _subject(other) != _subject(row)]
        self.rows.append(row)
        self._write(complete=False)
        shown = (f"{key} {_text(value)}" for key, value in row.items() if key != "operation")
        print(f"{row['operation']:18}", "  ".join(shown), flush=True)

    def find(self, operation: str, method: str, **size: Any) -> list[dict[str, Any]]:
        """The rows of an operation, a method and a size."""
        wanted = {"operation": operation, "method": method, **size}
        return [row for row in self.rows if all(row.get(k) == v for k, v in wanted.items())]

    def leave_out(self, sentence: str) -> None:
        """Say, once, what is not measured and why."""
        if sentence not in self.left_out:
            self.left_out.append(sentence)
            print(f"left out: {sentence}", flush=True)

    def overhead(self, **calls: Callable[[], Any]) -> None:
        """How long each of these calls, on tiny inputs, keeps the host; the longest is judged."""
        found = {name: 1e6 * host_seconds(call, self.device) for name, call in calls.items()}
        for name, microseconds in found.items():
            self.add({"operation": "overhead", "method": name, "microseconds": microseconds})
        if self.device == "cuda":
            self.goal("overhead", max(found.values()))

    def goal(self, key: str, value: float) -> None:
        """What came of a goal; its text and the value wanted are in goals.py."""
        GOALS[self.script, self.device, key]  # or a KeyError now
        self.goals[key] = value

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Judge and print the goals; put all into the file, beside other benchmarks."""
        if kind is not None:
            self.leave_out(f"what comes after this: stopped by {kind.__name__}")
        self.judge(self)
        for (script, device, key), goal in GOALS.items():
            if (script, device) == (self.script, self.device):
                print(f"{goal.what}: {goal.verdict(self.goals.get(key))}; wanted: {goal.wanted}")
        self._write(complete=kind is None)

    def _sections(self) -> dict[str, Any]:
        """What the file holds, by benchmark."""
        exists = self.path is not None and self.path.exists()
        return json.loads(self.path.read_text()) if exists else {}

    def _write(self, complete: bool) -> None:
        if self.path is None:
            return
        sections = self._sections()
        sections[self.script] = {
            "machine": self.machine,
            "copy_gb_s": self.copy / 1e9,
            "multiply_adds_g_s": {_name(k): v / 1e9 for k, v in self.rates.items()},
            "complete": complete,
            "goals": self.goals,
            "left_out": self.left_out,
            "rows": self.rows,
        }
        text = json.dumps(sections)
        rounded = json.loads(text, parse_float=lambda number: float(f"{float(number):.4g}"))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(rounded, indent=1) + "\n")
        partial.replace(self.path)


def _subject(row: dict[str, Any]) -> dict[str, Any]:
    """What a row is about: everything but what was measured."""
    return {key: value for key, value in row.items() if key not in MEASURES}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
