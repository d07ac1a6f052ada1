"""VGG-19 at low rank: each convolution becomes a 3x3 one to few channels and a 1x1 one to all.

Nothing is trained. Layer by layer, a reduced-rank regression predicts the response of VGG's
convolution to VGG's features from the features that the preceding low-rank layers compute (Zhang et
al., "Accelerating Very Deep Convolutional Networks", arXiv:1505.06798, section 3, before the ReLU).
The ReLUs are therefore active nearly where VGG's are, and gradients resemble VGG's; features that
merely predict VGG's do not have such gradients (docs/training-log.md, "Gradients as VGG's").
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..images import list_images
from ..ops import gram
from ..progress import progress_bar
from ..vgg import VGG19, load_vgg19, low_rank, projected, save_vgg19
from ..weights import load_solver
from .data import read_pixels

RANKS = (0, 32, 48, 64, 80, 96, 96, 96, 128, 160)
"""Ranks of conv1_1 ... conv4_2; 0 leaves a convolution whole."""
COMPONENTS = 256
"""Number of principal components of conv4_2."""
LICENCE = "CC BY 4.0 (VGG-19, Simonyan and Zisserman)"

_PIXELS = 900  # sampled per picture
_RIDGE = 1e-4  # relative to the mean variance


@torch.no_grad()
def reduce_vgg(
    content: str | Path,
    style: str | Path,
    out: str | Path,
    *,
    weights: str | Path = "universal",
    ranks: Sequence[int] = RANKS,
    components: int = COMPONENTS,
    pictures: int = 90,
    size: int = 192,
    vgg: str | Path | None = None,
    shown: bool = True,
) -> VGG19:
    """Approximate VGG-19 at low rank and write it in 8 bits for `fastfcs.vgg.load_vgg19`.

    Features are scaled to a mean square of 1, so that Gram matrices fit in half types.

    Args:
        content, style: folders of pictures.
        out: the safetensors file to write.
        weights: weights of the network that restyles every third picture: the pictures are
            contents, styles and restyled contents, in turn.
        ranks: ranks of conv1_1 ... conv4_2; 0 leaves a convolution whole.
        components: number of principal components of conv4_2, of which only Gram matrices are used.
        pictures: number of pictures.
        size: longer side of the pictures in pixels.
        vgg: see `fastfcs.vgg.load_vgg19`.
        shown: whether progress is shown.

    Returns:
        The approximation, as read from the file.

    Raises:
        ValueError: a folder contains no pictures, or a file is not a picture.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fastfcs.training.low_rank import reduce_vgg
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for k in range(2):
        ...     Image.effect_noise((24, 16), 50).convert("RGB").save(folder / f"{k}.png")
        >>> options = dict(ranks=(0, 8, 0, 0, 0, 0, 0, 0, 0, 0), components=16, pictures=2)
        >>> reduced = reduce_vgg(folder, folder, folder / "x.safetensors", shown=False, **options)
        >>> [tuple(conv.weight.shape) for conv in reduced.features[2]]
        [(8, 64, 3, 3), (64, 8, 1, 1)]
    """
    full, reduced = load_vgg19(vgg), VGG19()
    images = _pictures(content, style, weights, pictures, size)
    targets = [(x - full.mean) * full.scale for x in images]  # VGG's own features
    features = list(targets)  # those of the low-rank layers
    scale = torch.ones(())  # scale of `features` relative to `targets`
    remaining, rng = iter(ranks), torch.Generator().manual_seed(0)
    for index, _ in progress_bar(range(len(full.features)), 0, len(full.features), shown):
        layer = full.features[index]
        if not isinstance(layer, nn.Conv2d):
            targets, features = ([layer(x) for x in xs] for xs in (targets, features))
            continue
        targets = [layer(x) for x in targets]
        if rank := next(remaining):
            layer = _regression(features, targets, rank, rng)
        else:
            layer = copy.deepcopy(layer)
            layer.weight.div_(scale)
        features = [layer(x) for x in features]
        scale = torch.stack([F.relu(y).square().mean() for y in features]).mean().rsqrt()
        features = [scale * y for y in features]
        for parameter in list(layer.parameters())[-2:]:
            parameter.mul_(scale)
        reduced.features[index] = layer
    directions = _components(features, components)
    last = projected(reduced.features[-1], *directions.shape[1::-1])
    last.load_state_dict({"1.weight": directions})
    reduced.features[-1] = last
    tensors = {**reduced.state_dict(), "mean": full.mean, "scale": full.scale}
    save_vgg19(tensors, out, {"format": "fastfcs VGG-19", "licence": LICENCE})
    return load_vgg19(out)


def _pictures(
    content: str | Path, style: str | Path, weights: str | Path, count: int, size: int
) -> Iterator[Tensor]:
    """Contents, styles and results in turn, (1, 3, H, W) each, spread over the folders."""
    solver = load_solver(weights)
    folders = [list_images(content), list_images(style)]
    for k in range(count):
        photo, painting = (_thumbnail(files[k * len(files) // count], size) for files in folders)
        if k % 3 == 0:
            yield photo
        elif k % 3 == 1:
            yield painting
        else:
            yield solver(photo, solver.statistics(painting)).clamp(0, 1)


def _thumbnail(file: Path, size: int) -> Tensor:
    """A picture (1, 3, H, W), reduced by Pillow like the pictures for the file that ships."""
    image = Image.fromarray(read_pixels(file).permute(1, 2, 0).numpy())
    image.thumbnail((size, size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def _regression(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], rank: int, rng: torch.Generator
) -> nn.Sequential:
    """Fit the best convolution of a rank: inputs and targets are (1, c, H, W), one per picture."""
    moments = torch.zeros((), dtype=torch.float64)
    for x, y in zip(inputs, targets, strict=True):
        pixels = torch.randperm(y[0, 0].numel(), generator=rng)[:_PIXELS]
        rows = torch.cat([F.unfold(x, 3, padding=1), y.flatten(2)], 1)[0, :, pixels]
        rows = F.pad(rows, (0, 0, 0, 1), value=1.0)
        moments = moments + (rows @ rows.mT).double()
    moments /= moments[-1, -1].clone()
    mean = moments[-1, :-1]
    covariance = moments[:-1, :-1] - torch.outer(mean, mean)
    channels, outputs = inputs[0].shape[1], targets[0].shape[1]
    width = 9 * channels
    xx, xy = covariance[:width, :width], covariance[:width, width:]
    ridge = _RIDGE * xx.diagonal().mean() * torch.eye(width, dtype=xx.dtype)
    a = torch.linalg.solve(xx + ridge, xy)  # the full-rank solution
    q = torch.linalg.eigh(a.mT @ xx @ a).eigenvectors[:, -rank:]  # where its outputs vary most
    layer = low_rank(channels, rank, outputs)
    first, last = (a @ q).mT.view(rank, channels, 3, 3), q[..., None, None]
    bias = mean[width:] - q @ (q.mT @ (a.mT @ mean[:width]))
    layer.load_state_dict({"0.weight": first, "1.weight": last, "1.bias": bias})
    return layer


def _components(features: Iterable[Tensor], count: int) -> Tensor:
    """Principal components of the mean Gram matrix, pictures weighted equally: (k, c, 1, 1)."""
    grams = torch.stack([gram(h)[0] for h in features])
    grams = grams / grams.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
    vectors: Tensor = torch.linalg.eigh(grams.mean(0)).eigenvectors
    return vectors[:, -count:].mT[..., None, None]
