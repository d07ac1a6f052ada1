"""Updates behind the network's own, for paintings, whose forward maps are much nearer to VGG-19.

The small forward maps of `fastfcs.network` see what VGG does, but not in which direction its losses
fall (docs/training-log.md, "Gradients as VGG's"). So a few updates go on where they stop whose
forward maps are VGG's convolutions at low rank, fitted to its responses, and whose backward maps
are those transposed. The few numbers below were found by a search on training pairs (same page,
"Refinement").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import region_grams, squared_norm
from .network import Constraint, Statistics, UnrolledSolver, load_solver
from .ops import gram, gram_correction
from .vgg import LOW_RANK, STYLE_LAYERS, VGG19, load_vgg19

aten = torch.ops.aten

UPDATES = 6
_STEP = 0.015  # of a pixel whose gradient is as large as most
_MOMENTUM, _MEMORY = 0.62, 0.9  # Adam's beta
_CONTENT = 0.15  # weight of the content's loss beside the style's
_LEVELS = 4.0, 2.0, 1.0, 0.75  # weights of the style's, each level's beside the others
_COARSE = 4  # pixels
_TINY = 1e-30


@dataclass
class Goal:
    """What a refinement descends to.

    content: F of the content at the deepest level, (B, c, h, w).
    statistics: H_l of the style.
    sizes: of each level ||H_l||^2 + ||G_l||^2, G_l of the content, (B,), or one a region.
    regions: masks (R, H, W) or None.
    """

    content: Tensor
    statistics: Statistics
    sizes: Sequence[Tensor]
    regions: Tensor | None


class Refinement(nn.Module):
    """K updates X <- P[X - g_t(X)] with a likeness of VGG-19 as forward maps.

    g_t is Adam's step along the gradient of

        kappa ||F - C||^2 / ||C||^2 + sum_l w_l ||G_l - H_l||^2 / (||H_l||^2 + ||G_l^C||^2),

    the loss that the network was trained on (`fastfcs.training.objective`) as these maps see it,
    the levels weighted so that few steps lower it most. What is coarse in the gradient counts
    twice, for it takes steps in every pixel to change it.

    Args:
        maps: by default those that ship, VGG-19 at low rank (`fastfcs.training.low_rank`).
        updates: K.
    """

    def __init__(self, maps: VGG19 | None = None, updates: int = UPDATES) -> None:
        super().__init__()
        self.maps = (maps or load_vgg19(LOW_RANK)).requires_grad_(False)
        self.updates = updates
        layers = self.maps.features
        self._layers = [m for m in layers.modules() if not isinstance(m, nn.Sequential)]
        taps = [layers[self.maps.layers[name]] for name in STYLE_LAYERS]
        self._taps = [list(tap.modules())[-1] for tap in taps]

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """As `UnrolledSolver.shapes`."""
        found: dict[str, tuple[int, int]] = {}
        for layer in self._layers:
            if isinstance(layer, nn.Conv2d):
                width = layer.out_channels
            if layer in self._taps:
                found[f"vgg.{len(found)}"] = width, width
        return found

    def statistics(self, style: Tensor, regions: Tensor | None = None) -> Statistics:
        """H_l of styles (B, 3, H, W) in [0, 1], for every update; as `UnrolledSolver`'s."""
        found = self.maps(style, STYLE_LAYERS).values()
        return dict(zip(self.shapes, _grams(found, regions), strict=True))

    def goal(self, content: Tensor, statistics: Statistics, regions: Tensor | None = None) -> Goal:
        """Of contents (B, 3, H, W) in [0, 1]."""
        features = list(self.maps(content, STYLE_LAYERS).values())
        sizes = [
            squared_norm(statistics[key]) + squared_norm(before)
            for key, before in zip(self.shapes, _grams(features, regions), strict=True)
        ]
        return Goal(features[-1], statistics, sizes, regions)

    def gradient(self, image: Tensor, goal: Goal) -> Tensor:
        """Of the loss above at X (B, 3, H, W), divided by 4 / n_1, n_l the pixels of level l."""
        features, seen = self._forward(image)
        pixels = [h.shape[-2] * h.shape[-1] for h in features]
        corrections = []
        for level, (h, size) in enumerate(zip(features, goal.sizes, strict=True)):
            scale = _LEVELS[level] * pixels[0] / pixels[level] / size
            target = goal.statistics[f"vgg.{level}"]
            corrections.append(_correction(h, target, scale, goal.regions))
        del features
        kept = _CONTENT / 2 * pixels[0] / squared_norm(goal.content).view(-1, 1, 1, 1)
        corrections[-1] = corrections[-1] + (kept * (h - goal.content)).to(h)
        return self._backward(corrections, seen)

    def _forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features h_l (B, c_l, h, w); and what each ReLU let pass, each maximum where."""
        x = (image - self.maps.mean) * self.maps.scale
        found, seen = [], []
        for layer in self._layers:
            if isinstance(layer, nn.MaxPool2d):
                x, where = F.max_pool2d(x, 2, return_indices=True)
                seen.append(where)
            else:
                x = layer(x)
            if isinstance(layer, nn.ReLU):
                seen.append(x)
            if layer in self._taps:
                found.append(x)
        return found, seen

    def _backward(self, corrections: list[Tensor], seen: list[Tensor]) -> Tensor:
        """Corrections of the levels, brought back to the image as gradients are; empties both.

        Not by autograd, for it may be called in inference mode.
        """
        g: Any = 0
        for layer in reversed(self._layers):
            if layer in self._taps:
                g = g + corrections.pop()
            if isinstance(layer, nn.Conv2d):
                mirror = layer.weight.flip(2, 3).transpose(0, 1)
                g = F.conv2d(g, mirror, padding=layer.padding)  # type: ignore[arg-type]
            elif isinstance(layer, nn.MaxPool2d):
                where = seen.pop()  # in what the ReLU before it let pass
                g = aten.max_pool2d_with_indices_backward(g, seen[-1], 2, 2, 0, 1, False, where)
            else:
                g = aten.threshold_backward(g, seen.pop(), 0)
        return g * self.maps.scale  # type: ignore[no-any-return]

    def forward(
        self,
        image: Tensor,
        content: Tensor,
        statistics: Statistics,
        constraint: Constraint | None = None,
        regions: Tensor | None = None,
    ) -> Tensor:
        """X after the updates that begin at ``image``; else as `UnrolledSolver.forward`."""
        goal = self.goal(content, statistics, regions)
        x = image
        mean = square = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        for t in range(1, self.updates + 1):
            x = x.clamp(0, 1)  # they see what is seen
            g = _emphasised(self.gradient(x, goal).to(mean))
            typical = g.square().mean((1, 2, 3), keepdim=True)
            mean = _MOMENTUM * mean + (1 - _MOMENTUM) * g
            square = _MEMORY * square + (1 - _MEMORY) * g.square()
            # Where the gradient is small, as in skies, steps are small: Adam's would be mere noise.
            scale = (square / (1 - _MEMORY**t) + typical + _TINY).sqrt()
            x = x - (_STEP * mean / (1 - _MOMENTUM**t) / scale).to(x)
            if constraint is not None:
                x = constraint(x)
        return x


class RefinedSolver(nn.Module):
    """An `UnrolledSolver`, and a `Refinement` behind its updates; used as the former is."""

    def __init__(self, solver: UnrolledSolver, refinement: Refinement | None = None) -> None:
        super().__init__()
        self.solver, self.refinement = solver, refinement or Refinement()

    def statistics(self, style: Tensor, regions: Tensor | None = None) -> Statistics:
        """H^s of both; as `UnrolledSolver.statistics`."""
        found = self.solver.statistics(style, regions)
        return {**found, **self.refinement.statistics(style, regions)}

    @property
    def updates(self) -> int:
        """N of both together."""
        return self.solver.updates + self.refinement.updates

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """What statistics hold; as `UnrolledSolver.shapes`."""
        return {**self.solver.shapes, **self.refinement.shapes}

    def fits(self, statistics: Statistics) -> bool:
        """Whether they have the updates, levels and channels of both."""
        return {key: tuple(h.shape[1:]) for key, h in statistics.items()} == self.shapes

    def forward(
        self,
        content: Tensor,
        statistics: Statistics,
        constraint: Constraint | None = None,
        regions: Tensor | None = None,
    ) -> Tensor:
        """The restyled image; as `UnrolledSolver.forward`."""
        own = {key: h for key, h in statistics.items() if key in self.solver.shapes}
        x = self.solver(content, own, constraint, regions)
        return self.refinement(x, content, statistics, constraint, regions)


def load_network(
    weights: str | Path = "universal", refine: bool = False
) -> UnrolledSolver | RefinedSolver:
    """`load_solver`, and behind it, if asked for, a refinement.

    Raises:
        FileNotFoundError, ValueError: as `load_solver`.
    """
    solver = load_solver(weights)
    return RefinedSolver(solver).eval() if refine else solver


def _grams(features: Iterable[Tensor], regions: Tensor | None) -> list[Tensor]:
    if regions is None:
        return [gram(h) for h in features]
    return [region_grams(h, regions.to(h)) for h in features]


def _correction(h: Tensor, target: Tensor, scale: Tensor, regions: Tensor | None) -> Tensor:
    """h (G - H) times scale (B,), or by region sum_r m_r h (G_r - H_r) times scale_r."""
    if regions is None:
        return (gram_correction(h, target) * scale.view(-1, 1, 1, 1)).to(h)
    masks = F.interpolate(regions[None].to(h), h.shape[-2:], mode="area")[0]
    weights = regions.mean((1, 2)) / regions.mean((1, 2)).sum()
    total = torch.zeros_like(h)
    for weight, m, of_region, by in zip(weights, masks, target, scale, strict=True):
        share = m.mean()  # the kernel's Gram matrix is over all pixels
        inside = gram_correction(h * m.sqrt(), (share * of_region)[None].to(target))
        total = total + weight * by / share.square() * m.sqrt() * inside
    return total.to(h)


def _emphasised(g: Tensor) -> Tensor:
    """g, and once more what of it is coarse."""
    coarse = F.avg_pool2d(g, _COARSE, ceil_mode=True, count_include_pad=False)
    return g + F.interpolate(coarse, g.shape[-2:], mode="bilinear", align_corners=False)
