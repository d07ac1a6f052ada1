"""Training of `fastfcs.grading` on known edits.

A photograph is cut in two, and edited at random. One half is the content. Of the other half,
the style, the network sees the appearance after the edit alone, and has to tell what the edit makes
of the content. The halves show much the same, so that they differ by the edit above all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..delta_e import from_lab, to_lab
from ..grading import Appearance, Grading, energies_of, save_grading
from ..images import list_images
from ..losses import luma
from ..progress import progress_bar
from ..pyramid import reductions
from ..refinement import Refinement
from ..stylizer import mirrored
from .data import read_pixels

_BATCH = 128
_COLOURS = 256  # of a content, at which edits are compared
_CROPPED = 0.5  # share of the samples that show a part of their photograph
_GREY = 0.05  # share of the edits that take away most of the colour
_NOISE = 1e-3  # added to mean squares of errors, of which less is hardly visible


def train_grading(
    content: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    crops: int = 16,
    steps: int = 6000,
    components: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
    shown: bool = True,
) -> Grading:
    """Train a grading and write it to a file.

    Args:
        content: a folder of photographs, or a list of files.
        out: the safetensors file to write.
        crops: random parts of every photograph; each gives two samples.
        steps: number of steps.
        components: see `Grading`; below the number of samples.
        lr: the highest learning rate.
        seed: of all random choices.
        shown: whether progress is shown.

    Returns:
        The grading, in eval mode.

    Raises:
        ValueError: there are no pictures, a file is not a picture, or there are as many components
            as samples.
        OSError: the file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fastfcs.training.grading import train_grading
        >>> import tempfile
        >>> photo = Path(tempfile.mkdtemp()) / "photo.png"
        >>> Image.effect_noise((48, 32), 50).convert("RGB").save(photo)
        >>> options = dict(crops=3, steps=2, components=4, shown=False)
        >>> train_grading([photo], photo.with_suffix(".safetensors"), **options).training
        False
    """
    photos = list_images(content) if isinstance(content, (str, Path)) else [*map(Path, content)]
    if components >= 2 * crops * len(photos):
        raise ValueError(
            f"components must be below the number of samples, {2 * crops * len(photos)}, "
            f"got {components}"
        )
    generator = torch.Generator().manual_seed(seed)
    found = list(_samples(photos, crops, generator, shown))
    samples = [torch.cat(column) for column in zip(*found, strict=True)]
    torch.manual_seed(seed)  # of the layers and their dropout
    energies = samples[-1]
    grading = Grading(energies.shape[1], components)
    grading.fit_components(energies)
    optimizer = torch.optim.AdamW(grading.parameters(), lr, weight_decay=0.2)
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
        The colours after changes of brightness, white balance, black point, saturation, contrast
        and the tint of the lights, half of them also of the channels' mixture and the tint of the
        shadows: (B, n, 3) in [0, 1].

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
    # Half of the edits are rare ones, too.
    rare = (torch.rand(len(colours), 1, 1, generator=generator) < 0.5).to(x)
    mixing = torch.eye(3) + rare * normal(0.04, 3, 3)
    x = x @ (mixing / mixing.sum(-2, keepdim=True))  # greys stay grey
    y = luma(x, 2)
    tints = normal(0.04, 1, 3) * (1 - y).square() + normal(0.04, 1, 3) * y.square()
    lab = to_lab((x + rare * tints).clamp(0, 1))
    lightness, chroma = lab.split([1, 2], 2)
    saturation = normal(0.3, 1, 1).exp()
    is_grey = torch.rand(len(colours), 1, 1, generator=generator) < _GREY
    saturation = torch.where(is_grey, normal(0.15, 1, 1).abs(), saturation)
    contrast = normal(6.0, 1, 1) * (math.tau * lightness / 100).sin()
    cast = normal(0.04, 1, 2) * lightness
    return from_lab(
        torch.cat([(lightness + contrast).clamp(0, 100), saturation * chroma + cast], 2)
    )


@torch.no_grad()
def _samples(
    photos: Sequence[Path], crops: int, generator: torch.Generator, shown: bool
) -> Iterator[tuple[Tensor, ...]]:
    """Colours before and after an edit in 8 bits, and the two appearances, of halves of crops."""
    maps = Refinement()
    for index, _ in progress_bar(range(len(photos)), 0, len(photos), shown):
        photo = read_pixels(photos[index])[None].float() / 255
        for _ in range(crops):
            halves = _halves(_crop(photo, generator))
            contents = halves.flatten(2).mT
            both = torch.cat([contents, contents.flip(0)], 1)
            of_contents, of_styles = random_edits(both, generator).chunk(2, 1)
            before = _appearance(halves, maps)
            after = _appearance(of_styles.mT.unflatten(2, halves.shape[2:]), maps)
            chosen = torch.randint(contents.shape[1], (_COLOURS,), generator=generator)
            colours = (255 * each[:, chosen] for each in (contents, of_contents))
            yield (*(each.round().byte() for each in colours), *before, *after)


def _crop(photo: Tensor, generator: torch.Generator) -> Tensor:
    """All of (1, 3, H, W) or a random part, at least half as high and wide, perhaps mirrored.

    From the same halves over and over a grading would learn what the other ones show.
    """
    chance = torch.rand(6, generator=generator).tolist()
    if chance[0] < _CROPPED:
        for dim, share, start in ((2, *chance[1:3]), (3, *chance[3:5])):
            size = round((1 + share) / 2 * photo.shape[dim])
            photo = photo.narrow(dim, int(start * (photo.shape[dim] - size + 1)), size)
    return photo.flip(3) if chance[5] < 0.5 else photo


def _halves(photo: Tensor) -> Tensor:
    """Cut (1, 3, H, W) into left and right, (2, 3, h, w), as at a style's first scale."""
    half = photo.shape[3] // 2
    halves = torch.cat([photo.narrow(3, 0, half), photo.narrow(3, half, half)])
    return mirrored(reductions(halves)[0])


def _appearance(pictures: Tensor, maps: Refinement) -> Appearance:
    colours = pictures.flatten(2)
    covariance = torch.stack([each.cov(correction=0) for each in colours])
    return Appearance(colours.mean(2), covariance, energies_of(maps.statistics(pictures)))
