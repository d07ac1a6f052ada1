"""Functions shared by the benchmarks: timing, peak rates, peak memory, the report."""

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
from fastfcs.evaluation.cost import peak_memory, reset_peak_memory
from fastfcs.files import write_text

ROTATED = 2**27  # bytes of inputs in rotation, more than the caches of CPUs and GPUs hold
BUDGET = {"cpu": 0.3, "cuda": 0.1}  # seconds per measurement, for 3 to 100 samples
ROUNDS = ((0.02, 7), (0.5, 3), (math.inf, 1))  # of a CPU comparison, by seconds per call
AHEAD = 400_000  # cycles, about 0.2 ms, that the GPU waits for the host before a sample
MEASURES = {
    *("ms", "floor", "bound", "bound_by", "ratio", "microseconds", "megabytes", "bytes_a_pixel"),
    *("value", "error", "spread"),
}  # keys of a row that hold results
PR_SET_THP_DISABLE = 41  # <linux/prctl.h>
COPIED = {"cpu": 2**26, "cuda": 2**28}  # number of floats copied to measure the bandwidth
SIDE = {"cpu": 2048, "cuda": 8192}  # of matrices multiplied; a quarter for half types on the CPU


def options(
    doc: str | None, sizes: Sequence[float] | None, meaning: str, **subsets: Sequence[Any]
) -> Namespace:
    """Parse the command line, which is the same for every benchmark.

    Args:
        doc: the benchmark's docstring, for --help.
        sizes: default of --sizes.
        meaning: help of --sizes.
        subsets: the option --NAME selects some of these values; the default is all.

    Returns:
        The arguments. With --dry-run, the program ends here.
    """
    parser = ArgumentParser(description=doc, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", type=float, nargs="+", default=sizes, help=meaning)
    for name, values in subsets.items():
        kind, text = type(values[0]), f"by default {' '.join(map(str, values))}"
        parser.add_argument(
            f"--{name}", type=kind, nargs="+", choices=values, default=values, help=text
        )
    parser.add_argument("--json", type=Path, help="write the results to this file; one per machine")
    parser.add_argument(
        "--add", action="store_true", help="keep the rows of the file and measure the missing ones"
    )
    parser.add_argument("--dry-run", action="store_true", help="only parse the options")
    arguments = parser.parse_args()
    if arguments.dry_run:
        print(f"would measure {vars(arguments)}")
        parser.exit()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device must be available, got cuda without a CUDA device")
    # A process that a shell starts in the background ignores interrupts by default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return arguments


class Rotated(list[tuple[Any, ...]]):
    """Enough inputs that none is still in a cache when it is used again.

    Args:
        make: makes one tuple of tensors.
    """

    def __init__(self, make: Callable[[], tuple[Any, ...]]) -> None:
        first = make()
        size = sum(x.nbytes for x in first)
        super().__init__([first, *(make() for _ in range(min(255, ROTATED // size)))])
        self.make = make


def seconds(call: Callable[..., Any], inputs: Iterable[tuple[Any, ...]], device: str) -> float:
    """Measure the median time of ``call(*inputs)``, cycling through the inputs, after two warm-ups.

    On CUDA it is the time between two events. The GPU is kept waiting while the host launches,
    because launch overhead is measured separately, by `host_seconds`. A call that occupies the host
    for longer than that wait, such as a whole network, is measured as a user experiences it.

    Returns:
        Seconds.
    """
    if device == "cpu":
        return alternating((call, inputs))[0]
    rotation = cycle(inputs)
    warm_up = []
    for _ in range(2):
        start = time.perf_counter()
        call(*next(rotation))
        torch.cuda.synchronize()
        warm_up.append(time.perf_counter() - start)
    events = [
        [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        for _ in range(_samples(min(warm_up), device))
    ]
    for before, after in events:
        arguments = next(rotation)
        torch.cuda._sleep(AHEAD)
        before.record()
        call(*arguments)
        after.record()
    torch.cuda.synchronize()
    return statistics.median(before.elapsed_time(after) / 1e3 for before, after in events)


def alternating(*calls: tuple[Callable[..., Any], Iterable[tuple[Any, ...]]]) -> list[float]:
    """Measure the median times of several calls on the CPU, which alternate.

    A CPU's clock and its other load change from second to second, so only alternating calls can be
    compared.

    Args:
        calls: functions and their inputs.

    Returns:
        Seconds per call of each function.
    """
    rotations = [(call, cycle(inputs)) for call, inputs in calls]

    def once(call: Callable[..., Any], rotation: Iterator[tuple[Any, ...]]) -> float:
        arguments = next(rotation)
        start = time.perf_counter()
        call(*arguments)
        return time.perf_counter() - start

    warm_up = [[once(*rotation) for rotation in rotations] for _ in range(2)]
    count = _samples(min(max(times) for times in warm_up), "cpu")
    samples = [[once(*rotation) for rotation in rotations] for _ in range(count)]
    return [statistics.median(times) for times in zip(*samples, strict=True)]


def compared(
    ours: tuple[Callable[..., Any], Iterable[tuple[Any, ...]]],
    theirs: tuple[Callable[..., Any], Iterable[tuple[Any, ...]]],
) -> tuple[float, float]:
    """Compare two functions on the CPU in several alternating rounds.

    Every round after the first makes fresh inputs, since their placement in the caches is random.

    Args:
        ours: a function and its inputs.
        theirs: the function to compare it with, and its inputs.

    Returns:
        The median over the rounds of the time of ``theirs``, in seconds, and of its ratio to the
        time of ``ours``.
    """

    def fresh(inputs: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
        return Rotated(inputs.make) if isinstance(inputs, Rotated) else inputs

    rounds = [alternating(ours, theirs)]
    count = next(count for limit, count in ROUNDS if max(rounds[0]) < limit)
    while len(rounds) < count:
        rounds.append(alternating(*((call, fresh(inputs)) for call, inputs in (ours, theirs))))
    their_time = statistics.median(their for _, their in rounds)
    return their_time, statistics.median(their / our for our, their in rounds)


def _samples(per_call: float, device: str) -> int:
    return int(min(100, max(3, BUDGET[device] / per_call)))


def host_seconds(call: Callable[[], Any], device: str) -> float:
    """Measure how long a call occupies the host, without waiting for the GPU.

    Returns:
        Seconds per call, the median of 20 runs of 20 calls.
    """
    times = []
    for _ in range(21):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            call()
        times.append((time.perf_counter() - start) / 20)
    return statistics.median(times[1:])


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """Measure a call's peak memory, results included, beyond the memory in use before.

    On the CPU it is the minimum of three calls, because the resident pages of the whole process are
    counted. They have 4 KB each: a huge page of 2 MB would count as a whole once one of its bytes
    is touched.

    Returns:
        Bytes.
    """

    def once() -> int:
        before = reset_peak_memory(device)
        call()
        return max(0, peak_memory(device) - before)

    call()
    if device == "cuda":
        return once()
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    smallest = min(once() for _ in range(3))
    libc.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)
    return smallest


def free_bytes(device: str) -> int:
    """Return the available memory in bytes."""
    if device == "cuda":
        torch.cuda.empty_cache()  # memory that torch caches is available too
        return torch.cuda.mem_get_info()[0]
    match = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    assert match is not None
    return 1024 * int(match[1])


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Fit the power law time ~ size^e and return e."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def machine(device: str) -> dict[str, Any]:
    """Describe the machine and the software that the numbers depend on."""
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
    """The rows of one benchmark, which are printed, compared and written to a JSON file.

    Every row is written as soon as it is measured, so a benchmark can be stopped at any time and
    continued with --add.

    Args:
        script: name of the benchmark.
        arguments: of the command line, see `options`.
        judge: called at the end, to record the goals by `goal`.
        dtypes: types whose rate of multiply-adds is measured.
    """

    def __init__(
        self,
        script: str,
        arguments: Namespace,
        judge: Callable[[Report], None],
        dtypes: Sequence[torch.dtype] = (torch.float32,),
    ) -> None:
        self.script, self.device, self.path = script, arguments.device, arguments.json
        self.judge = judge
        self.machine = machine(self.device)
        before = self._sections().get(script, {}) if arguments.add else {}
        self.rows: list[dict[str, Any]] = before.get("rows", [])
        self.left_out: list[str] = []
        self.goals: dict[str, float] = {}
        self._ours: dict[Any, tuple[tuple[Any, Any], int]] = {}
        print(json.dumps(self.machine))
        if before:  # keep the peak rates with which its rows were compared
            self.copy = 1e9 * before["copy_gb_s"]
            rates = before["multiply_adds_g_s"]
            self.rates = {dtype: 1e9 * rates[_name(dtype)] for dtype in dtypes}
        else:
            self.copy, self.rates = self._peak_rates(dtypes)

    def _peak_rates(self, dtypes: Sequence[torch.dtype]) -> tuple[float, dict[torch.dtype, float]]:
        """Bytes per second of a copy, reads and writes, and multiply-adds of matrix products."""
        source = torch.rand(COPIED[self.device], device=self.device)
        target = torch.empty_like(source)
        copy = 2 * source.nbytes / seconds(target.copy_, [(source,)], self.device)
        print(f"peak rates: copy {copy / 1e9:.1f} GB/s", end="")
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
        """Measure a method and add its row.

        On the CPU, a method's calls alternate with those of fastfcs. The ratio is that of these
        times, not of those in the rows, which are measured minutes apart.

        Args:
            operation: name of the operation; methods of the same operation and size are compared.
            method: name of the method, "fastfcs" first. Any other that fails is left out.
            call: the function.
            inputs: arguments of the calls, used cyclically.
            device: where ``call`` works, by default the benchmark's device.
            steps: number of equal steps that a call consists of; times are per step.
            bytes: the least that a step must move, for the memory-bandwidth bound.
            moved: bytes that a step moves by design, if more.
            multiply_adds: the least that a step must compute.
            dtype: type of the arithmetic.
            size: keys and values that describe the operation's size.

        Returns:
            Milliseconds per step, or NaN if the method failed.
        """
        subject, device = (operation, frozenset(size.items())), device or self.device
        if method == "fastfcs":
            self._ours[subject] = (call, inputs), steps
        for row in self.find(operation, method, **size):
            return float(row["ms"])
        ratio = None
        try:
            if device == "cpu" and method != "fastfcs" and subject in self._ours:
                ours, our_steps = self._ours[subject]
                duration, ratio = compared(ours, (call, inputs))
                ratio *= our_steps / steps
            else:
                duration = seconds(call, inputs, device)
        except Exception as error:
            if method == "fastfcs":
                raise
            self.leave_out(f"{operation} by {method}, {size}: {type(error).__name__}: {error}")
            return math.nan
        ms = 1e3 * duration / steps
        row = {"operation": operation, **size, "method": method, "ms": ms}
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
        """Release the calls of fastfcs, so that later methods do not alternate with them."""
        self._ours.clear()

    def add(self, row: dict[str, Any]) -> None:
        """Add a row. It replaces a row of the same operation, method and size."""
        self.rows = [other for other in self.rows if _subject(other) != _subject(row)]
        self.rows.append(row)
        self._write(complete=False)
        columns = (f"{key} {_text(value)}" for key, value in row.items() if key != "operation")
        print(f"{row['operation']:18}", "  ".join(columns), flush=True)

    def find(self, operation: str, method: str, **size: Any) -> list[dict[str, Any]]:
        """Return the rows of an operation, a method and a size."""
        subject = {"operation": operation, "method": method, **size}
        return [row for row in self.rows if all(row.get(k) == v for k, v in subject.items())]

    def leave_out(self, sentence: str) -> None:
        """Report, once, that something is not measured, and why."""
        if sentence not in self.left_out:
            self.left_out.append(sentence)
            print(f"left out: {sentence}", flush=True)

    def overhead(self, **calls: Callable[[], Any]) -> None:
        """Measure how long calls with tiny inputs occupy the host; on CUDA a goal limits it."""
        times = {name: 1e6 * host_seconds(call, self.device) for name, call in calls.items()}
        for name, microseconds in times.items():
            self.add({"operation": "overhead", "method": name, "microseconds": microseconds})
        if self.device == "cuda":
            self.goal("overhead", max(times.values()))

    def goal(self, key: str, value: float) -> None:
        """Record the value measured for a goal of goals.py."""
        GOALS[self.script, self.device, key]  # raises KeyError for an unknown goal
        self.goals[key] = value

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Evaluate and print the goals, and write the file, which holds other benchmarks too."""
        if kind is not None:
            self.leave_out(f"everything after this: stopped by {kind.__name__}")
        self.judge(self)
        for (script, device, key), goal in GOALS.items():
            if (script, device) == (self.script, self.device):
                print(f"{goal.what}: {goal.verdict(self.goals.get(key))}; target: {goal.target}")
        self._write(complete=kind is None)

    def _sections(self) -> dict[str, Any]:
        """The content of the file, by benchmark."""
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
        write_text(self.path, json.dumps(rounded, indent=1))


def _subject(row: dict[str, Any]) -> dict[str, Any]:
    """The keys of a row that identify it: all except the measurements."""
    return {key: value for key, value in row.items() if key not in MEASURES}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
