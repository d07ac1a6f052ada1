"""VGG-19 at low rank: each convolution to a few channels, 3x3, and 1x1 from these to all.

Nothing is trained. Layer after layer the factors are those of a reduced rank regression: of what
VGG's convolution makes of VGG's features, by those that the layers before, of low rank already,
give (Zhang et al., "Accelerating Very Deep Convolutional Networks", arXiv:1505.06798, section 3,
before the ReLU). So the ReLUs pass nearly what VGG's pass, and gradients are like VGG's; features
that merely predict VGG's do not give those (docs/training-log.md, "Gradients as VGG's").
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..files import save_tensors
from ..images import list_images
from ..ops import gram
from ..progress import progress_bar
from ..vgg import VGG19, load_vgg19, low_rank, projected
from ..weights import load_solver
from .data import whole

RANKS = (0, 32, 48, 64, 80, 96, 96, 96, 128, 160)  # of conv1_1 ... conv4_2; 0 leaves it whole
KEPT = 256  # principal components of conv4_2
_PIXELS = 900  # of each picture
_RIDGE = 1e-4  # of the mean variance


@torch.no_grad()
def reduce_vgg(
    content: str | Path,
    style: str | Path,
    out: str | Path,
    *,
    weights: str | Path = "universal",
    ranks: Sequence[int] = RANKS,
    kept: int = KEPT,
    pictures: int = 90,
    size: int = 192,
    vgg: str | Path | None = None,
    licence: str = "",
) -> VGG19:
    """VGG-19 at low rank, written in 8 bits for `fastfcs.vgg.load_vgg19`, which reads it again.

    Features are scaled to a mean square of 1, so that Gram matrices fit in half types.

    Args:
        content, style: folders of pictures.
        out: a safetensors file.
        weights: of the network whose results are regressed on, too: the pictures are contents,
            styles, and contents restyled, in turn.
        ranks: of conv1_1 ... conv4_2; 0 leaves a convolution whole.
        kept: principal components of conv4_2, which only Gram matrices are made of.
        pictures, size: how many, and their longer side in pixels.
        vgg: see :func:`fastfcs.vgg.load_vgg19`.
        licence: kept in the file's header.

    Raises:
        ValueError: a folder without pictures.
    """
    full, reduced = load_vgg19(vgg), VGG19()
    wanted = [
        (x - full.mean) * full.scale for x in _pictures(content, style, weights, pictures, size)
    ]  # VGG's own features
    found = list(wanted)  # and those at low rank
    scale = torch.ones(())  # of these
    rank, rng = iter(ranks), torch.Generator().manual_seed(0)
    for index, _ in progress_bar(range(len(full.features)), 0, len(full.features), shown=True):
        layer = full.features[index]
        if isinstance(layer, nn.Conv2d):
            wanted = [layer(x) for x in wanted]
            if r := next(rank):
                layer = _regression(found, wanted, r, rng)
            else:
                layer = copy.deepcopy(layer)
                layer.weight.div_(scale)
            found = [layer(x) for x in found]
            scale = torch.stack([F.relu(y).square().mean() for y in found]).mean().rsqrt()
            found = [scale * y for y in found]
            for parameter in list(layer.parameters())[-2:]:
                parameter.mul_(scale)
            reduced.features[index] = layer
        else:
            wanted, found = ([layer(x) for x in features] for features in (wanted, found))
    components = _components(found, kept)
    last = projected(reduced.features[-1], *components.shape[1::-1])
    last.load_state_dict({"1.weight": components})
    reduced.features[-1] = last
    tensors = {"mean": full.mean, "scale": full.scale}
    for name, tensor in reduced.state_dict().items():
        tensors |= _in_8_bits(name, tensor) if tensor.dim() == 4 else {name: tensor}
    save_tensors(tensors, Path(out), {"format": "fastfcs VGG-19", "licence": licence})
    return load_vgg19(out)


def _pictures(
    content: str | Path, style: str | Path, weights: str | Path, count: int, size: int
) -> Iterator[Tensor]:
    """(1, 3, H, W) each, spread over the folders."""
    solver = load_solver(weights)
    folders = [list_images(content), list_images(style)]
    for k in range(count):
        photo, painting = (whole(f[k * len(f) // count], size) for f in folders)
        if k % 3 == 0:
            yield photo
        elif k % 3 == 1:
            yield painting
        else:
            yield solver(photo, solver.statistics(painting)).clamp(0, 1)


def _regression(
    inputs: Sequence[Tensor], wanted: Sequence[Tensor], rank: int, rng: torch.Generator
) -> nn.Sequential:
    """The convolution of that rank that makes the best of inputs (1, c, H, W) each."""
    moments = torch.zeros((), dtype=torch.float64)
    for x, y in zip(inputs, wanted, strict=True):
        chosen = torch.randperm(y[0, 0].numel(), generator=rng)[:_PIXELS]
        rows = torch.cat([F.unfold(x, 3, padding=1), y.flatten(2)], 1)[0, :, chosen]
        rows = F.pad(rows, (0, 0, 0, 1), value=1.0)
        moments = moments + (rows @ rows.mT).double()
    moments /= moments[-1, -1].clone()
    mean = moments[-1, :-1]
    covariance = moments[:-1, :-1] - torch.outer(mean, mean)
    channels, (outputs, width) = inputs[0].shape[1], (wanted[0].shape[1], 9 * inputs[0].shape[1])
    xx, xy = covariance[:width].split([width, outputs], 1)
    ridge = _RIDGE * xx.diagonal().mean() * torch.eye(width, dtype=xx.dtype)
    a = torch.linalg.solve(xx + ridge, xy)  # the best of full rank
    q = torch.linalg.eigh(a.mT @ xx @ a).eigenvectors[:, -rank:]  # where its results vary
    layer = low_rank(channels, rank, outputs)
    first, last = (a @ q).mT.view(rank, channels, 3, 3), q[..., None, None]
    bias = mean[width:] - q @ (q.mT @ (a.mT @ mean[:width]))
    layer.load_state_dict({"0.weight": first, "1.weight": last, "1.bias": bias})
    return layer


def _components(features: Iterable[Tensor], kept: int) -> Tensor:
    """Those of which Gram matrices keep most, (kept, c, 1, 1); every picture weighs the same."""
    grams = torch.stack([gram(h)[0] for h in features])
    grams = grams / grams.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
    return torch.linalg.eigh(grams.mean(0)).eigenvectors[:, -kept:].mT[..., None, None]


def _in_8_bits(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """As `fastfcs.vgg` reads it: codes, and the table of what they stand for.

    The table is finer near 0, as most weights are: the factors' range is up to 50 deviations.
    """
    u = torch.linspace(-1, 1, 256)
    table = tensor.abs().max() * u * u.abs()
    codes = torch.bucketize(tensor, (table[1:] + table[:-1]) / 2)
    return {f"{name}.codes": codes.byte(), f"{name}.table": table}
