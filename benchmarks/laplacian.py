"""The matting Laplacian against explicit matrices: factors, one product, a step of the filter.

python benchmarks/laplacian.py [--device cuda] [--sizes 0.25 1 4 16] [--json OUT]

All in float32. A step is a Chebyshev filter of order 20, the whole of it, over 20. Bytes that must
move, for each pixel: image 12, factors 24; with C channels, a product also reads x and writes L x,
4 C each, and a step reads x and two states and writes one. Multiply-adds of either: 90 C.

Explicit matrices are CSR with 32-bit indices, scaled beforehand for the recurrence; their signals
lie pixel by pixel, as the libraries want them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import Report, exponent, free_bytes, options, peak_bytes, rotated

from fastfcs import MattingLaplacian, ops

ORDER = 20
COEFFICIENTS = torch.full((ORDER + 1,), 1 / ORDER, dtype=torch.float64)
CSR_BYTES = 700  # a pixel, while an explicit matrix is made: in float64, then in float32
SLOW = {"step": 1.1e6, "product": 4.1e6}  # pixels from which alternatives take a CPU seconds


class Csr(NamedTuple):
    """A library that multiplies with an explicit matrix A = 2 (2 L / 9 - I)."""

    name: str
    signal: Callable[[int], Any]  # of so many channels
    product: Callable[[Any], Any]  # A t
    step: Callable[[Any, Any], Any]  # A newer - older
    add: Callable[[Any, Any], Any]  # y + t / ORDER, in y

    def filter(self, x: Any) -> Any:
        older, newer = x, self.product(x) / 2
        y = (x + newer) / ORDER
        for _ in range(ORDER - 1):
            older, newer = newer, self.step(newer, older)
            y = self.add(y, newer)
        return y


def libraries(matrix: Any, report: Report) -> Iterator[Csr]:
    """Those that are installed; ``matrix`` is SciPy's."""
    pixels, cuda = matrix.shape[0], report.device == "cuda"
    if not cuda:
        random = np.random.default_rng(0)
        yield Csr(
            "SciPy CSR",
            lambda c: random.random((pixels, c), np.float32),
            lambda t: matrix @ t,
            lambda newer, older: matrix @ newer - older,
            lambda y, t: operator.iadd(y, t / ORDER),
        )
    parts = (torch.from_numpy(a) for a in (matrix.indptr, matrix.indices, matrix.data))
    a = torch.sparse_csr_tensor(
        *(part.to(report.device) for part in parts), matrix.shape, check_invariants=False
    )
    yield Csr(
        "torch CSR",  # MKL, or cuSPARSE
        lambda c: torch.rand(pixels, c, device=report.device),
        lambda t: a @ t,
        lambda newer, older: torch.addmm(older, a, newer, beta=-1),
        lambda y, t: y.add_(t, alpha=1 / ORDER),
    )
    if cuda and find_spec("cupy"):
        import cupy
        from cupyx.scipy.sparse import csr_matrix

        b = csr_matrix(matrix)
        yield Csr(
            "CuPy CSR",  # cuSPARSE
            lambda c: cupy.asfortranarray(cupy.random.rand(pixels, c, dtype=cupy.float32)),
            lambda t: b @ t,
            lambda newer, older: b @ newer - older,
            lambda y, t: operator.iadd(y, t / ORDER),
        )
    elif cuda:
        report.leave_out("CuPy CSR: cupy is not installed")


def measure(report: Report, megapixels: float) -> None:
    side = round((megapixels * 1e6) ** 0.5)
    pixels, size = side**2, {"mp": megapixels}

    def made(channels: int) -> list[tuple[Any, ...]]:
        def make() -> tuple[Any, ...]:
            image = torch.rand(1, 3, side, side, device=report.device)
            x = torch.rand(1, channels, side, side, device=report.device)
            return image, ops.matting_factors(image), x

        return rotated(make)

    for c in (1, 3, 8):
        inputs, work = made(c), 90 * c * pixels
        report.time(
            "product",
            "fastfcs",
            ops.matting_matvec,
            inputs,
            bytes=(36 + 8 * c) * pixels,
            multiply_adds=work,
            channels=c,
            **size,
        )
        report.time(
            "step",
            "fastfcs",
            lambda *i: ops.matting_filter(*i, COEFFICIENTS),
            inputs,
            steps=ORDER,
            bytes=(36 + 16 * c) * pixels,
            multiply_adds=work,
            channels=c,
            **size,
        )
        if c == 3:
            images = [(image,) for image, _, _ in inputs]
            report.time(
                "factors",
                "fastfcs",
                ops.matting_factors,
                images,
                bytes=36 * pixels,
                multiply_adds=0,
                **size,
            )
            memory(report, *inputs[0], **size)
    explicit(report, inputs[0][0], **size)


def memory(report: Report, image: Any, factors: Any, x: Any, **size: float) -> None:
    """Bytes a pixel that factors and filter take beyond image, x and result."""

    def whole() -> Any:
        return ops.matting_filter(image, ops.matting_factors(image), x, COEFFICIENTS)

    found = (peak_bytes(whole, report.device) - x.nbytes) / (x.numel() / 3)
    report.add({"operation": "memory", **size, "method": "fastfcs", "bytes_a_pixel": found})


def explicit(report: Report, image: Any, **size: float) -> None:
    pixels = image[0, 0].numel()
    quick = pixels < SLOW["step"]
    if find_spec("pymatting") is None:
        report.leave_out("PyMatting: pymatting is not installed")
    elif not quick:
        report.leave_out("PyMatting above 1 MP: seconds a call")
    else:
        from pymatting import cf_laplacian

        picture = image[0].permute(1, 2, 0).double().cpu().numpy()
        report.time("factors", "PyMatting", cf_laplacian, [(picture,)], device="cpu", **size)
    if find_spec("scipy") is None:
        report.leave_out("all explicit matrices: scipy is not installed")
        return
    if report.device == "cpu" and pixels > SLOW["product"]:
        report.leave_out("explicit matrices above 4 MP, their filters above 1: seconds on a CPU")
        return
    if CSR_BYTES * pixels > min(free_bytes("cpu"), free_bytes(report.device)):
        report.leave_out(f"explicit matrices at {size['mp']} MP: not enough memory")
        return
    laplacian = MattingLaplacian(image.cpu()).to_scipy()
    stored = sum(part.nbytes for part in (laplacian.data, laplacian.indices, laplacian.indptr))
    report.add({"operation": "memory", **size, "method": "CSR", "bytes_a_pixel": stored / pixels})
    if quick and report.device == "cpu":
        pygsp(report, laplacian, **size)
    laplacian.data *= 4 / 9
    laplacian.setdiag(laplacian.diagonal() - 2)
    matrix = laplacian.astype(np.float32)
    del laplacian
    for library in libraries(matrix, report):
        for c in (1, 3, 8):
            inputs = rotated(lambda c=c, library=library: (library.signal(c),))
            report.time("product", library.name, library.product, inputs, channels=c, **size)
            if quick or report.device == "cuda":
                report.time(
                    "step", library.name, library.filter, inputs, steps=ORDER, channels=c, **size
                )


def pygsp(report: Report, laplacian: Any, **size: float) -> None:
    if find_spec("pygsp") is None:
        report.leave_out("PyGSP: pygsp is not installed")
        return
    from pygsp.filters.approximations import cheby_op

    graph = SimpleNamespace(L=laplacian, lmax=9.0, N=laplacian.shape[0])
    inputs = [(graph, COEFFICIENTS.numpy(), np.random.default_rng(0).random((graph.N, 3)))]
    report.time("step", "PyGSP", cheby_op, inputs, steps=ORDER, channels=3, **size)


def judge(report: Report) -> None:
    """The goals, as far as their sizes and alternatives were measured."""
    steps = report.find("step", "fastfcs", channels=3)
    if len(steps) > 1:
        grows = exponent([row["mp"] for row in steps], [row["ms"] for row in steps])
        report.goal("exponent", grows)
    if report.device == "cuda":
        large = [row for row in steps if row["mp"] >= 4]
        if large:
            report.goal("floor", min(row["floor"] for row in large))
        ratios = [
            row["ratio"]
            for row in report.rows
            if row["operation"] == "step"
            and row.get("channels") == 3
            and row["mp"] >= 4
            and "ratio" in row
        ]
        if ratios:
            report.goal("cusparse", min(ratios))
        return
    for step in report.find("step", "fastfcs", channels=3, mp=1):
        for key, method in (("torch", "torch CSR"), ("scipy", "SciPy CSR")):
            for product in report.find("product", method, channels=3, mp=1):
                report.goal(key, product["ms"] / step["ms"])
        for row in report.find("factors", "PyMatting", mp=1):
            report.goal("pymatting", row["ratio"])
        for row in report.find("memory", "fastfcs", mp=1):
            report.goal("memory", row["bytes_a_pixel"])


def main() -> None:
    given = options(__doc__, (0.25, 1, 4, 16), "megapixels")
    with Report("laplacian", given, judge) as report:
        image = torch.rand(1, 3, 16, 16, device=given.device)
        factors = ops.matting_factors(image)
        report.overhead(
            factors=lambda: ops.matting_factors(image),
            product=lambda: ops.matting_matvec(image, factors, image),
            filter=lambda: ops.matting_filter(image, factors, image, COEFFICIENTS),
        )
        for megapixels in given.sizes:
            measure(report, megapixels)


if __name__ == "__main__":
    main()
