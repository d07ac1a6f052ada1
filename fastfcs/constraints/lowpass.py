"""Low-pass filters on the content's matting Laplacian, as constraints."""

from torch import Tensor

from ..filters import LowPass
from ..laplacian import MattingLaplacian
from .combine import as_working_dtype


class GraphLowPass:
    """P[X] = p(L) X: the image, low-pass filtered along the content's structure.

    Args:
        content: (B,3,H,W), floating in [0,1], H and W at least 3, whose Laplacian L is.
        lowpass: p. `LowPass.for_bandwidth` finds the one that imitates `SpectralProjection`.
        eps: of L, see `MattingLaplacian`.

    Raises:
        ValueError: the content is not such an image.
    """

    def __init__(self, content: Tensor, lowpass: LowPass, eps: float = 1e-7) -> None:
        self.laplacian = MattingLaplacian(as_working_dtype(content), eps)
        self.lowpass = lowpass

    def __call__(self, x: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,3,H,W), of the content's shape. Differentiable in x."""
        return self.lowpass(self.laplacian, x.to(self.laplacian.dtype)).to(x.dtype)
