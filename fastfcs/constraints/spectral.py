"""Projections onto eigenvectors of the content's matting Laplacian, stored as explicit bases."""

import math

import torch
from torch import Tensor

from ..filters import LowPass
from ..laplacian import MattingLaplacian
from .combine import as_working_dtype


class _Span:
    """P[X] = Q Q^T X, where Q is an orthonormal basis, one per image of the content."""

    basis: Tensor
    """Q^T, (B,k,HW): k orthonormal images per image of the content."""

    def __call__(self, x: Tensor) -> Tensor:
        """Project images: (B,3,H,W) -> (B,3,H,W), of C's height and width. Differentiable in x.

        If the content is a single image, x may be any number of images, such as several styles of
        it or the frames of a still scene.

        Raises:
            ValueError: x has another number of images or pixels.
        """
        columns = x.flatten(2).to(self.basis.dtype)
        if columns.shape[-1] != self.basis.shape[-1] or len(x) != len(self.basis) != 1:
            raise ValueError(
                f"x must have the content's batch size, {len(self.basis)}, and number of pixels, "
                f"{self.basis.shape[-1]}, got {tuple(x.shape)}"
            )
        return (columns @ self.basis.mT @ self.basis).reshape(x.shape).to(x.dtype)


class SpectralProjection(_Span):
    """P[X] = U_k U_k^T X, where U_k are the eigenvectors of the k smallest eigenvalues of L.

    This is the projection of Puy and Pérez (2018) itself, affordable for small images only. The
    constructor computes the eigenvectors, so reuse the object for other styles of a content.

    `scipy.sparse.linalg.eigsh` works on the explicit matrix, shifted and inverted, and on the CPU
    even if the content is on a GPU. On two cores it takes 1.4 s at 128 px with k = 108, and 42 s
    and 790 MB at 256 px with k = 435. On the matrix-free operator it takes 4 times as long at 64 px
    and 5 to 12 times at 128 px, and at a tolerance of 1e-6 it once missed one of the smallest
    eigenvalues, which lie too close together.

    Args:
        content: C, (B,3,H,W), floating in [0,1], H and W at least 3; L is its Laplacian.
        k: number of eigenvectors, from 1 to H W - 1.

    Attributes:
        basis: U_k^T, (B,k,HW), accurate to 1e-9, then rounded to the working dtype.
        eigenvalues: (B,k), float64, ascending.

    Raises:
        ValueError: an argument is out of range.
        ImportError: scipy is not installed.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import SpectralProjection
        >>> content, x = torch.rand(2, 1, 3, 8, 9)
        >>> projection = SpectralProjection(content, k=10)
        >>> projection.basis.shape
        torch.Size([1, 10, 72])
        >>> torch.allclose(projection(projection(x)), projection(x), atol=1e-5)
        True
    """

    def __init__(self, content: Tensor, k: int) -> None:
        content = as_working_dtype(content)
        _check(k, content.shape[-2:].numel() - 1)
        pairs = [_eigenpairs(MattingLaplacian(image), k) for image in content]
        self.eigenvalues = torch.stack([values for values, _ in pairs])
        self.basis = torch.stack([vectors for _, vectors in pairs]).to(content)


class RandomizedProjection(_Span):
    """P[X] = Q Q^T X, where Q approximates the span of U_k without an eigensolver.

    Paratte and Martin (2016), "Fast eigenspace approximation using random signals": Gaussian
    signals, low-pass filtered with k eigenvalues below the cutoff, nearly span those eigenvectors.
    Since no polynomial stops abruptly, 1.5 k signals are filtered, and Q consists of the k
    directions of least energy in their span (Rayleigh-Ritz). The constructor computes Q, so reuse
    the object for other styles or frames of a content. Equal arguments give equal bases.

    On rough updates of three photos, for k from 20 to 300, the distance from P[X] to the exact
    projection is at most 2 % of the latter's norm, mostly below 1 %; with twice the order of
    `LowPass` it was 8 %. The filter alone, `GraphLowPass`, comes within 2 to 6 % for far fewer
    products, since it filters three channels instead of 1.5 k.

    Args:
        content: C, (B,3,H,W), floating in [0,1], H and W at least 3.
        k: dimension of the span, from 1 to H W / 2.
        order: degree of the filter; the default is four times that of `LowPass`.

    Attributes:
        basis: Q^T, (B,k,HW).

    Raises:
        ValueError: an argument is out of range.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import RandomizedProjection
        >>> content, x = torch.rand(2, 1, 3, 8, 9)
        >>> projection = RandomizedProjection(content, k=10)
        >>> projection.basis.shape
        torch.Size([1, 10, 72])
        >>> torch.allclose(projection(projection(x)), projection(x), atol=1e-5)
        True
    """

    def __init__(self, content: Tensor, k: int, order: int | None = None) -> None:
        content = as_working_dtype(content)
        _check(k, content.shape[-2:].numel() // 2)
        self.basis = torch.stack(
            [_filtered_signals(MattingLaplacian(image), k, order) for image in content]
        )


def _eigenpairs(laplacian: MattingLaplacian, k: int) -> tuple[Tensor, Tensor]:
    try:
        from scipy.sparse import identity
        from scipy.sparse.linalg import LinearOperator, eigsh, splu
    except ImportError as error:
        raise ImportError("SpectralProjection needs scipy: pip install scipy") from error

    matrix = laplacian.to_scipy()
    n = laplacian.pixels
    shift = -1e-6  # below every eigenvalue, so that the shifted matrix is positive definite
    factors = splu(
        (matrix - shift * identity(n)).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    inverse = LinearOperator((n, n), matvec=factors.solve, dtype=matrix.dtype)
    values, vectors = eigsh(matrix, k, sigma=shift, OPinv=inverse)
    return torch.from_numpy(values), torch.from_numpy(vectors.T)


def _filtered_signals(laplacian: MattingLaplacian, k: int, order: int | None) -> Tensor:
    lowpass = LowPass.for_bandwidth(laplacian, k)
    lowpass = LowPass(lowpass.cutoff, order or 4 * lowpass.order)
    signals = math.ceil(1.5 * k)
    random = torch.Generator(laplacian.device).manual_seed(0)
    shape = (signals, *laplacian.shape[-2:])
    noise = torch.randn(shape, generator=random, device=laplacian.device, dtype=laplacian.dtype)
    q, _ = torch.linalg.qr(lowpass(laplacian, noise).flatten(1).T)
    products = (laplacian @ q.T.reshape(shape)).flatten(1)
    _, directions = torch.linalg.eigh(products @ q)
    basis: Tensor = directions[:, :k].T @ q.T
    return basis


def _check(k: int, most: int) -> None:
    if not isinstance(k, int) or not 0 < k <= most:
        raise ValueError(f"k must be an integer from 1 to {most}, got {k}")
