"""The flexible convolutional solver (Puy and Pérez, arXiv:1806.05285): X <- P[X - g_t(X)].

Notation, in the code and in the docs:

    X      the image, (B, 3, H, W); X^(t) after t updates, X^(0) = C unless another start is given
    C      the content image
    h_l    features of X at level l, an n_l x c_l matrix, as tensors (B, c_l, H_l, W_l)
    G_l    their Gram matrix, h_l^T h_l / n_l
    H_l    the Gram matrix of the style's features, the target
    g_t    the update t = 0 .. N-1, which mimics the gradient of the style loss
    P      a constraint, enforced after every update
    n_l    the number of pixels at level l

Features are in channels_last memory, as the n_l x c_l matrices that they are. Under
`torch.autocast` they are of its dtype; Gram matrices, what is made of them, X and the constraint
stay in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_alpha, check_image, check_regions
from .losses import region_grams, resize_masks, visible_masks
from .ops import convolution, gate, gated_convolution, gram, halve, level_gradient
from .precision import HAS_TILES, Arithmetic, Precision
from .statistics import Statistics, Widths, check_widths
from .tiles import Footprint, halos, whole_grams

if TYPE_CHECKING:
    from .constraints import Constraint

_SLOPE = 0.2  # slope of every leaky ReLU for negative inputs
_LARGEST = 0.25  # bound on |g_t|
_ADDED = 0.3  # standard deviation of a residual convolution's output at initialisation
_IMAGES = 96  # bytes per pixel of eight images, see `Footprint`
_DOUBLINGS = 3  # each doubles the number of terms in the series of `_normalised_correction`


class Solver(Protocol):
    """An unrolled solver: `UnrolledSolver`, or `fastfcs.refinement.RefinedSolver`.

    Examples:
        >>> import torch
        >>> from fastfcs.network import Solver, UnrolledSolver
        >>> solver: Solver = UnrolledSolver(updates=2, channels=(8, 8))
        >>> solver.updates_at((96, 128)), solver.widths
        (2, ((8, 8), ()))
    """

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters, see `torch.nn.Module`."""

    def updates_at(self, size: Sequence[int]) -> int:
        """The number of updates of an image with this height and width."""

    @property
    def widths(self) -> Widths:
        """The widths of the statistics it takes."""

    def statistics(self, style: Tensor, regions: Tensor | None = None) -> Statistics:
        """The Gram matrices of a style, see `UnrolledSolver.statistics`."""

    def __call__(
        self,
        content: Tensor,
        statistics: Statistics,
        constraint: Constraint | None = None,
        regions: Tensor | None = None,
        start: Tensor | None = None,
        alpha: Tensor | None = None,
        precision: Precision | None = None,
        tile: int | None = None,
    ) -> Tensor:
        """X^(N), see `UnrolledSolver.forward`."""

    def footprint(self, precision: Precision | None = None) -> Footprint:
        """How far it sees and the memory it takes, see `UnrolledSolver.footprint`."""

    def work(self, size: Sequence[int], tile: int | None = None) -> int:
        """The number of pixels of which it computes features, see `UnrolledSolver.work`."""


class Convolution(nn.Conv2d):
    """A 3 x 3 convolution of features that have already been padded, in their dtype.

    Args:
        inputs, outputs: number of channels; the outputs without the constant ones.
        bias: whether there is a bias.
        constants: values of channels that follow the outputs and are the same at every pixel. They
            come from a bias alone, so they need no pass over the result.

    Examples:
        >>> import torch
        >>> from fastfcs.network import Convolution
        >>> convolution = Convolution(4, 5, bias=True, constants=(0.0, 1.0))
        >>> convolution(torch.rand(1, 4, 10, 12)).shape
        torch.Size([1, 7, 8, 10])
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool, constants: Sequence[float] = ()
    ) -> None:
        super().__init__(inputs, outputs, 3, bias=bias)
        self.constants = constants

    def forward(self, x: Tensor, exact: bool = True) -> Tensor:
        """Convolve: (B, inputs, H + 2, W + 2) -> (B, outputs and constants, H, W).

        Args:
            x: padded features.
            exact: whether float32 is multiplied as such, or may be in tiles, see
                `fastfcs.ops.convolution`.

        Returns:
            Features without padding.
        """
        weight, bias = self._operands(x.dtype)
        if _is_faster(x):
            return convolution(x, weight, bias, False if exact else None)
        return F.conv2d(x, weight, bias)

    def gated(self, x: Tensor, by: Tensor | None = None, exact: bool = True) -> Tensor:
        """Convolve and apply the gate of a leaky ReLU, see `fastfcs.ops.gate`.

        Args:
            x, exact: see `forward`.
            by: features in the result's dtype, whose signs are the gates; by default the
                convolution itself, which makes this the leaky ReLU.

        Returns:
            Features with padding, (B, outputs and constants, H + 2, W + 2).
        """
        # Hooks see the convolution without the gate.
        if _is_faster(x) and not self._forward_hooks:
            weight, bias = self._operands(x.dtype)
            return gated_convolution(x, weight, bias, by, _SLOPE, False if exact else None)
        result = self(x, exact)
        return gate(result, result if by is None else by, _SLOPE)

    def _operands(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.weight, self.bias
        if self.constants:
            assert bias is not None
            weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, len(self.constants)))
            for value in self.constants:
                bias = F.pad(bias, (0, 1), value=value)
        return weight.to(dtype), None if bias is None else bias.to(dtype)


def _is_faster(x: Tensor) -> bool:
    """Whether the convolutions of `fastfcs.ops` are faster than torch's."""
    return x.device.type == "cpu" and (
        x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and HAS_TILES)
    )


class ForwardMaps(nn.ModuleList):
    """The features h_1, h_2, ...: a small trained stand-in for VGG, shared by all updates.

    Each level has two convolutions and, between them, residual ones, x + leaky(conv(x)) (He et al.
    2016), at half the resolution of the previous level. The last channel of every level is the
    constant 1, and level 1 also carries the image itself. The Gram matrices therefore hold the
    means of all features and, at level 1, the mean and covariance of the colours.

    Args:
        channels: c_l of each level, finest first, including the constant and the image.
        residual: number of residual convolutions per level.

    Attributes:
        learned: number of channels per level that a convolution produces.

    Examples:
        >>> import torch
        >>> from fastfcs.network import ForwardMaps
        >>> maps = ForwardMaps(channels=(8, 16), residual=(0, 1))
        >>> features, active = maps(torch.rand(1, 3, 20, 17))
        >>> [tuple(h.shape) for h in features], len(active)
        ([(1, 8, 20, 17), (1, 16, 10, 9)], 3)
    """

    def __init__(self, channels: Sequence[int], residual: Sequence[int]) -> None:
        super().__init__()
        self.learned = [width - (1 if level else 4) for level, width in enumerate(channels)]
        for level, width in enumerate(channels):
            # The image is added to the zeros.
            constants = (1.0,) if level else (0.0, 0.0, 0.0, 1.0)
            first = Convolution(channels[level - 1] if level else 3, width, bias=True)
            last = Convolution(width, self.learned[level], bias=True, constants=constants)
            between = [Convolution(width, width, bias=True) for _ in range(residual[level])]
            self.append(nn.ModuleList([first, last, *between]))

    def forward(
        self, image: Tensor, arithmetic: Arithmetic | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the features of an image.

        Args:
            image: (B, 3, H, W) in [0, 1].
            arithmetic: by default the dtype of `torch.autocast`, where it is enabled, or of the
                parameters.

        Returns:
            The features h_l, (B, c_l, H / 2^(l-1), W / 2^(l-1)) with sizes rounded up, and the
            outputs of all leaky ReLUs within a level, in order, whose signs are the gates of the
            backward maps.
        """
        dtype, exact = arithmetic or Arithmetic(working_dtype(self, image))
        centred = (2 * image - 1).to(dtype, memory_format=torch.channels_last)
        x = gate(centred, centred, 1.0)
        features: list[Tensor] = []
        outputs: list[Tensor] = []
        for level, convs in enumerate(_levels(self)):
            if level:
                x = halve(features[-1], features[-1], _SLOPE)
            x = convs[0].gated(x, exact=exact)
            outputs.append(_inside(x))
            for conv in convs[2:]:
                added = conv.gated(x, exact=exact)
                outputs.append(_inside(added))
                x = x + added
            h = convs[1](x, exact)
            if level == 0:
                h.narrow(1, self.learned[0], 3).add_(centred)
            features.append(h)
        return features, outputs


class BackwardMaps(nn.ModuleList):
    """The mirror image of the forward maps, one per update: from corrections to g_t.

    They are gated like a gradient: wherever a leaky ReLU of the forward maps had the slope 0.2, the
    gate has that slope here. Without the gates level 4 hardly learned (docs/training-log.md). A
    residual convolution has no mirror image of its own; the true gradient passes through it. There
    is no bias, so g_t = 0 where every Gram matrix equals the style's.

    Args:
        channels: c_l of each level of the forward maps, finest first.

    Examples:
        >>> import torch
        >>> from fastfcs.network import BackwardMaps, ForwardMaps
        >>> from fastfcs.ops import level_gradient
        >>> forward_maps = ForwardMaps((8, 16), (0, 0))
        >>> features, active = forward_maps(torch.rand(1, 3, 20, 17))
        >>> def correct(h, level, g):
        ...     return level_gradient(h, torch.zeros(1, h.shape[1], h.shape[1]), g)
        >>> g = BackwardMaps((8, 16))(features, active, correct, forward_maps)
        >>> g.shape, g.abs().amax().item()
        (torch.Size([1, 3, 20, 17]), 0.0)
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for below, width in pairwise([3, *channels]):
            convs = (
                Convolution(inputs, outputs, bias=False)
                for inputs, outputs in ((width, width), (width, below))
            )
            self.append(nn.ModuleList(convs))

    def forward(
        self,
        features: list[Tensor],
        active: list[Tensor],
        correct: Callable[[Tensor, int, Tensor | None], Tensor],
        forward_maps: ForwardMaps,
        arithmetic: Arithmetic | None = None,
    ) -> Tensor:
        """Compute g_t, deepest level first; each level adds its correction.

        Values are bounded by +-0.25, since X could otherwise diverge from update to update.

        Args:
            features, active: from `ForwardMaps.forward`. Both lists are emptied, to free memory as
                early as possible.
            correct: a function of h_l, its level and the gradient of the level below, which is None
                at the deepest one. It returns the gradient that arrives at h_l, padded, see
                `fastfcs.ops.level_gradient`.
            forward_maps: the maps that computed the features.
            arithmetic: by default the features' dtype.

        Returns:
            g_t, (B, 3, H, W).
        """
        g: Tensor | None = None
        for level, convs in reversed(list(enumerate(_levels(self)))):
            h = features.pop()
            dtype, exact = arithmetic or Arithmetic(h.dtype)
            x = correct(h, level, None if g is None else g.to(h.dtype))
            del h
            x = x.to(dtype)
            residual = _levels(forward_maps)[level][2:]
            if residual:
                x = convs[0](x, exact)
                for conv in reversed(residual):
                    added = _inside(gate(x, active.pop().to(dtype), _SLOPE))
                    x = x + F.conv_transpose2d(added, conv.weight.to(dtype), padding=1)
                x = gate(x, active.pop().to(dtype), _SLOPE)
            else:
                x = convs[0].gated(x, active.pop().to(dtype), exact)
            g = convs[1](x, exact)
        assert g is not None
        return _LARGEST * torch.tanh(g.to(torch.promote_types(g.dtype, torch.float32)))


def _levels(maps: nn.ModuleList) -> list[Sequence[Convolution]]:
    """The convolutions of each level, for the type checker: a `ModuleList` holds any modules."""
    return cast("list[Sequence[Convolution]]", list(maps))


def _inside(padded: Tensor) -> Tensor:
    height, width = padded.shape[-2:]
    return padded.narrow(2, 1, height - 2).narrow(3, 1, width - 2)


def working_dtype(maps: nn.Module, image: Tensor) -> torch.dtype:
    """Choose the dtype of features if nothing else is asked for.

    Args:
        maps: the module that computes them.
        image: X, on the device where it runs.

    Returns:
        That of `torch.autocast`, where it is enabled, or of the parameters.

    Examples:
        >>> import torch
        >>> from fastfcs.network import working_dtype
        >>> working_dtype(torch.nn.Linear(2, 2).half(), torch.rand(1))
        torch.float16
    """
    kind = image.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return next(maps.parameters()).dtype


def _standardise(conv: nn.Conv2d, _: object, out: Tensor, std: float = 1.0) -> Tensor:
    """Rescale a convolution that has just run to mean 0 and deviation ``std`` per channel."""
    learned = out.narrow(1, 0, conv.out_channels)
    deviation, mean = torch.std_mean(learned, (0, 2, 3))
    scale = std / deviation
    conv.weight *= scale.view(-1, 1, 1, 1)
    assert conv.bias is not None
    conv.bias.copy_((conv.bias - mean) * scale)
    learned.sub_(mean.view(-1, 1, 1)).mul_(scale.view(-1, 1, 1))
    return out


def _correction_weights(g: Tensor, target: Tensor) -> Tensor:
    """(G - H) Q, where Q is an approximate inverse of G + H: the correction of h is h (G - H) Q.

    The raw correction, h (G - H), is cubic in h and explodes in training; divided by tr(G + H) it
    is bounded, but features that vary little hardly move. Newton's method would divide each
    direction by its own curvature. Q does so where the curvature is at least an eighth of the
    trace, and saturates at 8 / trace below. It is a Neumann series in A = (G + H) / tr(G + H),
    whose eigenvalues lie in [0, 1]:

        Q tr(G + H) = sum_{j < 8} (I - A)^j = (I + R) (I + R^2) (I + R^4),   R = I - A

    The series consists of products, which a CUDA graph can capture.
    """
    with torch.autocast(g.device.type, enabled=False):
        a = g + target
        trace = a.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
        residual = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - a / trace
        weights = (g - target) / trace
        weights = torch.baddbmm(weights, weights, residual)
        for _ in range(_DOUBLINGS - 1):
            residual = residual @ residual
            weights = torch.baddbmm(weights, weights, residual)
        return weights


def _grams(
    features: Sequence[Tensor], masks: Sequence[Tensor] | None, regions: Tensor | None
) -> list[Tensor]:
    """Gram matrices, by the masks if there are any, of regions one by one to save memory."""
    if masks is None:
        return [gram(h) for h in features]
    if regions is None:
        return [region_grams(h, m) for h, m in zip(features, masks, strict=True)]
    return [
        torch.cat([region_grams(h, m) for m in level_masks.split(1)])
        for h, level_masks in zip(features, masks, strict=True)
    ]


def _weights_by_region(grams: Tensor, targets: Tensor) -> Tensor:
    """`_correction_weights` of one region at a time, (R, c, c)."""
    pairs = zip(grams.split(1), targets.split(1), strict=True)
    return torch.cat([_correction_weights(g, target) for g, target in pairs])


def _gradient_by_region(h: Tensor, weights: Tensor, coarse: Tensor | None, masks: Tensor) -> Tensor:
    """The gradient that arrives at h, (1, c, H, W): sum_r m_r times the correction inside region r.

    The masks, (R, H, W), are 0 where all of a region is hidden: there is nothing to correct.
    """
    total = level_gradient(h, torch.zeros_like(weights.narrow(0, 0, 1)), coarse, _SLOPE)
    for m, correction in zip(masks.split(1), weights.split(1), strict=True):
        m = m.unsqueeze(0)
        total = total + gate(m, m, 1.0) * level_gradient(h, correction)
    return total


class UnrolledSolver(nn.Module):
    """N learned updates X <- P[X - g_t(X)], t = 0 .. N-1, from X = content.

    Args:
        updates: N.
        channels: c_l of each level of the forward maps, finest first, including the fixed ones (the
            image and a constant at level 1, a constant at the others).
        residual: number of residual convolutions per level; by default none.

    Raises:
        ValueError: ``residual`` has another length than ``channels``.

    Examples:
        >>> import torch
        >>> from fastfcs.network import UnrolledSolver
        >>> solver = UnrolledSolver(updates=2, channels=(8, 16))
        >>> content, style = torch.rand(1, 3, 16, 24), torch.rand(1, 3, 32, 32)
        >>> solver(content, solver.statistics(style), constraint=lambda x: x.clamp(0, 1)).shape
        torch.Size([1, 3, 16, 24])
    """

    def __init__(
        self,
        updates: int = 4,
        channels: Sequence[int] = (16, 32, 96, 256),
        residual: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        residual = list(residual or [0] * len(channels))
        if len(residual) != len(channels):
            raise ValueError(
                f"residual must be {len(channels)} numbers, one per level, got {residual}"
            )
        self.architecture: dict[str, Any] = {"updates": updates, "channels": list(channels)}
        if any(residual):
            self.architecture["residual"] = residual
        self.forward_maps = ForwardMaps(channels, residual)
        self.backward_maps = nn.ModuleList(BackwardMaps(channels) for _ in range(updates))

    @torch.no_grad()
    def initialise(
        self,
        content: Tensor,
        style: Tensor,
        teach: Callable[[ForwardMaps], None] = lambda maps: None,
    ) -> None:
        """Initialise for training: g_t starts as a gradient of the Gram loss of random features.

        Every feature of the forward maps gets mean 0 and variance 1 on the contents (Mishkin and
        Matas 2016), so Gram matrices hold correlations and no channel is dead. Residual
        convolutions start with a smaller output, because they then learn faster. The backward maps
        start as the transposed forward maps plus noise, scaled to a g_t with an RMS of 0.03.

        Args:
            content, style: images (B, 3, H, W) in [0, 1]. Use several, since the deepest level of
                one has too few pixels to estimate a variance.
            teach: may train the forward maps before the backward maps are made from them.
        """
        for conv in _convolutions(self):
            nn.init.kaiming_normal_(conv.weight)
        small = partial(_standardise, std=_ADDED)
        hooks = [
            conv.register_forward_hook(_standardise if k < 2 else small)
            for level in self.forward_maps
            for k, conv in enumerate(_convolutions(level))
        ]
        self.forward_maps(content)
        for hook in hooks:
            hook.remove()
        with torch.enable_grad():
            teach(self.forward_maps)
        statistics = self.statistics(style)
        forward = [conv for level in _levels(self.forward_maps) for conv in level[:2]]
        for t, maps in enumerate(self.backward_maps):
            backward = _convolutions(maps)
            for k, conv in enumerate(backward):
                mirror = forward[k ^ 1].weight.flip(2, 3).transpose(0, 1)
                mirror = mirror / mirror.square().sum((1, 2, 3)).mean().sqrt()
                conv.weight *= 0.2
                conv.weight[:, : mirror.shape[1]] += mirror
            for _ in range(3):  # repeated because tanh saturates at first
                g = self.update(t, content, statistics)
                backward[1].weight *= 0.03 / g.square().mean().sqrt()

    def statistics(self, style: Tensor, regions: Tensor | None = None) -> Statistics:
        """Compute the Gram matrices H_l of styles: all that the network knows of them.

        They take the place of VGG's Gram matrices in the true gradient, and are the same for all
        updates t.

        Args:
            style: (B, 3, H, W) in [0, 1], H and W at least 16.
            regions: masks (R, H, W) in [0, 1] of a single image: one Gram matrix per region. The
                alpha of a cut-out is such a mask.

        Returns:
            Statistics of B styles, or of R with regions.

        Raises:
            ValueError: a shape is wrong, or the masks do not fit the image.
        """
        check_image("style", style)
        check_regions("style", style, regions)
        features = self.forward_maps(style)[0]
        grams = [gram(h) if regions is None else region_grams(h, regions.to(h)) for h in features]
        return Statistics(tuple(grams))

    @property
    def updates(self) -> int:
        """N, the number of updates."""
        return len(self.backward_maps)

    def updates_at(self, size: Sequence[int]) -> int:
        """N, which is the same for all sizes.

        Args:
            size: height and width of an image in pixels.

        Returns:
            The number of updates.
        """
        return self.updates

    def footprint(self, precision: Precision | None = None) -> Footprint:
        """Tell how far the maps see, and what memory they take.

        Args:
            precision: see `forward`.

        Returns:
            The footprint; coordinates of tiles are even at the deepest level, too, since Winograd's
            algorithm convolves blocks of 2 x 2 pixels.
        """
        radii = [len(convs) for convs in _levels(self.forward_maps)]
        widths, _ = self.widths
        if precision is None:
            dtype = next(self.parameters()).dtype
        else:
            dtype = precision.of_features(0, self.updates).dtype
        # Every convolution's result is kept; the finest level's gradient is one more.
        kept = sum(n * c / 4**level for level, (n, c) in enumerate(zip(radii, widths, strict=True)))
        pixel_bytes = dtype.itemsize * math.ceil(widths[0] + kept)
        return Footprint(*halos(radii, enlarged=2), 2 ** len(radii), pixel_bytes, _IMAGES)

    def work(self, size: Sequence[int], tile: int | None = None) -> int:
        """Count the pixels of which `forward` computes features.

        Args:
            size: height and width of the content in pixels.
            tile: see `forward`.

        Returns:
            Their number, over all updates and, with tiles, passes.
        """
        return self.updates * self.footprint().pixels(size, tile)

    @property
    def widths(self) -> Widths:
        """The widths of the statistics that `forward` takes."""
        return tuple(self.architecture["channels"]), ()

    def update(
        self,
        t: int,
        image: Tensor,
        statistics: Statistics,
        regions: Tensor | None = None,
        alpha: Tensor | None = None,
        precision: Precision | None = None,
        tile: int | None = None,
    ) -> Tensor:
        """Compute g_t(X), which mimics the gradient of the style loss.

        Args:
            t: index of the update.
            image: X, (B, 3, H, W).
            statistics, regions, alpha, precision, tile: see `forward`.

        Returns:
            (B, 3, H, W).
        """
        if precision is None:
            forward, backward = Arithmetic(working_dtype(self.forward_maps, image)), None
        else:
            forward = precision.of_features(t, self.updates)
            backward = precision.of_gradients(t, self.updates)
        sizes = [
            tuple(-(-side // 2**level) for side in image.shape[-2:])
            for level in range(len(self.forward_maps))
        ]
        # Alpha weights the statistic and not the correction, which is full at every pixel.
        visible = visible_masks(regions, alpha)
        seen, masks = (
            None if each is None else [resize_masks(each.to(forward.dtype), s) for s in sizes]
            for each in (visible, regions)
        )
        if masks is not None and visible is not None:
            shown = visible.flatten(1).any(1).view(-1, 1, 1)
            masks = [m * shown for m in masks]

        def weights_of(grams: Sequence[Tensor]) -> list[Tensor]:
            weights = _correction_weights if regions is None else _weights_by_region
            return [weights(g, target) for g, target in zip(grams, statistics.own, strict=True)]

        if tile is None:
            features, active = self.forward_maps(image, forward)
            weights = weights_of(_grams(features, seen, regions))
            return self._gradient(t, features, active, weights, masks, backward)

        first, second = self.footprint(precision).passes(image.shape[-2:], tile)
        weights = weights_of(
            whole_grams(
                first, lambda part: self.forward_maps(part.cut(image), forward)[0], seen, sizes
            )
        )
        result = torch.empty_like(
            image,
            dtype=torch.promote_types(forward.dtype, torch.float32),
            memory_format=torch.contiguous_format,
        )
        for part in second:
            features, active = self.forward_maps(part.cut(image), forward)
            own = masks and [part.cut(m, level) for level, m in enumerate(masks)]
            enlarge = partial(part.enlarge, sizes=sizes)
            g = self._gradient(t, features, active, weights, own, backward, enlarge)
            part.cut_interior(result).copy_(part.interior(g))
        return result

    def _gradient(
        self,
        t: int,
        features: list[Tensor],
        active: list[Tensor],
        weights: Sequence[Tensor],
        masks: Sequence[Tensor] | None,
        arithmetic: Arithmetic | None,
        enlarge: Callable[[Tensor, int], Tensor | None] = lambda coarse, level: None,
    ) -> Tensor:
        """g_t for the weights of the corrections, and the masks of regions, at every level.

        ``enlarge`` takes the place of what `level_gradient` does, unless it returns None.
        """

        def correct(h: Tensor, level: int, g: Tensor | None) -> Tensor:
            enlarged = None if g is None else enlarge(g, level)
            if enlarged is not None:
                return correct(h, level, None) + gate(enlarged, h, _SLOPE)
            if masks is None:
                return level_gradient(h, weights[level], g, _SLOPE)
            return _gradient_by_region(h, weights[level], g, masks[level])

        maps = self.backward_maps[t]
        g: Tensor = maps(features, active, correct, self.forward_maps, arithmetic)
        return g

    def forward(
        self,
        content: Tensor,
        statistics: Statistics,
        constraint: Constraint | None = None,
        regions: Tensor | None = None,
        start: Tensor | None = None,
        alpha: Tensor | None = None,
        precision: Precision | None = None,
        tile: int | None = None,
    ) -> Tensor:
        """Restyle images: X <- P[X - g_t(X)] for t = 0 .. N-1.

        Args:
            content: C, (B, 3, H, W) in [0, 1], H and W at least 16.
            statistics: those of a single style, or of one style per batch element.
            constraint: P, any callable X -> X on (B, 3, H, W), applied after every update.
            regions: masks (R, H, W) in [0, 1] of a single content; the statistics are then of R
                styles, one per region (Luan et al. 2017). The network applies no style correction
                outside the masks.
            start: X^(0), of the content's shape; by default the content.
            alpha: (1, 1, H, W) or (B, 1, H, W) in [0, 1], the weights of pixels in X's Gram
                matrices; by default all 1. Every pixel is updated in full, so that the translucent
                border of a cut-out keeps no rim of its old colours. The features do see hidden
                pixels, see `fastfcs.images.fill_hidden`.
            precision: the dtypes of features and gradients; by default that of `torch.autocast`,
                where it is enabled, or of the parameters.
            tile: side in pixels of the tiles by which features are computed, to save memory, see
                `fastfcs.tiles`; at least 4 times the footprint's multiple. None computes them all
                at once. The results differ by rounding alone.

        Returns:
            X^(N), (B, 3, H, W), not clipped.

        Raises:
            ValueError: the content has another shape, the statistics belong to another network, or
                the masks or alpha do not match, or the tiles are too small.
        """
        check_image("content", content)
        check_alpha("content", content, alpha)
        check_widths(statistics, self.widths)
        check_regions("content", content, regions, statistics.styles)
        x = content if start is None else start.to(content)
        for t in range(self.updates):
            x = x - self.update(t, x, statistics, regions, alpha, precision, tile)
            if constraint is not None:
                with torch.autocast(x.device.type, enabled=False):
                    x = constraint(x)
        return x


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]
