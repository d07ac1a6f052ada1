"""What a network is trained and measured on: folders, or one file that holds them all, a pack.

A pack travels to where the folders are not. It is a ZIP file of JPEGs, beside them `pictures.json`,
which says what each is for.
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
from ..images import list_images
from .data import read

LIMIT = 30 * 2**20  # bytes
_CONTENTS = "pictures.json"
# Shorter side and quality of the JPEGs, the best first: detail is what strokes are learned from.
_RUNGS = [(768, quality) for quality in (95, 92, 90, 85, 80, 78, 76, 74)]
_RUNGS += [(side, 74) for side in (640, 512, 448, 384, 320, 288, 256)] + [(256, 60)]
_OF_PAIRS = 320, 90  # longer side and quality

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Pictures(Generic[T]):
    """Pictures by what they are for; T is a file, its pixels, or its name in a pack.

    Attributes:
        names: of the folder of contents and those of styles.
        content: photos to train on.
        styles: one list a folder, to train on; may hold contents.
        held: photos that are never trained on.
        paintings: those styles that are not contents.
        pairs: name, content and style, only to measure with.
    """

    names: list[str]
    content: list[T]
    styles: list[list[T]]
    held: list[T]
    paintings: list[T]
    pairs: list[tuple[str, T, T]]

    def mapped(self, f: Callable[[T], U]) -> Pictures[U]:
        """With f(picture) in the place of every picture."""

        def each(pictures: Sequence[T]) -> list[U]:
            return [f(picture) for picture in pictures]

        return Pictures(
            self.names,
            each(self.content),
            [each(style) for style in self.styles],
            each(self.held),
            each(self.paintings),
            [(name, f(content), f(style)) for name, content, style in self.pairs],
        )


def from_folders(
    content: str | Path,
    styles: Sequence[str | Path],
    holdout: int = 50,
    pairs: str | Path | None = None,
) -> Pictures[Path]:
    """The pictures of folders, the last ``holdout`` of ``content`` held out, as styles too.

    Raises:
        ValueError: a folder without pictures, or one of which none is left to train on.
    """
    photos = list_images(content)
    held = photos[len(photos) - holdout :] if holdout else []
    folders = [[p for p in list_images(style) if p not in held] for style in styles]
    photos = [p for p in photos if p not in held]
    if not photos or not folders or not all(folders):
        raise ValueError(f"holdout of {holdout} leaves no picture to train on")
    known = set(photos)
    return Pictures(
        [Path(folder).name for folder in (content, *styles)],
        photos,
        folders,
        held,
        [p for folder in folders for p in folder if p not in known],
        [(p.name, p.content, p.style) for p in (find_pairs(Path(pairs)) if pairs else [])],
    )


def write_pack(pictures: Pictures[Path], path: str | Path, limit: int = LIMIT) -> str:
    """Write a pack of at most ``limit`` bytes; a sentence on what became of the pictures.

    As large and as little compressed as fits: pairs have a longer side of 320 pixels, whatever.

    Raises:
        ValueError: the pictures do not fit, however small, or one cannot be read.
    """
    path = Path(path)
    of_pairs = {file for _, *both in pictures.pairs for file in both}
    rest = [*pictures.content, *(p for s in pictures.styles for p in s), *pictures.held]
    names = {file: f"{k:06}.jpg" for k, file in enumerate(dict.fromkeys([*rest, *of_pairs]))}

    with ThreadPoolExecutor() as threads:

        def encoded(rung: tuple[int, int]) -> Iterator[bytes]:
            def encode(file: Path) -> bytes:
                return _jpeg(file, *_OF_PAIRS, max) if file in of_pairs else _jpeg(file, *rung, min)

            return threads.map(encode, names)

        best, worst = 0, len(_RUNGS)  # the best that fits is in [best, worst]
        files: list[bytes] = []
        while best < worst:
            middle = (best + worst) // 2
            found = list(encoded(_RUNGS[middle]))
            if sum(map(len, found)) + 128 * len(found) + 2**16 <= limit:
                worst, files = middle, found
            else:
                best = middle + 1
    if not files:
        side, quality = _RUNGS[-1]
        raise ValueError(
            f"pack must hold its {len(names)} pictures in {limit / 2**20:g} MiB, which they exceed "
            f"even as JPEGs of quality {quality} with a shorter side of {side} pixels: give fewer"
        )
    side, quality = _RUNGS[worst]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with zipfile.ZipFile(partial, "w") as archive:
        archive.writestr(_CONTENTS, json.dumps(asdict(pictures.mapped(names.__getitem__))))
        for name, data in zip(names.values(), files, strict=True):
            archive.writestr(name, data)
    size = partial.stat().st_size
    partial.replace(path)
    return (
        f"{path}: {len(pictures.content)} photos and {len(pictures.held)} held out, "
        f"{len(pictures.paintings)} paintings, {len(pictures.pairs)} pairs in "
        f"{size / 2**20:.1f} MiB, as JPEGs of quality {quality} with a shorter side of at most "
        f"{side} pixels"
    )


def read_pack(path: str | Path, device: str) -> Pictures[Tensor]:
    """The pictures of a pack, decoded, (3, H, W) uint8 on a device.

    Raises:
        ValueError: the file is not a pack.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pictures: Pictures[str] = Pictures(**json.loads(archive.read(_CONTENTS)))
            files = {n: archive.read(n) for n in archive.namelist() if n != _CONTENTS}
        with ThreadPoolExecutor() as threads:
            decoded = dict(zip(files, threads.map(read, map(BytesIO, files.values())), strict=True))
        return pictures.mapped({n: x.to(device) for n, x in decoded.items()}.__getitem__)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"pack must be a file that --pack wrote, got {path}") from error


def _jpeg(file: Path, side: int, quality: int, measured: Callable[[tuple[int, int]], int]) -> bytes:
    """A picture whose shorter (min) or longer (max) side is at most so many pixels."""
    image = Image.fromarray(read(file).permute(1, 2, 0).numpy())
    scale = side / measured(image.size)
    if scale < 1:
        width, height = (round(scale * length) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()
