"""The flexible convolutional solver (Puy and Pérez, arXiv:1806.05285): X <- P[X - g_t(X)]."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import region_grams
from .ops import gram, gram_correction

Constraint = Callable[[Tensor], Tensor]
Statistics = dict[str, Tensor]
"""H^s: one Gram matrix (B or 1, c_l, c_l) for each update t and level l, under the key "t.l"."""

_SLOPE = 0.2  # of every leaky ReLU
_LARGEST = 0.25  # |g_t|
_ADDED = 0.3  # by a residual convolution at the start, standard deviation
_DOUBLINGS = 3  # of the Neumann series in `_normalised_correction`
MIN_SIDE = 16


def _conv(inputs: int, outputs: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate", bias=bias)


class ForwardMaps(nn.ModuleList):
    """h_1, h_2, ...: the small trained stand-in for VGG, the same in every update.

    Each level is two convolutions, at half the resolution of the level before, and between them
    residual ones (He et al. 2016), x + leaky(conv(x)). The last channel of every level is the
    constant 1, and level 1 also carries the image itself: their Gram matrices thus hold means and,
    at level 1, the mean and covariance of the colours.
    """

    def __init__(self, channels: Sequence[int], residual: Sequence[int]) -> None:
        super().__init__()
        self.learned = [width - (1 if level else 4) for level, width in enumerate(channels)]
        for level, width in enumerate(channels):
            first = _conv(channels[level - 1] if level else 3, width, bias=True)
            last = _conv(width, self.learned[level], bias=True)
            between = [_conv(width, width, bias=True) for _ in range(residual[level])]
            self.append(nn.ModuleList([first, last, *between]))

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features h_l (B, c_l, H / 2^(l-1), W / 2^(l-1)), sizes rounded up, of (B, 3, H, W).

        And where each leaky ReLU between a level's convolutions let everything pass, in turn.
        """
        centred = 2 * image - 1
        x, features, passed = centred, [], []
        for level, convs in enumerate(self):
            if level:
                x = F.leaky_relu(x, _SLOPE)
                x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
            x = F.leaky_relu_(convs[0](x), _SLOPE)  # type: ignore[index]
            passed.append(x > 0)
            for conv in convs[2:]:  # type: ignore[index]
                added = F.leaky_relu_(conv(x), _SLOPE)
                passed.append(added > 0)
                x = x + added
            x = convs[1](x)  # type: ignore[index]
            if level == 0:
                x = torch.cat([x, centred.to(x.dtype)], 1)
            x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
            features.append(x)
        return features, passed


class BackwardMaps(nn.ModuleList):
    """The mirror image of the forward maps, for one update: from corrections to g_t.

    They are gated as a gradient is: where the forward maps' leaky ReLUs passed a fifth, so do
    these. Without the gates level 4 hardly learned (docs/training-log.md). Residual convolutions
    have no mirror image of their own: through them goes the gradient itself. There is no bias, so
    that g_t = 0 where every Gram matrix is the style's.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for below, width in pairwise([3, *channels]):
            convs = _conv(width, width, bias=False), _conv(width, below, bias=False)
            self.append(nn.ModuleList(convs))

    def forward(
        self,
        features: list[Tensor],
        passed: list[Tensor],
        correct: Callable[[Tensor, int], Tensor],
        forward_maps: ForwardMaps,
    ) -> Tensor:
        """g_t (B, 3, H, W), deepest level first, each level adding correct(h_l, l).

        Values stay within +-0.25: X may otherwise run away from one update to the next. Both lists
        are emptied, so that memory is given back on the way.
        """
        g: Tensor | None = None
        for level, convs in reversed(list(enumerate(self))):
            h = features.pop()
            x = correct(h, level)
            if g is not None:
                g = F.interpolate(g, x.shape[-2:], mode="bilinear", align_corners=False)
                x = x + _gated(g, h > 0)
            del h
            g = None
            x = convs[0](x)  # type: ignore[index]
            for conv in reversed(forward_maps[level][2:]):  # type: ignore[index]
                x = x + F.conv_transpose2d(_gated(x, passed.pop()), conv.weight, padding=1)
            g = convs[1](_gated(x, passed.pop()))  # type: ignore[index]
        assert g is not None
        return _LARGEST * torch.tanh(g)


def _gated(g: Tensor, passed: Tensor) -> Tensor:
    """The gradient before a leaky ReLU from that behind it."""
    return torch.where(passed, g, _SLOPE * g)


def _standardise(conv: nn.Conv2d, _: object, out: Tensor, std: float = 1.0) -> Tensor:
    """That mean 0 and deviation for each output channel of a convolution that has just run."""
    found, mean = torch.std_mean(out, (0, 2, 3))
    scale = std / found
    conv.weight *= scale.view(-1, 1, 1, 1)
    assert conv.bias is not None
    conv.bias.copy_((conv.bias - mean) * scale)
    return (out - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1)


def _normalised_correction(h: Tensor, target: Tensor) -> Tensor:
    """h (G - H) P, where G = h^T h / n and P is an approximate inverse of G + H.

    The raw correction is cubic in h and explodes in training; divided by tr(G + H) it is bounded,
    but features that vary little hardly move. Newton's method would divide each direction by its
    own size. P does where that is an eighth of the trace or more, and goes to eight times 1 / trace
    where it is less: a Neumann series in A = (G + H) / tr(G + H), whose eigenvalues are in [0, 1],

        P tr(G + H) = sum_{j < 8} (I - A)^j = (I + R) (I + R^2) (I + R^4),   R = I - A

    Of products alone, so that a CUDA graph can hold it. The kernel, which makes h (G - H'), is
    given H' = G - (G - H) P: what it writes is bounded in half types as well.
    """
    with torch.autocast(h.device.type, enabled=False):
        g = gram(h)
        a = g + target
        trace = a.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
        residual = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - a / trace
        moved = (g - target) / trace
        for _ in range(_DOUBLINGS):
            moved = moved + moved @ residual
            residual = residual @ residual
        return gram_correction(h, g - moved)


def _correction_by_region(h: Tensor, targets: Tensor, regions: Tensor) -> Tensor:
    """sum_r m_r times the normalised correction of the features inside region r; h (1, c, H, W)."""
    masks = F.interpolate(regions[None].to(h), h.shape[-2:], mode="area")[0]
    total = torch.zeros_like(h)
    for m, target in zip(masks, targets, strict=True):
        share = m.mean()
        inside = h * (m / share).sqrt()  # its Gram matrix is the region's
        total += (m * share).sqrt() * _normalised_correction(inside, target[None])
    return total


def _shifted(content: Tensor, targets: Tensor, regions: Tensor | None) -> Tensor:
    """The content moved to its style's mean colour as a whole, or each region to its own's.

    H^s of level 1 holds that mean: the last features there are the image and the constant 1.
    """
    last = targets.select(2, -1)
    _, colour, constant = last.split((last.shape[1] - 4, 3, 1), 1)
    masks = content.new_ones(1, 1, 1, 1) if regions is None else regions.unsqueeze(1).to(content)
    before = (masks * content).mean((2, 3)) / masks.mean((2, 3))
    moves = masks * ((1 + colour / constant) / 2 - before).to(content).view(-1, 3, 1, 1)
    return content + (moves if regions is None else moves.sum(0, keepdim=True))


class UnrolledSolver(nn.Module):
    """N learned updates X <- P[X - g_t(X)], t = 0 .. N-1, from X = content.

    Args:
        updates: N.
        channels: features of each level of the forward maps, finest first, fixed ones included.
        residual: convolutions of each level beside its two, by default none.

    Raises:
        ValueError: as many residual as levels are wanted.
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
            raise ValueError(f"residual must be a number for each of {channels}, not {residual}")
        self.architecture: dict[str, Any] = {"updates": updates, "channels": list(channels)}
        if any(residual):
            self.architecture["residual"] = residual
        self.forward_maps = ForwardMaps(channels, residual)
        self.backward_maps: Sequence[BackwardMaps] = nn.ModuleList(  # type: ignore[assignment]
            BackwardMaps(channels) for _ in range(updates)
        )

    @torch.no_grad()
    def initialise(
        self,
        content: Tensor,
        style: Tensor,
        teach: Callable[[ForwardMaps], None] = lambda maps: None,
    ) -> None:
        """Start from a gradient: of the Gram loss of random features, images (B, 3, H, W).

        Every feature of the forward maps gets mean 0 and variance 1 on the contents (Mishkin and
        Matas 2016), so that Gram matrices are of correlations, and no channel is dead; what a
        residual convolution adds gets less, with which it learns faster. The backward maps begin as
        the forward maps transposed, plus noise, and g_t with a root mean square of 0.03. Several
        contents are needed, or the deepest level has too few pixels for a variance. ``teach`` may
        train the forward maps before the backward maps are made of them.
        """
        for conv in _convolutions(self):
            nn.init.kaiming_normal_(conv.weight)
        adding = partial(_standardise, std=_ADDED)
        hooks = [
            conv.register_forward_hook(_standardise if k < 2 else adding)
            for level in self.forward_maps
            for k, conv in enumerate(_convolutions(level))
        ]
        self.forward_maps(content)
        for hook in hooks:
            hook.remove()
        with torch.enable_grad():
            teach(self.forward_maps)
        statistics = self.statistics(style)
        forward = [conv for level in self.forward_maps for conv in level[:2]]  # type: ignore[index]
        for t, maps in enumerate(self.backward_maps):
            backward = _convolutions(maps)
            for k, conv in enumerate(backward):
                mirror = forward[k ^ 1].weight.flip(2, 3).transpose(0, 1)
                mirror = mirror / mirror.square().sum((1, 2, 3)).mean().sqrt()
                conv.weight *= 0.2
                conv.weight[:, : mirror.shape[1]] += mirror
            for _ in range(3):  # most of g_t is at its bounds at first
                g = self.update(t, content, statistics)
                backward[1].weight *= 0.03 / g.square().mean().sqrt()

    def statistics(self, style: Tensor, regions: Tensor | None = None) -> Statistics:
        """H^s of style images (B, 3, H, W) in [0, 1]: the Gram matrices of the same forward maps.

        The counterpart of S_l^T S_l / n'_l in the true gradient; nothing else carries the style.
        Of one image with regions (R, H, W), masks in [0, 1], one H^s a region. They are the same
        for every update t; those that were tuned for one style are not.
        """
        _check_image("style", style)
        check_regions("style", style, regions)
        features = self.forward_maps(style)[0]
        found = [gram(h) if regions is None else region_grams(h, regions.to(h)) for h in features]
        updates = range(self.updates)
        return {f"{t}.{level}": h.clone() for t in updates for level, h in enumerate(found)}

    @property
    def updates(self) -> int:
        """N."""
        return len(self.backward_maps)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """What statistics hold: the key of each H^s and its (c_l, c_l)."""
        return {
            f"{t}.{level}": (width, width)
            for t in range(self.updates)
            for level, width in enumerate(self.architecture["channels"])
        }

    def fits(self, statistics: Statistics) -> bool:
        """Whether they have this network's updates, levels and channels."""
        return {key: tuple(h.shape[1:]) for key, h in statistics.items()} == self.shapes

    def update(
        self, t: int, image: Tensor, statistics: Statistics, regions: Tensor | None = None
    ) -> Tensor:
        """g_t(X) for X (B, 3, H, W), which mimics the gradient of the style loss; as `forward`."""
        features, passed = self.forward_maps(image)

        def correct(h: Tensor, level: int) -> Tensor:
            targets = statistics[f"{t}.{level}"]
            if regions is None:
                return _normalised_correction(h, targets)
            return _correction_by_region(h, targets, regions)

        g: Tensor = self.backward_maps[t](features, passed, correct, self.forward_maps)
        return g

    def forward(
        self,
        content: Tensor,
        statistics: Statistics,
        constraint: Constraint | None = None,
        regions: Tensor | None = None,
        *,
        shifted: bool = False,
    ) -> Tensor:
        """The restyled image, (B, 3, H, W), not clipped.

        Args:
            content: (B, 3, H, W) in [0, 1], H and W at least 16.
            statistics: H^s, of one style for all or one for each batch element.
            constraint: P, applied after every update; any callable X -> X of that shape.
            regions: masks (R, H, W) in [0, 1] of a single content, and then statistics are of R
                styles, one for each region (Luan et al. 2017). Where no mask is, nothing is asked.
            shifted: start not from the content but from `_shifted`. Constrained updates are too
                small for a style whose colours are far away (docs/training-log.md).

        Raises:
            ValueError: a content that is not such an image, statistics of another network, or masks
                that fit neither.
        """
        _check_image("content", content)
        if not self.fits(statistics):
            raise ValueError("statistics are of another network, with other updates or levels")
        check_regions("content", content, regions)
        if regions is not None and len(regions) != len(statistics["0.0"]):
            raise ValueError(
                f"regions must be as many as styles, not {len(regions)} and "
                f"{len(statistics['0.0'])}"
            )
        x = _shifted(content, statistics["0.0"], regions) if shifted else content
        for t in range(self.updates):
            x = x - self.update(t, x, statistics, regions)
            if constraint is not None:
                x = constraint(x)
        return x


def as_shown(image: Tensor) -> Tensor:
    """The image clipped to [0, 1]; the gradient passes as if it were not.

    Where it is clipped nothing would be learned otherwise.
    """
    return image + (image.clamp(0, 1) - image).detach()


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def _check_image(name: str, image: Tensor) -> None:
    if image.dim() != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < MIN_SIDE:
        raise ValueError(
            f"{name} must be (B, 3, H, W) with H and W at least {MIN_SIDE}, "
            f"not {tuple(image.shape)}"
        )


def check_range(name: str, image: Tensor) -> None:
    """Refuses values that are not in [0, 1]; on CUDA the host waits for them."""
    low, high = image.detach().aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name} must be finite and in [0, 1], not from {low:.4g} to {high:.4g}")


def check_regions(name: str, image: Tensor, regions: Tensor | None) -> None:
    """Refuses what is not masks (R, H, W) in [0, 1] of one image (1, 3, H, W)."""
    if regions is None:
        return
    if regions.dim() != 3 or (1, *regions.shape[1:]) != (len(image), *image.shape[2:]):
        raise ValueError(
            f"regions must be masks (R, H, W) of one {name} {tuple(image.shape)}, "
            f"not {tuple(regions.shape)}"
        )
    if regions.is_cuda:  # where looking would make the host wait
        return
    if not (regions.min() >= 0 and regions.max() <= 1 and (regions.amax((1, 2)) > 0).all()):
        raise ValueError("regions must be masks in [0, 1], none of them empty")


def save_solver(solver: UnrolledSolver, path: Path, facts: dict[str, str]) -> None:
    """Write weights; the safetensors header holds the architecture and ``facts`` on training.

    In float16, which halves the file and changes results by less than 8-bit images show.
    """
    facts = {"format": "fastfcs", "architecture": json.dumps(solver.architecture), **facts}
    halves = {name: tensor.half() for name, tensor in solver.state_dict().items()}
    save_tensors(halves, path, facts)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, facts: dict[str, str]) -> None:
    """Write a safetensors file with ``facts`` in its header: whole or not at all."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    partial.write_bytes(save(arrays, facts))
    partial.replace(path)


def weights_file(source: str | Path) -> Path:
    """``source`` if it is a file, else the weights shipped under that name.

    Raises:
        FileNotFoundError: neither.
    """
    shipped = Path(str(files("fastfcs"))) / "weights" / f"{source}.safetensors"
    for path in (Path(source), shipped):
        if path.is_file():
            return path
    names = sorted(p.stem for p in shipped.parent.glob("*.safetensors"))
    raise FileNotFoundError(
        f"weights must be a safetensors file or one of {names}, not {str(source)!r}"
    )


def load_solver(source: str | Path = "universal") -> UnrolledSolver:
    """The network of a safetensors file, or of the weights shipped under that name; in eval mode.

    Raises:
        FileNotFoundError: neither a file nor shipped weights.
        ValueError: a file that is not fastfcs weights.
    """
    from safetensors import SafetensorError, safe_open

    path = weights_file(source)
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        with torch.device("meta"):  # no random initialisation that would be thrown away
            solver = UnrolledSolver(**json.loads(facts["architecture"]))
        solver.load_state_dict(state, assign=True)
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"weights: {path} does not hold a fastfcs network") from error
    return solver.eval()
