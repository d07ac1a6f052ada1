"""Constraints made of other constraints."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..checks import check_range

Constraint = Callable[[Tensor], Tensor]
"""A constraint X -> X on images (B,3,H,W), enforced after an update."""


class ResidualProjection:
    """C + P[X - C]: only the change to the content C is projected, C's own grain stays.

    An unchanged content comes back bit for bit, whatever the linear projection P.

    Args:
        content: C, (B,3,H,W), floating in [0,1].
        projection: P, a linear constraint: any of this package's that is called P[X].
    """

    def __init__(self, content: Tensor, projection: Constraint) -> None:
        self.content = as_working_dtype(content)
        self.projection = projection

    def __call__(self, x: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,3,H,W), of the content's shape. Differentiable in x and C."""
        change = x.to(self.content.dtype) - self.content
        return (self.content + self.projection(change)).to(x.dtype)


class Masked:
    """M P[X] + (1 - M) X: a constraint P on one region, with soft edges if the mask M has them.

    Args:
        mask: M, (B,1,H,W) or (1,1,H,W), in [0,1].
        constraint: P. For several regions, `compose` several of these.

    Raises:
        ValueError: the mask's shape or values are none of these.
    """

    def __init__(self, mask: Tensor, constraint: Constraint) -> None:
        if mask.dim() != 4 or mask.shape[1] != 1:
            raise ValueError(f"mask has shape {tuple(mask.shape)}; (B,1,H,W) is wanted")
        low, high = mask.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"mask goes from {low:.4g} to {high:.4g}; values in [0,1] are wanted")
        self.mask = mask
        self.constraint = constraint

    def __call__(self, x: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,3,H,W), of the mask's height and width. Differentiable in x.

        Raises:
            ValueError: x is of another height or width.
        """
        if x.shape[-2:] != self.mask.shape[-2:]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; the height and width of the mask"
                f" {tuple(self.mask.shape)} are wanted"
            )
        return torch.lerp(x, self.constraint(x), self.mask.to(x.dtype))


def compose(constraints: Iterable[Constraint]) -> Constraint:
    """One constraint that applies several, first to last."""
    constraints = tuple(constraints)

    def composed(x: Tensor) -> Tensor:
        for constraint in constraints:
            x = constraint(x)
        return x

    return composed


def as_working_dtype(content: Tensor) -> Tensor:
    """The content as constraints keep it: float64 if it is, else float32.

    Raises:
        ValueError: it is not floating in [0,1]; values on CUDA, for which the host would wait, are
            not looked at.
    """
    if not content.is_floating_point():
        raise ValueError(f"content is {content.dtype}; a floating image in [0,1] is wanted")
    if not content.is_cuda:
        check_range("content", content)
    return content if content.dtype == torch.float64 else content.float()
