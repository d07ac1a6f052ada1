"""Extra updates, run after the network's, that bring results closer to their style.

Their forward maps approximate VGG-19 much more closely. The network's small forward maps predict
VGG's features, but not the direction in which its losses decrease (docs/training-log.md, "Gradients
as VGG's"). The refinement's forward maps are VGG's own convolutions at low rank, fitted to its
responses, and its backward maps are their transposes. The constants below were found by a search
on training pairs (same page, "Refinement" and "Photographs, refined").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import pyramid
from .checks import MIN_SIDE
from .constraints import Constraint
from .constraints.registry import BetweenUpdates
from .filters import LowPass
from .losses import (
    mask_shares,
    region_grams,
    resize_masks,
    resize_weights,
    structure_gradient,
    visible_masks,
)
from .network import UnrolledSolver, working_dtype
from .ops import gram, gram_correction, level_gradient
from .precision import Precision
from .reproducible import area_mean, convolve, enlarge, squared_norm
from .statistics import Statistics, Widths, check_widths
from .tiles import Footprint, Tile, halos, whole_grams
from .vgg import LOW_RANK, STYLE_LAYERS, VGG19, load_vgg19

aten = torch.ops.aten

_UPDATES = 10, 5  # of a painting at the first scales; then 1
_STEP = 0.015
_MOMENTUM, _MEMORY = 0.62, 0.9  # Adam's beta_1 and beta_2
_CONTENT_WEIGHT = 0.15  # kappa
_LEVEL_WEIGHTS = 4.0, 2.0, 1.0, 0.75  # w_l
_COARSE = 4  # pixels per side of the averages that `_emphasise_low_frequencies` adds
_TINY = 1e-30
_IMAGES = 192  # bytes per pixel of sixteen images, with Adam's, see `Footprint`

# Of photographs:
_PHOTO_SIDE = 384  # longer side in pixels of the one scale
_PHOTO_UPDATES, _PHOTO_STEP = 6, 0.1
_PHOTO_RIM = 8  # pixels
_PHOTO_STRUCTURE = 1.1  # the weight that takes kappa's place


@dataclass(frozen=True)
class Targets:
    """The targets of a refinement's loss.

    Attributes:
        content: h^C, features of the content at the deepest level, (B, c, h, w).
        content_norm: ||h^C||^2, (B,).
        style: H_l at every level, (B or 1, c_l, c_l), or (R, c_l, c_l) with regions.
        norms: ||H_l||^2 + ||G_l||^2 at every level, G_l of the content: (B,), or (R,) with regions.
        regions: masks (R, H, W) or None.
        alpha: (1 or B, 1, H, W), the weights of pixels in the loss, or None.

    Examples:
        >>> import torch
        >>> from fastfcs.refinement import Refinement
        >>> refinement = Refinement()
        >>> image = torch.rand(1, 3, 16, 16)
        >>> targets = refinement.targets(image, refinement.statistics(image))
        >>> targets.content.shape, len(targets.norms)
        (torch.Size([1, 256, 2, 2]), 4)
    """

    content: Tensor
    content_norm: Tensor
    style: Sequence[Tensor]
    norms: Sequence[Tensor]
    regions: Tensor | None
    alpha: Tensor | None


class Refinement(nn.Module):
    """K updates X <- P[X - g_t(X)] whose forward maps are a low-rank approximation of VGG-19.

    They follow the network's updates at every scale (`fastfcs.pyramid`). K is 10 at the first
    scale, of about 128 pixels, 5 at the second, where an update takes four times as long, and 1 at
    all others.

    g_t is Adam's step along the gradient of

        kappa ||h - h^C||^2 / ||h^C||^2 + sum_l w_l ||G_l - H_l||^2 / (||H_l||^2 + ||G_l^C||^2),

    where h are the features of the deepest level and the superscript C marks the content's. This is
    the loss that the network was trained on (`fastfcs.training.objective`), evaluated on these
    maps, with level weights chosen so that a few steps lower that loss most. The low-frequency part
    of the gradient is added twice: changing it requires coordinated steps at many pixels.

    Alpha weights the pixels of all sums over pixels, but the gradient at each pixel is divided by
    its alpha over the mean one: the translucent border of a cut-out moves as far as its inside.

    Args:
        maps: VGG-19, by default the low-rank approximation that ships
            (`fastfcs.training.low_rank`).
        updates: K; by default as above.

    Examples:
        >>> import torch
        >>> from fastfcs.refinement import Refinement
        >>> refinement = Refinement(updates=1)
        >>> content, style = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
        >>> refinement(content, content, refinement.statistics(style)).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(self, maps: VGG19 | None = None, updates: int | None = None) -> None:
        super().__init__()
        self.maps = (maps or load_vgg19(LOW_RANK)).requires_grad_(False)
        # Features have the layout of the weights. torch's overloads lack a memory format alone.
        self.maps.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.updates = updates
        features = self.maps.features
        self._layers = [m for m in features.modules() if not isinstance(m, nn.Sequential)]
        style_layers = [features[self.maps.layers[name]] for name in STYLE_LAYERS]
        self._tap_layers = [list(layer.modules())[-1] for layer in style_layers]

    @property
    def widths(self) -> Widths:
        """The widths of the statistics it takes."""
        widths: list[int] = []
        for layer in self._layers:
            if isinstance(layer, nn.Conv2d):
                width = layer.out_channels
            if layer in self._tap_layers:
                widths.append(width)
        return (), tuple(widths)

    def statistics(self, style: Tensor, regions: Tensor | None = None) -> Statistics:
        """Compute the styles' Gram matrices H_l, which all updates share.

        Args:
            style: (B, 3, H, W) in [0, 1].
            regions: masks (R, H, W) in [0, 1] of a single image: one Gram matrix per region.

        Returns:
            Statistics with ``vgg`` set and ``own`` empty.
        """
        features = self.maps(style, STYLE_LAYERS).values()
        return Statistics((), tuple(_grams(features, regions)))

    def updates_at(self, size: Sequence[int]) -> int:
        """K at a scale.

        Args:
            size: its height and width in pixels.

        Returns:
            The number of updates.
        """
        octave = pyramid.octave(size)
        default = _UPDATES[octave] if octave < len(_UPDATES) else 1
        return default if self.updates is None else self.updates

    def targets(
        self,
        content: Tensor,
        statistics: Statistics,
        regions: Tensor | None = None,
        alpha: Tensor | None = None,
        dtype: torch.dtype | None = None,
        tile: int | None = None,
    ) -> Targets:
        """Compute the targets of the loss.

        Args:
            content: (B, 3, H, W) in [0, 1].
            statistics, regions, alpha: see `forward`.
            dtype: of the features; by default that of `torch.autocast`, where it is enabled, or of
                the parameters.
            tile: see `forward`.

        Returns:
            The targets, which all updates share.
        """
        visible = visible_masks(regions, alpha)
        if tile is None:
            features, _ = self._forward(content, dtype)
            deepest, grams = features[-1], _grams(features, visible)
        else:
            deepest, grams = self._whole_features(content, visible, dtype, tile)
        norms = [
            squared_norm(h) + squared_norm(g) for h, g in zip(statistics.vgg, grams, strict=True)
        ]
        weighted = deepest if alpha is None else deepest * _relative(alpha, deepest).sqrt()
        return Targets(deepest, squared_norm(weighted), statistics.vgg, norms, regions, alpha)

    def gradient(
        self,
        image: Tensor,
        targets: Targets,
        content_weight: float = _CONTENT_WEIGHT,
        dtype: torch.dtype | None = None,
        tile: int | None = None,
    ) -> Tensor:
        """Compute the gradient of the loss above, divided by 4 / n_1.

        Args:
            image: X, (B, 3, H, W) in [0, 1].
            targets: from `targets`.
            content_weight: kappa.
            dtype, tile: see `targets`.

        Returns:
            (B, 3, H, W).
        """
        if tile is not None:
            return self._tiled_gradient(image, targets, content_weight, dtype, tile)
        features, saved = self._forward(image, dtype)
        pixels = [h.shape[-2] * h.shape[-1] for h in features]
        pull = content_weight / 2 * pixels[0] / targets.content_norm.view(-1, 1, 1, 1)
        g = (pull * (features[-1] - targets.content)).to(features[-1])

        def correct(h: Tensor, level: int) -> Tensor:
            scale = _LEVEL_WEIGHTS[level] * pixels[0] / pixels[level] / targets.norms[level]
            return _correction(h, level, scale, targets)

        return self._backward(g, features, saved, correct)

    def _whole_features(
        self,
        image: Tensor,
        visible: Tensor | None,
        dtype: torch.dtype | None,
        tile: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """The deepest features of an image and its Gram matrices, by tiles."""
        _, widths = self.widths
        sizes, last = _level_sizes(image.shape[-2:], len(widths)), len(widths) - 1
        dtype = dtype or working_dtype(self, image)
        deepest = image.new_empty(len(image), widths[last], *sizes[last], dtype=dtype)

        def features_of(part: Tile) -> list[Tensor]:
            features, _ = self._forward(part.cut(image), dtype)
            inside = part.interior(features[-1], last)
            part.cut_interior(deepest, last).copy_(inside)
            return features

        tiles, _ = self.footprint().passes(image.shape[-2:], tile)
        seen = visible if visible is None else [resize_masks(visible.to(dtype), s) for s in sizes]
        return deepest, whole_grams(tiles, features_of, seen, sizes)

    def _tiled_gradient(
        self,
        image: Tensor,
        targets: Targets,
        content_weight: float,
        dtype: torch.dtype | None,
        tile: int,
    ) -> Tensor:
        """`gradient`, by tiles."""
        levels = len(targets.style)
        sizes = _level_sizes(image.shape[-2:], levels)
        dtype = dtype or working_dtype(self, image)
        visible = visible_masks(targets.regions, targets.alpha)
        _, grams = self._whole_features(image, visible, dtype, tile)
        weights: list[Tensor] = []
        masks: list[Tensor | None] = []
        for level, (g, size) in enumerate(zip(grams, sizes, strict=True)):
            scale = _LEVEL_WEIGHTS[level] * math.prod(sizes[0]) / math.prod(size)
            scales, masks_here = _region_scales(targets, size, dtype)
            scales = scale * scales / targets.norms[level]
            weights.append(scales.view(-1, 1, 1) * (g - targets.style[level]))
            masks.append(masks_here)
        pull = content_weight / 2 * math.prod(sizes[0]) / targets.content_norm.view(-1, 1, 1, 1)
        result = torch.empty_like(image, dtype=dtype, memory_format=torch.contiguous_format)
        _, tiles = self.footprint().passes(image.shape[-2:], tile)
        for part in tiles:
            features, saved = self._forward(part.cut(image), dtype)
            content = part.cut(targets.content, levels - 1)
            g = (pull * (features[-1] - content)).to(features[-1])

            def correct(h: Tensor, level: int, part: Tile = part) -> Tensor:
                m = masks[level]
                return _whole_correction(
                    h, weights[level], None if m is None else part.cut(m, level)
                )

            g = self._backward(g, features, saved, correct)
            part.cut_interior(result).copy_(part.interior(g))
        return result

    def footprint(self, precision: Precision | None = None) -> Footprint:
        """Tell how far the maps see, and what memory they take.

        Args:
            precision: see `forward`.

        Returns:
            The footprint, for float32 also where the precision is half, since torch's convolutions
            then take memory of their own.
        """
        itemsize = max(4, next(self.parameters()).dtype.itemsize)
        radii, pixel_bytes, width = [0], 0.0, 0
        for layer in self._layers:
            pixels = 1 / 4 ** (len(radii) - 1)
            if isinstance(layer, nn.Conv2d):
                radii[-1] += layer.kernel_size[0] // 2
                width = layer.out_channels
            elif isinstance(layer, nn.MaxPool2d):
                radii.append(0)
                pixel_bytes += pixels / 4 * width * torch.int64.itemsize  # the indices of maxima
            else:
                pixel_bytes += pixels * width * itemsize
            if layer in self._tap_layers:
                pixel_bytes += pixels * width * itemsize  # the correction
        multiple = 2 ** (len(radii) - 1)
        return Footprint(*halos(radii, enlarged=0), multiple, math.ceil(pixel_bytes), _IMAGES)

    def work(self, size: Sequence[int], tile: int | None = None) -> int:
        """Count the pixels of which `forward` computes features, those of the content included.

        Args:
            size: height and width of the content in pixels.
            tile: see `forward`.

        Returns:
            Their number, over all updates and, with tiles, passes.
        """
        footprint, updates = self.footprint(), self.updates_at(size)
        if tile is None:
            return (1 + updates) * footprint.pixels(size, None)
        first, _ = footprint.passes(size, tile)
        return sum(part.pixels for part in first) + updates * footprint.pixels(size, tile)

    def _forward(
        self, image: Tensor, dtype: torch.dtype | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Compute h_l, and save ReLU outputs and the indices of maxima for `_backward`."""
        x = (image - self.maps.mean) * self.maps.scale
        x = x.to(dtype or working_dtype(self, image))
        features, saved = [], []
        for layer in self._layers:
            if isinstance(layer, nn.MaxPool2d):
                x, indices = F.max_pool2d(x, 2, return_indices=True)
                saved.append(indices)
            elif isinstance(layer, nn.Conv2d):
                bias = None if layer.bias is None else layer.bias.to(x.dtype)
                x = convolve(x, layer.weight.to(x.dtype), bias, int(layer.padding[0]))
            else:
                x = layer(x)
            if isinstance(layer, nn.ReLU):
                saved.append(x)
            if layer in self._tap_layers:
                features.append(x)
        return features, saved

    def _backward(
        self,
        g: Tensor,
        features: list[Tensor],
        saved: list[Tensor],
        correct: Callable[[Tensor, int], Tensor],
    ) -> Tensor:
        """Backpropagate g, at the deepest level, and ``correct(h_l, l)`` of all to the image.

        Empties both lists. A correction is made when it is needed, which saves memory. Autograd is
        not used because this may run in inference mode.
        """
        for layer in reversed(self._layers):
            if layer in self._tap_layers:
                h = features.pop()
                g = correct(h, len(features)).add_(g)
                del h
            if isinstance(layer, nn.Conv2d):
                mirror = layer.weight.to(g.dtype).flip(2, 3).transpose(0, 1)
                g = convolve(g, mirror, None, int(layer.padding[0]))
            elif isinstance(layer, nn.MaxPool2d):
                indices = saved.pop()  # into the output of the preceding ReLU
                g = aten.max_pool2d_with_indices_backward(g, saved[-1], 2, 2, 0, 1, False, indices)
            else:
                g = g.mul_(saved.pop().sign())
        gradient: Tensor = g * self.maps.scale
        return gradient

    def forward(
        self,
        image: Tensor,
        content: Tensor,
        statistics: Statistics,
        constraint: Constraint | None = None,
        regions: Tensor | None = None,
        alpha: Tensor | None = None,
        precision: Precision | None = None,
        tile: int | None = None,
        *,
        updates: int | None = None,
        step: float = _STEP,
        structure_weight: float = 0.0,
        rim: int = 0,
    ) -> Tensor:
        """Refine a result of the network.

        Args:
            image: X to start from, (B, 3, H, W).
            content, statistics, constraint, regions, alpha, precision, tile: see
                `RefinedSolver.forward`.
            updates: K; by default `updates_at` X's size.
            step: step size, in intensity units, at a pixel whose gradient has the RMS magnitude.
            structure_weight: weight of `fastfcs.losses.structure_loss`, which then takes the place
                of the loss's first term.
            rim: pixels by which pictures are continued by their mirror images for the features,
                which would take the zeros beyond the border for an edge.

        Returns:
            X after K updates, (B, 3, H, W), not clipped.
        """
        if precision is None:
            dtype = working_dtype(self, image)
        else:
            dtype = precision.of_features(0, 1).dtype

        kappa = 0.0 if structure_weight else _CONTENT_WEIGHT

        def continued(picture: Tensor) -> Tensor:
            return F.pad(picture, (rim, rim, rim, rim), mode="reflect") if rim else picture

        with torch.autocast(image.device.type, enabled=False):
            masks, weights = (
                None if each is None else continued(each) for each in (regions, alpha)
            )
            of_content = continued(content), statistics, masks, weights, dtype, tile
            targets = self.targets(*of_content)
            x = image
            mean = square = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
            for t in range(1, (updates or self.updates_at(image.shape[-2:])) + 1):
                x = x.clamp(0, 1)  # evaluate features on the displayable (clipped) image
                g = self.gradient(continued(x), targets, kappa, dtype, tile)
                g = g.narrow(2, rim, x.shape[2]).narrow(3, rim, x.shape[3])
                g = _emphasise_low_frequencies(g.to(mean))
                if structure_weight:
                    weight = structure_weight * x.shape[2] * x.shape[3] / 4  # `gradient`'s scale
                    g = g + weight * structure_gradient(x.to(mean), content.to(mean))
                squared = g.square() if alpha is None else g.square() * _relative(alpha, g)
                typical = area_mean(squared).mean(1, keepdim=True)
                mean = _MOMENTUM * mean + (1 - _MOMENTUM) * g
                square = _MEMORY * square + (1 - _MEMORY) * g.square()
                # Steps stay small where the gradient is; in skies Adam would amplify noise.
                scale = (square / (1 - _MEMORY**t) + typical + _TINY).sqrt()
                x = x - (step * mean / (1 - _MOMENTUM**t) / scale).to(x)
                if constraint is not None:
                    x = constraint(x)
        return x


class RefinedSolver(nn.Module):
    """An `UnrolledSolver` followed by a `Refinement`, with the same interface as the former.

    Args:
        solver: the network.
        refinement: by default `Refinement()`.

    Examples:
        >>> from fastfcs.network import UnrolledSolver
        >>> from fastfcs.refinement import RefinedSolver
        >>> solver = RefinedSolver(UnrolledSolver(channels=(8, 8)))
        >>> solver.updates_at((96, 128)), solver.updates_at((384, 512))
        (14, 5)
    """

    solver: UnrolledSolver
    refinement: Refinement

    def __init__(self, solver: UnrolledSolver, refinement: Refinement | None = None) -> None:
        super().__init__()
        self.solver, self.refinement = solver, refinement or Refinement()

    def statistics(self, style: Tensor, regions: Tensor | None = None) -> Statistics:
        """Compute the Gram matrices for the network and the refinement.

        Args:
            style, regions: see `UnrolledSolver.statistics`.

        Returns:
            Statistics with ``own`` and ``vgg`` set.

        Raises:
            ValueError: see `UnrolledSolver.statistics`.
        """
        own = self.solver.statistics(style, regions).own
        return Statistics(own, self.refinement.statistics(style, regions).vgg)

    def updates_at(self, size: Sequence[int]) -> int:
        """The number of updates of the network and the refinement at a scale.

        Args:
            size: its height and width in pixels.

        Returns:
            Their sum.
        """
        return self.solver.updates_at(size) + self.refinement.updates_at(size)

    def footprint(self, precision: Precision | None = None) -> Footprint:
        """Tell how far the maps see, and what memory they take.

        Args:
            precision: see `forward`.

        Returns:
            The larger footprint, in every respect, of the network and the refinement.
        """
        both = self.solver.footprint(precision), self.refinement.footprint(precision)
        return Footprint(*map(max, *both))

    def work(self, size: Sequence[int], tile: int | None = None) -> int:
        """Count the pixels of which `forward` computes features.

        Args:
            size: height and width of the content in pixels.
            tile: see `forward`.

        Returns:
            The sum for the network and the refinement.
        """
        return self.solver.work(size, tile) + self.refinement.work(size, tile)

    @property
    def widths(self) -> Widths:
        """The widths of the statistics it takes."""
        return self.solver.widths[0], self.refinement.widths[1]

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
        """Restyle images.

        Args:
            content, statistics, constraint, regions, start, alpha, precision, tile: see
                `UnrolledSolver.forward`. The refinement's convolutions run in the dtype of the
                features.

        Returns:
            X after all updates, (B, 3, H, W), not clipped.

        Raises:
            ValueError: see `UnrolledSolver.forward`.
        """
        check_widths(statistics, self.widths)
        own = Statistics(statistics.own)
        x = self.solver(content, own, constraint, regions, start, alpha, precision, tile)
        refined: Tensor = self.refinement(
            x, content, statistics, constraint, regions, alpha, precision, tile
        )
        return refined


def refine_photograph(
    refinement: Refinement,
    image: Tensor,
    content: Tensor,
    statistics: Sequence[Statistics],
    between: BetweenUpdates,
    lowpass: LowPass,
    luma_lowpasses: tuple[LowPass, LowPass],
    regions: Tensor | None = None,
    alpha: Tensor | None = None,
    precision: Precision | None = None,
) -> Tensor:
    """Refine a photograph, at a longer side of at most 384 pixels.

    A photograph's change is smooth along the content's structure, so a small picture shows it. The
    loss has `fastfcs.losses.structure_loss` in place of its first term. It preserves edges better
    than a pull towards the content, after which little style would be left. So X is not pulled, and
    the cutoff of luma is wider. That of chroma is not, since this loss sees no chroma, which would
    glow around what stands before a sky. The change of the small picture is enlarged and projected
    once more.

    Args:
        refinement: the refinement; its default number of updates is 6 here.
        image: X, the network's result, (B, 3, H, W).
        content: C, of the same shape.
        statistics: of the style at every scale (`fastfcs.pyramid.reductions`).
        between: the constraints, with "photoreal" among them.
        lowpass: that of "photoreal" for the chroma of the change.
        luma_lowpasses: those for its luma, of the small picture and of the result.
        regions, alpha, precision: see `RefinedSolver.forward`.

    Returns:
        X, (B, 3, H, W), not clipped.

    Examples:
        >>> import torch
        >>> from fastfcs import LowPass
        >>> from fastfcs.constraints.registry import BetweenUpdates
        >>> from fastfcs.refinement import Refinement, refine_photograph
        >>> refinement = Refinement(updates=1)
        >>> content, style = torch.rand(2, 1, 3, 16, 16)
        >>> between = BetweenUpdates(("photoreal",), content)
        >>> statistics = [refinement.statistics(style)]
        >>> lowpasses = LowPass(0.03), (LowPass(0.4), LowPass(0.2))
        >>> refine_photograph(refinement, content, content, statistics, between, *lowpasses).shape
        torch.Size([1, 3, 16, 16])
    """
    height, width = image.shape[-2:]
    size, updates = _small_updates(refinement, height, width)
    small, first = (pyramid.resize(each, size).clamp(0, 1) for each in (content, image))
    masks, weights = resize_weights(regions, alpha, size)
    refined = refinement(
        first,
        small,
        pyramid.interpolated(statistics, size),
        between.refining(small.float(), lowpass, luma_lowpasses[0], masks),
        masks,
        weights,
        precision,
        updates=updates,
        step=_PHOTO_STEP,
        structure_weight=_PHOTO_STRUCTURE,
        rim=_PHOTO_RIM,
    )
    enlarged = pyramid.resize(refined - first, (height, width))
    return between.project(image + enlarged, lowpass, luma_lowpasses[1])


def photograph_work(refinement: Refinement, height: int, width: int) -> int:
    """Count the pixels of which `refine_photograph` computes features.

    Args:
        refinement: the refinement.
        height, width: of the photograph in pixels.

    Returns:
        Their number over all updates, with the features of the content and the rims.

    Examples:
        >>> from fastfcs.refinement import Refinement, photograph_work
        >>> photograph_work(Refinement(), 1200, 1600) == 7 * (288 + 16) * (384 + 16)
        True
    """
    size, updates = _small_updates(refinement, height, width)
    return (1 + updates) * math.prod(side + 2 * _PHOTO_RIM for side in size)


def _small_updates(refinement: Refinement, height: int, width: int) -> tuple[tuple[int, int], int]:
    """The size of a photograph's small picture, and the number of updates."""
    scale = max(_PHOTO_SIDE / max(height, width), MIN_SIDE / min(height, width))
    size = round(height * min(1, scale)), round(width * min(1, scale))
    return size, refinement.updates or _PHOTO_UPDATES


def _grams(features: Iterable[Tensor], masks: Tensor | None) -> list[Tensor]:
    if masks is None:
        return [gram(h) for h in features]
    return [region_grams(h, masks.to(h)) for h in features]


def _relative(alpha: Tensor, like: Tensor) -> Tensor:
    """Alpha over its mean, at the size of another tensor."""
    a = resize_masks(alpha.squeeze(1).to(like), like.shape[-2:]).unsqueeze(1)
    return a / area_mean(a)


def _correction(h: Tensor, level: int, scale: Tensor, targets: Targets) -> Tensor:
    """h (G - H) times scale (B,), or by region sum_r m_r h (G_r - H_r) times scale_r."""
    target, regions, alpha = targets.style[level], targets.regions, targets.alpha
    if alpha is not None:
        return _weighted_correction(h, target, scale, regions, alpha)
    if regions is None:
        # In one dtype, or torch would copy the correction. float16 has too small a range.
        scale = scale.to(h) if h.dtype == torch.bfloat16 else scale
        return gram_correction(h, target).mul_(scale.view(-1, 1, 1, 1)).to(h)
    masks = resize_masks(regions.to(h), h.shape[-2:])
    weights = regions.mean((1, 2)) / regions.mean((1, 2)).sum()
    total = torch.zeros_like(h)
    for weight, m, target_r, scale_r in zip(weights, masks, target, scale, strict=True):
        share = m.mean()  # the kernel's Gram matrix averages over all pixels
        inside = gram_correction(h * m.sqrt(), (share * target_r)[None].to(target))
        total = total + weight * scale_r / share.square() * m.sqrt() * inside
    return total.to(h)


def _level_sizes(size: Sequence[int], levels: int) -> list[tuple[int, int]]:
    height, width = size
    return [(height >> level, width >> level) for level in range(levels)]


def _region_scales(
    targets: Targets, size: Sequence[int], dtype: torch.dtype
) -> tuple[Tensor | float, Tensor | None]:
    """By what `_correction` scales h (G_r - H_r), beside its argument, and the masks of a level."""
    if targets.regions is None:
        return 1.0, None
    visible = visible_masks(targets.regions, targets.alpha)
    assert visible is not None
    masks, seen = (resize_masks(each.to(dtype), size) for each in (targets.regions, visible))
    weights = visible.mean((1, 2))
    scales = weights / (weights.sum() + (weights.sum() == 0)) / mask_shares(seen)
    if targets.alpha is not None:
        scales = scales * resize_masks(targets.alpha.squeeze(1).to(dtype), size).mean()
    return scales, masks


def _whole_correction(h: Tensor, weights: Tensor, masks: Tensor | None) -> Tensor:
    """h W, or sum_r m_r h W_r."""
    height, width = h.shape[-2:]
    if masks is None:
        return level_gradient(h, weights).narrow(2, 1, height).narrow(3, 1, width)
    parts = zip(weights.split(1), masks, strict=True)
    return sum((m * _whole_correction(h, w, None) for w, m in parts), torch.zeros_like(h))


def _weighted_correction(
    h: Tensor, target: Tensor, scale: Tensor, regions: Tensor | None, alpha: Tensor
) -> Tensor:
    """The same with G, or the G_r, weighted by alpha."""
    visible = visible_masks(regions, alpha)
    assert visible is not None
    plain = gram(h)
    # The kernel subtracts its argument from the Gram matrix without weights.
    shifted = plain - (region_grams(h, visible.to(h)) - target)
    if regions is None:
        return (gram_correction(h, shifted) * scale.view(-1, 1, 1, 1)).to(h)
    masks, seen, a = (
        resize_masks(each.to(h), h.shape[-2:]) for each in (regions, visible, alpha.squeeze(1))
    )
    weights, shares = visible.mean((1, 2)), seen.mean((1, 2))
    # A region that alpha hides has the weight and the share 0, and nothing to correct.
    weights = weights / (weights.sum() + (weights.sum() == 0))
    scale = scale * weights * a.mean() / (shares + (shares == 0))
    total = torch.zeros_like(h)
    for m, h_shifted, scale_r in zip(masks, shifted.split(1), scale, strict=True):
        total = total + scale_r * m * gram_correction(h, h_shifted)
    return total.to(h)


def _emphasise_low_frequencies(g: Tensor) -> Tensor:
    """g plus its low-frequency part."""
    coarse = F.avg_pool2d(g, _COARSE, ceil_mode=True, count_include_pad=False)
    return g + enlarge(coarse, g.shape[-2:])
