"""Projections onto the span of eigenvectors of the content's matting Laplacian, kept explicitly."""

import math

import torch
from torch import Tensor

from ..filters import LowPass
from ..laplacian import MattingLaplacian
from .combine import as_working_dtype


class _Span:
    """P[X] = Q Q^T X, Q an orthonormal basis for each image of the content."""

    basis: Tensor
    """Q, (B,k,HW), k orthonormal images."""

    def __call__(self, x: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,3,H,W), of the content's height and width. Differentiable in x.

        With one content, x may be any number of images: styles of it, or frames.

        Raises:
            ValueError: x has another size.
        """
        columns = x.flatten(2).to(self.basis.dtype)
        if columns.shape[-1] != self.basis.shape[-1] or len(x) != len(self.basis) != 1:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; {len(self.basis)} images of"
                f" {self.basis.shape[-1]} pixels are wanted, as in the content"
            )
        return (columns @ self.basis.mT @ self.basis).reshape(x.shape).to(x.dtype)


class SpectralProjection(_Span):
    """P[X] = U_k U_k^T X, U_k the eigenvectors of the k smallest eigenvalues of L.

    The projection of Puy and Pérez (2018) itself, for images where it is affordable. The
    eigenvectors are computed when it is made, once a content: keep the object for further styles.

    By `scipy.sparse.linalg.eigsh` on the explicit matrix, shifted and inverted, on the CPU wherever
    the content is. Two cores: 1.4 s at 128 px and k = 108; 42 s and 790 MB at 256 px and k = 435.
    On the operator, without a matrix, it takes 4 times as long at 64 px and 5 to 12 times at 128
    px, and at a tolerance of 1e-6 it was seen to miss one of the smallest eigenvalues, which lie
    that close to each other.

    Args:
        content: (B,3,H,W), floating in [0,1], H and W at least 3.
        k: from 1 to H W - 1.

    Attributes:
        basis: U_k^T, (B,k,HW), accurate to 1e-9, then rounded to the working dtype.
        eigenvalues: (B,k), float64, ascending.

    Raises:
        ValueError: an argument is none of these.
        ImportError: there is no scipy.
    """

    def __init__(self, content: Tensor, k: int) -> None:
        content = as_working_dtype(content)
        _check(k, content.shape[-2:].numel() - 1)
        pairs = [_eigenpairs(MattingLaplacian(image), k) for image in content]
        self.eigenvalues = torch.stack([values for values, _ in pairs])
        self.basis = torch.stack([vectors for _, vectors in pairs]).to(content)


class RandomizedProjection(_Span):
    """P[X] = Q Q^T X, Q nearly the span of U_k, from filtered random signals: no eigensolver.

    Paratte and Martin (2016), "Fast eigenspace approximation using random signals": Gaussian
    signals, low-pass filtered with k eigenvalues below the cutoff, span those eigenvectors nearly.
    1.5 k signals are filtered here, and the k directions of least energy are kept of their span
    (Rayleigh-Ritz), as no polynomial stops abruptly. Made once a content, for many styles or
    frames; the same arguments give the same basis.

    On rough updates of three photos, k from 20 to 300, ||P[X] - SpectralProjection|| is at most 2 % of
    ||SpectralProjection||, mostly below 1 %; with twice the order of `LowPass` it was 8 %. The filter alone,
    `GraphLowPass`, is at 2 to 6 % for far fewer products: three channels are filtered, not 1.5 k.

    Args:
        content: (B,3,H,W), floating in [0,1], H and W at least 3.
        k: from 1 to H W / 2.
        order: of the filter; the default is four times that of `LowPass`.

    Attributes:
        basis: Q^T, (B,k,HW).

    Raises:
        ValueError: an argument is none of these.
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
    return directions[:, :k].T @ q.T


def _check(k: int, most: int) -> None:
    if not isinstance(k, int) or not 0 < k <= most:
        raise ValueError(f"k is {k}; an integer from 1 to {most} is wanted")
