"""Pairs of a content and a style, perhaps with region masks, from folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .. import images
from ..regions import Regions, read_regions, resize


@dataclass(frozen=True)
class Pair:
    """A pair in memory: content (1, 3, H, W) and style (1, 3, H', W'), float32 in [0, 1]."""

    name: str
    content: Tensor
    style: Tensor
    regions: Regions | None = None


@dataclass(frozen=True)
class PairFiles:
    """A pair on disk; masks are those of the content and of the style."""

    name: str
    content: Path
    style: Path
    masks: tuple[Path, Path] | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.content, self.style, *(self.masks or ()))

    def load(self, size: int | None = None, device: str = "cpu") -> Pair:
        """The pair, each picture reduced to a longer side of ``size`` pixels, masks with it.

        Raises:
            PictureError: a file that is not a picture.
            ValueError: masks more than a pixel larger or smaller than their pictures, or without
                a common colour.
        """
        found = [images.read(path).pixels[None] for path in (self.content, self.style)]
        small = [x if size is None else images.fit(x, size) for x in found]
        masks = None
        if self.masks is not None:
            colours, *full = read_regions(*self.masks)
            for path, mask, image in zip(self.masks, full, found, strict=True):
                _check_size(path, mask, image)
            fitted = (resize(m, x.shape[-2:]) for m, x in zip(full, small, strict=True))
            masks = Regions(colours, *(mask.to(device) for mask in fitted))
        return Pair(self.name, small[0].to(device), small[1].to(device), masks)


def find_pairs(folder: Path) -> list[PairFiles]:
    """The pairs contentNN.*, styleNN.* and perhaps contentNN_mask.*, styleNN_mask.* of a folder.

    NN is any name; suffixes are those of `fastfcs.images`.

    Raises:
        ValueError: no pair, a content without its style, or one mask without the other.
    """
    named = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in images.SUFFIXES}
    found = []
    for stem, content in named.items():
        match = re.fullmatch(r"content(.+?)(?<!_mask)", stem)
        if match is None:
            continue
        name = match[1]
        if f"style{name}" not in named:
            raise ValueError(f"{content} has no style{name} beside it")
        masks = [named.get(f"{kind}{name}_mask") for kind in ("content", "style")]
        if masks.count(None) == 1:
            raise ValueError(f"{content} and its style must both have a mask, or neither")
        both = (masks[0], masks[1]) if masks[0] and masks[1] else None
        found.append(PairFiles(name, content, named[f"style{name}"], both))
    if not found:
        raise ValueError(
            f"{folder} must hold pairs content01.png, style01.png ..., or be given with --style"
        )
    return found


def pair_up(folder: Path, styles: Sequence[Path], last: int | None) -> list[PairFiles]:
    """The photos of a folder, each with one of the pictures of ``styles`` (folders), in turn.

    Args:
        last: only so many photos, the last by name: those that ``fastfcs train`` keeps out. A
            folder that is also among the styles lends only these.

    Raises:
        ValueError: a folder without pictures, or no style but the photo itself.
    """
    photos = images.list_images(folder)[-last if last else 0 :]
    pool = [
        path
        for each in styles
        for path in (photos if each.resolve() == folder.resolve() else images.list_images(each))
    ]
    found = []
    for k, photo in enumerate(photos):
        style = next((p for p in (pool[(k + i) % len(pool)] for i in range(2)) if p != photo), None)
        if style is None:
            raise ValueError(f"--style must hold another picture than {photo} itself")
        found.append(PairFiles(photo.stem, photo, style))
    return found


def _check_size(path: Path, mask: Tensor, image: Tensor) -> None:
    """A row or column more or less is allowed, as rounding makes it: the mask is resized."""
    if any(abs(a - b) > 1 for a, b in zip(mask.shape[-2:], image.shape[-2:], strict=True)):
        height, width = image.shape[-2:]
        raise ValueError(
            f"{path} must be of its picture's size, {width} x {height}, to a pixel, "
            f"not {mask.shape[-1]} x {mask.shape[-2]}"
        )
