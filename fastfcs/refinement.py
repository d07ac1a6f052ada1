"""Updates that see through VGG-19 itself: what they descend on is the loss, not a likeness of it.

The forward maps of `fastfcs.network` see what VGG does, but not in which direction its losses fall
(docs/training-log.md, "Gradients as VGG's"). So a few updates go on where they stop whose forward
maps are VGG's own layers and whose backward maps are those transposed. Nothing in them is learned
but the few numbers below, found by a search on training pairs (same page, "Refinement").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import region_grams, squared_norm
from .network import Constraint, Statistics, UnrolledSolver, load_solver
from .ops import gram, gram_correction
from .vgg import STYLE_CHANNELS, STYLE_LAYERS, VGG19, load_vgg19

UPDATES = 8
_STEP = 0.018  # of a pixel whose gradient is as large as most
_MOMENTUM, _MEMORY = 0.62, 0.9  # Adam's beta
_CONTENT = 0.15  # weight of the content's loss beside the style's
_LEVELS = 4.0, 2.0, 1.0, 0.75  # weights of the style's, each level's beside the others
_COARSE = 4  # pixels
_TYPICAL = 200.0, 250.0, 300.0, 700.0  # root mean square of features: half types hold Gram of 1
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
    """K updates X <- P[X - g_t(X)] with the style layers of VGG-19 as forward maps.

    g_t is Adam's step along the gradient of

        kappa ||F - C||^2 / ||C||^2 + sum_l w_l ||G_l - H_l||^2 / (||H_l||^2 + ||G_l^C||^2),

    the loss that the network was trained on (`fastfcs.training.objective`), the levels weighted
    so that few steps lower it most. What is coarse in the gradient counts twice, for it takes
    steps in every pixel to change it.

    Args:
        vgg: by default `load_vgg19`'s.
        updates: K.
    """

    def __init__(self, vgg: VGG19 | None = None, updates: int = UPDATES) -> None:
        super().__init__()
        self.vgg = (vgg or load_vgg19()).requires_grad_(False)
        self.updates = updates
        self._levels = [self.vgg.layers[layer] for layer in STYLE_LAYERS]

    def features(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """h_l (B, c_l, h, w) of images (B, 3, H, W); and what each ReLU and maximum let pass.

        h_l are VGG's features, divided by what is typical of them.
        """
        x = (image - self.vgg.mean) * self.vgg.scale
        found: list[Tensor] = []
        passed: list[Tensor] = []
        for k, layer in enumerate(self.vgg.features):
            if isinstance(layer, nn.MaxPool2d):
                largest = layer(x)
                passed.append(x == _doubled(largest, x))
                x = largest
            elif isinstance(layer, nn.ReLU):
                x = F.relu(x)  # not in place: it may be differentiated
                passed.append(x > 0)
            else:
                x = layer(x)
            if k in self._levels:
                found.append(x / _TYPICAL[len(found)])
        return found, passed

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """As `UnrolledSolver.shapes`."""
        return {f"vgg.{level}": (width, width) for level, width in enumerate(STYLE_CHANNELS)}

    def statistics(self, style: Tensor, regions: Tensor | None = None) -> Statistics:
        """H_l of styles (B, 3, H, W) in [0, 1], for every update; as `UnrolledSolver`'s."""
        return dict(zip(self.shapes, _grams(self.features(style)[0], regions), strict=True))

    def goal(self, content: Tensor, statistics: Statistics, regions: Tensor | None = None) -> Goal:
        """Of contents (B, 3, H, W) in [0, 1]."""
        features, _ = self.features(content)
        sizes = [
            squared_norm(statistics[key]) + squared_norm(before)
            for key, before in zip(self.shapes, _grams(features, regions), strict=True)
        ]
        return Goal(features[-1], statistics, sizes, regions)

    def gradient(self, image: Tensor, goal: Goal) -> Tensor:
        """Of the loss above at X (B, 3, H, W), divided by 4 / n_1, n_l the pixels of level l."""
        features, passed = self.features(image)
        pixels = [h.shape[-2] * h.shape[-1] for h in features]
        corrections = []
        for level, (h, size) in enumerate(zip(features, goal.sizes, strict=True)):
            correction = _correction(h, goal.statistics[f"vgg.{level}"], size, goal.regions)
            corrections.append(_LEVELS[level] * pixels[0] / pixels[level] * correction)
        del features
        kept = _CONTENT / 2 * pixels[0] / squared_norm(goal.content).view(-1, 1, 1, 1)
        corrections[-1] = corrections[-1] + (kept * (h - goal.content)).to(h)
        return self.backward(corrections, passed)

    def backward(self, corrections: list[Tensor], passed: list[Tensor]) -> Tensor:
        """Corrections of the levels, brought back to the image as gradients are; empties both."""
        g: Tensor | None = None
        for k, layer in reversed(list(enumerate(self.vgg.features))):
            if k in self._levels:
                level = len(corrections) - 1
                correction = corrections.pop() / _TYPICAL[level]
                g = correction if g is None else g + correction
            assert g is not None
            if isinstance(layer, nn.Conv2d):
                g = F.conv2d(g, layer.weight.flip(2, 3).transpose(0, 1), padding=1)
            elif isinstance(layer, nn.MaxPool2d):
                gate = passed.pop()
                g = g / (4 * F.avg_pool2d(gate.to(g), 2))  # equal ones share, as in flat skies
                g = _doubled(g, gate).where(gate, 0)
            else:
                g = g.where(passed.pop(), 0)
        assert g is not None
        return g * self.vgg.scale

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
            x = x.clamp(0, 1)  # VGG sees what is seen
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


def _grams(features: Sequence[Tensor], regions: Tensor | None) -> list[Tensor]:
    if regions is None:
        return [gram(h) for h in features]
    return [region_grams(h, regions.to(h)) for h in features]


def _correction(h: Tensor, target: Tensor, size: Tensor, regions: Tensor | None) -> Tensor:
    """h (G - H) / size; with regions sum_r m_r h (G_r - H_r) / size_r, G_r as in `region_grams`."""
    if regions is None:
        return (gram_correction(h, target) / size.view(-1, 1, 1, 1)).to(h)
    masks = F.interpolate(regions[None].to(h), h.shape[-2:], mode="area")[0]
    weights = regions.mean((1, 2)) / regions.mean((1, 2)).sum()
    total = torch.zeros_like(h)
    for weight, m, of_region, n in zip(weights, masks, target, size, strict=True):
        share = m.mean()  # the kernel's Gram matrix is over all pixels
        inside = gram_correction(h * m.sqrt(), (share * of_region)[None].to(target))
        total = total + weight / (share.square() * n) * m.sqrt() * inside
    return total.to(h)


def _emphasised(g: Tensor) -> Tensor:
    """g, and once more what of it is coarse."""
    coarse = F.avg_pool2d(g, _COARSE, ceil_mode=True, count_include_pad=False)
    return g + F.interpolate(coarse, g.shape[-2:], mode="bilinear", align_corners=False)


def _doubled(x: Tensor, like: Tensor) -> Tensor:
    """Every pixel four times; of an odd size, nothing in the last row or column."""
    x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    return F.pad(x, (0, like.shape[-1] - x.shape[-1], 0, like.shape[-2] - x.shape[-2]))
