"""Methods on pairs: every result written and measured once, and never again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .. import __version__, images
from ..vgg import load_vgg19
from .cost import measured
from .methods import Method
from .metrics import Measure, load_lpips
from .pairs import Pair, PairFiles

Row = dict[str, Any]


def compare(
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    out: Path,
    *,
    size: int | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = lambda sentence: None,
) -> tuple[list[Row], list[str]]:
    """One row for each pair and method, in that order, and sentences on what the numbers hide.

    Into ``out`` go ``pairs/NN/METHOD.png`` and, last, ``METHOD.json``, the row. A row found there
    is taken as it is if it comes of the same pictures, method and size; so an interrupted run goes
    on where it was. ``say`` is told of every row.

    Raises:
        ValueError: a method without a result for any pair, or one of another shape; what pairs and
            methods raise.
    """
    notes = [] if size is None else [f"pictures reduced to a longer side of {size} pixels"]
    for method in methods:
        missing = [pair.name for pair in pairs if _missing(method, pair)]
        if len(missing) == len(pairs):
            raise ValueError(f"method {method.name}: there is no file {method.pattern}")
        if missing:
            notes.append(f"{method.name}: no result for pair {', '.join(missing)}")
    bench = _Bench(device)
    rows = []
    for files in pairs:
        for row in _rows(files, [m for m in methods if not _missing(m, files)], out, size, bench):
            rows.append(row)
            say(_sentence(row))
    notes += _resized(rows)
    if any(row["lpips"] is None for row in rows):
        notes.append(bench.without_lpips)
    return rows, notes


class _Bench:
    """What every pair needs, made when the first one does: with every row there, none is."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.without_lpips = "LPIPS is missing of results measured without it"

    @cached_property
    def vgg(self) -> Any:
        return load_vgg19().to(self.device)

    @cached_property
    def lpips(self) -> Any:
        try:
            return load_lpips(self.device)
        except RuntimeError as error:
            self.without_lpips = str(error)
            return None


def _rows(
    files: PairFiles, methods: Iterable[Method], out: Path, size: int | None, bench: _Bench
) -> Iterator[Row]:
    folder = out / "pairs" / files.name
    pair: Pair | None = None
    measure: Measure | None = None
    for method in methods:
        file = method.file(files.name)
        depends = f"{method.name} {method.depends} {size}"
        origin = fingerprint(depends, [*files.paths, *([file] if file else [])])
        path = folder / f"{file_name(method.name)}.json"
        row = _read(path)
        if row is None or row["origin"] != origin:
            if pair is None or measure is None:
                pair = files.load(size, bench.device)
                measure = Measure(pair, bench.vgg, bench.lpips)
                folder.mkdir(parents=True, exist_ok=True)
                _write_picture(pair.style, folder / "style.png")
                _write_picture(pair.content, folder / "content.png")
            row = {"pair": files.name, "method": method.name, "origin": origin}
            row |= _result(method, pair, measure, path.with_suffix(".png"), bench.device)
            write_text(path, json.dumps(row, indent=1))
        yield row


def _result(method: Method, pair: Pair, measure: Measure, path: Path, device: str) -> Row:
    """Restyle, measure, write the picture."""
    image, seconds, megabytes = measured(lambda: method.apply(pair), device)
    height, width = pair.content.shape[-2:]
    row: Row = {"width": width, "height": height}
    if image.shape != pair.content.shape:
        row["resized from"] = [image.shape[-1], image.shape[-2]]
        image = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    image = image.detach().clamp(0, 1)
    _write_picture(image, path)
    if method.family in ("", "content"):  # nothing of ours was run
        row |= {"seconds": None, "megabytes": None}
    else:
        row |= {"seconds": seconds, "megabytes": megabytes}
    return row | measure(image)


def _resized(rows: Iterable[Row]) -> list[str]:
    """What is to be said of results that were not of their content's size."""
    found: dict[str, int] = {}
    for row in rows:
        if "resized from" in row:
            found[row["method"]] = found.get(row["method"], 0) + 1
    return [
        f"{name}: {count} results brought to the content's size" for name, count in found.items()
    ]


def file_name(method: str) -> str:
    """The method's name as a file's."""
    return method.replace(":", "-")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def _missing(method: Method, pair: PairFiles) -> bool:
    file = method.file(pair.name)
    return file is not None and not file.is_file()


def fingerprint(depends: str, paths: Iterable[Path]) -> str:
    """A hash of all that a result depends on: words, and the bytes of files."""
    found = hashlib.sha256(f"{__version__} {depends}".encode())
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _read(path: Path) -> Row | None:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if path.with_suffix(".png").is_file() else None


def _write_picture(image: Tensor, path: Path) -> None:
    images.write(images.Picture(image[0].cpu()), path)


def _sentence(row: Row) -> str:
    return f"{row['pair']}  {row['method']}: {numbers(row)}"


def numbers(row: Row) -> str:
    """The most telling numbers of a row."""
    shown = ("gram", "region_gram", "ssim", "energy", "seconds")
    return ", ".join(f"{key} {row[key]:.3g}" for key in shown if row[key] is not None)
