"""The Gram matrices H_l of a style, which are all that the network knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .losses import luma

Widths: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""The number of channels of every Gram matrix, nested as in `Statistics`: own[l] and vgg[l]."""


@dataclass(frozen=True)
class Statistics:
    """The Gram matrices of one or several styles, the targets that updates steer towards.

    They are those of one scale; from coarse to fine there are several (`fastfcs.pyramid`).

    Attributes:
        own: H_l of the network's own forward maps for every level l, (S, c_l, c_l) with S styles.
        vgg: H_l of the refinement's VGG features for every level l, (S, c_l, c_l); empty without
            a refinement.

    Examples:
        >>> import torch
        >>> from fastfcs.statistics import Statistics
        >>> h = torch.eye(4)[None]
        >>> statistics = Statistics(own=(h, h))
        >>> statistics.styles, statistics.widths
        (1, ((4, 4), ()))
        >>> sorted(statistics.named())
        ['0', '1']
    """

    own: tuple[Tensor, ...]
    vgg: tuple[Tensor, ...] = ()

    @classmethod
    def from_named(cls, tensors: Mapping[str, Tensor]) -> Statistics:
        """Build statistics from named tensors, the inverse of `named`.

        Args:
            tensors: keys "l" and "vgg.l", without gaps.

        Returns:
            The statistics.

        Raises:
            ValueError: a key is missing or superfluous.

        Examples:
            >>> import torch
            >>> from fastfcs.statistics import Statistics
            >>> Statistics.from_named({"0": torch.eye(4)[None]}).widths
            ((4,), ())
        """
        own: list[Tensor] = []
        vgg: list[Tensor] = []
        for prefix, levels in ("", own), ("vgg.", vgg):
            while f"{prefix}{len(levels)}" in tensors:
                levels.append(tensors[f"{prefix}{len(levels)}"])
        if len(own) + len(vgg) != len(tensors):
            raise ValueError(f"statistics must have keys l and vgg.l, got {', '.join(tensors)}")
        return cls(tuple(own), tuple(vgg))

    def named(self) -> dict[str, Tensor]:
        """Return the Gram matrices by the names they have in files.

        Returns:
            ``own[l]`` under the key "l" and ``vgg[l]`` under "vgg.l".
        """
        own = {f"{k}": h for k, h in enumerate(self.own)}
        return own | {f"vgg.{k}": h for k, h in enumerate(self.vgg)}

    @property
    def styles(self) -> int:
        """S, the number of styles."""
        return len((self.vgg or self.own)[0])

    @property
    def widths(self) -> Widths:
        """The number of channels of every Gram matrix, to compare with a solver's."""
        return tuple(h.shape[-1] for h in self.own), tuple(h.shape[-1] for h in self.vgg)

    @property
    def colours(self) -> Tensor:
        """The mean colour of each style, RGB in [0, 1], (S, 3).

        Level 1 ends in the image, scaled to [-1, 1], and the constant 1, so the last column of its
        Gram matrix holds the means of all features.
        """
        means = self.own[0].select(2, -1)
        colour, constant = means.narrow(1, -4, 3), means.narrow(1, -1, 1)
        return (1 + colour / constant) / 2

    @property
    def chroma(self) -> Tensor:
        """The root mean square of each style's chroma, (S,).

        Chroma is |c - Y|, where c are R, G and B in [0, 1] and Y is their luma. The same part of
        that Gram matrix holds the second moments of the colours.
        """
        end = self.own[0].narrow(1, -4, 4).narrow(2, -4, 4)
        moments = end.narrow(1, 0, 3).narrow(2, 0, 3) / end.narrow(1, 3, 1).narrow(2, 3, 1)
        for _ in range(2):  # c - Y is linear: once for the rows, once for the columns
            moments = (moments - luma(moments.unsqueeze(-1)).squeeze(-1)).mT
        return moments.diagonal(dim1=1, dim2=2).sum(1).clamp_min(0).sqrt() / 2

    @property
    def covariance(self) -> Tensor:
        """The covariance of each style's colours, RGB in [0, 1], (S, 3, 3)."""
        end = self.own[0].narrow(1, -4, 4).narrow(2, -4, 4)
        end = end / end.narrow(1, 3, 1).narrow(2, 3, 1)
        mean = end.narrow(2, 3, 1).narrow(1, 0, 3)
        return (end.narrow(1, 0, 3).narrow(2, 0, 3) - mean @ mean.mT) / 4

    def map(self, function: Callable[[Tensor], Tensor]) -> Statistics:
        """Apply a function to every Gram matrix.

        Args:
            function: (S, c, c) -> (S', c, c).

        Returns:
            New statistics.
        """
        return Statistics(
            tuple(function(h) for h in self.own), tuple(function(h) for h in self.vgg)
        )

    @staticmethod
    def cat(several: Sequence[Statistics]) -> Statistics:
        """Concatenate the statistics of several styles along the dimension S.

        Args:
            several: statistics of the same widths.

        Returns:
            Statistics of all their styles, in order.
        """
        own, vgg = (
            tuple(torch.cat(h) for h in zip(*levels, strict=True))
            for levels in ([s.own for s in several], [s.vgg for s in several])
        )
        return Statistics(own, vgg)

    def blend(self, weights: Sequence[float]) -> Statistics:
        """Mix the styles into one whose Gram matrices are convex combinations of theirs.

        Args:
            weights: one per style, none negative; they are divided by their sum.

        Returns:
            Statistics of a single style.

        Raises:
            ValueError: the weights are negative, all 0 or not one per style.

        Examples:
            >>> import torch
            >>> from fastfcs.statistics import Statistics
            >>> two = Statistics((torch.stack([torch.zeros(4, 4), torch.eye(4)]),))
            >>> two.blend([3, 1]).own[0].diagonal(dim1=1, dim2=2)
            tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
        """
        shares = torch.tensor(list(weights), dtype=torch.float64)
        total = shares.sum()
        if len(shares) != self.styles or not (shares >= 0).all() or not 0 < total < torch.inf:
            raise ValueError(
                f"blend must be {self.styles} weights, one per style, none negative and not all 0, "
                f"got {list(weights)}"
            )
        shares = shares / total
        return self.map(lambda h: torch.tensordot(shares.to(h), h, dims=1)[None])


Scales: TypeAlias = tuple[Statistics, ...]
"""The statistics of all scales, coarse to fine, of the same styles."""


def named_scales(scales: Sequence[Statistics]) -> dict[str, Tensor]:
    """Return the Gram matrices of all scales by the names they have in files.

    Args:
        scales: coarse to fine.

    Returns:
        Those of `Statistics.named` under "k." plus their names, with k = 0 for the coarsest.

    Examples:
        >>> import torch
        >>> from fastfcs.statistics import Statistics, named_scales
        >>> sorted(named_scales([Statistics((torch.eye(4)[None],))] * 2))
        ['0.0', '1.0']
    """
    return {f"{k}.{name}": h for k, s in enumerate(scales) for name, h in s.named().items()}


def scales_from_named(tensors: Mapping[str, Tensor]) -> Scales:
    """Build the statistics of all scales from named tensors, the inverse of `named_scales`.

    Args:
        tensors: keys "k.l" and "k.vgg.l", without gaps.

    Returns:
        The statistics, coarse to fine.

    Raises:
        ValueError: a key is missing or superfluous.

    Examples:
        >>> import torch
        >>> from fastfcs.statistics import scales_from_named
        >>> len(scales_from_named({"0.0": torch.eye(4)[None], "1.0": torch.eye(4)[None]}))
        2
    """
    by_scale: dict[str, dict[str, Tensor]] = {}
    for name, h in tensors.items():
        k, _, rest = name.partition(".")
        by_scale.setdefault(k, {})[rest] = h
    if set(by_scale) != {str(k) for k in range(len(by_scale))}:
        raise ValueError(f"statistics must have keys k.l and k.vgg.l, got {', '.join(tensors)}")
    return tuple(Statistics.from_named(by_scale[str(k)]) for k in range(len(by_scale)))


def cat(several: Sequence[Scales]) -> Scales:
    """Concatenate the statistics of several styles, scale by scale.

    Args:
        several: statistics of the same widths. A style with fewer scales than another one, as it is
            smaller, has its last one at all further scales.

    Returns:
        Statistics of all their styles, in order.

    Examples:
        >>> import torch
        >>> from fastfcs.statistics import Statistics, cat
        >>> style = Statistics((torch.eye(4)[None],))
        >>> [s.styles for s in cat([(style, style), (style,)])]
        [2, 2]
    """
    count = max(map(len, several))
    padded = [scales + scales[-1:] * (count - len(scales)) for scales in several]
    return tuple(Statistics.cat(at_scale) for at_scale in zip(*padded, strict=True))


def check_widths(statistics: Statistics, widths: Widths) -> None:
    """Check that statistics have the widths that a solver takes.

    Args:
        statistics: the statistics to check.
        widths: the solver's widths.

    Raises:
        ValueError: the numbers of levels or channels differ.

    Examples:
        >>> import torch
        >>> from fastfcs.statistics import Statistics, check_widths
        >>> check_widths(Statistics((torch.eye(4)[None],)), ((8,), ()))
        Traceback (most recent call last):
        ValueError: statistics must have the levels and channels ((8,), ()), \
got ((4,), ())
    """
    if statistics.widths != widths:
        raise ValueError(
            f"statistics must have the levels and channels {widths}, got {statistics.widths}"
        )


class StatisticsBuffers(nn.Module):
    """The statistics of all scales as buffers "k_l" of a module, which follow it to a device.

    The buffers keep their dtype: half types would ruin them, since the range of a Gram matrix's
    entries is the square of the features' range.

    Examples:
        >>> import torch
        >>> from fastfcs.statistics import Statistics, StatisticsBuffers
        >>> buffers = StatisticsBuffers()
        >>> buffers.set([Statistics((torch.eye(4)[None],))])
        >>> buffers.half().get()[0].own[0].dtype
        torch.float32
    """

    def set(self, scales: Sequence[Statistics]) -> None:
        """Replace the statistics.

        Args:
            scales: the new ones, coarse to fine, on any device.
        """
        self._buffers.clear()
        for name, h in named_scales(scales).items():
            self.register_buffer(name.replace(".", "_"), h)

    def get(self) -> Scales | None:
        """The statistics, coarse to fine, or None if none are set."""
        named = {name.replace("_", "."): h for name, h in self.named_buffers()}
        return scales_from_named(named) if named else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # torch's method has no annotations.
        return super()._apply(lambda h: h.to(fn(h.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
