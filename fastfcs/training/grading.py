"""Training of `fastfcs.grading` on known edits.

A photograph is cut in two, and edited at random. One half is the content. Of the other one only the
appearance after the edit is shown, as that of a style. What the edit makes of the content is to be
found. The halves show much the same, so that they differ by the edit above all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..grading import Appearance, Grading, save_grading
from ..images import list_images
from ..losses import luma
from ..progress import progress_bar
from ..pyramid import FIRST, resize
from ..refinement import Refinement
from .data import read_pixels

_BATCH = 128
_COLOURS = 256  # of a content, at which edits are compared
_GREY = 0.05  # share of the edits that take away most of the colour
_NOISE = 1e-3  # added to mean squares of errors, of which less is hardly visible


def train_grading(
    content: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    edits: int = 16,
    steps: int = 8000,
    components: int = 48,
    lr: float = 2e-3,
    seed: int = 0,
    shown: bool = True,
) -> Grading:
    """Train a grading and write it to a file.

    Args:
        content: a folder of photographs, or a list of files.
        out: the safetensors file to write.
        edits: random edits for every half of a photograph.
        steps: number of steps.
        components: see `Grading`; at most the number of samples.
        lr: the highest learning rate.
        seed: of all random choices.
        shown: whether progress is shown.

    Returns:
        The grading, in eval mode.

    Raises:
        ValueError: the folder contains no pictures, or a file is not a picture.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fastfcs.training.grading import train_grading
        >>> import tempfile
        >>> photo = Path(tempfile.mkdtemp()) / "photo.png"
        >>> Image.effect_noise((48, 32), 50).convert("RGB").save(photo)
        >>> options = dict(edits=2, steps=2, components=4, shown=False)
        >>> train_grading([photo], photo.with_suffix(".safetensors"), **options).training
        False
    """
    photos = list_images(content) if isinstance(content, (str, Path)) else [*map(Path, content)]
    generator = torch.Generator().manual_seed(seed)
    found = list(_samples(photos, edits, generator, shown))
    samples = [torch.cat(column) for column in zip(*found, strict=True)]
    torch.manual_seed(seed)  # of the layers and their dropout
    energies = samples[-1]
    grading = Grading(energies.shape[1], components)
    grading.fit_components(energies)
    optimizer = torch.optim.AdamW(grading.parameters(), lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _, report in progress_bar(range(steps), 0, steps, shown):
        chosen = torch.randint(len(energies), (_BATCH,), generator=generator)
        colours, edited, *appearances = (column[chosen] for column in samples)
        before, after = Appearance(*appearances[:3]), Appearance(*appearances[3:])
        colours, edited = (each.float() / 255 for each in (colours, edited))
        error = (colours + grading(colours, before, after) - edited).square().mean((1, 2))
        # A geometric mean, or edits that can hardly be guessed would outweigh the others.
        loss = (error + _NOISE).log().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(grading.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report({"loss": loss.item()})
    save_grading(grading.eval(), out)
    return grading


def random_edits(colours: Tensor, generator: torch.Generator) -> Tensor:
    """Edit photographs as in a photo editor, each at random.

    Args:
        colours: (B, n, 3), RGB in [0, 1].
        generator: of random numbers.

    Returns:
        The colours after brightness, white balance, fading, saturation, contrast, a mixing of the
        channels, and tints of shadows and lights: (B, n, 3) in [0, 1].

    Examples:
        >>> import torch
        >>> from fastfcs.training.grading import random_edits
        >>> random_edits(torch.rand(2, 10, 3), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 10, 3])
    """

    def normal(deviation: float, *shape: int) -> Tensor:
        return deviation * torch.randn(len(colours), *shape, generator=generator)

    x = colours ** normal(0.35, 1, 1).exp()
    x = (x * normal(0.1, 1, 3).exp() + normal(0.03, 1, 3)).clamp(0, 1)
    mixing = torch.eye(3) + normal(0.04, 3, 3)
    x = x @ (mixing / mixing.sum(1, keepdim=True))
    y = luma(x, 2)
    saturation = normal(0.3, 1, 1).exp()
    is_grey = torch.rand(len(colours), 1, 1, generator=generator) < _GREY
    saturation = torch.where(is_grey, normal(0.15, 1, 1).abs(), saturation)
    contrast = normal(0.06, 1, 1) * (2 * math.pi * y).sin()
    tints = normal(0.04, 1, 3) * (1 - y).square() + normal(0.04, 1, 3) * y.square()
    return (y + contrast + saturation * (x - y) + tints).clamp(0, 1)


@torch.no_grad()
def _samples(
    photos: Sequence[Path], edits: int, generator: torch.Generator, shown: bool
) -> Iterator[tuple[Tensor, ...]]:
    """For every half: colours before and after the edits in 8 bits, and the two appearances."""
    maps = Refinement()
    for index, _ in progress_bar(range(len(photos)), 0, len(photos), shown):
        halves = _halves(read_pixels(photos[index])[None].float() / 255)
        for content, style in (halves, halves.flip(0)):
            both = torch.stack([content, style]).flatten(2).mT.reshape(1, -1, 3)
            edited = random_edits(both.expand(edits, -1, -1), generator)
            of_content, of_style = edited.chunk(2, 1)
            before = _appearance(content[None], maps)
            after = _appearance(of_style.mT.unflatten(2, style.shape[1:]), maps)
            chosen = torch.randint(of_content.shape[1], (_COLOURS,), generator=generator)
            colours = both[:, chosen].expand(edits, -1, -1)
            yield (
                *((255 * each).round().byte() for each in (colours, of_content[:, chosen])),
                *(part.expand(edits, *part.shape[1:]) for part in before),
                *after,
            )


def _halves(photo: Tensor) -> Tensor:
    """Cut (1, 3, H, W) across its longer side into (2, 3, h, w), at a style's first scale."""
    dim = 2 if photo.shape[2] > photo.shape[3] else 3
    half = photo.shape[dim] // 2
    halves = torch.cat([photo.narrow(dim, 0, half), photo.narrow(dim, half, half)])
    scale = FIRST / max(halves.shape[2:])
    return resize(halves, [round(scale * side) for side in halves.shape[2:]]).clamp(0, 1)


def _appearance(pictures: Tensor, maps: Refinement) -> Appearance:
    colours = pictures.flatten(2)
    covariance = torch.stack([each.cov(correction=0) for each in colours])
    grams = maps.statistics(pictures).vgg
    energies = torch.cat([h.diagonal(dim1=1, dim2=2) for h in grams], 1)
    return Appearance(colours.mean(2), covariance, energies)
