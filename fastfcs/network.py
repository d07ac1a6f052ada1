"""The flexible convolutional solver (Puy and Pérez, arXiv:1806.05285): X <- P[X - g_t(X)]."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
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
MIN_SIDE = 16  # three halvings leave two pixels, as many as a reflected border needs


def _conv(inputs: int, outputs: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect", bias=bias)


class Update(nn.Module):
    """One learned update g_t, which mimics the gradient of the style loss at X.

    Forward maps h_1, h_2, ... stand in for VGG, each level at half the resolution of the one
    before; each level's features are corrected by h (h^T h / n - H^s); the backward maps mirror
    the forward maps, deepest level first, each adding its level's correction, down to 3 channels.

    The last channel of every level is the constant 1, and level 1 also carries the image itself:
    their Gram matrices thus hold means and, at level 1, the mean and covariance of the colours.
    The backward maps have no bias, so that g_t = 0 where every Gram matrix is the style's.
    Values of g_t stay within +-0.25: X may otherwise run away from one update to the next.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.analysis = nn.ModuleList()  # the forward maps
        self.synthesis = nn.ModuleList()  # the backward maps
        below = 3
        for level, width in enumerate(channels):
            fixed = 4 if level == 0 else 1
            self.analysis.append(
                nn.Sequential(
                    _conv(below, width, bias=True),
                    nn.LeakyReLU(_SLOPE, inplace=True),
                    _conv(width, width - fixed, bias=True),
                )
            )
            self.synthesis.append(
                nn.Sequential(
                    _conv(width, width, bias=False),
                    nn.LeakyReLU(_SLOPE, inplace=True),
                    _conv(width, below, bias=False),
                )
            )
            below = width

    @torch.no_grad()
    def initialise(self, content: Tensor, style: Tensor) -> None:
        """Start from a gradient: of the Gram loss of random features, images (B, 3, H, W).

        Every feature of the forward maps gets mean 0 and variance 1 on the contents (Mishkin and
        Matas 2016), so that Gram matrices are of correlations, and no channel is dead. The backward
        maps begin as the forward maps transposed, plus noise, and g_t with a root mean square of
        0.03. (From torch's own initialisation the style loss starts at 0.5 instead of 0.35, and
        levels 3 and 4 still did next to nothing after 3000 steps.)
        """
        forward = [m for m in self.analysis.modules() if isinstance(m, nn.Conv2d)]
        backward = [m for m in self.synthesis.modules() if isinstance(m, nn.Conv2d)]
        for conv in forward + backward:
            nn.init.kaiming_normal_(conv.weight)
        hooks = [conv.register_forward_hook(_standardise) for conv in forward]
        self.features(content)
        for hook in hooks:
            hook.remove()
        for k, conv in enumerate(backward):
            mirror = forward[k ^ 1].weight.flip(2, 3).transpose(0, 1)
            mirror = mirror / mirror.square().sum((1, 2, 3)).mean().sqrt()
            conv.weight *= 0.2
            conv.weight[:, : mirror.shape[1]] += mirror
        g = self(content, [gram(h) for h in self.features(style)])
        backward[1].weight *= 0.03 / g.square().mean().sqrt()

    def features(self, image: Tensor) -> list[Tensor]:
        """h_1, h_2, ...: (B, c_l, H / 2^(l-1), W / 2^(l-1)), sizes rounded up."""
        centred = 2 * image - 1
        x, found = centred, []
        for level, maps in enumerate(self.analysis):
            if level:
                x = F.leaky_relu(x, _SLOPE)
                x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
            x = maps(x)
            if level == 0:
                x = torch.cat([x, centred.to(x.dtype)], 1)
            x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
            found.append(x)
        return found

    def forward(
        self, image: Tensor, targets: list[Tensor], regions: Tensor | None = None
    ) -> Tensor:
        """g_t(X) for X (B, 3, H, W); targets are H^s of each level, (B or 1, c_l, c_l).

        With regions (R, H, W) B is 1, and targets are those of each region, (R, c_l, c_l).
        """
        features = self.features(image)
        g: Tensor | None = None
        for level in reversed(range(len(features))):
            if regions is None:
                x = _normalised_correction(features.pop(), targets[level])
            else:
                x = _correction_by_region(features.pop(), targets[level], regions)
            if g is not None:
                x = x + F.interpolate(g, x.shape[-2:], mode="bilinear", align_corners=False)
            g = self.synthesis[level](x)
            if level:
                g = F.leaky_relu_(g, _SLOPE)
        assert g is not None
        return _LARGEST * torch.tanh(g)


def _standardise(conv: nn.Conv2d, _: object, out: Tensor) -> Tensor:
    """Mean 0 and variance 1 for each output channel of a convolution that has just run."""
    std, mean = torch.std_mean(out, (0, 2, 3))
    conv.weight /= std.view(-1, 1, 1, 1)
    assert conv.bias is not None
    conv.bias.copy_((conv.bias - mean) / std)
    return (out - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def _normalised_correction(h: Tensor, target: Tensor) -> Tensor:
    """h (h^T h / n - H) / (tr(h^T h / n) + tr(H)).

    The raw correction is cubic in h and explodes in training.
    """
    n = h.shape[-2] * h.shape[-1]
    trace = torch.linalg.vector_norm(h, dim=(1, 2, 3), dtype=target.dtype).square() / n
    trace = trace + target.diagonal(dim1=1, dim2=2).sum(1)
    return gram_correction(h, target) / trace.view(-1, 1, 1, 1).to(h.dtype)


def _correction_by_region(h: Tensor, targets: Tensor, regions: Tensor) -> Tensor:
    """sum_r m_r times the normalised correction of the features inside region r; h (1, c, H, W)."""
    masks = F.interpolate(regions[None].to(h), h.shape[-2:], mode="area")[0]
    total = torch.zeros_like(h)
    for m, target in zip(masks, targets, strict=True):
        share = m.mean()
        inside = h * (m / share).sqrt()  # its Gram matrix is the region's
        total += (m * share).sqrt() * _normalised_correction(inside, target[None])
    return total


class UnrolledSolver(nn.Module):
    """N learned updates X <- P[X - g_t(X)], t = 0 .. N-1, from X = content.

    Args:
        updates: N.
        channels: features of each level of the forward maps, finest first, fixed ones included.
    """

    def __init__(self, updates: int = 4, channels: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {"updates": updates, "channels": list(channels)}
        self.updates: Sequence[Update] = nn.ModuleList(  # type: ignore[assignment]
            Update(tuple(channels)) for _ in range(updates)
        )

    def statistics(self, style: Tensor, regions: Tensor | None = None) -> Statistics:
        """H^s of style images (B, 3, H, W) in [0, 1]: the Gram matrices of the same forward maps.

        The counterpart of S_l^T S_l / n'_l in the true gradient; nothing else carries the style.
        Of one image with regions (R, H, W), masks in [0, 1], one H^s a region.
        """
        _check_image("style", style)
        check_regions("style", style, regions)
        return {
            f"{t}.{level}": gram(h) if regions is None else region_grams(h, regions.to(h))
            for t, update in enumerate(self.updates)
            for level, h in enumerate(update.features(style))
        }

    def forward(
        self,
        content: Tensor,
        statistics: Statistics,
        constraint: Constraint | None = None,
        regions: Tensor | None = None,
    ) -> Tensor:
        """The restyled image, (B, 3, H, W), not clipped.

        Args:
            content: (B, 3, H, W) in [0, 1], H and W at least 16.
            statistics: H^s, of one style for all or one for each batch element.
            constraint: P, applied after every update; any callable X -> X of that shape.
            regions: masks (R, H, W) in [0, 1] of a single content, and then statistics are of R
                styles, one for each region (Luan et al. 2017). Where no mask is, nothing is asked.

        Raises:
            ValueError: a content that is not such an image, statistics of another network, or masks
                that fit neither.
        """
        _check_image("content", content)
        levels = range(len(self.architecture["channels"]))
        if statistics.keys() != {f"{t}.{k}" for t in range(len(self.updates)) for k in levels}:
            raise ValueError("statistics are of another network, with other updates or levels")
        check_regions("content", content, regions)
        if regions is not None and len(regions) != len(statistics["0.0"]):
            raise ValueError(
                f"regions must be as many as styles, not {len(regions)} and "
                f"{len(statistics['0.0'])}"
            )
        x = content
        for t, update in enumerate(self.updates):
            x = x - update(x, [statistics[f"{t}.{k}"] for k in levels], regions)
            if constraint is not None:
                x = constraint(x)
        return x


def _check_image(name: str, image: Tensor) -> None:
    if image.dim() != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < MIN_SIDE:
        raise ValueError(
            f"{name} must be (B, 3, H, W) with H and W at least {MIN_SIDE}, "
            f"not {tuple(image.shape)}"
        )


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
    """Write weights; the safetensors header holds the architecture and ``facts`` on training."""
    facts = {"format": "fastfcs", "architecture": json.dumps(solver.architecture), **facts}
    save_tensors(solver.state_dict(), path, facts)


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
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.device("meta"):  # no random initialisation that would be thrown away
            solver = UnrolledSolver(**json.loads(facts["architecture"]))
        solver.load_state_dict(state, assign=True)
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"weights: {path} does not hold a fastfcs network") from error
    return solver.eval()
