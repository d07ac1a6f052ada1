"""Constraints as they are asked for: by name, by a callable, several in a list."""

from typing import Any, Literal

from torch import Tensor

from ..network import Constraint
from .combine import compose
from .filtered import Photoreal

Part = Literal["photoreal"] | Constraint


def parse(given: Any, cutoff: float | None = None) -> tuple[Part, ...]:
    """None, "photoreal", a callable or a list of these, as a tuple of what is to be done in turn.

    Raises:
        ValueError: it is none of these, or there is a cutoff and no "photoreal".
    """
    parts = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for part in parts:
        if part not in (None, "photoreal") and not callable(part):
            raise ValueError(
                f"constraint must be None, 'photoreal', a callable or a list of these, not {part!r}"
            )
    if cutoff is not None and "photoreal" not in parts:
        raise ValueError("cutoff belongs to constraint='photoreal', which was not asked for")
    return tuple(part for part in parts if part is not None)


def enforced(parts: tuple[Part, ...], content: Tensor, cutoff: float | None) -> Constraint:
    """One constraint that does it all, "photoreal" being that of this content (B,3,H,W)."""
    options: dict[str, Any] = {} if cutoff is None else {"cutoff": cutoff}
    return compose(part if callable(part) else Photoreal(content, **options) for part in parts)
