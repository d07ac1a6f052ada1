"""The Gram matrices H_l of a style, which are all that the network knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Widths: TypeAlias = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]
"""The number of channels of every Gram matrix, nested as in `Statistics`: own[t][l] and vgg[l]."""


@dataclass(frozen=True)
class Statistics:
    """The Gram matrices of one or several styles, the targets that updates steer towards.

    Attributes:
        own: H_{t,l} of the network's own forward maps, for every update t and level l,
            (S, c_l, c_l) with S styles. They are the same for every t unless tuned as a preset.
        vgg: H_l of the refinement's VGG features for every level l, (S, c_l, c_l); empty without
            a refinement.

    Examples:
        >>> import torch
        >>> from fastfcs.statistics import Statistics
        >>> h = torch.eye(4)[None]
        >>> statistics = Statistics(own=((h, h), (h, h)))
        >>> statistics.styles, statistics.widths
        (1, (((4, 4), (4, 4)), ()))
        >>> sorted(statistics.named())
        ['0.0', '0.1', '1.0', '1.1']
    """

    own: tuple[tuple[Tensor, ...], ...]
    vgg: tuple[Tensor, ...] = ()

    @classmethod
    def from_named(cls, tensors: Mapping[str, Tensor]) -> Statistics:
        """Build statistics from named tensors, the inverse of `named`.

        Args:
            tensors: keys "t.l" and "vgg.l", without gaps.

        Returns:
            The statistics.

        Raises:
            ValueError: a key is missing or superfluous.

        Examples:
            >>> import torch
            >>> from fastfcs.statistics import Statistics
            >>> Statistics.from_named({"0.0": torch.eye(4)[None]}).widths
            (((4,),), ())
        """
        own: list[list[Tensor]] = []
        vgg: list[Tensor] = []
        while f"{len(own)}.0" in tensors:
            levels: list[Tensor] = []
            while f"{len(own)}.{len(levels)}" in tensors:
                levels.append(tensors[f"{len(own)}.{len(levels)}"])
            own.append(levels)
        while f"vgg.{len(vgg)}" in tensors:
            vgg.append(tensors[f"vgg.{len(vgg)}"])
        statistics = cls(tuple(map(tuple, own)), tuple(vgg))
        if len(statistics.named()) != len(tensors):
            raise ValueError(f"statistics must have keys t.l and vgg.l, got {', '.join(tensors)}")
        return statistics

    def named(self) -> dict[str, Tensor]:
        """Return the Gram matrices by the names they have in files.

        Returns:
            ``own[t][l]`` under the key "t.l" and ``vgg[l]`` under "vgg.l".
        """
        own = {f"{t}.{k}": h for t, levels in enumerate(self.own) for k, h in enumerate(levels)}
        return own | {f"vgg.{k}": h for k, h in enumerate(self.vgg)}

    @property
    def styles(self) -> int:
        """S, the number of styles."""
        return len((self.vgg or self.own[0])[0])

    @property
    def widths(self) -> Widths:
        """The number of channels of every Gram matrix, to compare with a solver's."""
        own = tuple(tuple(h.shape[-1] for h in levels) for levels in self.own)
        return own, tuple(h.shape[-1] for h in self.vgg)

    @property
    def colours(self) -> Tensor:
        """The mean colour of each style, RGB in [0, 1], (S, 3).

        Level 1 ends in the image, scaled to [-1, 1], and the constant 1, so the last column of its
        Gram matrix holds the means of all features.
        """
        means = self.own[0][0].select(2, -1)
        colour, constant = means.narrow(1, -4, 3), means.narrow(1, -1, 1)
        return (1 + colour / constant) / 2

    def map(self, function: Callable[[Tensor], Tensor]) -> Statistics:
        """Apply a function to every Gram matrix.

        Args:
            function: (S, c, c) -> (S', c, c).

        Returns:
            New statistics.
        """
        own = tuple(tuple(function(h) for h in levels) for levels in self.own)
        return Statistics(own, tuple(function(h) for h in self.vgg))

    @staticmethod
    def cat(several: Sequence[Statistics]) -> Statistics:
        """Concatenate the statistics of several styles along the dimension S.

        Args:
            several: statistics of the same widths.

        Returns:
            Statistics of all their styles, in order.
        """
        levels = (zip(*at_t, strict=True) for at_t in zip(*(s.own for s in several), strict=True))
        own = tuple(tuple(torch.cat(h) for h in at_t) for at_t in levels)
        return Statistics(
            own, tuple(torch.cat(h) for h in zip(*(s.vgg for s in several), strict=True))
        )

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
            >>> two = Statistics(((torch.stack([torch.zeros(4, 4), torch.eye(4)]),),))
            >>> two.blend([3, 1]).own[0][0].diagonal(dim1=1, dim2=2)
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


def check_widths(statistics: Statistics, widths: Widths) -> None:
    """Check that statistics have the widths that a solver takes.

    Args:
        statistics: the statistics to check.
        widths: the solver's widths.

    Raises:
        ValueError: the numbers of updates, levels or channels differ.

    Examples:
        >>> import torch
        >>> from fastfcs.statistics import Statistics, check_widths
        >>> check_widths(Statistics(((torch.eye(4)[None],),)), (((8,),), ()))
        Traceback (most recent call last):
        ValueError: statistics must have the updates, levels and channels (((8,),), ()), \
got (((4,),), ())
    """
    if statistics.widths != widths:
        raise ValueError(
            f"statistics must have the updates, levels and channels {widths}, "
            f"got {statistics.widths}"
        )


class StatisticsBuffers(nn.Module):
    """Statistics as buffers "t_l" of a module, which follow it to another device.

    The buffers keep their dtype: half types would ruin them, since the range of a Gram matrix's
    entries is the square of the features' range.

    Examples:
        >>> import torch
        >>> from fastfcs.statistics import Statistics, StatisticsBuffers
        >>> buffers = StatisticsBuffers()
        >>> buffers.set(Statistics(((torch.eye(4)[None],),)))
        >>> buffers.half().get().own[0][0].dtype
        torch.float32
    """

    def set(self, statistics: Statistics) -> None:
        """Replace the statistics.

        Args:
            statistics: the new ones, on any device.
        """
        self._buffers.clear()
        for name, h in statistics.named().items():
            self.register_buffer(name.replace(".", "_"), h)

    def get(self) -> Statistics | None:
        """The statistics, or None if none are set."""
        named = {name.replace("_", "."): h for name, h in self.named_buffers()}
        return Statistics.from_named(named) if named else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # torch's method has no annotations.
        return super()._apply(lambda h: h.to(fn(h.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
