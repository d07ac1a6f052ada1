"""The Gram correction h (h^T h / n - H), forward and backward, against torch and Triton.

python benchmarks/gram.py [--device cuda] [--sizes 4096 65536 1048576 4194304] [--json OUT]

Cases: C = 16 ... 256 channels, n pixels, batches of 1 and 8, three types. CUDA adds 262144 pixels,
and float32 with torch.backends.cuda.matmul.allow_tf32, under which all methods round to TF32.
"eager" is bmm, sub, bmm in the type of h, "compile" is torch.compile of the same, and "backward" is
autograd's gradient with respect to h and H.

Least traffic: the forward pass reads h and writes the result; the backward pass reads h and the
gradient and writes dh. On CUDA, input that both passes read moves twice unless it fits in half of
the L2 cache. Multiply-adds per pixel, with G symmetric: C (C + 1) / 2 + C^2 forward and
C (C + 1) / 2 + 3 C^2 backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
from measure import Report, Rotated, free_bytes, options, peak_bytes
from torch import Tensor

from fastfcs import ops

if find_spec("triton"):
    import gram_triton

CHANNELS = (16, 32, 64, 128, 256)
SIZES = {"cpu": (4096, 65536, 1048576, 4194304), "cuda": (4096, 65536, 262144, 1048576, 4194304)}
METHODS = ("fastfcs", "eager", "compile", "triton")
TYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
CPU_BYTES, CPU_HALF_WORK = 2**28, 2**28  # of h, and B C^2 n: more takes seconds on a CPU
LARGE = 64e6  # bytes of h, more than the caches hold
READ = 16e6  # bytes of input that take longer to read than the kernels to launch

Correction = Callable[[Tensor, Tensor], Tensor]


def eager(h: Tensor, target: Tensor) -> Tensor:
    """Compute the formula in torch: h (B, C, n), H (1, C, C) transposed as stored, in h's type."""
    gram = torch.bmm(h, h.mT) / h.shape[-1]
    return torch.bmm((gram - target).mT, h)


@cache
def compiled() -> Correction:
    import torch._dynamo.config  # takes seconds
    import torch._functorch.config

    torch._dynamo.config.recompile_limit = 64  # one per type and batch, with and without gradients
    torch._functorch.config.donated_buffer = False  # a backward pass is timed many times
    return torch.compile(eager, dynamic=True)


def methods(report: Report, chosen: Sequence[str]) -> Iterator[tuple[str, Correction]]:
    """Yield the chosen methods that are available, with their names."""
    available = {"fastfcs": ops.gram_correction, "eager": eager}
    if "compile" in chosen:
        available["compile"] = compiled()
    if report.device == "cuda" and find_spec("triton"):
        available["triton"] = gram_triton.gram_correction
    elif "triton" in chosen:
        report.leave_out("Triton: needs CUDA and triton")
    yield from ((name, available[name]) for name in METHODS if name in {*chosen} & {*available})


def resident(report: Report, nbytes: float) -> bool:
    """Whether the second pass may find this many bytes in the L2 cache."""
    return nbytes <= (report.machine["l2_bytes"] or math.inf) / 2


def measure(
    report: Report, chosen: Sequence[str], name: str, batch: int, channels: int, pixels: int
) -> None:
    """Measure the chosen methods on h of one type and size."""
    report.forget()
    dtype = TYPES[name]
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    size = {"type": name, "batch": batch, "channels": channels, "pixels": pixels}
    elements = batch * channels * pixels
    nbytes = elements * dtype.itemsize
    slow = report.device == "cpu" and dtype != torch.float32
    if report.device == "cpu" and name == "tf32":
        report.leave_out("TF32: needs CUDA")
        return
    if report.device == "cpu" and nbytes > CPU_BYTES:
        report.leave_out(f"h of more than {CPU_BYTES >> 20} MB: seconds per call on a CPU")
        return
    if slow and channels * elements > CPU_HALF_WORK:
        report.leave_out(
            "larger products and the backward of half types: seconds per call on a CPU"
        )
        return
    if 8 * nbytes > free_bytes(report.device):
        report.leave_out(f"{name}, batch {batch}, C = {channels}, n = {pixels}: not enough memory")
        return
    gram = channels * (channels + 1) / 2
    work = 0 if name == "tf32" else batch * pixels  # TF32's rate is not among the ceilings
    forward = {
        "bytes": 2 * nbytes,
        "moved": (2 if resident(report, nbytes) else 3) * nbytes,
        "multiply_adds": work * (gram + channels**2),
    }
    backward = {
        "bytes": 3 * nbytes,
        "moved": (3 if resident(report, 2 * nbytes) else 5) * nbytes,
        "multiply_adds": work * (gram + 3 * channels**2),
    }

    for method, correct in methods(report, chosen):
        ours = method == "fastfcs"
        shape = (batch, channels, 1, pixels) if ours else (batch, channels, pixels)
        target = torch.rand(1, channels, channels, device=report.device)
        if method in ("eager", "compile"):
            target = target.to(dtype)

        def features(shape: tuple[int, ...] = shape) -> Tensor:
            # sums of 4 M squares stay within float16's range
            return (torch.rand(shape, device=report.device) / 32).to(dtype)

        def differentiated(
            correct: Correction = correct,
            target: Tensor = target,
            features: Callable[[], Tensor] = features,
        ) -> tuple[Tensor, ...]:
            arguments = features().requires_grad_(), target.clone().requires_grad_()
            return correct(*arguments), *arguments, features()

        inputs = Rotated(lambda features=features, target=target: (features(), target))
        keywords = {**size, **(forward if ours else {}), "dtype": dtype}
        if math.isnan(report.time("correction", method, correct, inputs, **keywords)):
            continue
        if nbytes >= LARGE:
            memory(report, method, correct, inputs[0], **size)
        if method != "triton" and not slow:
            keywords = {**size, **(backward if ours else {}), "dtype": dtype}
            inputs = Rotated(differentiated)
            report.time("backward", method, gradients, inputs, **keywords)


def gradients(result: Tensor, h: Tensor, target: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result, (h, target), gradient, retain_graph=True)


def memory(
    report: Report, method: str, correct: Correction, inputs: tuple[Any, ...], **size: Any
) -> None:
    """Measure the megabytes that a correction takes beyond h and its result."""
    extra = max(0, peak_bytes(lambda: correct(*inputs), report.device) - inputs[0].nbytes)
    report.add({"operation": "memory", **size, "method": method, "megabytes": extra / 1e6})


def bytes_of(row: dict[str, Any]) -> int:
    return int(row["batch"] * row["channels"] * row["pixels"] * TYPES[row["type"]].itemsize)


def shares(report: Report) -> None:
    """Record the worst share of each class of goals.py, C up to 64, without the launch time."""
    classes: dict[str, list[float]] = {}
    launches: list[float] = []
    for operation, arrays in (("correction", 1), ("backward", 2)):
        rows = report.find(operation, "fastfcs")
        smallest = {"batch": 1, "channels": 16, "pixels": 4096}
        tiny = [row["ms"] for row in rows if smallest.items() <= row.items()]
        launches += tiny
        for row in rows:
            nbytes = arrays * bytes_of(row)
            if row["channels"] > 64 or nbytes < READ:
                continue
            limit = "resident" if resident(report, nbytes) else "streamed"
            if row["bound_by"] == "arithmetic":
                limit = "arithmetic"
            share = row["bound"] * row["ms"] / (row["ms"] - min(tiny, default=0))
            classes.setdefault(f"{operation} {limit}", []).append(share)
    for key, values in classes.items():
        report.goal(key, min(values))
    if launches:
        report.goal("launches", 1e3 * max(launches))


def judge(report: Report) -> None:
    """Record the goals whose sizes and alternatives were measured."""

    def worst(key: str, method: str, select: Callable[[dict[str, Any]], bool]) -> None:
        rows = [row for row in report.find("correction", method) if "ratio" in row and select(row)]
        if rows:
            report.goal(key, min(row["ratio"] for row in rows))

    def large(row: dict[str, Any]) -> bool:
        return row["channels"] <= 64 and bytes_of(row) >= LARGE

    if report.device == "cuda":
        shares(report)
        worst("eager", "eager", large)
        worst("compile", "compile", large)
        worst("wide", "eager", lambda row: row["channels"] > 64)
        return

    def narrow(row: dict[str, Any]) -> bool:
        return row["type"] == "float32" and row["channels"] <= 64

    def wide(row: dict[str, Any]) -> bool:
        return row["type"] == "float32" and row["channels"] > 64

    megapixel = {"batch": 1, "pixels": 2**20}
    worst("megapixel", "eager", lambda row: narrow(row) and megapixel.items() <= row.items())
    worst("narrow", "eager", narrow)
    worst("wide", "eager", wide)


def main() -> None:
    arguments = options(
        __doc__,
        None,
        "pixels, by default those above",
        channels=CHANNELS,
        types=tuple(TYPES),
        methods=METHODS,
    )
    with Report("gram", arguments, judge, tuple(dict.fromkeys(TYPES.values()))) as report:
        h = torch.rand(1, 16, 8, 8, device=arguments.device)
        target = torch.rand(1, 16, 16, device=arguments.device)
        if "fastfcs" in arguments.methods:
            report.overhead(
                gram=lambda: ops.gram(h),
                correction=lambda: ops.gram_correction(h, target),
                backward=lambda: ops.gram_correction_backward(h, target, h),
            )
        sizes = arguments.sizes or SIZES[arguments.device]
        for case in product((1, 8), arguments.channels, sizes, arguments.types):
            batch, channels, pixels, name = case
            measure(report, arguments.methods, name, batch, channels, int(pixels))


if __name__ == "__main__":
    main()
