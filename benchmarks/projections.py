"""Measure the cost of every projection in fastfcs.constraints, and its error.

python benchmarks/projections.py [--sizes PX ...] [--write]

The input is a photo of scikit-image at each size (longer side), roughly restyled: posterised,
recoloured, noisy. The exact projection uses k = n / 100 eigenvectors, and the others the cutoff
estimated for this k.

    error      ||P[X] - exact|| / ||exact||
    products   products of L with one channel, to construct the projection and to apply it once
    make, use  time of the construction and of one application, on the CPU
    memory     peak resident memory of both, in MB above the initial one
    energy     remaining energy of Y = P[X], Tr(Y^T L Y) / (3 n), in units of 1e-5

The second table counts the eigenvalues below the cutoff of `LowPass.for_bandwidth` on three photos,
and gives the time to estimate it, also at one megapixel. --write stores the results in
benchmarks/results/projections.json and the tables in docs/constraints.md.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from measure import machine, seconds
from PIL import Image
from scipy.sparse.linalg import eigsh
from tables import between, table
from torch import Tensor

from fastfcs import LowPass, MattingLaplacian, ops
from fastfcs.constraints import (
    GraphLowPass,
    Photoreal,
    PhotorealisticSmoothing,
    RandomizedProjection,
    SpectralProjection,
    Tikhonov,
)
from fastfcs.evaluation.cost import peak_memory, reset_peak_memory

ROOT = Path(__file__).parents[1]
RESULTS, DOCS = ROOT / "benchmarks/results/projections.json", ROOT / "docs/constraints.md"
PHOTOS = ("chelsea", "coffee", "rocket")
MATRIX_FREE = 128  # px: beyond this size matrix-free Lanczos takes minutes
COUNTED = ((64, 20), (64, 100), (128, 50), (128, 200))  # px, k
MEGAPIXEL = (8000, 4000, 2000, 1000)  # k

Row = dict[str, Any]


def photo(name: str, size: int) -> Tensor:
    """Load a photo, (1,3,H,W) in [0,1], `size` px on its longer side."""
    image = Image.fromarray(getattr(skimage.data, name)())
    scale = size / max(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def restyled(image: Tensor) -> Tensor:
    mix = torch.tensor([[0.8, 0.5, -0.2], [0.1, 0.9, 0.1], [-0.1, 0.3, 1.1]])
    posterised = torch.einsum("cd,bdhw->bchw", mix, (4 * image).round() / 4)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (posterised + 0.05 * noise).clamp(0, 1)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the products of L with one channel inside the block."""
    products, matvec, polynomial = [0], ops.matting_matvec, ops.matting_filter

    def counted_matvec(image: Tensor, factors: Tensor, x: Tensor) -> Tensor:
        products[0] += x[:, :, 0, 0].numel()
        return matvec(image, factors, x)

    def counted_filter(image: Tensor, factors: Tensor, x: Tensor, coefficients: Tensor) -> Tensor:
        products[0] += x[:, :, 0, 0].numel() * (len(coefficients) - 1)
        return polynomial(image, factors, x, coefficients)

    ops.matting_matvec, ops.matting_filter = counted_matvec, counted_filter
    try:
        yield products
    finally:
        ops.matting_matvec, ops.matting_filter = matvec, polynomial


def measured(make: Callable[[], Callable[[Tensor], Tensor]], x: Tensor) -> tuple[Tensor, Row]:
    """Return P[X] and its cost."""
    before = reset_peak_memory("cpu")
    with counted() as products:
        start = time.perf_counter()
        projection = make()
        made, making = time.perf_counter() - start, products[0]
        result = projection(x)
    memory = max(0, peak_memory("cpu") - before)
    return result, {
        "products_to_make": making,
        "products": products[0] - making,
        "make": made,
        "use": seconds(projection, [(x,)], "cpu"),
        "memory": memory / 1e6,
    }


def without_a_matrix(content: Tensor, k: int) -> Callable[[Tensor], Tensor]:
    """Make the exact projection by Lanczos on the matrix-free operator, in float64."""
    operator = MattingLaplacian(content.double()).to_linear_operator()
    _, vectors = eigsh(operator, k, which="SA", tol=1e-6)
    basis = torch.from_numpy(vectors).float()
    return lambda x: (x.flatten(2) @ basis @ basis.T).reshape(x.shape)


def compare(size: int) -> list[Row]:
    content = photo("chelsea", size)
    x, laplacian, n = restyled(content), MattingLaplacian(content), content[0, 0].numel()
    k = n // 100
    lowpass = LowPass.for_bandwidth(laplacian, k)
    cutoff, order = lowpass.cutoff, lowpass.order
    methods: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "SpectralProjection(k)": lambda: SpectralProjection(content, k),
        "X, not projected": lambda: lambda x: x,
        "the same by Lanczos, without a matrix": lambda: without_a_matrix(content, k),
        "RandomizedProjection(k)": lambda: RandomizedProjection(content, k),
        "GraphLowPass, LowPass.for_bandwidth(k)": lambda: GraphLowPass(
            content, LowPass.for_bandwidth(laplacian, k)
        ),
        "GraphLowPass, LowPass(c)": lambda: GraphLowPass(content, LowPass(cutoff)),
        "GraphLowPass, LowPass(c), order doubled": lambda: GraphLowPass(
            content, LowPass(cutoff, 2 * order)
        ),
        "Photoreal(c).projection": lambda: Photoreal(content, cutoff, eps=1e-7).projection,
        "GraphLowPass, heat": lambda: GraphLowPass(content, LowPass(cutoff, kind="heat")),
        "GraphLowPass, Tikhonov's kernel": lambda: GraphLowPass(
            content, LowPass(cutoff, 2 * order, kind="tikhonov")
        ),
        "Tikhonov(1 / c)": lambda: Tikhonov(content, 1 / cutoff),
        "PhotorealisticSmoothing(1e-4), Li et al.": lambda: PhotorealisticSmoothing(content),
    }
    if size > MATRIX_FREE:
        del methods["the same by Lanczos, without a matrix"]
    rows: list[Row] = []
    exact = x
    for name, make in methods.items():
        result, row = measured(make, x)
        exact = result if name == "SpectralProjection(k)" else exact
        row["error"] = float((result - exact).norm() / exact.norm())
        row["energy"] = 1e5 * laplacian.energy(result).item() / (3 * n)
        rows.append({"size": size, "n": n, "k": k, "cutoff": cutoff, "method": name, **row})
        print(rows[-1], flush=True)
    return rows


def count() -> list[Row]:
    rows: list[Row] = []
    for name in PHOTOS:
        for size, k in COUNTED:
            laplacian = MattingLaplacian(photo(name, size))
            start = time.perf_counter()
            cutoff = LowPass.for_bandwidth(laplacian, k).cutoff
            took = time.perf_counter() - start
            values = eigsh(laplacian.to_scipy(), k + k // 5 + 5, sigma=-1e-6)[0]
            below = int((values <= cutoff).sum())
            rows.append({"photo": name, "n": laplacian.pixels, "k": k, "count": below})
            rows[-1] |= {"cutoff": cutoff, "seconds": took}
            print(rows[-1], flush=True)
    laplacian = MattingLaplacian(photo("coffee", 1225))
    for k in MEGAPIXEL:
        start = time.perf_counter()
        cutoff = LowPass.for_bandwidth(laplacian, k).cutoff
        took = time.perf_counter() - start
        rows.append({"photo": "coffee", "n": laplacian.pixels, "k": k, "count": None})
        rows[-1] |= {"cutoff": cutoff, "seconds": took}
        print(rows[-1], flush=True)
    return rows


def tables(results: dict[str, Any]) -> str:
    """Render the text between the markers of docs/constraints.md."""
    where = results["machine"]
    text = f"{where['cpu']}, {where['cores']} cores, torch {where['torch']}, {where['date']}.\n"
    for size in dict.fromkeys(row["size"] for row in results["projections"]):
        rows = [row for row in results["projections"] if row["size"] == size]
        n, k, cutoff = (rows[0][key] for key in ("n", "k", "cutoff"))
        text += f"\n**{size} px**: n = {n} pixels, k = {k}, estimated cutoff c = {cutoff:.3g}\n\n"
        head = [
            "projection",
            "error",
            "products, make + use",
            "make, s",
            "use, ms",
            "MB",
            "energy, 1e-5",
        ]
        text += table(
            head,
            [
                [
                    row["method"],
                    f"{row['error']:.2g}",
                    f"{row['products_to_make']} + {row['products']}",
                    f"{row['make']:.2g}",
                    f"{1e3 * row['use']:.3g}",
                    f"{row['memory']:.3g}",
                    f"{row['energy']:.3g}",
                ]
                for row in rows
            ],
        )
    head = ["photo", "pixels", "k", "eigenvalues below the cutoff", "cutoff", "seconds"]
    return f"{text}\n`LowPass.for_bandwidth`:\n\n" + table(
        head,
        [
            [
                row["photo"],
                str(row["n"]),
                str(row["k"]),
                "unknown" if row["count"] is None else str(row["count"]),
                f"{row['cutoff']:.3g}",
                f"{row['seconds']:.2g}",
            ]
            for row in results["bandwidth"]
        ],
    )


def with_tables(text: str, results: dict[str, Any]) -> str:
    """Replace the tables of the guide."""
    return between(text, "projections", tables(results))


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--write", action="store_true", help="store the results and tables")
    options = parser.parse_args()
    rows = [row for size in options.sizes for row in compare(size)]
    results = {"machine": machine("cpu"), "projections": rows, "bandwidth": count()}
    results = json.loads(json.dumps(results), parse_float=lambda x: float(f"{float(x):.4g}"))
    print(tables(results))
    if options.write:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        DOCS.write_text(with_tables(DOCS.read_text(), results))


if __name__ == "__main__":
    main()
