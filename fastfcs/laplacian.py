"""The matting Laplacian of an image as an operator: L itself never exists in memory."""

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class MattingLaplacian:
    """The matting Laplacian of Levin et al. (2008), eq. 12,

        L = sum_w (I - A_w)
        A_w(i,j) = 1/9 [1 + (I_i - mu_w)^T (S_w + eps/9 I_3)^-1 (I_j - mu_w)]

    over the 3x3 windows w wholly inside the image, with mean mu_w and covariance S_w. L is
    symmetric, positive semi-definite, and almost annihilates every signal that is an affine
    function of the colours in every window. Only six numbers per window are kept, `factors`: 24
    bytes per pixel in float32, where an explicit L needs some 300.

    Args:
        image: (3,H,W) or (B,3,H,W), float32 or float64 in [0,1], H and W at least 3; a constant,
            to which no gradient flows.
        eps: regularisation, positive, as PyMatting's `epsilon`: how far a signal may be from affine
            where the image is nearly flat.

    Raises:
        ValueError: the image's shape, dtype or values are none of these, or eps is not positive.
    """

    lambda_max: float = 9.0
    """An upper bound of every eigenvalue: A_w is a least-squares fit, shrunk by eps, so that
    0 <= I - A_w <= I, and a pixel lies in nine windows at most. No power iteration is needed."""

    def __init__(self, image: Tensor, eps: float = 1e-7) -> None:
        if image.dim() not in (3, 4):
            raise ValueError(
                f"image has shape {tuple(image.shape)}; a (3,H,W) or (B,3,H,W) tensor is wanted"
            )
        self.shape = tuple(image.shape)
        self.eps = eps
        self.image = (image if image.dim() == 4 else image[None]).detach().contiguous()
        self.factors: Tensor = ops.matting_factors(self.image, eps)

    @property
    def dtype(self) -> torch.dtype:
        """The image's dtype, which every signal must have."""
        return self.image.dtype

    @property
    def device(self) -> torch.device:
        """The image's device, where every signal must be."""
        return self.image.device

    @property
    def pixels(self) -> int:
        """H W, the size of the matrix: for what is made of one image only.

        Raises:
            ValueError: the batch holds more than one image.
        """
        if len(self.image) != 1:
            raise ValueError(
                f"image is a batch of {len(self.image)}; an explicit matrix, a linear operator or"
                " a count of eigenvalues is made of one image"
            )
        return self.shape[-2] * self.shape[-1]

    def batched(self, x: Tensor) -> Tensor:
        """x as the operators want it, (B,C,H,W); it must have as many dimensions as the image."""
        if x.dim() != len(self.shape):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; {len(self.shape)} dimensions are wanted, as in the"
                f" image {self.shape}"
            )
        return x if x.dim() == 4 else x[None]

    def __matmul__(self, x: Tensor) -> Tensor:
        """L x, of x's shape: (C,H,W) or (B,C,H,W) as the image, any C. Differentiable in x."""
        return ops.matting_matvec(self.image, self.factors, self.batched(x)).reshape(x.shape)

    def energy(self, x: Tensor) -> Tensor:
        """Tr(x^T L x), summed over channels: one number an image, (B,) or (). Differentiable."""
        return (x * (self @ x)).flatten(-3).sum(-1)

    def diagonal(self) -> Tensor:
        """The diagonal of L, (H,W) or (B,H,W), in closed form.

        L_ii = sum of 8/9 - |K^T (I_i - mu_w)|^2 / 9 over the windows w of pixel i.
        """
        batch, _, height, width = self.image.shape
        colours = F.unfold(self.image, 3).reshape(batch, 3, 9, height - 2, width - 2)
        colours = colours - colours[:, :, 4:5]  # small numbers, whose mean is accurate
        d0, d1, d2 = (colours - colours.mean(2, keepdim=True)).unbind(1)
        k00, k01, k02, k11, k12, k22 = self.factors.unsqueeze(2).unbind(1)
        norms = (k00 * d0) ** 2 + (k01 * d0 + k11 * d1) ** 2 + (k02 * d0 + k12 * d1 + k22 * d2) ** 2
        diagonal = F.fold(((8 - norms) / 9).flatten(2), (height, width), 3)[:, 0]
        return diagonal.reshape(*self.shape[:-3], height, width)

    def to_scipy(self) -> "csr_matrix":
        """The explicit (HW,HW) matrix of one image, float64, pixels row by row.

        It is PyMatting's `cf_laplacian`. In memory it takes about 300 bytes a pixel.

        Raises:
            ValueError: the batch holds more than one image.
        """
        from scipy.sparse import csr_matrix

        from . import _C

        pixels = self.pixels
        image = self.image[0].permute(1, 2, 0).double().cpu().contiguous().numpy()
        return csr_matrix(_C.laplacian_csr(image, self.eps), shape=(pixels, pixels))

    def to_linear_operator(self, library: Literal["scipy", "cupy"] = "scipy") -> Any:
        """L of one image as an (HW,HW) `LinearOperator`, for scipy's or cupy's solvers.

        Raises:
            ValueError: the library is neither, or the batch holds more than one image.
        """
        if library not in ("scipy", "cupy"):
            raise ValueError(f'library is {library!r}; "scipy" or "cupy" is wanted')
        pixels = self.pixels

        if library == "scipy":
            from scipy.sparse.linalg import LinearOperator

            def export(x: Tensor) -> Any:
                return x.cpu().numpy()
        else:
            from cupy import from_dlpack
            from cupyx.scipy.sparse.linalg import LinearOperator

            export = from_dlpack

        def matmat(columns: Any) -> Any:
            # A copy, because torch takes neither negative strides nor read-only arrays.
            x = torch.as_tensor(columns.copy(), dtype=self.dtype, device=self.device)
            signals = x.reshape(pixels, -1).T.reshape(1, -1, *self.shape[-2:])
            product = ops.matting_matvec(self.image, self.factors, signals)
            return export(product.reshape(-1, pixels).T.reshape(x.shape).contiguous())

        return LinearOperator(
            (pixels, pixels),
            matvec=matmat,
            rmatvec=matmat,
            matmat=matmat,
            dtype=str(self.dtype).removeprefix("torch."),
        )

    def __repr__(self) -> str:
        return (
            f"MattingLaplacian(image={self.shape}, eps={self.eps}, {self.dtype}, '{self.device}')"
        )
