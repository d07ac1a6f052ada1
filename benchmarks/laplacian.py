"""The matting Laplacian against explicit matrices: factors, one product, one step of the filter.

python benchmarks/laplacian.py [--device cuda] [--sizes 0.25 1 4 16] [--json OUT]

Everything is in float32. The time of a step is that of a whole Chebyshev filter of order 20,
divided by 20. Least traffic in bytes per pixel: image 12, factors 24; with C channels, a product
also reads x and writes L x, 4 C each, and a step reads x and two states and writes one. Either
takes 90 C multiply-adds per pixel.

Explicit matrices are CSR with 32-bit indices, scaled for the recurrence beforehand. Their signals
are stored pixel by pixel, the layout expected by the libraries.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import Report, Rotated, exponent, free_bytes, options, peak_bytes
from torch import Tensor

from fastfcs import MattingLaplacian, ops

if find_spec("cupy"):
    import cupy
    from cupyx.scipy.sparse import csr_matrix as cupy_csr

METHODS = ("fastfcs", "CSR", "PyMatting")
ORDER = 20
COEFFICIENTS = torch.full((ORDER + 1,), 1 / ORDER, dtype=torch.float64)
CSR_BYTES = 1200  # per pixel, while an explicit matrix is assembled in float64
SLOW = {"step": 1.1e6, "product": 4.1e6}  # pixels above which alternatives take seconds


class Csr(NamedTuple):
    """A library's operations with an explicit matrix A = 2 (2 L / 9 - I)."""

    name: str
    signal: Callable[[int], Any]  # a random signal with this many channels
    product: Callable[[Any], Any]  # A t
    step: Callable[[Any, Any], Any]  # A newer - older
    add: Callable[[Any, Any], Any]  # y + t / ORDER, in y

    def filter(self, x: Any) -> Any:
        """Apply the filter of `COEFFICIENTS` by Chebyshev's recurrence."""
        older, newer = x, self.product(x) / 2
        y = (x + newer) / ORDER
        for _ in range(ORDER - 1):
            older, newer = newer, self.step(newer, older)
            y = self.add(y, newer)
        return y


def assembled(image: Tensor, scale: float = 1, shift: float = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Assemble scale L + shift I in CSR on the image's device.

    A row of L has up to 25 entries, for the pixels up to two rows and two columns away. L is
    therefore summed in 25 planes, one per offset, and CSR takes the entries inside the image, in
    order.

    Returns:
        Row pointers, columns and values.
    """
    _, _, height, width = image.shape
    image = image.double()
    k00, k01, k02, k11, k12, k22 = ops.matting_factors(image)[0]
    means = torch.nn.functional.avg_pool2d(image, 3, stride=1)[0]
    down, right = height - 2, width - 2  # windows

    def window(j: int) -> tuple[slice, slice]:
        """The pixels at position j of their windows."""
        return slice(j // 3, j // 3 + down), slice(j % 3, j % 3 + right)

    z = []  # K^T (I_j - mu) for each pixel j of all windows
    for j in range(9):
        d0, d1, d2 = image[(0, slice(None), *window(j))] - means
        z.append((k00 * d0, k01 * d0 + k11 * d1, k02 * d0 + k12 * d1 + k22 * d2))
    planes = image.new_zeros(5, 5, height, width)
    planes[2, 2] = shift
    for i, j in product(range(9), range(9)):
        a = (1 + sum(p * q for p, q in zip(z[i], z[j], strict=True))) / 9
        plane = planes[2 + j // 3 - i // 3, 2 + j % 3 - i % 3]
        plane[window(i)] += scale * (int(i == j) - a)

    offsets = torch.arange(-2, 3, device=image.device)
    rows = torch.arange(height, device=image.device)[:, None] + offsets
    columns = torch.arange(width, device=image.device)[:, None] + offsets
    inside = ((rows >= 0) & (rows < height))[:, None, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[None, :, None, :]
    neighbours = ((rows * width)[:, None, :, None] + columns[None, :, None, :]).int()
    starts = torch.zeros(height * width + 1, dtype=torch.int32, device=image.device)
    starts[1:] = inside.sum((2, 3)).flatten().cumsum(0)
    inside = inside.flatten()
    return starts, neighbours.flatten()[inside], planes.permute(2, 3, 0, 1).flatten()[inside]


def libraries(parts: Sequence[Tensor], report: Report) -> Iterator[Csr]:
    """The installed libraries; ``parts`` are the matrix's row pointers, columns and values."""
    pixels, cuda = len(parts[0]) - 1, report.device == "cuda"
    shape = (pixels, pixels)
    if not cuda and find_spec("scipy") is None:
        report.leave_out("SciPy CSR: scipy is not installed")
    elif not cuda:
        from scipy.sparse import csr_matrix

        starts, columns, values = (part.numpy() for part in parts)
        matrix = csr_matrix((values, columns, starts), shape)
        random = np.random.default_rng(0)
        yield Csr(
            "SciPy CSR",
            lambda c: random.random((pixels, c), np.float32),
            lambda t: matrix @ t,
            lambda newer, older: matrix @ newer - older,
            lambda y, t: operator.iadd(y, t / ORDER),
        )
    a = torch.sparse_csr_tensor(*parts, shape, check_invariants=False)
    yield Csr(
        "torch CSR",  # MKL, or cuSPARSE
        lambda c: torch.rand(pixels, c, device=report.device),
        lambda t: a @ t,
        lambda newer, older: torch.addmm(older, a, newer, beta=-1),
        lambda y, t: y.add_(t, alpha=1 / ORDER),
    )
    if cuda and find_spec("cupy"):
        starts, columns, values = map(cupy.from_dlpack, parts)
        b = cupy_csr((values, columns, starts), shape)
        yield Csr(
            "CuPy CSR",  # cuSPARSE
            lambda c: cupy.asfortranarray(cupy.random.rand(pixels, c, dtype=cupy.float32)),
            lambda t: b @ t,
            lambda newer, older: b @ newer - older,
            lambda y, t: operator.iadd(y, t / ORDER),
        )
    elif cuda:
        report.leave_out("CuPy CSR: cupy is not installed")


def measure(report: Report, chosen: Sequence[str], megapixels: float) -> None:
    """Measure the chosen methods on square images of one size."""
    side = round((megapixels * 1e6) ** 0.5)
    report.forget()
    pixels, size = side**2, {"mp": megapixels}

    def rotated(channels: int) -> list[tuple[Any, ...]]:
        def make() -> tuple[Any, ...]:
            image = torch.rand(1, 3, side, side, device=report.device)
            x = torch.rand(1, channels, side, side, device=report.device)
            return image, ops.matting_factors(image), x

        return Rotated(make)

    for c in (1, 3, 8) if "fastfcs" in chosen else ():
        inputs, work = rotated(c), 90 * c * pixels
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
    image = torch.rand(1, 3, side, side, device=report.device)
    if "PyMatting" in chosen:
        pymatting(report, image, **size)
    if "CSR" in chosen:
        explicit(report, image, **size)


def memory(report: Report, image: Any, factors: Any, x: Any, **size: float) -> None:
    """Measure the bytes per pixel that factors and filter take beyond image, x and result."""

    def whole() -> Any:
        return ops.matting_filter(image, ops.matting_factors(image), x, COEFFICIENTS)

    extra = (peak_bytes(whole, report.device) - x.nbytes) / (x.numel() / 3)
    report.add({"operation": "memory", **size, "method": "fastfcs", "bytes_a_pixel": extra})


def pymatting(report: Report, image: Tensor, **size: float) -> None:
    """Measure PyMatting's assembly of L."""
    if find_spec("pymatting") is None:
        report.leave_out("PyMatting: pymatting is not installed")
    elif image[0, 0].numel() >= SLOW["step"]:
        report.leave_out("PyMatting above 1 MP: seconds per call")
    else:
        from pymatting import cf_laplacian

        picture = image[0].permute(1, 2, 0).double().cpu().numpy()
        report.time("factors", "PyMatting", cf_laplacian, [(picture,)], device="cpu", **size)


def explicit(report: Report, image: Tensor, **size: float) -> None:
    """Measure products and filters with explicit matrices."""
    pixels = image[0, 0].numel()
    quick = pixels < SLOW["step"]
    if pixels > SLOW["product"]:
        report.leave_out("explicit matrices above 4 MP, on a CPU their filters above 1 MP: seconds")
        return
    if CSR_BYTES * pixels > free_bytes(report.device):
        report.leave_out(f"explicit matrices at {size['mp']} MP: not enough memory")
        return
    if quick and report.device == "cpu":
        pygsp(report, image, **size)
    parts = assembled(image, 4 / 9, -2)
    stored = sum(part.nbytes for part in parts)
    report.add({"operation": "memory", **size, "method": "CSR", "bytes_a_pixel": stored / pixels})
    parts = (*parts[:2], parts[2].float())
    for library in libraries(parts, report):
        for c in (1, 3, 8):
            inputs = Rotated(lambda c=c, library=library: (library.signal(c),))
            report.time("product", library.name, library.product, inputs, channels=c, **size)
            if quick or report.device == "cuda":
                report.time(
                    "step", library.name, library.filter, inputs, steps=ORDER, channels=c, **size
                )


def pygsp(report: Report, image: Tensor, **size: float) -> None:
    """Measure PyGSP's Chebyshev filter."""
    if find_spec("pygsp") is None:
        report.leave_out("PyGSP: pygsp is not installed")
        return
    from pygsp.filters.approximations import cheby_op

    laplacian = MattingLaplacian(image).to_scipy()
    graph = SimpleNamespace(L=laplacian, lmax=9.0, N=laplacian.shape[0])
    inputs = [(graph, COEFFICIENTS.numpy(), np.random.default_rng(0).random((graph.N, 3)))]
    report.time("step", "PyGSP", cheby_op, inputs, steps=ORDER, channels=3, **size)


def judge(report: Report) -> None:
    """Record the goals whose sizes and alternatives were measured."""
    steps = report.find("step", "fastfcs", channels=3)
    if len(steps) > 1:
        growth = exponent([row["mp"] for row in steps], [row["ms"] for row in steps])
        report.goal("exponent", growth)
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
            for row in report.find("product", method, channels=3, mp=1):
                report.goal(key, row["ms"] / step["ms"])
        for row in report.find("factors", "PyMatting", mp=1):
            report.goal("pymatting", row["ratio"])
        for row in report.find("memory", "fastfcs", mp=1):
            report.goal("memory", row["bytes_a_pixel"])


def main() -> None:
    arguments = options(__doc__, (0.25, 1, 4, 16), "megapixels", methods=METHODS)
    with Report("laplacian", arguments, judge) as report:
        image = torch.rand(1, 3, 16, 16, device=arguments.device)
        factors = ops.matting_factors(image)
        if "fastfcs" in arguments.methods:
            report.overhead(
                factors=lambda: ops.matting_factors(image),
                product=lambda: ops.matting_matvec(image, factors, image),
                filter=lambda: ops.matting_filter(image, factors, image, COEFFICIENTS),
            )
        for megapixels in arguments.sizes:
            measure(report, arguments.methods, megapixels)


if __name__ == "__main__":
    main()
