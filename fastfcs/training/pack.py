"""The pictures a network is trained and measured on, in folders or in one file, a pack.

A pack travels to machines where the folders are not available. It is a ZIP file of JPEGs with a
`pictures.json` that lists the purpose of each.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image
from torch import Tensor

from ..evaluation.pairs import find_pairs
from ..files import atomic
from ..images import list_images
from .data import read_pixels

LIMIT = 30 * 2**20
"""The largest size of a pack, in bytes."""

_INDEX = "pictures.json"
# Shorter side and JPEG quality, best first: strokes are learned from detail.
_QUALITIES = [(768, quality) for quality in (95, 92, 90, 85, 80, 78, 76, 74)]
_QUALITIES += [(side, 74) for side in (640, 512, 448, 384, 320, 288, 256)] + [(256, 60)]
_PAIR_QUALITY = 320, 90  # longer side and JPEG quality of pairs

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Pictures(Generic[T]):
    """Pictures by purpose; T is a file, its pixels, or its name in a pack.

    Attributes:
        names: names of the content folder and the style folders.
        content: photos to train on.
        styles: pictures to train on, one list per folder; may contain contents.
        held_out: photos that are never trained on.
        paintings: the styles that are not contents.
        pairs: name, content and style of pairs that are only measured on.

    Examples:
        >>> from fastfcs.training.pack import Pictures
        >>> pictures = Pictures(["photos", "art"], [1, 2], [[3], [1, 2]], [], [3], [])
        >>> pictures.map(lambda k: 10 * k).styles
        [[30], [10, 20]]
    """

    names: list[str]
    content: list[T]
    styles: list[list[T]]
    held_out: list[T]
    paintings: list[T]
    pairs: list[tuple[str, T, T]]

    def map(self, function: Callable[[T], U]) -> Pictures[U]:
        """Apply a function to every picture.

        Args:
            function: a function of one picture.

        Returns:
            New pictures.
        """

        def all_of(pictures: Sequence[T]) -> list[U]:
            return [function(picture) for picture in pictures]

        return Pictures(
            self.names,
            all_of(self.content),
            [all_of(style) for style in self.styles],
            all_of(self.held_out),
            all_of(self.paintings),
            [(name, function(content), function(style)) for name, content, style in self.pairs],
        )


def from_folders(
    content: str | Path,
    styles: Sequence[str | Path],
    holdout: int,
    pairs: str | Path | None = None,
) -> Pictures[Path]:
    """List the pictures of folders.

    Args:
        content: folder of photos.
        styles: folders of styles; may include ``content``.
        holdout: number of photos, the last of ``content``, to hold out, from the styles too.
        pairs: folder of pairs, as for ``fastfcs evaluate``.

    Returns:
        The files by purpose.

    Raises:
        ValueError: a folder contains no pictures, or all of them are held out.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fastfcs.training.pack import from_folders
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in "abc":
        ...     Image.new("RGB", (16, 16)).save(folder / f"{name}.png")
        >>> pictures = from_folders(folder, [folder], holdout=1)
        >>> len(pictures.content), len(pictures.styles[0]), len(pictures.held_out)
        (2, 2, 1)
    """
    photos = list_images(content)
    held_out = photos[len(photos) - holdout :] if holdout else []
    folders = [[p for p in list_images(style) if p not in held_out] for style in styles]
    photos = [p for p in photos if p not in held_out]
    if not photos or not folders or not all(folders):
        raise ValueError(f"holdout must leave a picture of every folder, got {holdout}")
    contents = set(photos)
    return Pictures(
        [Path(folder).name for folder in (content, *styles)],
        photos,
        folders,
        held_out,
        [p for folder in folders for p in folder if p not in contents],
        [(p.name, p.content, p.style) for p in (find_pairs(Path(pairs)) if pairs else [])],
    )


def write_pack(pictures: Pictures[Path], path: str | Path, limit: int = LIMIT) -> str:
    """Write a pack, with JPEGs as large and as lightly compressed as its size allows.

    Pairs always have a longer side of at most 320 pixels.

    Args:
        pictures: from `from_folders`.
        path: the file to write, atomically.
        limit: the largest size, in bytes.

    Returns:
        A sentence that reports size and quality.

    Raises:
        ValueError: the pictures do not fit at any quality, or one cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fastfcs.training.pack import from_folders, write_pack
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (16, 16)).save(folder / "a.png")
        >>> sentence = write_pack(from_folders(folder, [folder], holdout=0), folder / "a.pack")
        >>> sentence.partition(": ")[2].partition(" in ")[0]
        '1 photos and 0 held out, 0 paintings, 0 pairs'
    """
    path = Path(path)
    pair_files = {file for _, *both in pictures.pairs for file in both}
    other = [*pictures.content, *(p for s in pictures.styles for p in s), *pictures.held_out]
    names = {file: f"{k:06}.jpg" for k, file in enumerate(dict.fromkeys([*other, *pair_files]))}
    index, jpegs = _best_that_fits(names, pair_files, limit)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        with zipfile.ZipFile(partial, "w") as archive:
            archive.writestr(_INDEX, json.dumps(asdict(pictures.map(names.__getitem__))))
            for name, jpeg in zip(names.values(), jpegs, strict=True):
                archive.writestr(name, jpeg)
        size = partial.stat().st_size
    side, quality = _QUALITIES[index]
    return (
        f"{path}: {len(pictures.content)} photos and {len(pictures.held_out)} held out, "
        f"{len(pictures.paintings)} paintings, {len(pictures.pairs)} pairs in "
        f"{size / 2**20:.1f} MiB, as JPEGs of quality {quality} with a shorter side of at most "
        f"{side} pixels"
    )


def _best_that_fits(
    names: dict[Path, str], pair_files: set[Path], limit: int
) -> tuple[int, list[bytes]]:
    """Find, by bisection, the index of the best quality that fits; return it with the JPEGs."""
    with ThreadPoolExecutor() as threads:

        def encode(index: int) -> Iterator[bytes]:
            def encode_file(file: Path) -> bytes:
                if file in pair_files:
                    return _jpeg(file, *_PAIR_QUALITY, max)
                return _jpeg(file, *_QUALITIES[index], min)

            return threads.map(encode_file, names)

        best, worst = 0, len(_QUALITIES)  # the index is in [best, worst]
        fitting: list[bytes] = []
        while best < worst:
            middle = (best + worst) // 2
            jpegs = list(encode(middle))
            if sum(map(len, jpegs)) + 128 * len(jpegs) + 2**16 <= limit:
                worst, fitting = middle, jpegs
            else:
                best = middle + 1
    if not fitting:
        side, quality = _QUALITIES[-1]
        raise ValueError(
            f"pack must hold its {len(names)} pictures in {limit / 2**20:g} MiB, which they exceed "
            f"even as JPEGs of quality {quality} with a shorter side of {side} pixels: use fewer"
        )
    return worst, fitting


def read_pack(path: str | Path, device: str) -> Pictures[Tensor]:
    """Read and decode the pictures of a pack.

    Args:
        path: a file written by `write_pack`.
        device: where the pixels are kept.

    Returns:
        The pictures, (3, H, W) uint8.

    Raises:
        ValueError: the file is not a pack.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fastfcs.training.pack import from_folders, read_pack, write_pack
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (20, 16)).save(folder / "a.png")
        >>> _ = write_pack(from_folders(folder, [folder], holdout=0), folder / "a.pack")
        >>> read_pack(folder / "a.pack", "cpu").content[0].shape
        torch.Size([3, 16, 20])
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pictures: Pictures[str] = Pictures(**json.loads(archive.read(_INDEX)))
            jpegs = {name: archive.read(name) for name in archive.namelist() if name != _INDEX}
        with ThreadPoolExecutor() as threads:
            decoded = threads.map(read_pixels, map(BytesIO, jpegs.values()))
            pixels = {name: x.to(device) for name, x in zip(jpegs, decoded, strict=True)}
        return pictures.map(pixels.__getitem__)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"pack must be a file that --pack wrote, got {path}") from error


def _jpeg(file: Path, side: int, quality: int, measure: Callable[[tuple[int, int]], int]) -> bytes:
    """Encode a picture whose shorter (min) or longer (max) side is at most ``side`` pixels."""
    image = Image.fromarray(read_pixels(file).permute(1, 2, 0).numpy())
    scale = side / measure(image.size)
    if scale < 1:
        width, height = (round(scale * length) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()
