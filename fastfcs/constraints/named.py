"""Constraints as they are asked for: by name, by a callable, several in a list."""

from typing import Any, Literal, get_args

from torch import Tensor

from ..network import Constraint
from .combine import compose
from .filtered import Photoreal
from .pixels import Box, KeepColour, KeepLuminance, Near, SoftBox

Name = Literal["photoreal", "keep-colour", "keep-luminance"]
Part = Name | Constraint

# Weight of the distance to the content's pixels in "photoreal", and where each region has a style
# of its own, which as a rule is further from it (docs/training-log.md).
_NEAR, _NEAR_BY_REGION = 0.05, 0.15


def parse(given: Any, cutoff: float | None = None) -> tuple[Part, ...]:
    """None, a `Name`, a callable or a list of these, as a tuple of what is to be done in turn.

    Raises:
        ValueError: it is none of these, or there is a cutoff and no "photoreal".
    """
    parts = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for part in parts:
        if part not in (None, *get_args(Name)) and not callable(part):
            names = ", ".join(map(repr, get_args(Name)))
            raise ValueError(
                f"constraint must be None, {names}, a callable or a list of these, not {part!r}"
            )
    if cutoff is not None and "photoreal" not in parts:
        raise ValueError("cutoff belongs to constraint='photoreal', which was not asked for")
    return tuple(part for part in parts if part is not None)


def enforced(
    parts: tuple[Part, ...], content: Tensor, cutoff: float | None, eps: float | None = None
) -> Constraint:
    """One constraint that does it all, the named ones being those of this content (B,3,H,W).

    Where cutoff and eps of "photoreal" are None, they are `Photoreal`'s own.
    """
    given = {"cutoff": cutoff, "eps": eps}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}

    def made(part: Part) -> Constraint:
        if callable(part):
            return part
        if part == "photoreal":
            return Photoreal(content, **options)
        return KeepColour(content) if part == "keep-colour" else KeepLuminance(content)

    return compose(map(made, parts))


def between_updates(
    parts: tuple[Part, ...], content: Tensor, cutoff: float | None, by_region: bool = False
) -> Constraint:
    """`enforced` of an image, which X may have ceased to be in an update of the network.

    It is clipped first or, where "photoreal" is asked for, brought nearer to the content and bent.
    """
    bounds: list[Constraint] = [Box()]
    if "photoreal" in parts:
        weight = _NEAR_BY_REGION if by_region else _NEAR
        bounds = [Near(content, weight), SoftBox(content)]
    return compose([*bounds, enforced(parts, content, cutoff)])
