"""Every projection on small images, against the dense eigendecomposition or a direct solution."""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import aggressive_update, matting_blocks, matting_laplacian, windows
from torch import Tensor

from fastfcs import LowPass
from fastfcs.constraints import (
    Constraint,
    GraphLowPass,
    PhotorealisticSmoothing,
    RandomizedProjection,
    ResidualProjection,
    SpectralProjection,
    Tikhonov,
)

ROOT = Path(__file__).parents[1]
CROPS = {"astronaut": (20, 200), "chelsea": (100, 150), "coffee": (100, 150)}


class Case:
    """A 24 x 28 crop of a photo and a rough update of it, which h(L) filters by `eigh`."""

    def __init__(self, name: str) -> None:
        from pictures import load_photo

        top, left = CROPS[name]
        self.content = load_photo(name, 512)[..., top : top + 24, left : left + 28]
        self.update = aggressive_update(self.content)
        laplacian = matting_laplacian(self.content).toarray()
        self.eigenvalues, self.vectors = np.linalg.eigh(laplacian)

    def filtered(self, response: NDArray[np.float64]) -> Tensor:
        spectrum = self.update.flatten(2).numpy() @ self.vectors
        return torch.from_numpy(spectrum * response @ self.vectors.T).reshape(self.update.shape)

    def projected(self, k: int) -> Tensor:
        return self.filtered((np.arange(len(self.eigenvalues)) < k).astype(float))


@pytest.fixture(scope="module", params=CROPS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def distance(result: Tensor, exact: Tensor, relative_to: Tensor | None = None) -> float:
    return float((result - exact).norm() / (exact if relative_to is None else relative_to).norm())


@pytest.mark.parametrize("k", [20, 200])
def test_spectral_projection(case: Case, k: int) -> None:
    projection = SpectralProjection(case.content, k)
    exact = case.projected(k)
    np.testing.assert_allclose(projection.eigenvalues[0], case.eigenvalues[:k], atol=1e-9)
    assert distance(projection(case.update), exact) < 1e-9
    assert distance(SpectralProjection(case.content.float(), k)(case.update), exact) < 1e-5
    torch.testing.assert_close(projection(exact), exact)


@pytest.mark.parametrize("k", [20, 50, 200])
def test_low_pass_imitates_the_exact_projection(case: Case, k: int) -> None:
    content = case.content
    lowpass = LowPass.for_bandwidth(GraphLowPass(content, LowPass(1.0)).laplacian, k)
    count = (case.eigenvalues <= lowpass.cutoff).sum()
    assert abs(count - k) <= max(1, 0.05 * k)
    assert distance(GraphLowPass(content, lowpass)(case.update), case.projected(k)) <= 0.06


@pytest.mark.parametrize("kind", ["ideal", "heat", "tikhonov"])
def test_low_pass_applies_its_response(case: Case, kind: str) -> None:
    lowpass = LowPass(0.05, kind=kind)  # type: ignore[arg-type]
    exact = case.filtered(lowpass.response(case.eigenvalues).numpy())
    assert distance(GraphLowPass(case.content, lowpass)(case.update), exact) < 1e-9
    assert distance(GraphLowPass(case.content.float(), lowpass)(case.update), exact) < 3e-4


@pytest.mark.parametrize("k", [20, 50, 200])
def test_randomized_projection(case: Case, k: int) -> None:
    projection = RandomizedProjection(case.content, k)
    assert projection.basis.shape == (1, k, 24 * 28)
    gram = projection.basis[0] @ projection.basis[0].T
    torch.testing.assert_close(gram, torch.eye(k, dtype=torch.float64))
    assert distance(projection(case.update), case.projected(k)) <= 0.02
    assert torch.equal(RandomizedProjection(case.content, k).basis, projection.basis)


@pytest.mark.parametrize("gamma", [0.01, 1.0, 100.0, 10_000.0])
def test_tikhonov(case: Case, gamma: float) -> None:
    exact = case.filtered(1 / (1 + gamma * case.eigenvalues))
    for tolerance in (1e-2, 1e-4, 1e-8):
        projection = Tikhonov(case.content, gamma, tolerance)
        assert distance(projection(case.update), exact, case.update) <= tolerance
    single = Tikhonov(case.content.float(), gamma)(case.update)
    assert distance(single, exact, case.update) <= 1e-3


def affinity(image: Tensor) -> NDArray[np.float64]:
    """W, dense: W_ij = sum over windows of A_w(i,j), of Levin et al. (2008)."""
    blocks = torch.eye(9, dtype=torch.float64) - matting_blocks(image, 1e-7)[0]
    pixels = torch.arange(image[0, 0].numel()).reshape(1, 1, *image.shape[-2:])
    index = windows(pixels)[0, ..., 0].long()
    w = np.zeros((image[0, 0].numel(),) * 2)
    np.add.at(w, (index.unsqueeze(-1).numpy(), index.unsqueeze(-2).numpy()), blocks.numpy())
    return w


@pytest.mark.parametrize("lambda_", [1e-4, 1e-2, 1.0])
def test_smoothing_solves_the_system_of_li(case: Case, lambda_: float) -> None:
    padded, y = (
        torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
        for x in (case.content, case.update)
    )
    w = affinity(padded)
    root = w.sum(1) ** -0.5
    s = root[:, None] * w * root
    alpha = 1 / (1 + lambda_)
    r = (1 - alpha) * np.linalg.solve(np.eye(len(w)) - alpha * s, y.flatten(2)[0].T.numpy())
    exact = torch.from_numpy(r.T.copy()).reshape(y.shape)[..., 2:-2, 2:-2]
    for tolerance in (1e-4, 1e-7):
        result = PhotorealisticSmoothing(case.content, lambda_, tolerance)(case.update)
        assert (result - exact).norm() <= tolerance * y.norm()
    single = PhotorealisticSmoothing(case.content.float(), lambda_)(case.update)
    assert distance(single, exact) <= 5e-4


def test_smoothing_does_not_darken_the_border(case: Case) -> None:
    result = PhotorealisticSmoothing(case.content)(torch.full_like(case.content, 0.5))
    assert 0.49 < result.min() <= result.max() < 0.65  # unpadded, a corner would have 0.2


Make = Callable[[Tensor], Constraint]
EVERY: dict[str, Make] = {
    "spectral": lambda content: SpectralProjection(content, 20),
    "randomized": lambda content: RandomizedProjection(content, 20),
    "low-pass": lambda content: GraphLowPass(content, LowPass(0.1)),
    "tikhonov": lambda content: Tikhonov(content, 10.0, 1e-10),
    "smoothing": lambda content: PhotorealisticSmoothing(content, 0.1, 1e-10),
}


@pytest.fixture(params=EVERY)
def make(request: pytest.FixtureRequest) -> Make:
    return EVERY[request.param]


def test_each_image_of_a_batch_has_its_own_projection(make: Make) -> None:
    content, x = torch.rand(2, 2, 3, 9, 11, dtype=torch.float64)
    apart = torch.cat([make(c[None])(y[None]) for c, y in zip(content, x, strict=True)])
    torch.testing.assert_close(make(content)(x), apart, rtol=0, atol=1e-8)


def test_the_gradient_is_the_adjoint(make: Make) -> None:
    projection = make(torch.rand(1, 3, 9, 11, dtype=torch.float64))
    x, direction, weights = torch.rand(3, 1, 3, 9, 11, dtype=torch.float64)
    x.requires_grad_()
    (projection(x) * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(
        (x.grad * direction).sum(), (projection(direction) * weights).sum(), rtol=1e-6, atol=0
    )


def test_the_change_is_projected_by_any_of_them(make: Make) -> None:
    content, x = torch.rand(2, 1, 3, 9, 11, dtype=torch.float64)
    projection = make(content)
    constraint = ResidualProjection(content, projection)
    torch.testing.assert_close(constraint(x), content + projection(x - content))
    assert torch.equal(constraint(content), content)
    assert constraint(x.half()).dtype == torch.float16
    assert projection(x.half()).dtype == torch.float16


def test_a_basis_projects_many_images_of_one_content() -> None:
    projection = SpectralProjection(torch.rand(1, 3, 8, 9), 10)
    x = torch.rand(4, 3, 8, 9)
    torch.testing.assert_close(projection(x)[2:3], projection(x[2:3]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: SpectralProjection(c, 0), "k must be an integer from 1 to 71, got 0"),
        (lambda c: SpectralProjection(c, 72), "k must be an integer from 1 to 71, got 72"),
        (lambda c: RandomizedProjection(c, 37), "k must be an integer from 1 to 36, got 37"),
        (lambda c: Tikhonov(c, 0), "gamma must be positive and finite, got 0"),
        (lambda c: Tikhonov(c, 1, 1), r"tolerance must be in \(0, 1\), got 1"),
        (lambda c: PhotorealisticSmoothing(c, -1), "lambda_ must be positive and finite, got -1"),
        (lambda c: SpectralProjection(c, 9)(torch.rand(1, 3, 9, 9)), "x must have the content's"),
    ],
)
def test_errors(call: Callable[[Tensor], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(torch.rand(1, 3, 8, 9))


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module("projections")


def test_the_guide_shows_the_committed_results(benchmark: ModuleType) -> None:
    guide, results = benchmark.DOCS.read_text(), json.loads(benchmark.RESULTS.read_text())
    assert guide == benchmark.with_tables(guide, results), "run benchmarks/projections.py --write"


def test_the_benchmark(benchmark: ModuleType) -> None:
    rows = {row["method"]: row for row in benchmark.compare(48)}
    assert rows["SpectralProjection(k)"]["error"] == 0
    lanczos = rows["the same by Lanczos, without a matrix"]
    assert lanczos["error"] < 1e-4
    assert lanczos["products_to_make"] > rows["SpectralProjection(k)"]["products_to_make"] == 0
    lowpass, doubled = (rows[f"GraphLowPass, LowPass(c){more}"] for more in ("", ", order doubled"))
    assert doubled["products"] == 2 * lowpass["products"] > 0
    assert lowpass["energy"] < 1e-2 * rows["X, not projected"]["energy"]


def code_of_the_guide() -> list[str]:
    guide = (ROOT / "docs/constraints.md").read_text()
    return re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)


def test_the_guide_runs() -> None:
    content, style, mask = (
        torch.rand(1, 3, 24, 20),
        torch.rand(1, 3, 20, 20),
        torch.ones(1, 1, 24, 20),
    )
    names: dict[str, Any] = {"content": content, "style": style, "mask": mask}
    exec("from fastfcs import MattingLaplacian", names)
    codes = code_of_the_guide()
    assert len(codes) == 3
    for code in codes:
        exec(code, names)
    assert names["damped"](content).shape == content.shape
