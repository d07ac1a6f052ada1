"""Comparison of methods on pairs: every result is computed and measured once, then cached."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from .. import __version__, images
from ..files import write_text
from ..vgg import VGG19, load_vgg19
from .cost import measure_cost
from .methods import Method
from .metrics import Lpips, Measure, load_lpips
from .pairs import Pair, PairFiles
from .rows import Row, file_name


def compare_methods(
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    out: Path,
    *,
    size: int | None = None,
    device: str = "cpu",
    log: Callable[[str], None] = lambda sentence: None,
) -> tuple[list[Row], list[str]]:
    """Apply every method to every pair and measure the results.

    Each result is written to ``out/pairs/PAIR/METHOD.png`` and its row, last, to ``METHOD.json``. A
    row that is already there is reused if its pictures, its method, ``size`` and the version of
    fastfcs are the same, so an interrupted run continues where it stopped.

    Args:
        pairs: the pairs.
        methods: the methods; a method skips the pairs for which its external result is missing.
        out: the output folder.
        size: longer side, in pixels, to which larger pictures are reduced; None never reduces them.
        device: where to compute.
        log: called with a summary of every row.

    Returns:
        One row per pair and method, in that order, and notes on anything that the numbers do not
        show, such as missing results.

    Raises:
        ValueError: a method has no result for any pair; `PairFiles.load` or a method raises it.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs import images
        >>> from fastfcs.evaluation.compare import compare_methods
        >>> import tempfile, torch
        >>> from fastfcs.evaluation.methods import select_methods
        >>> from fastfcs.evaluation.pairs import find_pairs
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("content01.png", "style01.png"):
        ...     images.write(images.Picture(torch.rand(3, 16, 24)), folder / name)
        >>> pairs, methods = find_pairs(folder), select_methods(["content"])
        >>> rows, notes = compare_methods(pairs, methods, folder / "out")
        >>> [(row.pair, row.method, row.ratio) for row in rows]
        [('01', 'content', 1.0)]
    """
    notes = [] if size is None else [f"pictures reduced to a longer side of {size} pixels"]
    for method in methods:
        missing = [pair.name for pair in pairs if _result_missing(method, pair)]
        if len(missing) == len(pairs):
            raise ValueError(
                f"method {method.name} must have a result for at least one pair, got no "
                f"{method.pattern}"
            )
        if missing:
            notes.append(f"{method.name}: no result for pair {', '.join(missing)}")
    models = _Models(device)
    rows = []
    for pair in pairs:
        available = [method for method in methods if not _result_missing(method, pair)]
        for row in _rows(pair, available, out, size, models):
            rows.append(row)
            log(f"{row.pair}  {row.method}: {row.summary()}")
    resized = Counter(row.method for row in rows if row.resized_from is not None)
    notes += [f"{name}: {count} results resized to the content" for name, count in resized.items()]
    if any(row.lpips is None for row in rows):
        notes.append(models.without_lpips)
    return rows, notes


class _Models:
    """Models shared by all pairs, loaded lazily; if every row is cached, none is loaded."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.without_lpips = "LPIPS is missing for results that were measured without it"

    @cached_property
    def vgg(self) -> VGG19:
        return load_vgg19().to(self.device)

    @cached_property
    def lpips(self) -> Lpips | None:
        try:
            return load_lpips(self.device)
        except RuntimeError as error:
            self.without_lpips = str(error)
            return None


def _rows(
    files: PairFiles, methods: Iterable[Method], out: Path, size: int | None, models: _Models
) -> Iterator[Row]:
    """The rows of one pair, read or measured."""
    folder = out / "pairs" / files.name
    pair: Pair | None = None
    measure: Measure | None = None
    for method in methods:
        file = method.file(files.name)
        settings = f"{method.name} {method.dependencies} {size}"
        origin = fingerprint(settings, [*files.paths, *([file] if file else [])])
        path = folder / f"{file_name(method.name)}.json"
        row = _read_row(path)
        if row is None or row.origin != origin:
            if pair is None or measure is None:
                pair = files.load(size, models.device)
                measure = Measure(pair, models.vgg, models.lpips)
                folder.mkdir(parents=True, exist_ok=True)
                _write_picture(pair.style, folder / "style.png")
                _write_picture(pair.content, folder / "content.png")
            row = _measure_method(method, pair, measure, origin, path, models.device)
            write_text(path, json.dumps(row.to_json(), indent=1))
        yield row


def _measure_method(
    method: Method, pair: Pair, measure: Measure, origin: str, path: Path, device: str
) -> Row:
    """Restyle the content, write the picture next to ``path``, and measure it."""
    image, seconds, megabytes = measure_cost(lambda: method.apply(pair), device)
    height, width = pair.content.shape[-2:]
    resized_from = None
    if image.shape != pair.content.shape:
        resized_from = image.shape[-1], image.shape[-2]
        image = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    image = image.detach().clamp(0, 1)
    _write_picture(image, path.with_suffix(".png"))
    computed = method.family not in ("", "content")
    return Row(
        pair=pair.name,
        method=method.name,
        origin=origin,
        width=width,
        height=height,
        resized_from=resized_from,
        seconds=seconds if computed else None,
        megabytes=megabytes if computed else None,
        **measure(image),
    )


def fingerprint(settings: str, paths: Iterable[Path]) -> str:
    """Hash everything that a result depends on, including the version of fastfcs.

    Args:
        settings: the settings in words.
        paths: the files, whose bytes are hashed.

    Returns:
        16 hexadecimal digits.

    Examples:
        >>> from fastfcs.evaluation.compare import fingerprint
        >>> len(fingerprint("photoreal 256", []))
        16
    """
    digest = hashlib.sha256(f"{__version__} {settings}".encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _result_missing(method: Method, pair: PairFiles) -> bool:
    file = method.file(pair.name)
    return file is not None and not file.is_file()


def _read_row(path: Path) -> Row | None:
    """The row of a file, or None if it or its picture is missing or damaged."""
    try:
        row = Row.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return None
    return row if path.with_suffix(".png").is_file() else None


def _write_picture(image: Tensor, path: Path) -> None:
    images.write(images.Picture(image[0].cpu()), path)
