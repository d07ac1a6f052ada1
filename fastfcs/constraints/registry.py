"""The `constraint` argument: constraints by name, as callables, or several in a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor

from ..filters import LowPass
from .combine import AcrossScales, Constraint, compose
from .ground import EvenGround
from .photoreal import Photoreal
from .pixels import Clip, KeepColour, KeepLuminance

Name = Literal["photoreal", "keep-colour", "keep-luminance"]
Part = Name | Constraint

_CLASSES: dict[Any, Callable[..., Constraint]] = {
    "photoreal": Photoreal,
    "keep-colour": KeepColour,
    "keep-luminance": KeepLuminance,
}


def parse(constraint: Any, cutoff: float | None = None) -> tuple[Part, ...]:
    """Check a `constraint` argument and split it into its parts.

    Args:
        constraint: None, a `Name`, a callable, or a list of these.
        cutoff: the cutoff of "photoreal"; must be None without it.

    Returns:
        The parts in the order in which they are applied.

    Raises:
        ValueError: the constraint is none of these, or there is a cutoff but no "photoreal".

    Examples:
        >>> from fastfcs.constraints.registry import parse
        >>> parse(["photoreal", None, "keep-colour"])
        ('photoreal', 'keep-colour')
    """
    parts = tuple(constraint) if isinstance(constraint, (list, tuple)) else (constraint,)
    for part in parts:
        has_name = part is None or (isinstance(part, str) and part in _CLASSES)
        if not has_name and not callable(part):
            names = ", ".join(map(repr, get_args(Name)))
            raise ValueError(
                f"constraint must be None, {names}, a callable or a list of these, got {part!r}"
            )
    parts = tuple(part for part in parts if part is not None)
    named = [_CLASSES[part] for part in parts if isinstance(part, str)]
    if cutoff is not None and Photoreal not in named:
        raise ValueError("cutoff must be None without constraint='photoreal'")
    return parts


def is_photoreal(parts: tuple[Part, ...]) -> bool:
    """Tell whether "photoreal", or a `Photoreal` object, is among the parts.

    Args:
        parts: from `parse`.

    Returns:
        Whether one of them is.

    Examples:
        >>> from fastfcs.constraints.registry import is_photoreal, parse
        >>> is_photoreal(parse("keep-colour"))
        False
    """
    return any(
        _CLASSES.get(part) is Photoreal if isinstance(part, str) else isinstance(part, Photoreal)
        for part in parts
    )


def build(parts: tuple[Part, ...], content: Tensor, **options: Any) -> list[Constraint]:
    """Make the constraints of one content.

    Args:
        parts: from `parse`.
        content: (B,3,H,W), floating in [0,1].
        options: keyword arguments of `Photoreal`; None stands for its default.

    Returns:
        One constraint per part.

    Examples:
        >>> from fastfcs.constraints.registry import build, parse
        >>> import torch
        >>> build(parse("keep-colour"), torch.rand(1, 3, 16, 16))[0].__class__.__name__
        'KeepColour'
    """
    options = {name: value for name, value in options.items() if value is not None}

    def made(part: Part) -> Constraint:
        if not isinstance(part, str):
            return part
        kind = _CLASSES[part]
        return kind(content, **options) if kind is Photoreal else kind(content)

    return [made(part) for part in parts]


def build_projections(
    parts: tuple[Part, ...], content: Tensor, *, cutoff: float | None, eps: float
) -> Constraint:
    """Make one constraint for an iterative solver, which clips its iterates itself.

    It uses only the projection C + p(L)(X - C) of "photoreal".

    Args:
        parts: from `parse`.
        content: (B,3,H,W), floating in [0,1].
        cutoff, eps: see `Photoreal`.

    Returns:
        The constraint X -> X.

    Examples:
        >>> from fastfcs.constraints.registry import build_projections, parse
        >>> import torch
        >>> content = torch.rand(1, 3, 16, 16)
        >>> p = build_projections(parse("photoreal"), content, cutoff=0.1, eps=1e-7)
        >>> bool(torch.equal(p(content), content))
        True
    """
    constraints = build(parts, content, cutoff=cutoff, eps=eps)
    return compose(map(_projection, constraints))


def _projection(constraint: Constraint) -> Constraint:
    """The constraint itself, but of the photoreal algorithm only the filter."""
    return constraint.projection if isinstance(constraint, Photoreal) else constraint


def _last(constraint: Constraint) -> Constraint:
    return constraint.project if isinstance(constraint, Photoreal) else constraint


def _coarse(constraint: Constraint) -> Constraint:
    return constraint.coarse_projection() if isinstance(constraint, Photoreal) else constraint


class BetweenUpdates:
    """All constraints that are enforced after each update of the network.

    An update may leave [0,1], so X is brought back first: softly by `Photoreal`, if it is among the
    constraints, else by clipping. The constraints then follow in order, those that are
    `AcrossScales` at last. Even grounds stay even,
    too: `Photoreal` sees to it itself; otherwise X is evened out before it is clipped, but only on
    white, grey and black grounds, since a painting of flat colours should be painted.

    Args:
        parts: from `parse`.
        content: (B,3,H,W), floating in [0,1].
        cutoff: the cutoff of "photoreal", or its `LowPass`; None is its default.
        regions: masks (R,H,W) in [0,1] of a single content, one per style, or None.
        coarse: see `Photoreal`.
        updates: number of updates of the network. After all but the last, `Photoreal` projects on a
            coarse grid.
        ground: the even grounds of a painting; by default found in the content.
        pulled: whether `Photoreal` pulls X towards the content (`Photoreal.bound`).
        luma_lowpass, chroma: see `Photoreal`.

    Examples:
        >>> from fastfcs.constraints.registry import BetweenUpdates, parse
        >>> import torch
        >>> content = torch.full((1, 3, 16, 16), 0.5)
        >>> between = BetweenUpdates(parse("keep-luminance"), content)
        >>> between(content + 9).amax().item()
        0.5
    """

    def __init__(
        self,
        parts: tuple[Part, ...],
        content: Tensor,
        cutoff: float | LowPass | None = None,
        regions: Tensor | None = None,
        coarse: LowPass | None = None,
        updates: int = 1,
        ground: EvenGround | None = None,
        pulled: bool = True,
        luma_lowpass: LowPass | None = None,
        chroma: Tensor | None = None,
    ) -> None:
        self._parts = parts
        # They may hold X where it leaves [0,1], so X is not clipped for them alone.
        self._across = [part for part in parts if isinstance(part, AcrossScales)]
        parts = tuple(part for part in parts if not isinstance(part, AcrossScales))
        # Constraints split colours, which takes far longer in channels_last memory.
        content = content.contiguous()
        self._constraints = build(
            parts,
            content,
            cutoff=cutoff,
            regions=regions,
            coarse=coarse,
            luma_lowpass=luma_lowpass,
            chroma=chroma,
        )
        self._last = [_last(constraint) for constraint in self._constraints]
        self._early = self._last if updates == 1 else [_coarse(c) for c in self._constraints]
        self._left = updates
        photoreals = [c for c in self._constraints if isinstance(c, Photoreal)]
        self._photoreal = photoreals[0] if photoreals else None
        if ground is None and not self._photoreal:
            ground = EvenGround(content, coloured=False)
        self._ground = ground
        self._bound: Constraint = Clip()
        if self._photoreal:
            self._bound = self._photoreal.bound if pulled else self._photoreal.keep

    def reduced(self, content: Tensor) -> BetweenUpdates:
        """Make the constraints of a coarser scale, see `fastfcs.pyramid`.

        Args:
            content: C at that scale, (B,3,h,w), floating in [0,1].

        Returns:
            The same constraints, without "photoreal", which has one scale, and without callables,
            which may know of C's own size only, unless they are `AcrossScales`.
        """
        height, width = content.shape[-2:]
        parts: list[Part] = []
        for part in self._parts:
            if isinstance(part, AcrossScales):
                parts.append(part.at_scale((height, width)))
            elif isinstance(part, str) and not is_photoreal((part,)):
                parts.append(part)
        ground = self._ground and self._ground.reduced(content)
        return BetweenUpdates(tuple(parts), content, ground=ground)

    def begin(self, x: Tensor) -> Tensor:
        """Enforce the constraints that X^(0) has, too: those that are `AcrossScales`.

        Args:
            x: X^(0), (B,3,H,W), of the content's height and width.

        Returns:
            (B,3,H,W).
        """
        return self._enforce(self._across, x)

    def refining(
        self,
        content: Tensor,
        lowpass: LowPass,
        luma_lowpass: LowPass,
        regions: Tensor | None = None,
    ) -> BetweenUpdates:
        """Make the constraints of a photograph's refinement, see `fastfcs.refinement`.

        Args:
            content: C reduced, (B,3,h,w), floating in [0,1].
            lowpass, luma_lowpass: those of "photoreal" at that size.
            regions: the masks reduced alike, (R,h,w).

        Returns:
            The same constraints without callables and without the pull towards the content.
        """
        names = tuple(part for part in self._parts if isinstance(part, str))
        return BetweenUpdates(
            names, content, lowpass, regions, pulled=False, luma_lowpass=luma_lowpass
        )

    def start(self, colours: Tensor, alpha: Tensor | None = None) -> Tensor | None:
        """Choose X^(0), see `Photoreal.start`.

        Args:
            colours: mean colours of the styles, RGB in [0,1], (S,3).
            alpha: weights of the content's pixels, (1 or B,1,H,W); all 1 by default.

        Returns:
            (B,3,H,W), or None to start from the content.
        """
        return self._photoreal.start(colours, alpha) if self._photoreal else None

    def __call__(self, x: Tensor) -> Tensor:
        """Enforce all constraints after an update.

        Args:
            x: (B,3,H,W), of the content's height and width.

        Returns:
            (B,3,H,W).

        Raises:
            ValueError: a constraint returned anything else.
        """
        x = x.contiguous()
        if self._ground:
            x = self._ground(x)
        if self._constraints:
            x = self._bound(x)
            self._left -= 1
            x = self._enforce(self._early if self._left > 0 else self._last, x)
        return self._enforce(self._across, x)

    def project(self, x: Tensor, lowpass: LowPass, luma_lowpass: LowPass) -> Tensor:
        """Enforce the constraints on an X that need not be bounded first.

        Args:
            x: (B,3,H,W), of the content's height and width.
            lowpass, luma_lowpass: those of "photoreal" in place of its own.

        Returns:
            (B,3,H,W).
        """
        constraints = [
            partial(c.project, lowpass=lowpass, luma_lowpass=luma_lowpass)
            if isinstance(c, Photoreal)
            else c
            for c in self._constraints
        ]
        return self._enforce(constraints, x.contiguous())

    def _enforce(self, constraints: Sequence[Constraint], x: Tensor) -> Tensor:
        for constraint in constraints:
            result = constraint(x)
            if not isinstance(result, Tensor) or result.shape != x.shape:
                kind = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
                raise ValueError(
                    f"constraint must return a tensor of X's shape {tuple(x.shape)}, got {kind}"
                )
            x = result
        return x

    def finish(self, x: Tensor) -> Tensor:
        """Apply the final step of the last constraint, see `Photoreal` and `EvenGround`.

        Args:
            x: (B,3,H,W), of the content's height and width.

        Returns:
            (B,3,H,W).
        """
        last = self._constraints[-1] if self._constraints else self._ground
        return last.finish(x) if isinstance(last, (Photoreal, EvenGround)) else x
