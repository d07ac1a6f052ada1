"""Low-pass filters: against the exact projection from a dense eigendecomposition, and float64."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import aggressive_update, jackson_coefficients, matting_laplacian
from scipy.sparse.linalg import eigsh
from torch import Tensor

from fastfcs import LowPass, MattingLaplacian

Photo = Callable[[str, int], Tensor]


class Spectrum(NamedTuple):
    """A 40 px crop of a photo, its Laplacian's eigenvalues and -vectors, a rough update of it."""

    image: Tensor
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    update: Tensor

    def filtered(self, response: NDArray[np.float64]) -> NDArray[np.float64]:
        """h(L) X exactly, (HW,3)."""
        columns = self.update.flatten(2)[0].T.numpy()
        return self.eigenvectors @ (response[:, None] * (self.eigenvectors.T @ columns))


@pytest.fixture(scope="module")
def spectrum() -> Spectrum:
    from pictures import load_photo

    image = load_photo("astronaut", 512)[..., 20:60, 200:240]
    update = aggressive_update(image)
    return Spectrum(image, *np.linalg.eigh(matting_laplacian(image).toarray()), update)


def rows_of_table() -> list[tuple[str, ...]]:
    row = r"^ +(Kaiser|Jackson) +([\d.]+) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$"
    return re.findall(row, LowPass.__doc__ or "", flags=re.MULTILINE)


@pytest.mark.parametrize("row", rows_of_table(), ids=lambda row: "-".join(row[:3]))
def test_table_of_the_docstring(spectrum: Spectrum, row: tuple[str, ...]) -> None:
    window, cutoff, order, *documented = row
    lowpass = LowPass(float(cutoff), int(order))
    if window == "Jackson":
        lowpass.coefficients = jackson_coefficients(float(cutoff), int(order))
    laplacian = MattingLaplacian(spectrum.image)
    result = lowpass(laplacian, spectrum.update)
    exact = spectrum.filtered(lowpass.kernel(spectrum.eigenvalues).numpy())
    exact_image = torch.from_numpy(exact.T.copy()).reshape(result.shape)
    stop = torch.linspace(3 * float(cutoff), 9, 100_000, dtype=torch.float64)
    measured = [
        laplacian.energy(result).item(),
        laplacian.energy(exact_image).item(),
        (result - exact_image).square().mean().sqrt().item(),
        lowpass.response(stop).abs().max().item(),
    ]
    assert measured == pytest.approx([float(number) for number in documented], rel=0.05)


def test_table_is_found() -> None:
    assert len(rows_of_table()) >= 6


@pytest.mark.parametrize("kind", ["ideal", "heat", "tikhonov"])
@pytest.mark.parametrize("cutoff", [0.1, 0.01])
def test_filter_is_its_response(spectrum: Spectrum, kind: str, cutoff: float) -> None:
    lowpass = LowPass(cutoff, kind=kind)
    result = lowpass(MattingLaplacian(spectrum.image), spectrum.update)
    expected = spectrum.filtered(lowpass.response(spectrum.eigenvalues).numpy())
    np.testing.assert_allclose(result.flatten(2)[0].T.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("kind", ["heat", "tikhonov"])
def test_smooth_kernels_are_reached(kind: str) -> None:
    lowpass = LowPass(0.01, order=400, kind=kind)
    eigenvalues = np.linspace(0, 9, 10_001)
    error = (lowpass.response(eigenvalues) - lowpass.kernel(eigenvalues)).abs().max()
    assert error < 1e-4
    assert lowpass.kernel(0.01) == 0.5


@pytest.mark.parametrize(("kind", "error"), [("heat", 0.002), ("tikhonov", 0.03)])
@pytest.mark.parametrize("cutoff", [0.1, 0.01])
def test_default_order_agrees_with_the_eigendecomposition(
    spectrum: Spectrum, kind: str, error: float, cutoff: float
) -> None:
    lowpass = LowPass(cutoff, kind=kind)
    result = lowpass(MattingLaplacian(spectrum.image), spectrum.update).flatten(2)[0].T.numpy()
    exact = spectrum.filtered(lowpass.kernel(spectrum.eigenvalues).numpy())
    assert np.linalg.norm(result - exact) <= error * spectrum.update.norm().item()
    eigenvalues = np.r_[np.linspace(0, 9, 10_001), np.linspace(0, 0.2, 10_001)]
    difference = lowpass.response(eigenvalues) - lowpass.kernel(eigenvalues)
    assert error / 4 < difference.abs().max() <= error


@pytest.mark.parametrize("kind", ["ideal", "heat", "tikhonov"])
@pytest.mark.parametrize("cutoff", [1e-3, 1e-2, 1e-1, 1.0])
def test_response(kind: str, cutoff: float) -> None:
    lowpass = LowPass(cutoff, kind=kind)
    assert lowpass.response(0.0).item() == pytest.approx(1, abs=1e-13)
    response = lowpass.response(np.linspace(0, 9, 200_001))
    assert response.max() <= 1.02
    assert response.min() >= -0.02


def test_coefficients() -> None:
    lowpass = LowPass(0.01)
    assert lowpass.order == 60
    assert lowpass.coefficients.shape == (61,)
    assert lowpass.coefficients.dtype == torch.float64
    assert [LowPass(cutoff).order for cutoff in (0.1, 0.001)] == [19, 190]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cutoff": 0.0}, r"cutoff must be in \(0, 9\), got 0.0"),
        ({"cutoff": 9}, r"cutoff must be in \(0, 9\), got 9"),
        ({"cutoff": float("nan")}, r"cutoff must be in \(0, 9\), got nan"),
        ({"cutoff": 1e-12}, "cutoff must .* got 1e-12, which requires 6000000"),
        ({"cutoff": 0.1, "order": 0}, "order must be an integer from 1 to 20000, got 0"),
        ({"cutoff": 0.1, "order": 20_001}, "order must be an integer from 1 to 20000, got 20001"),
        ({"cutoff": 0.1, "kind": "box"}, "kind must be 'ideal', .* got 'box'"),
    ],
)
def test_errors(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LowPass(**arguments)


def test_for_bandwidth_counts_eigenvalues(photo: Photo, any_photo: str) -> None:
    laplacian = MattingLaplacian(photo(any_photo, 64).float())
    eigenvalues = eigsh(laplacian.to_scipy(), 330, sigma=-1e-6, return_eigenvectors=False)
    for k, error in ((20, 1), (50, 2.5), (100, 5), (300, 15)):
        cutoff = LowPass.for_bandwidth(laplacian, k).cutoff
        assert abs((eigenvalues <= cutoff).sum() - k) <= error


def test_for_bandwidth_on_the_whole_spectrum(spectrum: Spectrum) -> None:
    laplacian = MattingLaplacian(spectrum.image)
    for k in (50, 200, 800, 1500):
        lowpass = LowPass.for_bandwidth(laplacian, k, order=10)
        assert abs((spectrum.eigenvalues <= lowpass.cutoff).sum() - k) <= 0.05 * k
        assert (lowpass.order, lowpass.kind) == (10, "ideal")


def test_for_bandwidth_repeats_itself_and_leaves_the_random_state() -> None:
    laplacian = MattingLaplacian(torch.rand(3, 20, 24))
    state = torch.get_rng_state()
    cutoffs = {LowPass.for_bandwidth(laplacian, 60).cutoff for _ in range(2)}
    assert len(cutoffs) == 1
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("k", [0, 80, 2.5])
def test_for_bandwidth_checks_k(k: float) -> None:
    laplacian = MattingLaplacian(torch.rand(3, 8, 10))
    with pytest.raises(ValueError, match=rf"k must be an integer from 1 to 79, got {k}"):
        LowPass.for_bandwidth(laplacian, k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"image must be .* got a batch of 2"):
        LowPass.for_bandwidth(MattingLaplacian(torch.rand(2, 3, 8, 8)), 10)


def test_float32_at_cut_1e_2(photo: Photo, any_photo: str) -> None:
    image = photo(any_photo, 512)
    x = torch.cat([image, aggressive_update(image), torch.full_like(image[:, :1], 0.7)], 1)
    lowpass = LowPass(0.01, 150)
    single = lowpass(MattingLaplacian(image.float()), x.float())
    double = lowpass(MattingLaplacian(image), x)
    assert (single - double).abs().max() <= 3e-4
    # The content is nearly in the span, and a constant is in it.
    assert 1e-4 <= (double - x)[:, :3].abs().max() <= 0.01
    assert (single - x)[:, 6:].abs().max() <= 1e-5


def test_float32_at_cut_1e_3(photo: Photo) -> None:
    image = photo("chelsea", 512)
    x = aggressive_update(image)
    lowpass = LowPass(0.001, 400)
    single = lowpass(MattingLaplacian(image.float()), x.float())
    assert (single - lowpass(MattingLaplacian(image), x)).abs().max() <= 1e-3


def test_gradient_is_the_filter_itself() -> None:
    image = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    laplacian, lowpass = MattingLaplacian(image), LowPass(0.5)
    x, g = torch.randn(2, 2, 2, 7, 9, dtype=torch.float64)
    x.requires_grad_()
    lowpass(laplacian, x).backward(g)
    torch.testing.assert_close(x.grad, lowpass(laplacian, g))
