"""The matting Laplacian against PyMatting, explicit windows in float64, and scipy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatting import cf_laplacian
from reference import matting_laplacian, matting_matvec, relative_error
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import eigsh
from torch import Tensor

from fastfcs import MattingLaplacian

Photo = Callable[[str, int], Tensor]


def pymatting_laplacian(image: Tensor) -> csr_matrix:
    return cf_laplacian(image[0].permute(1, 2, 0).double().contiguous().numpy(), epsilon=1e-7)


def test_product_is_pymattings(photo: Photo, any_photo: str) -> None:
    image = photo(any_photo, 512)
    x = torch.randn_like(image)
    product = pymatting_laplacian(image) @ x.flatten(2)[0].T.numpy()
    expected = torch.from_numpy(product.T.copy()).reshape(x.shape)
    assert relative_error(MattingLaplacian(image) @ x, expected) <= 1e-9
    assert relative_error(MattingLaplacian(image.float()) @ x.float(), expected) <= 2e-5


def test_product_in_saturated_shadows(photo: Photo) -> None:
    # Here PyMatting's own inverse, by the determinant, is 1.9e-9 from the truth in long double.
    image = photo("astronaut", 512)[..., 256:, 256:]
    x = torch.randn_like(image)
    expected = matting_matvec(image, x)
    assert relative_error(MattingLaplacian(image) @ x, expected) <= 1e-12
    assert relative_error(MattingLaplacian(image.float()) @ x.float(), expected) <= 2e-5


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 5), st.integers(3, 19), st.integers(3, 37), st.integers(0, 9)
)
def test_any_shape(batch: int, channels: int, height: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    image = torch.rand(batch, 3, height, width, dtype=torch.float64)
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    laplacian = MattingLaplacian(image)
    torch.testing.assert_close(laplacian @ x, matting_matvec(image, x))
    torch.testing.assert_close(laplacian.energy(x), (x * matting_matvec(image, x)).sum((1, 2, 3)))
    diagonals = [matting_laplacian(one).diagonal().reshape(height, width) for one in image]
    torch.testing.assert_close(laplacian.diagonal(), torch.from_numpy(np.stack(diagonals)))


def test_one_image_without_batch() -> None:
    image, x = torch.rand(3, 9, 11), torch.randn(4, 9, 11)
    single, batch = MattingLaplacian(image), MattingLaplacian(image[None])
    assert torch.equal(single @ x, (batch @ x[None])[0])
    assert torch.equal(single.energy(x), batch.energy(x[None])[0])
    assert torch.equal(single.diagonal(), batch.diagonal()[0])


def test_symmetry_and_null_space(photo: Photo) -> None:
    image = photo("coffee", 128)
    laplacian = MattingLaplacian(image.float())
    x, y = torch.randn(2, *image.shape)
    left, right = (y * (laplacian @ x)).sum(), (x * (laplacian @ y)).sum()
    assert (left - right).abs() <= 1e-5 * laplacian.energy(x)
    assert (laplacian @ torch.full_like(x, 0.3)).abs().max() <= 1e-5
    # Any recolouring that is affine in RGB costs as little as the content itself: nearly nothing.
    recoloured = torch.einsum("cd,bdhw->bchw", torch.rand(3, 3), image.float()) + 0.1
    assert laplacian.energy(recoloured) <= 1e-6 * laplacian.energy(torch.rand_like(x))


def test_eigenvalues_are_within_the_bound(photo: Photo) -> None:
    # A checkerboard's eigenvalues come near the bound; noise's and a photo's lie below.
    height, width = 14, 17
    board = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    images = (
        photo("rocket", 512)[0, :, 200:214, 200:217],
        torch.rand(3, height, width),
        board.expand(3, -1, -1),
    )
    for image in images:
        laplacian = MattingLaplacian(image.double())
        operator = laplacian.to_linear_operator()
        eigenvalues = np.linalg.eigvalsh(operator @ np.eye(height * width))
        assert eigenvalues.min() >= -1e-12
        assert 4 < eigenvalues.max() <= laplacian.lambda_max == 9


def test_explicit_matrix_is_pymattings(photo: Photo, any_photo: str) -> None:
    image = photo(any_photo, 200)
    laplacian, expected = MattingLaplacian(image.float()), pymatting_laplacian(image.float())
    matrix = laplacian.to_scipy()
    assert isinstance(matrix, csr_matrix)
    assert matrix.shape == expected.shape
    assert abs(matrix - expected).max() <= 1e-8
    assert abs(matrix - matrix.T).max() <= 1e-12
    np.testing.assert_allclose(matrix.diagonal(), laplacian.diagonal().flatten(), rtol=0, atol=5e-4)


def test_linear_operator_serves_scipys_solvers() -> None:
    image = torch.rand(1, 3, 8, 9, dtype=torch.float64)
    operator = MattingLaplacian(image).to_linear_operator()
    matrix = matting_laplacian(image)
    assert operator.dtype == np.float64
    for columns in (torch.rand(72).numpy(), torch.rand(72, 4).numpy(), np.arange(72.0)[::-1]):
        np.testing.assert_allclose(operator @ columns, matrix @ columns, atol=1e-12)
        np.testing.assert_allclose(operator.T @ columns, matrix @ columns, atol=1e-12)
    largest = eigsh(operator, 3, which="LM", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(largest), np.linalg.eigvalsh(matrix.toarray())[-3:])


def test_differentiable_in_x() -> None:
    laplacian = MattingLaplacian(torch.rand(2, 3, 5, 6, dtype=torch.float64, requires_grad=True))
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    laplacian.energy(x).sum().backward()
    torch.testing.assert_close(x.grad, 2 * (laplacian @ x))
    assert laplacian.image.grad_fn is None


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"image must be .* got \(7, 8\)"):
        MattingLaplacian(torch.rand(7, 8))
    batch = MattingLaplacian(torch.rand(2, 3, 7, 8))
    with pytest.raises(ValueError, match=r"x must have 4 dimensions, .* got \(3, 7, 8\)"):
        batch @ torch.rand(3, 7, 8)
    for explicit in (batch.to_scipy, batch.to_linear_operator):
        with pytest.raises(ValueError, match=r"image must be .* got a batch of 2"):
            explicit()
    with pytest.raises(ValueError, match="library must be 'scipy' or 'cupy', got 'jax'"):
        batch.to_linear_operator("jax")
