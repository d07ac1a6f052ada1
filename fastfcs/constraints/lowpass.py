"""The constraint that low-pass filters X on the content's matting Laplacian."""

from torch import Tensor

from ..filters import LowPass
from ..laplacian import MattingLaplacian
from .combine import as_working_dtype


class GraphLowPass:
    """P[X] = p(L) X: X, low-pass filtered along the content's structure.

    Args:
        content: C, (B,3,H,W), floating in [0,1], H and W at least 3; L is its Laplacian.
        lowpass: p. `LowPass.for_bandwidth` makes one that imitates `SpectralProjection`.
        eps: regularisation of L, see `MattingLaplacian`.

    Attributes:
        laplacian: L.

    Raises:
        ValueError: an argument is out of range.

    Examples:
        >>> from fastfcs import LowPass
        >>> from fastfcs.constraints import GraphLowPass
        >>> import torch
        >>> content, x = torch.rand(2, 1, 3, 8, 9)
        >>> smoothed = GraphLowPass(content, LowPass(cutoff=0.1))
        >>> bool(smoothed.laplacian.energy(smoothed(x)) < 0.1 * smoothed.laplacian.energy(x))
        True
    """

    def __init__(self, content: Tensor, lowpass: LowPass, eps: float = 1e-7) -> None:
        self.laplacian = MattingLaplacian(as_working_dtype(content), eps)
        self.lowpass = lowpass

    def __call__(self, x: Tensor) -> Tensor:
        """Filter an image: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        return self.lowpass(self.laplacian, x.to(self.laplacian.dtype)).to(x.dtype)
