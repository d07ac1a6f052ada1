"""What is trained on: random crops of pictures, with their targets in VGG.

Each image pair costs most in VGG. So each place in a batch keeps a pool of recent crops with their
targets (conv4_2 features of contents, Gram matrices of both kinds), draws from it at every step and
replaces one every fourth: each crop serves four times, in other company each time.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from ..images import fit
from ..ops import gram
from ..vgg import CONTENT_LAYER, STYLE_LAYERS, VGG19

Picture: TypeAlias = Path | Tensor
"""A file, or its pixels, (3, H, W) uint8, on whatever device: there it is cut and resized."""

_KEPT = 8  # crops of each place
_USES = 4  # of each crop


def random_crop(picture: Picture, size: int, rng: random.Random) -> Tensor:
    """A random square of a picture, (3, size, size) in [0, 1]; scale and mirroring vary too."""
    pixels = read(picture)
    height, width = pixels.shape[1:]
    short = min(height, width)
    side = int(short * (min(1, size / short) ** rng.random()))  # log-uniform, size to the whole
    left, top = rng.randint(0, width - side), rng.randint(0, height - side)
    crop = _resized(pixels[:, top : top + side, left : left + side], size)
    return crop.flip(-1) if rng.random() < 0.5 else crop


def centre(picture: Picture, size: int) -> Tensor:
    """The largest square in the middle of a picture, (3, size, size) in [0, 1]."""
    pixels = read(picture)
    side = min(pixels.shape[1:])
    top, left = ((length - side) // 2 for length in pixels.shape[1:])
    return _resized(pixels[:, top : top + side, left : left + side], size)


def whole(picture: Picture, size: int) -> Tensor:
    """A picture as (1, 3, H, W), reduced to a long side of at most ``size``."""
    return fit(read(picture)[None] / 255, size)


def read(picture: Picture | BinaryIO) -> Tensor:
    """The pixels of a picture, (3, H, W) uint8.

    Raises:
        ValueError: the file is not a picture.
    """
    if isinstance(picture, Tensor):
        return picture
    try:
        with Image.open(picture) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{picture} cannot be read as a picture") from error
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()


def _resized(square: Tensor, size: int) -> Tensor:
    """Bicubic with antialiasing, as Pillow's, wherever the pixels are."""
    wide = square[None].float()
    small = F.interpolate(wide, (size, size), mode="bicubic", antialias=True)[0]
    return small.clamp_(0, 255).div_(255)


@dataclass
class Crop:
    """An image and what VGG makes of it."""

    image: Tensor  # (3, size, size)
    features: Tensor  # conv4_2 (512, size / 8, size / 8)
    grams: dict[str, Tensor]  # S_l^T S_l / n'_l of each style layer


def images(crops: Sequence[Crop]) -> Tensor:
    """(B, 3, size, size)."""
    return torch.stack([crop.image for crop in crops])


@torch.no_grad()
def targets(vgg: VGG19, images: Tensor) -> list[Crop]:
    """The crops of images (B, 3, H, W)."""
    found = vgg(images)
    grams = {layer: gram(found[layer]) for layer in STYLE_LAYERS}
    return [
        Crop(image, found[CONTENT_LAYER][k], {layer: g[k] for layer, g in grams.items()})
        for k, image in enumerate(images)
    ]


class Pool:
    """Recent crops of one list of folders for some places of a batch.

    Crop i of a place, and which one a step takes, depend on the seed, the place and i alone: not on
    where a run was interrupted, nor on which process has the place. Pictures are decoded in the
    background, a step ahead.
    """

    def __init__(
        self,
        folders: Sequence[Sequence[Picture]],
        vgg: VGG19,
        size: int,
        places: Iterable[int],
        seed: str,
    ) -> None:
        self._folders, self._vgg, self._size, self._seed = folders, vgg, size, seed
        self._kept: dict[int, deque[Crop]] = {j: deque(maxlen=_KEPT) for j in places}
        self._drawn = dict.fromkeys(self._kept, 0)
        self._ahead: dict[tuple[int, int], Future[Tensor]] = {}
        files = any(isinstance(picture, Path) for folder in folders for picture in folder)
        self._readers = ThreadPoolExecutor(4) if files else None

    def sample(self, step: int) -> list[Crop]:
        """The crops of a step, one for each place."""
        missing = [due for j in self._kept for due in self._due(j, step)]
        for k in range(0, len(missing), 8):
            self._draw(missing[k : k + 8])
        if self._readers:
            for due in (due for j in self._kept for due in self._due(j, step + 1)):
                self._ahead[due] = self._readers.submit(read, self._chosen(*due)[0])
        return [
            kept[random.Random(f"{self._seed}/{j}/step/{step}").randrange(_KEPT)]
            for j, kept in self._kept.items()
        ]

    def _due(self, place: int, step: int) -> list[tuple[int, int]]:
        """The crops (place, i) that a step needs and that were not drawn yet."""
        end = (step + place % _USES) // _USES + _KEPT  # places take turns
        start = max(self._drawn[place], end - _KEPT)
        return [(place, i) for i in range(start, end)]

    def _chosen(self, place: int, i: int) -> tuple[Picture, random.Random]:
        """The picture of a crop, and what chooses the rest of it."""
        rng = random.Random(f"{self._seed}/{place}/{i}")
        return rng.choice(rng.choice(self._folders)), rng

    def _draw(self, due: Sequence[tuple[int, int]]) -> None:
        cut = []
        for d in due:
            picture, rng = self._chosen(*d)
            pixels = self._ahead.pop(d).result() if d in self._ahead else picture
            cut.append(random_crop(pixels, self._size, rng))
        crops = targets(self._vgg, torch.stack(cut).to(self._vgg.mean.device))
        for (place, i), crop in zip(due, crops, strict=True):
            self._kept[place].append(crop)
            self._drawn[place] = i + 1
