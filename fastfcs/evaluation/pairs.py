"""Pairs of a content and a style, optionally with region masks, read from folders."""

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
    """A pair in memory.

    Attributes:
        name: name of the pair.
        content: (1, 3, H, W), float32 in [0, 1].
        style: (1, 3, H', W'), float32 in [0, 1].
        regions: the masks that content and style have in common, or None.

    Examples:
        >>> from fastfcs.evaluation.pairs import Pair
        >>> import torch
        >>> pair = Pair("01", content=torch.zeros(1, 3, 16, 16), style=torch.ones(1, 3, 16, 24))
        >>> pair.style.shape, pair.regions
        (torch.Size([1, 3, 16, 24]), None)
    """

    name: str
    content: Tensor
    style: Tensor
    regions: Regions | None = None


@dataclass(frozen=True)
class PairFiles:
    """A pair on disk.

    Attributes:
        name: name of the pair.
        content: picture file of the content.
        style: picture file of the style.
        masks: mask files of the content and of the style, or None.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.evaluation.pairs import PairFiles
        >>> files = PairFiles("01", Path("content01.png"), Path("style01.png"))
        >>> [path.name for path in files.paths]
        ['content01.png', 'style01.png']
    """

    name: str
    content: Path
    style: Path
    masks: tuple[Path, Path] | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of the pair."""
        return (self.content, self.style, *(self.masks or ()))

    def load(self, size: int | None = None, device: str = "cpu") -> Pair:
        """Read the pair.

        Args:
            size: longer side, in pixels, to which larger pictures and their masks are reduced; None
                never reduces them.
            device: where to put the tensors.

        Returns:
            The pair.

        Raises:
            PictureError: a file is not a picture.
            ValueError: a mask's size differs from its picture's by more than one pixel, or the
                masks have no colour in common.
        """
        pictures = [images.read(path).srgb[None] for path in (self.content, self.style)]
        reduced = [x if size is None else images.fit(x, size) for x in pictures]
        regions = None
        if self.masks is not None:
            colours, *masks = read_regions(*self.masks)
            for path, mask, picture in zip(self.masks, masks, pictures, strict=True):
                _check_size(path, mask, picture)
            fitted = (resize(m, x.shape[-2:]) for m, x in zip(masks, reduced, strict=True))
            regions = Regions(colours, *(mask.to(device) for mask in fitted))
        return Pair(self.name, reduced[0].to(device), reduced[1].to(device), regions)


def find_pairs(folder: Path) -> list[PairFiles]:
    """Find the pairs of a folder: contentNN.*, styleNN.*, contentNN_mask.* and styleNN_mask.*.

    NN is any name. Masks are optional.

    Args:
        folder: the folder; suffixes are those of `fastfcs.images`, other files are ignored.

    Returns:
        The pairs, sorted by name.

    Raises:
        ValueError: there is no pair, a content without its style, or one mask without the other.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.evaluation.pairs import find_pairs
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("content01.png", "style01.jpg"):
        ...     (folder / name).touch()
        >>> [(pair.name, pair.style.name) for pair in find_pairs(folder)]
        [('01', 'style01.jpg')]
    """
    pictures = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in images.SUFFIXES}
    pairs = []
    for stem, content in pictures.items():
        match = re.fullmatch(r"content(.+?)(?<!_mask)", stem)
        if match is None:
            continue
        name = match[1]
        if f"style{name}" not in pictures:
            raise ValueError(f"{content} must have a style{name} beside it, got none")
        masks = [pictures.get(f"{kind}{name}_mask") for kind in ("content", "style")]
        if masks.count(None) == 1:
            raise ValueError(f"{content} and its style must both have a mask or neither, got one")
        both = (masks[0], masks[1]) if masks[0] and masks[1] else None
        pairs.append(PairFiles(name, content, pictures[f"style{name}"], both))
    if not pairs:
        raise ValueError(
            f"{folder} must contain pairs content01.png, style01.png ... unless --style is given, "
            "got none"
        )
    return pairs


def pair_up(folder: Path, styles: Sequence[Path], last: int | None) -> list[PairFiles]:
    """Pair each photo of a folder with the next picture of other folders, cyclically.

    Args:
        folder: the photos.
        styles: folders of style pictures. If the photos' folder is among them, it contributes only
            the photos that are paired.
        last: use only this many photos, the last by name, which are those that ``fastfcs train``
            holds out; None uses all.

    Returns:
        The pairs, named after their photos.

    Raises:
        ValueError: a folder has no pictures, or the only style is the photo itself.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.evaluation.pairs import pair_up
        >>> import tempfile
        >>> photos, paintings = (Path(tempfile.mkdtemp()) for _ in range(2))
        >>> for path in (photos / "a.jpg", photos / "b.jpg", paintings / "x.jpg"):
        ...     path.touch()
        >>> [(pair.name, pair.style.name) for pair in pair_up(photos, [paintings], last=None)]
        [('a', 'x.jpg'), ('b', 'x.jpg')]
    """
    photos = images.list_images(folder)[-last if last else 0 :]
    pool = [
        path
        for source in styles
        for path in (photos if source.resolve() == folder.resolve() else images.list_images(source))
    ]
    pairs = []
    for k, photo in enumerate(photos):
        style = next((p for p in (pool[(k + i) % len(pool)] for i in range(2)) if p != photo), None)
        if style is None:
            raise ValueError(f"--style must contain a picture other than {photo}, got none")
        pairs.append(PairFiles(photo.stem, photo, style))
    return pairs


def _check_size(path: Path, mask: Tensor, picture: Tensor) -> None:
    """Allow one row or column more or less, which rounding may cause; the mask is then resized."""
    if any(abs(a - b) > 1 for a, b in zip(mask.shape[-2:], picture.shape[-2:], strict=True)):
        height, width = picture.shape[-2:]
        raise ValueError(
            f"{path} must have its picture's size, {width} x {height}, to within a pixel, "
            f"got {mask.shape[-1]} x {mask.shape[-2]}"
        )
