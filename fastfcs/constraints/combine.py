"""Constraints made from other constraints."""

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..checks import check_range

Constraint = Callable[[Tensor], Tensor]
"""A map X -> X on images (B,3,H,W), enforced after an update."""


@runtime_checkable
class AcrossScales(Protocol):
    """A constraint that a painting has at each of its scales, and at X^(0) of each.

    Examples:
        >>> from fastfcs.constraints.combine import AcrossScales
        >>> class Still:
        ...     def __call__(self, x):
        ...         return x
        ...
        ...     def at_scale(self, size):
        ...         return self
        >>> isinstance(Still(), AcrossScales), isinstance(lambda x: x, AcrossScales)
        (True, False)
    """

    def __call__(self, x: Tensor) -> Tensor:
        """X -> X, for X^(0), after every update and at the end of the scale."""

    def at_scale(self, size: tuple[int, int]) -> Constraint:
        """The constraint of the scale of this height and width, with the same interface."""


class ResidualProjection:
    """C + P[X - C]: projects only the change to the content C, so that C keeps its own grain.

    With a linear P, an unchanged content comes back bit for bit.

    Args:
        content: C, (B,3,H,W), floating in [0,1].
        projection: P, a linear constraint, such as `GraphLowPass` or `Tikhonov`.

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import ResidualProjection
        >>> content, x = torch.rand(2, 1, 3, 8, 9)
        >>> halfway = ResidualProjection(content, lambda change: change / 2)
        >>> torch.allclose(halfway(x), (content + x) / 2)
        True
    """

    def __init__(self, content: Tensor, projection: Constraint) -> None:
        self.content = as_working_dtype(content)
        self.projection = projection

    def __call__(self, x: Tensor) -> Tensor:
        """Project the change: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x and C."""
        change = x.to(self.content.dtype) - self.content
        return (self.content + self.projection(change)).to(x.dtype)


class Masked:
    """M P[X] + (1 - M) X: a constraint P on one region, with edges as soft as those of the mask M.

    For several regions, `compose` several of these.

    Args:
        mask: M, (B,1,H,W) or (1,1,H,W), in [0,1].
        constraint: P.

    Raises:
        ValueError: the mask's shape or values are wrong.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import Masked
        >>> mask = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
        >>> Masked(mask, lambda x: 0 * x)(torch.ones(1, 3, 1, 3))[0, 0]
        tensor([[1.0000, 0.5000, 0.0000]])
    """

    def __init__(self, mask: Tensor, constraint: Constraint) -> None:
        if mask.dim() != 4 or mask.shape[1] != 1:
            raise ValueError(f"mask must be (B, 1, H, W), got {tuple(mask.shape)}")
        check_range("mask", mask)
        self.mask = mask
        self.constraint = constraint

    def __call__(self, x: Tensor) -> Tensor:
        """Enforce P inside the mask: (B,3,H,W) -> (B,3,H,W). Differentiable in x.

        Raises:
            ValueError: x has another height or width than the mask.
        """
        if x.shape[-2:] != self.mask.shape[-2:]:
            raise ValueError(
                f"x must have the height and width of mask {tuple(self.mask.shape)}, "
                f"got {tuple(x.shape)}"
            )
        return torch.lerp(x, self.constraint(x), self.mask.to(x.dtype))


def compose(constraints: Iterable[Constraint]) -> Constraint:
    """Combine several constraints into one that applies them from first to last.

    Args:
        constraints: any number of them; without any, the result is the identity.

    Returns:
        The combined constraint.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import compose
        >>> compose([lambda x: x + 1, lambda x: 10 * x])(torch.ones(2))
        tensor([20., 20.])
    """
    constraints = tuple(constraints)

    def composed(x: Tensor) -> Tensor:
        for constraint in constraints:
            x = constraint(x)
        return x

    return composed


def as_working_dtype(content: Tensor) -> Tensor:
    """Check a content and convert it to the dtype that constraints compute in.

    Args:
        content: any shape, floating in [0,1]. Values are not checked on CUDA, where the check would
            make the host wait.

    Returns:
        The content in float64 if that is its dtype, else in float32.

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.combine import as_working_dtype
        >>> as_working_dtype(torch.rand(1, 3, 8, 9).half()).dtype
        torch.float32
    """
    if not content.is_floating_point():
        raise ValueError(f"content must be floating, in [0, 1], got {content.dtype}")
    if not content.is_cuda:
        check_range("content", content)
    return content if content.dtype == torch.float64 else content.float()
