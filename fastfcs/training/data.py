"""Training data: random crops of pictures, with their targets in VGG.

The most expensive part of a new crop is its forward pass through VGG. Each position of a batch
therefore keeps a pool of recent crops with their targets (conv4_2 features of contents, Gram
matrices of both kinds), draws from it at every step and replaces one crop every fourth step: each
crop is used four times on average, together with different crops each time.
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
from ..images.colour import to_srgb
from ..ops import gram
from ..pyramid import reduce
from ..vgg import CONTENT_LAYER, STYLE_LAYERS, VGG19

Picture: TypeAlias = Path | Tensor
"""A file, or its pixels, (3, H, W) uint8, on the device that crops and resizes them."""

_POOL = 8  # crops per position
_STEPS_PER_CROP = 4
_VGG_BATCH = 8  # crops at most; torch rounds differently for a single crop below 83 pixels


def read_pixels(picture: Picture | BinaryIO) -> Tensor:
    """Decode a picture.

    Args:
        picture: a file, or pixels, which are returned as they are.

    Returns:
        (3, H, W) uint8, sRGB.

    Raises:
        ValueError: the file is not a picture.

    Examples:
        >>> from PIL import Image
        >>> from fastfcs.training.data import read_pixels
        >>> import io
        >>> stream = io.BytesIO()
        >>> Image.new("RGB", (6, 4), "red").save(stream, "PNG")
        >>> read_pixels(stream)[:, 0, 0].tolist()
        [255, 0, 0]
    """
    if isinstance(picture, Tensor):
        return picture
    try:
        with Image.open(picture) as file:
            icc = None if file.mode == "CMYK" else file.info.get("icc_profile")
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{picture} cannot be read as a picture") from error
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()
    if not icc:
        return pixels
    return to_srgb(pixels / 255, icc, 8).mul(255).round().to(torch.uint8)


def random_crop(picture: Picture, size: int, rng: random.Random) -> Tensor:
    """Cut a random square from a picture and resize it.

    Args:
        picture: a file or pixels.
        size: side of the result in pixels.
        rng: chooses position, scale and mirroring. The side of the square is log-uniform between
            ``size`` and the picture's shorter side.

    Returns:
        (3, size, size) in [0, 1].

    Raises:
        ValueError: the file is not a picture.

    Examples:
        >>> import random
        >>> import torch
        >>> from fastfcs.training.data import random_crop
        >>> pixels = torch.zeros(3, 40, 60, dtype=torch.uint8)
        >>> random_crop(pixels, 16, random.Random(0)).shape
        torch.Size([3, 16, 16])
    """
    pixels = read_pixels(picture)
    height, width = pixels.shape[1:]
    short = min(height, width)
    side = int(short * (min(1, size / short) ** rng.random()))
    left, top = rng.randint(0, width - side), rng.randint(0, height - side)
    crop = _resize(pixels[:, top : top + side, left : left + side], size)
    return crop.flip(-1) if rng.random() < 0.5 else crop


def centre_crop(picture: Picture, size: int) -> Tensor:
    """Cut the largest central square from a picture and resize it.

    Args:
        picture: a file or pixels.
        size: side of the result in pixels.

    Returns:
        (3, size, size) in [0, 1].

    Raises:
        ValueError: the file is not a picture.

    Examples:
        >>> import torch
        >>> from fastfcs.training.data import centre_crop
        >>> centre_crop(torch.zeros(3, 40, 60, dtype=torch.uint8), 16).shape
        torch.Size([3, 16, 16])
    """
    pixels = read_pixels(picture)
    side = min(pixels.shape[1:])
    top, left = ((length - side) // 2 for length in pixels.shape[1:])
    return _resize(pixels[:, top : top + side, left : left + side], size)


def whole_picture(picture: Picture, size: int) -> Tensor:
    """Read a picture and reduce it, if it is larger.

    Args:
        picture: a file or pixels.
        size: longer side of the result in pixels, at most.

    Returns:
        (1, 3, H, W) in [0, 1].

    Raises:
        ValueError: the file is not a picture.

    Examples:
        >>> import torch
        >>> from fastfcs.training.data import whole_picture
        >>> whole_picture(torch.zeros(3, 40, 60, dtype=torch.uint8), 30).shape
        torch.Size([1, 3, 20, 30])
    """
    return fit(read_pixels(picture)[None] / 255, size)


def _resize(square: Tensor, size: int) -> Tensor:
    """Resize by bicubic interpolation with antialiasing, as Pillow does, on any device."""
    resized = F.interpolate(square[None].float(), (size, size), mode="bicubic", antialias=True)[0]
    return resized.clamp_(0, 255).div_(255)


@dataclass
class Crop:
    """An image and its targets in VGG.

    Attributes:
        image: (3, size, size).
        features: its conv4_2 features, (512, size / 8, size / 8).
        grams: the Gram matrix of every style layer, (c_l, c_l).
        half: the same at half the size, or None.

    Examples:
        >>> import torch
        >>> from fastfcs.training.data import Crop
        >>> grams = {"conv1_2": torch.eye(64)}
        >>> crop = Crop(torch.rand(3, 16, 16), torch.rand(512, 2, 2), grams)
        >>> crop.image.shape
        torch.Size([3, 16, 16])
    """

    image: Tensor
    features: Tensor
    grams: dict[str, Tensor]
    half: Crop | None = None


def halves(crops: Sequence[Crop]) -> list[Crop]:
    """Take the halves of crops.

    Args:
        crops: crops of one size.

    Returns:
        Their halves; none if they have none.

    Examples:
        >>> import torch
        >>> from fastfcs.training.data import halves, targets
        >>> from fastfcs.vgg import VGG19
        >>> crops = targets(VGG19(), torch.rand(2, 3, 32, 32), scales=2)
        >>> halves(crops)[1].image.shape, halves(halves(crops))
        (torch.Size([3, 16, 16]), [])
    """
    return [crop.half for crop in crops if crop.half is not None]


def stack_images(crops: Sequence[Crop]) -> Tensor:
    """Stack the images of crops into a batch.

    Args:
        crops: B crops of one size.

    Returns:
        (B, 3, size, size), in channels_last memory.

    Examples:
        >>> import torch
        >>> from fastfcs.training.data import Crop, stack_images
        >>> image = torch.rand(3, 16, 16)
        >>> stack_images([Crop(image, image, {})] * 2).shape
        torch.Size([2, 3, 16, 16])
    """
    images = torch.stack([crop.image for crop in crops])
    return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def targets(vgg: VGG19, images: Tensor, scales: int = 1) -> list[Crop]:
    """Compute the targets of images.

    Args:
        vgg: the network of the features.
        images: (B, 3, H, W).
        scales: number of scales, each with half the size of the one before.

    Returns:
        One crop per image.

    Examples:
        >>> import torch
        >>> from fastfcs.training.data import targets
        >>> from fastfcs.vgg import VGG19
        >>> (crop,) = targets(VGG19(), torch.rand(1, 3, 16, 16))
        >>> crop.features.shape, crop.grams["conv1_2"].shape
        (torch.Size([512, 2, 2]), torch.Size([64, 64]))
    """
    features = vgg(images)
    grams = {layer: gram(features[layer]) for layer in STYLE_LAYERS}
    coarser: Sequence[Crop | None] = [None] * len(images)
    if scales > 1:
        coarser = targets(vgg, reduce(images), scales - 1)
    return [
        Crop(image, features[CONTENT_LAYER][k], {layer: g[k] for layer, g in grams.items()}, half)
        for k, (image, half) in enumerate(zip(images, coarser, strict=True))
    ]


class Pool:
    """Recent crops of pictures, for some positions of a batch.

    The i-th crop of a position depends only on the seed, the position and i, and the choice of a
    crop for a step only on the seed, the position and the step. Neither depends on where a run was
    interrupted or on which process has the position. Files are decoded in the background, one step
    ahead.

    Args:
        folders: pictures; every folder is equally likely.
        vgg: the network of the targets.
        size: side of the crops in pixels.
        positions: the positions in the batch.
        seed: any string.
        scales: see `targets`.

    Examples:
        >>> import torch
        >>> from fastfcs.training.data import Pool
        >>> from fastfcs.vgg import VGG19
        >>> pixels = torch.zeros(3, 40, 60, dtype=torch.uint8)
        >>> pool = Pool([[pixels]], VGG19(), size=16, positions=range(2), seed="0")
        >>> len(pool.sample(step=0))
        2
    """

    def __init__(
        self,
        folders: Sequence[Sequence[Picture]],
        vgg: VGG19,
        size: int,
        positions: Iterable[int],
        seed: str,
        scales: int = 1,
    ) -> None:
        self._folders, self._vgg, self._size, self._seed = folders, vgg, size, seed
        self._scales = scales
        self._crops: dict[int, deque[Crop]] = {j: deque(maxlen=_POOL) for j in positions}
        self._count = dict.fromkeys(self._crops, 0)  # crops drawn so far
        self._decoding: dict[tuple[int, int], Future[Tensor]] = {}
        has_files = any(isinstance(picture, Path) for folder in folders for picture in folder)
        self._threads = ThreadPoolExecutor(4) if has_files else None

    def sample(self, step: int) -> list[Crop]:
        """Draw the crops of a step.

        Args:
            step: at least as large as in the call before.

        Returns:
            One crop per position.

        Raises:
            ValueError: a file is not a picture.
        """
        missing = [crop for j in self._crops for crop in self._missing(j, step)]
        for k in range(0, len(missing), _VGG_BATCH):
            self._add(missing[k : k + _VGG_BATCH])
        if self._threads:
            for crop in (crop for j in self._crops for crop in self._missing(j, step + 1)):
                self._decoding[crop] = self._threads.submit(read_pixels, self._choose(*crop)[0])
        return [
            crops[random.Random(f"{self._seed}/{j}/step/{step}").randrange(_POOL)]
            for j, crops in self._crops.items()
        ]

    def _missing(self, position: int, step: int) -> list[tuple[int, int]]:
        """The crops (position, i) that a step needs and that are not drawn yet."""
        # Positions replace their crops at different steps.
        end = (step + position % _STEPS_PER_CROP) // _STEPS_PER_CROP + _POOL
        start = max(self._count[position], end - _POOL)
        return [(position, i) for i in range(start, end)]

    def _choose(self, position: int, i: int) -> tuple[Picture, random.Random]:
        """Choose the picture of a crop; the generator then chooses the rest."""
        rng = random.Random(f"{self._seed}/{position}/{i}")
        return rng.choice(rng.choice(self._folders)), rng

    def _add(self, missing: Sequence[tuple[int, int]]) -> None:
        images = []
        for crop in missing:
            picture, rng = self._choose(*crop)
            pixels = self._decoding.pop(crop).result() if crop in self._decoding else picture
            images.append(random_crop(pixels, self._size, rng))
        stack = torch.stack(images).to(self._vgg.mean.device)
        crops = targets(self._vgg, stack, self._scales)
        for (position, i), crop_with_targets in zip(missing, crops, strict=True):
            self._crops[position].append(crop_with_targets)
            self._count[position] = i + 1
