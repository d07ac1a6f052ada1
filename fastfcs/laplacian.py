"""The matting Laplacian of an image as an operator: L itself is never stored."""

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
    symmetric, positive semi-definite, and nearly annihilates every signal that is an affine
    function of the colours within each window. Each window is represented by six numbers, its
    `factors`: 24 bytes per pixel in float32, whereas an explicit L takes about 300.

    Args:
        image: (3,H,W) or (B,3,H,W), float32 or float64 in [0,1], H and W at least 3. It is treated
            as a constant: no gradient flows to it.
        eps: positive regularisation, PyMatting's `epsilon`: it sets how far a signal may be from
            affine where the image is nearly flat.

    Attributes:
        shape: the image's shape.
        image: (B,3,H,W), contiguous.
        factors: (B,6,H-2,W-2), see :func:`fastfcs.ops.matting_factors`.

    Raises:
        ValueError: the image's shape, dtype or values are wrong, or eps is not positive.

    Examples:
        >>> import torch
        >>> from fastfcs import MattingLaplacian
        >>> image = torch.rand(3, 8, 9, dtype=torch.float64)
        >>> laplacian = MattingLaplacian(image)
        >>> (laplacian @ torch.rand(5, 8, 9, dtype=torch.float64)).shape
        torch.Size([5, 8, 9])

        Any recolouring that is affine in RGB costs nearly nothing, noise does not:

        >>> laplacian.energy(1 - image).item() < 1e-4
        True
        >>> laplacian.energy(torch.rand_like(image)).item() > 1
        True
    """

    lambda_max: float = 9.0
    """An upper bound on every eigenvalue: A_w is a least-squares fit, shrunk by eps, so that
    0 <= I - A_w <= I, and a pixel lies in at most nine windows. No power iteration is needed."""

    def __init__(self, image: Tensor, eps: float = 1e-7) -> None:
        if image.dim() not in (3, 4):
            raise ValueError(f"image must be (3, H, W) or (B, 3, H, W), got {tuple(image.shape)}")
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
        """H W, the size of the matrix of a single image.

        Raises:
            ValueError: the batch holds more than one image.
        """
        if len(self.image) != 1:
            raise ValueError(
                "image must be a batch of 1 for a matrix, linear operator or eigenvalue count, "
                f"got a batch of {len(self.image)}"
            )
        return self.shape[-2] * self.shape[-1]

    def batched(self, x: Tensor) -> Tensor:
        """Bring a signal into the shape that the operators expect.

        Args:
            x: (C,H,W) or (B,C,H,W), with as many dimensions as the image.

        Returns:
            (B,C,H,W), a view.

        Raises:
            ValueError: the number of dimensions differs.

        Examples:
            >>> import torch
            >>> from fastfcs import MattingLaplacian
            >>> MattingLaplacian(torch.rand(3, 8, 9)).batched(torch.rand(5, 8, 9)).shape
            torch.Size([1, 5, 8, 9])
        """
        if x.dim() != len(self.shape):
            raise ValueError(
                f"x must have {len(self.shape)} dimensions, like image {self.shape}, "
                f"got {tuple(x.shape)}"
            )
        return x if x.dim() == 4 else x[None]

    def __matmul__(self, x: Tensor) -> Tensor:
        """Compute L x. Differentiable in x.

        Args:
            x: (C,H,W) or (B,C,H,W), like the image, any C, in its dtype and on its device.

        Returns:
            L x, of x's shape.

        Raises:
            ValueError: x's shape, dtype, device or values are wrong.
        """
        return ops.matting_matvec(self.image, self.factors, self.batched(x)).reshape(x.shape)

    def energy(self, x: Tensor) -> Tensor:
        """Compute Tr(x^T L x), summed over channels. Differentiable in x.

        Args:
            x: the signal, as in `__matmul__`.

        Returns:
            One number per image, (B,), or () for an image without a batch.

        Raises:
            ValueError: see `__matmul__`.

        Examples:
            >>> import torch
            >>> from fastfcs import MattingLaplacian
            >>> laplacian = MattingLaplacian(torch.rand(2, 3, 8, 9))
            >>> laplacian.energy(torch.rand(2, 1, 8, 9)).shape
            torch.Size([2])
        """
        return (x * (self @ x)).flatten(-3).sum(-1)

    def diagonal(self) -> Tensor:
        """Compute the diagonal of L in closed form.

        L_ii = sum of 8/9 - |K^T (I_i - mu_w)|^2 / 9 over the windows w of pixel i.

        Returns:
            (H,W) or (B,H,W).

        Examples:
            >>> import torch
            >>> from fastfcs import MattingLaplacian
            >>> _ = torch.manual_seed(0)
            >>> laplacian = MattingLaplacian(torch.rand(3, 4, 5))
            >>> trace = laplacian.to_scipy().trace()
            >>> bool(abs(laplacian.diagonal().sum() - trace) < 1e-3)
            True
        """
        batch, _, height, width = self.image.shape
        colours = F.unfold(self.image, 3).reshape(batch, 3, 9, height - 2, width - 2)
        colours = colours - colours[:, :, 4:5]  # small numbers have an accurate mean
        d0, d1, d2 = (colours - colours.mean(2, keepdim=True)).unbind(1)
        k00, k01, k02, k11, k12, k22 = self.factors.unsqueeze(2).unbind(1)
        norms = (k00 * d0) ** 2 + (k01 * d0 + k11 * d1) ** 2 + (k02 * d0 + k12 * d1 + k22 * d2) ** 2
        diagonal = F.fold(((8 - norms) / 9).flatten(2), (height, width), 3)[:, 0]
        return diagonal.reshape(*self.shape[:-3], height, width)

    def to_scipy(self) -> "csr_matrix":
        """Assemble the explicit matrix of one image, as PyMatting's `cf_laplacian` does.

        Returns:
            (HW,HW), float64, pixels in row-major order; about 300 bytes per pixel.

        Raises:
            ValueError: the batch holds more than one image.
            ImportError: scipy is not installed.

        Examples:
            >>> import torch
            >>> from fastfcs import MattingLaplacian
            >>> MattingLaplacian(torch.rand(3, 4, 5)).to_scipy().shape
            (20, 20)
        """
        from scipy.sparse import csr_matrix

        from . import _C

        pixels = self.pixels
        image = self.image[0].permute(1, 2, 0).double().cpu().contiguous().numpy()
        return csr_matrix(_C.laplacian_csr(image, self.eps), shape=(pixels, pixels))

    def to_linear_operator(self, library: Literal["scipy", "cupy"] = "scipy") -> Any:
        """Wrap L of one image as a `LinearOperator` for scipy's or cupy's solvers.

        Args:
            library: "scipy", whose arrays are on the CPU, or "cupy", for an image on CUDA.

        Returns:
            (HW,HW), in the image's dtype, pixels in row-major order.

        Raises:
            ValueError: the library is neither, or the batch holds more than one image.
            ImportError: the library is not installed.

        Examples:
            >>> import torch
            >>> from fastfcs import MattingLaplacian
            >>> from scipy.sparse.linalg import eigsh
            >>> operator = MattingLaplacian(torch.rand(3, 4, 5)).to_linear_operator()
            >>> eigsh(operator, 1, return_eigenvectors=False) <= 9
            array([ True])
        """
        if library not in ("scipy", "cupy"):
            raise ValueError(f"library must be 'scipy' or 'cupy', got {library!r}")
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
            # A copy, because torch accepts neither negative strides nor read-only arrays.
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
