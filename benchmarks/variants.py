"""Compare the kernels with variants compiled with other constants.

python benchmarks/variants.py --device cuda [--sizes 1 4 16] [--families matting|gram] [--json OUT]

Variants are defined in kernel_library.py. Each is first checked against float64 in a process of
its own, and omitted if it does not compile, start or agree. Then all are timed twice on the same
inputs, in turn, and the lower time counts. "spread" is the relative excess of the other time,
"ratio" the time relative to the default's, "error" the relative difference from float64 or, if
there is no memory for that, from the default's result. Sizes are in units of 2^20 pixels, for
images with 3 channels and, up to 4, for features. The table at the end shows the fastest variant of
each case.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from statistics import geometric_mean
from typing import Any

import measure as clock
import torch
from kernel_library import (
    FOLDER,
    TYPES,
    Library,
    Variant,
    backward_in_float64,
    compile_all,
    correction_in_float64,
    error,
    variants,
)
from measure import Report, Rotated, free_bytes, options, seconds
from torch import Tensor

ORDER = 20  # of the filter
ROUNDS = 2
# The most important cases come first, in case time runs out.
FEATURES = (
    *product(["float32"], (16, 32, 64)),
    *product(["float16"], (64, 96, 128, 256)),
    *product(["float32", "tf32"], (128, 256)),
    *product(["bfloat16"], (64, 96, 128, 256)),
)

Libraries = dict[Variant, Library]


def relevant(variant: Variant, kind: str, channels: int) -> bool:
    """Whether a constant can affect the Gram kernels for this type and number of channels."""
    if variant.constant == "GRAM_TF32_TERMS":
        return kind == "tf32"
    if variant.constant == "GRAM_SHARED":
        return kind != "float32" and channels > 64
    return variant.family == "gram"


def tried(report: Report, chosen: Sequence[Variant]) -> Libraries:
    """Return the variants that compiled and are correct; all are checked in parallel."""
    trial = [sys.executable, str(FOLDER.parents[1] / "benchmarks/kernel_library.py")]
    running = {}
    for variant in chosen:
        if variant.path.exists():
            log = variant.path.with_suffix(".log").open("w")
            running[variant] = subprocess.Popen([*trial, variant.name], stdout=log, stderr=log)
        else:
            report.leave_out(f"{variant.name}: it did not compile")
    for variant, process in running.items():
        if process.wait():
            *_, last = variant.path.with_suffix(".log").read_text().strip().splitlines() or [""]
            report.leave_out(f"{variant.name}: {last}")
    return {
        variant: Library(ctypes.CDLL(str(variant.path)))
        for variant, process in running.items()
        if process.returncode == 0
    }


def compare(
    report: Report,
    operation: str,
    libraries: Libraries,
    call: Callable[..., Tensor],
    inputs: list[tuple[Any, ...]],
    expected: Tensor | None,
    **size: Any,
) -> None:
    """Time call(library, *inputs) for all libraries, of which the first is the default."""
    errors, times = {}, {}
    for variant, library in libraries.items():
        try:
            result = call(library, *inputs[0])
            torch.cuda.synchronize()
        except RuntimeError as failure:
            report.leave_out(f"{operation} by {variant.name}, {size}: {failure}")
            continue
        expected = result.double() if expected is None else expected
        errors[variant], times[variant] = error(result, expected), []
    for _, (variant, samples) in product(range(ROUNDS), times.items()):
        samples.append(seconds(partial(call, libraries[variant]), inputs, report.device))
    for variant, samples in times.items():
        best = 1e3 * min(samples)
        default = report.find(operation, "default", **size)
        report.add(
            {
                "operation": operation,
                **size,
                "method": variant.name if variant.constant else "default",
                "ms": best,
                "spread": 1e3 * max(samples) / best - 1,
                "error": errors[variant],
                **({"ratio": best / default[0]["ms"]} if default else {}),
            }
        )


def matting(report: Report, libraries: Libraries, megapixels: float) -> None:
    side = round((megapixels * 2**20) ** 0.5)
    coefficients = torch.full((ORDER + 1,), 1 / ORDER, dtype=torch.float64)

    def call(library: Library, image: Tensor, x: Tensor) -> Tensor:
        return library.filter(image, factors[library, image], x, coefficients)

    inputs = Rotated(lambda: tuple(torch.rand(2, 1, 3, side, side, device=report.device)))
    factors = {  # per variant, since layouts differ
        (library, image): library.factors(image)
        for library, (image, _) in product(libraries.values(), inputs)
    }
    image, x = (tensor.double() for tensor in inputs[0])
    default = next(iter(libraries.values()))
    expected = default.filter(image, default.factors(image), x, coefficients)
    compare(report, "filter", libraries, call, inputs, expected, mp=megapixels)


def gram(report: Report, libraries: Libraries, batch: int, n: int, kind: str, c: int) -> None:
    size = {"type": kind, "batch": batch, "channels": c, "pixels": n}
    nbytes = 8 * batch * c * n  # of h in float64
    if 3 * nbytes > free_bytes(report.device):
        report.leave_out(f"{size}: not enough memory")
        return

    def features() -> Tensor:
        return (torch.rand(batch, c, n, device=report.device) / 32).to(TYPES[kind])

    chosen = {v: library for v, library in libraries.items() if relevant(v, kind, c)}
    target = torch.rand(1, c, c, device=report.device)
    inputs = Rotated(lambda: (features(), target, features()))
    room = 8 * nbytes < free_bytes(report.device)
    for operation, call, reference, arguments in (
        ("correction", Library.correction, correction_in_float64, 2),
        ("backward", Library.backward, backward_in_float64, 3),
    ):
        tensors = [sample[:arguments] for sample in inputs]
        expected = reference(*tensors[0]) if room else None
        call_kind = partial(_of_kind, call, kind)
        compare(report, operation, chosen, call_kind, tensors, expected, **size)


def _of_kind(
    call: Callable[..., Tensor], kind: str, library: Library, *arguments: Tensor
) -> Tensor:
    return call(library, *arguments, kind)


def table(report: Report) -> None:
    """Print the fastest variant of each case, and the mean ratio of each variant."""
    cases: dict[str, list[dict[str, Any]]] = {}
    ratios: dict[str, list[float]] = {}
    for row in report.rows:
        keys = ("operation", "type", "batch", "channels", "pixels", "mp")
        cases.setdefault(" ".join(str(row[key]) for key in keys if key in row), []).append(row)
        ratios.setdefault(row["method"], []).append(row.get("ratio", 1))
    for case, rows in cases.items():
        best, default = min(rows, key=lambda row: row["ms"]), rows[0]
        noise = max(row["spread"] for row in (best, default))
        print(
            f"{case:42} {default['ms']:8.4f} ms, fastest {best['ms']:8.4f} by {best['method']}"
            f" ({best['ms'] / default['ms'] - 1:+.1%}, noise {noise:.1%})"
        )
    for name, values in ratios.items():
        print(f"{name:24} {geometric_mean(values) - 1:+.1%} time over {len(values)} cases")


def main() -> None:
    settings = options(__doc__, (1, 4, 16), "2^20 pixels", families=("matting", "gram"))
    if settings.device != "cuda":
        sys.exit("variants.py: --device must be cuda, since the kernels are CUDA's")
    clock.BUDGET["cuda"] = 0.03  # seconds of samples per case: there are many
    chosen = variants(settings.families)
    compile_all(chosen)
    with Report("variants", settings, table, ()) as report:
        libraries = tried(report, chosen)
        by_family = {
            family: {v: library for v, library in libraries.items() if v.family == family}
            for family in settings.families
        }
        if of_matting := by_family.get("matting"):
            for megapixels in settings.sizes:
                matting(report, of_matting, megapixels)
        if of_gram := by_family.get("gram"):
            sizes = [round(size * 2**20) for size in settings.sizes if size <= 4]
            for (batch, n), (kind, channels) in product(product((1, 8), sizes), FEATURES):
                gram(report, of_gram, batch, n, kind, channels)


if __name__ == "__main__":
    main()
