"""The stylizer that a command's options ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .options import device_named

if TYPE_CHECKING:
    from ..stylizer import Stylizer


def make_stylizer(
    *,
    photoreal: bool,
    keep: str | None,
    cutoff: float | None,
    brush: float | None,
    levels: int | None,
    structure: float | None,
    memory: int | None,
    device: str | None,
    **settings: Any,
) -> Stylizer:
    """Make a stylizer without a style.

    Args:
        photoreal, keep: the constraint.
        cutoff: belongs to photographs.
        brush, levels, structure, memory: belong to paintings; None stands for the default.
        device: see `fastfcs.cli.options.device_named`.
        settings: further arguments of `fastfcs.Stylizer`.

    Returns:
        The stylizer, on its device.

    Raises:
        ValueError: an option does not belong to the kind of result, or see `fastfcs.Stylizer`.

    Examples:
        >>> from fastfcs.cli.styling import make_stylizer
        >>> options = dict.fromkeys(("keep", "cutoff", "levels", "structure", "memory", "device"))
        >>> make_stylizer(photoreal=True, brush=2.0, **options)
        Traceback (most recent call last):
        ValueError: --brush must be given without --photoreal
    """
    from ..stylizer import Stylizer

    if cutoff is not None and not photoreal:
        raise ValueError("--cutoff must be given with --photoreal")
    options = ("brush", brush), ("levels", levels), ("structure", structure), ("memory", memory)
    painting: dict[str, Any] = {name: value for name, value in options if value is not None}
    if painting and photoreal:
        raise ValueError(f"--{next(iter(painting))} must be given without --photoreal")
    constraint: list[Any] = [
        *(["photoreal"] if photoreal else []),
        *([f"keep-{keep}"] if keep else []),
    ]
    stylizer = Stylizer(constraint=constraint, cutoff=cutoff, **settings, **painting)
    return stylizer.to(device_named(device))
