"""The kernels compiled with other constants, beside the kernels as they are: which are faster?

python benchmarks/variants.py --device cuda [--sizes 1 4 16] [--families matting|gram] [--json OUT]

Variants are in kernel_library.py. Each is first tried against float64 in a process of its own, and
left out if it does not compile, start or agree. Then they are timed on the same inputs in turn,
twice, and the better time counts: "spread" is how much worse the other was, "ratio" the time over
the default's, "error" the relative difference from float64, or where that has no room, from the
default's result. Sizes are units of 2^20 pixels, of pictures with 3 channels and, up to 4, of
features. The table at the end holds the fastest of each case.
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
# In the order of their weight, for time may be short.
FEATURES = (
    *product(["float32"], (16, 32, 64)),
    *product(["float16"], (64, 96, 128, 256)),
    *product(["float32", "tf32"], (128, 256)),
    *product(["bfloat16"], (64, 96, 128, 256)),
)

Libraries = dict[Variant, Library]


def relevant(variant: Variant, kind: str, channels: int) -> bool:
    """Whether a constant can change the Gram kernels of this type and so many channels."""
    if variant.constant == "GRAM_TF32_TERMS":
        return kind == "tf32"
    if variant.constant == "GRAM_SHARED":
        return kind != "float32" and channels > 64
    return variant.family == "gram"


def tried(report: Report, chosen: Sequence[Variant]) -> Libraries:
    """Those that compiled and gave right results, all tried at once."""
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
    want: Tensor | None,
    **size: Any,
) -> None:
    """call(library, *inputs) by all of them; the first is the default."""
    errors, times = {}, {}
    for variant, library in libraries.items():
        try:
            found = call(library, *inputs[0])
            torch.cuda.synchronize()
        except RuntimeError as failure:
            report.leave_out(f"{operation} by {variant.name}, {size}: {failure}")
            continue
        want = found.double() if want is None else want
        errors[variant], times[variant] = error(found, want), []
    for _, (variant, found) in product(range(ROUNDS), times.items()):
        found.append(seconds(partial(call, libraries[variant]), inputs, report.device))
    for variant, found in times.items():
        best = 1e3 * min(found)
        default = report.find(operation, "default", **size)
        report.add(
            {
                "operation": operation,
                **size,
                "method": variant.name if variant.constant else "default",
                "ms": best,
                "spread": 1e3 * max(found) / best - 1,
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
    factors = {  # their layouts may differ
        (library, image): library.factors(image)
        for library, (image, _) in product(libraries.values(), inputs)
    }
    image, x = (tensor.double() for tensor in inputs[0])
    default = next(iter(libraries.values()))
    want = default.filter(image, default.factors(image), x, coefficients)
    compare(report, "filter", libraries, call, inputs, want, mp=megapixels)


def gram(report: Report, libraries: Libraries, batch: int, n: int, kind: str, c: int) -> None:
    size = {"type": kind, "batch": batch, "channels": c, "pixels": n}
    nbytes = 8 * batch * c * n  # of a double for each of h
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
        given = [each[:arguments] for each in inputs]
        want = reference(*given[0]) if room else None
        compare(report, operation, chosen, partial(_of_kind, call, kind), given, want, **size)


def _of_kind(
    call: Callable[..., Tensor], kind: str, library: Library, *arguments: Tensor
) -> Tensor:
    return call(library, *arguments, kind)


def table(report: Report) -> None:
    """The fastest of each case, and what each variant makes of all its cases."""
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
    for name, found in ratios.items():
        print(f"{name:24} {geometric_mean(found) - 1:+.1%} time over {len(found)} cases")


def main() -> None:
    given = options(__doc__, (1, 4, 16), "2^20 pixels", families=("matting", "gram"))
    if given.device != "cuda":
        sys.exit("variants.py: --device cuda is needed; the kernels are CUDA's.")
    clock.BUDGET["cuda"] = 0.03  # seconds of samples, for there are many cases
    chosen = variants(given.families)
    compile_all(chosen)
    with Report("variants", given, table, ()) as report:
        libraries = tried(report, chosen)
        by_family = {
            family: {v: library for v, library in libraries.items() if v.family == family}
            for family in given.families
        }
        if of_matting := by_family.get("matting"):
            for megapixels in given.sizes:
                matting(report, of_matting, megapixels)
        if of_gram := by_family.get("gram"):
            sizes = [round(size * 2**20) for size in given.sizes if size <= 4]
            for (batch, n), (kind, channels) in product(product((1, 8), sizes), FEATURES):
                gram(report, of_gram, batch, n, kind, channels)


if __name__ == "__main__":
    main()
