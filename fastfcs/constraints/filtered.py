"""Low-pass filters on the content's matting Laplacian, as constraints."""

from torch import Tensor

from ..filters import LowPass
from ..laplacian import MattingLaplacian
from .combine import Change, working


class Filtered:
    """P[X] = p(L) X: the image, low-pass filtered along the content's structure.

    Args:
        content: (B,3,H,W), floating in [0,1], H and W at least 3, whose Laplacian L is.
        lowpass: p. `LowPass.for_bandwidth` finds the one that imitates `Exact`.
        eps: of L, see `MattingLaplacian`.

    Raises:
        ValueError: the content is not such an image.
    """

    def __init__(self, content: Tensor, lowpass: LowPass, eps: float = 1e-7) -> None:
        self.laplacian = MattingLaplacian(working(content), eps)
        self.lowpass = lowpass

    def __call__(self, x: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,3,H,W), of the content's shape. Differentiable in x."""
        return self.lowpass(self.laplacian, x.to(self.laplacian.dtype)).to(x.dtype)


class Photoreal(Change):
    """C + P[X - C]: the change to the content C, low-pass filtered along C's own structure.

    P is a `LowPass` on C's matting Laplacian. Puy and Pérez (2018) project the image itself, P[X].
    As C is nearly smooth for its own Laplacian, both look alike: after a posterised, recoloured,
    blocky and noisy update of three photos at 256 px, energies agree within 1 % and the SSIM of
    gradients with C within 0.0003, at a cutoff of 0.01. But faint texture, which eps keeps out of
    the null space, suffers from P[X]: an unchanged photo would lose up to 0.006 at a cutoff of 0.01
    and 0.036 at 0.001. Filtering the change keeps that grain, and a content that is not restyled
    comes back bit for bit.

    The lower the cutoff, the more of the photograph stays and the less of the style. The larger
    eps, the less of what is faint counts as structure that the change may follow. 1e-7, as
    PyMatting has it, is less than the variance of rounding to 8 bits: the noise of a black sky that
    is made bright becomes visible then, and the blocks of a JPEG (docs/training-log.md).

    Computed in float32. Differentiable in x and C, not through P.

    Args:
        content: (B,3,H,W), float in [0,1], the image to stay faithful to.
        cutoff: of the `LowPass`, in (0, 9).
        order: of the `LowPass`; the default is its own.
        eps: of L, see `MattingLaplacian`.
    """

    def __init__(
        self,
        content: Tensor,
        cutoff: float = 0.01,
        order: int | None = None,
        eps: float = 1e-4,
    ) -> None:
        content = working(content).float()
        super().__init__(content, Filtered(content, LowPass(cutoff, order), eps))
