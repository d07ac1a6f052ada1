"""The Gram correction h (h^T h / n - H), forward and backward, against torch and Triton.

python benchmarks/gram.py [--device cuda] [--sizes 4096 65536 1048576 4194304] [--json OUT]

C = 16 ... 256 channels, n pixels, batch 1 and 8, three types; on CUDA also 262144 pixels, and
float32 twice, the second time rounded to TF32 as torch.backends.cuda.matmul.allow_tf32 asks all of
them to. Eager is bmm, sub, bmm in h's own type; compile is torch.compile of the same; backward is
autograd's, of h and H. What must move: forward, h read and the result written; backward, h and the
gradient read and dh written. On CUDA what the second pass reads again moves twice, unless it fits
in half of the L2 cache. Multiply-adds: with G symmetric, C (C + 1) / 2 + C^2 a pixel forward,
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
CPU_BYTES, CPU_HALF_WORK = 2**28, 2**28  # of h, and B C^2 n: what is larger takes a CPU seconds
LARGE = 64e6  # bytes of h, beyond the caches
READ = 16e6  # bytes of input that take longer than the launches

Correction = Callable[[Tensor, Tensor], Tensor]


def eager(h: Tensor, target: Tensor) -> Tensor:
    """h (B, C, n), H (1, C, C): the same formula, H as it is stored, in h's type."""
    gram = torch.bmm(h, h.mT) / h.shape[-1]
    return torch.bmm((gram - target).mT, h)


@cache
def compiled() -> Correction:
    import torch._dynamo.config  # which takes seconds
    import torch._functorch.config

    torch._dynamo.config.recompile_limit = 64  # types, batches, with and without gradients
    torch._functorch.config.donated_buffer = False  # a backward is timed many times
    return torch.compile(eager, dynamic=True)


def methods(report: Report, chosen: Sequence[str]) -> Iterator[tuple[str, Correction]]:
    known = {"fastfcs": ops.gram_correction, "eager": eager}
    if "compile" in chosen:
        known["compile"] = compiled()
    if report.device == "cuda" and find_spec("triton"):
        known["triton"] = gram_triton.gram_correction
    elif "triton" in chosen:
        report.leave_out("Triton: it needs CUDA and triton")
    yield from ((name, known[name]) for name in METHODS if name in chosen and name in known)


def resident(report: Report, nbytes: float) -> bool:
    """Whether the second pass may find so much in the L2 cache."""
    return nbytes <= (report.machine["l2_bytes"] or math.inf) / 2


def measure(
    report: Report, chosen: Sequence[str], name: str, batch: int, channels: int, pixels: int
) -> None:
    report.forget()
    dtype = TYPES[name]
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    size = {"type": name, "batch": batch, "channels": channels, "pixels": pixels}
    elements = batch * channels * pixels
    nbytes = elements * dtype.itemsize
    slow = report.device == "cpu" and dtype != torch.float32
    if report.device == "cpu" and name == "tf32":
        report.leave_out("TF32: it needs CUDA")
        return
    if report.device == "cpu" and nbytes > CPU_BYTES:
        report.leave_out(f"h of more than {CPU_BYTES >> 20} MB: seconds a call on a CPU")
        return
    if slow and channels * elements > CPU_HALF_WORK:
        report.leave_out("larger products and the backward of half types: seconds a call on a CPU")
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
            # Sums of 4 M squares stay within float16's range.
            return (torch.rand(shape, device=report.device) / 32).to(dtype)

        def differentiated(
            correct: Correction = correct,
            target: Tensor = target,
            features: Callable[[], Tensor] = features,
        ) -> tuple[Tensor, ...]:
            arguments = features().requires_grad_(), target.clone().requires_grad_()
            return correct(*arguments), *arguments, features()

        inputs = Rotated(lambda features=features, target=target: (features(), target))
        known = {**size, **(forward if ours else {}), "dtype": dtype}
        if math.isnan(report.time("correction", method, correct, inputs, **known)):
            continue
        if nbytes >= LARGE:
            memory(report, method, correct, inputs[0], **size)
        if method != "triton" and not slow:
            known = {**size, **(backward if ours else {}), "dtype": dtype}
            inputs = Rotated(differentiated)
            report.time("backward", method, gradients, inputs, **known)


def gradients(result: Tensor, h: Tensor, target: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result, (h, target), gradient, retain_graph=True)


def memory(
    report: Report, method: str, correct: Correction, inputs: tuple[Any, ...], **size: Any
) -> None:
    """Megabytes that a correction takes beyond h and its result."""
    found = max(0, peak_bytes(lambda: correct(*inputs), report.device) - inputs[0].nbytes)
    report.add({"operation": "memory", **size, "method": method, "megabytes": found / 1e6})


def bytes_of(row: dict[str, Any]) -> int:
    return int(row["batch"] * row["channels"] * row["pixels"] * TYPES[row["type"]].itemsize)


def shares(report: Report) -> None:
    """The worst share of each class of goals.py, C up to 64, once the launches are paid for."""
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
    for key, found in classes.items():
        report.goal(key, min(found))
    if launches:
        report.goal("launches", 1e3 * max(launches))


def judge(report: Report) -> None:
    def worst(key: str, method: str, of: str, rows: Callable[[dict[str, Any]], bool]) -> None:
        values = [row[of] for row in report.find("correction", method) if of in row and rows(row)]
        if values:
            report.goal(key, min(values))

    def large(row: dict[str, Any]) -> bool:
        return row["channels"] <= 64 and bytes_of(row) >= LARGE

    if report.device == "cuda":
        shares(report)
        worst("eager", "eager", "ratio", large)
        worst("compile", "compile", "ratio", large)
        worst("wide", "eager", "ratio", lambda row: row["channels"] > 64)
        return

    def narrow(row: dict[str, Any]) -> bool:
        return row["type"] == "float32" and row["channels"] <= 64

    def wide(row: dict[str, Any]) -> bool:
        return row["type"] == "float32" and row["channels"] > 64

    megapixel = {"batch": 1, "pixels": 2**20}
    worst(
        "megapixel", "eager", "ratio", lambda row: narrow(row) and megapixel.items() <= row.items()
    )
    worst("narrow", "eager", "ratio", narrow)
    worst("wide", "eager", "ratio", wide)


def main() -> None:
    given = options(
        __doc__,
        None,
        "pixels, by default those above",
        channels=CHANNELS,
        types=tuple(TYPES),
        methods=METHODS,
    )
    with Report("gram", given, judge, tuple(dict.fromkeys(TYPES.values()))) as report:
        h = torch.rand(1, 16, 8, 8, device=given.device)
        target = torch.rand(1, 16, 16, device=given.device)
        if "fastfcs" in given.methods:
            report.overhead(
                gram=lambda: ops.gram(h),
                correction=lambda: ops.gram_correction(h, target),
                backward=lambda: ops.gram_correction_backward(h, target, h),
            )
        sizes = given.sizes or SIZES[given.device]
        for case in product((1, 8), given.channels, sizes, given.types):
            batch, channels, pixels, name = case
            measure(report, given.methods, name, batch, channels, int(pixels))


if __name__ == "__main__":
    main()
