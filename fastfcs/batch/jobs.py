"""Which pictures and videos are restyled, and what their results are called."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import csv, parquet

from .. import presets
from ..errors import counted
from ..images import SUFFIXES, WRITABLE, PictureError, format_of
from . import store

VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm"}
"""Suffixes by which videos are recognised."""

_COLUMNS = "path", "url", "file", "input", "image", "bytes"  # names of the inputs' column
_MAGIC = "*?["
_TABLES = ".csv", ".parquet"


@dataclass(frozen=True)
class Job:
    """One picture or video.

    Attributes:
        input: what the manifest calls it: a path or URL, or that of a table with its row.
        output: the result's name in the output folder.
        url: the file to read: the picture, or the Parquet file that contains it.
        place: where the picture is in a Parquet file, or None.
        style: the style of this picture, or None for that of all.
        masks: files, the regions of the picture and of its style, or None.

    Examples:
        >>> from fastfcs.batch.jobs import Job
        >>> Job("in/a.mp4", "a.mp4", "in/a.mp4").is_video
        True
    """

    input: str
    output: str
    url: str
    place: Place | None = None
    style: str | None = None
    masks: tuple[str, str] | None = None

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return self.place is None and _suffix(self.url) in VIDEOS


class Place(NamedTuple):
    """The place of a picture in a Parquet file.

    Attributes:
        column: of the bytes, or of a struct with a field "bytes".
        group: the row group.
        row: within the row group.

    Examples:
        >>> from fastfcs.batch.jobs import Place
        >>> Place("image", 0, 24).row
        24
    """

    column: str
    group: int
    row: int


class Columns(NamedTuple):
    """The columns of tables.

    Attributes:
        input: paths, bytes, or a struct of both; by default the only one that has a usual name.
        name: names of the results, or None.
        style: the style of each row, or None.
        masks: the masks of the content and of the style, or None.

    Examples:
        >>> from fastfcs.batch.jobs import Columns
        >>> Columns(style="painting").input
    """

    input: str | None = None
    name: str | None = None
    style: str | None = None
    masks: tuple[str, str] | None = None


def find_jobs(
    inputs: Sequence[str],
    output: str,
    columns: Columns,
    format: str | None,
    report: Callable[[str], None],
) -> list[Job]:
    """List what is to be restyled.

    Args:
        inputs: folders, which are read with their subfolders; patterns with ``*``, ``?``, ``[...]``
            or ``**``; pictures or videos; lists (.txt, one path per line); tables (.csv, .parquet).
            Paths in lists and tables are relative to these. Each is a path or a URL.
        output: the folder of the results, which is left out of the inputs.
        columns: of tables.
        format: suffix of the pictures' results, such as ".jpg"; None keeps that of each picture,
            and takes .png where it cannot be written.
        report: is told what is ignored.

    Returns:
        The jobs. Results are named as the inputs are, relative to their folder: that of the pattern
        before its first special character, or for lists and tables the one that all have in common.

    Raises:
        StoreError: an input cannot be read.
        ValueError: an input contains nothing, a table lacks a column, or two results would have the
            same name.

    Examples:
        >>> from fastfcs.batch import store
        >>> from fastfcs.batch.jobs import Columns, find_jobs
        >>> for name in ("a.jpg", "b/c.bmp", "notes.md"):
        ...     store.write(f"memory://album/{name}", b"")
        >>> jobs = find_jobs(["memory://album"], "memory://out", Columns(), None, print)
        memory://album: 1 other file ignored
        >>> [(job.input, job.output) for job in jobs]
        [('memory://album/a.jpg', 'a.jpg'), ('memory://album/b/c.bmp', 'b/c.png')]
    """
    tables = [each for each in inputs if _suffix(each) in _TABLES]
    if any(columns) and not tables:
        raise ValueError(
            f"columns must be given with a .csv or .parquet file, got {', '.join(inputs)}"
        )
    # Workers have working folders of their own.
    inputs = [store.absolute(each) for each in inputs]
    listed: list[Job] = []
    for each in inputs:
        listed += _jobs_of(each, output, columns, report)
    jobs = [replace(job, output=_result_name(job, format)) for job in listed]
    sources: dict[str, str] = {}
    for job in jobs:
        if job.url == store.absolute(store.join(output, job.output)):
            raise ValueError(f"output must not be where the inputs are, got {output}")
        if job.output in sources:
            raise ValueError(
                f"{sources[job.output]} and {job.input} would both become "
                f"{store.join(output, job.output)}; give them other names, or outputs of their own"
            )
        sources[job.output] = job.input
    return jobs


def _jobs_of(
    given: str, output: str, columns: Columns, report: Callable[[str], None]
) -> Iterator[Job]:
    suffix = _suffix(given)
    if any(character in given for character in _MAGIC) and not store.exists(given):
        start = next(k for k, character in enumerate(given) if character in _MAGIC)
        folder, pattern = _split(given[:start])[0], given[len(_split(given[:start])[0]) :]
        yield from _files_in(given, folder or ".", pattern.lstrip("/"), output, report)
    elif store.is_folder(given):
        yield from _files_in(given, given, None, output, report)
    elif suffix == ".txt":
        try:
            lines = store.read(given).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{given} must be a text in UTF-8: {error}") from error
        rows = [_Row(line.strip(), None, None, None) for line in lines if line.strip()]
        yield from _jobs_of_paths(given, rows)
    elif suffix in _TABLES:
        yield from _jobs_of_table(given, columns)
    elif store.exists(given):
        yield Job(given, _split(given)[1], given)
    else:
        raise store.StoreError(f"{given} cannot be read: No such file or directory")


def _files_in(
    given: str, folder: str, pattern: str | None, output: str, report: Callable[[str], None]
) -> Iterator[Job]:
    ignored: Counter[str] = Counter()
    found = False
    inside = f"{store.locate(output)[1]}/"
    root = store.locate(folder)[1].rstrip("/")
    for name in store.names(folder, pattern):
        if f"{root}/{name}".startswith(inside) and root + "/" != inside:
            continue
        if any(part.startswith(".") for part in name.split("/")):
            ignored["hidden file"] += 1
        elif _suffix(name) in SUFFIXES or _suffix(name) in VIDEOS:
            found = True
            url = store.join(folder, name)
            yield Job(url, name, url)
        else:
            ignored["other file"] += 1
    if not found:
        verb = "contain" if pattern is None else "match"
        raise ValueError(f"{given} must {verb} pictures or videos, got none")
    if ignored:
        counts = [counted(number, kind) for kind, number in sorted(ignored.items())]
        report(f"{given}: {', '.join(counts)} ignored")


class _Row(NamedTuple):
    path: str
    name: str | None
    style: str | None
    masks: tuple[str, str] | None


def _jobs_of_paths(table: str, rows: Sequence[_Row]) -> Iterator[Job]:
    if not rows:
        raise ValueError(f"{table} must list pictures or videos, got none")
    folder = _split(table)[0] or "."
    urls = [store.join(folder, row.path) for row in rows]
    parts = [url.split("/")[:-1] for url in urls]
    common = 0
    while all(len(p) > common and p[common] == parts[0][common] for p in parts):
        common += 1
    for url, row in zip(urls, rows, strict=True):
        name = row.name or "/".join(url.split("/")[common:])
        yield Job(url, _checked(table, name), url, None, row.style, row.masks)


def _jobs_of_table(table: str, columns: Columns) -> Iterator[Job]:
    others = [columns.name, columns.style, *(columns.masks or ())]
    if _suffix(table) == ".csv":
        data = store.read(table)
        try:
            names = csv.open_csv(BytesIO(data)).schema.names
            column = _input_column(table, columns, names, others)
            types = {name: pa.string() for name in (column, *others) if name}
            options = csv.ConvertOptions(column_types=types, include_columns=list(types))
            rows = csv.read_csv(BytesIO(data), convert_options=options)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{table} cannot be read: {error}") from error
        yield from _jobs_of_paths(table, _rows(table, rows, column, columns))
        return
    system, path = store.locate(table)
    try:
        with system.open(path) as stream, parquet.ParquetFile(stream) as file:
            schema = file.schema_arrow
            column = _input_column(table, columns, schema.names, others)
            kind = schema.field(column).type
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                wanted = list(dict.fromkeys(name for name in (column, *others) if name))
                rows = file.read(columns=wanted)
                yield from _jobs_of_paths(table, _rows(table, rows, column, columns))
            else:
                yield from _jobs_of_bytes(table, file, column, kind, columns)
    except (OSError, pa.ArrowInvalid) as error:
        if isinstance(error, store.StoreError):
            raise
        raise store.StoreError(f"{table} cannot be read: {str(error).splitlines()[0]}") from error


def _jobs_of_bytes(
    table: str, file: Any, column: str, kind: pa.DataType, columns: Columns
) -> Iterator[Job]:
    """One job per row of a Parquet file with the bytes of pictures, which stay there."""
    names = [name for name in (columns.name, columns.style, *(columns.masks or ())) if name]
    has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not is_binary and not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise ValueError(
            f"column {column} of {table} must hold paths, bytes or a struct with bytes, got {kind}"
        )
    stem, count = _split(table)[1].rpartition(".")[0], 0
    folder = _split(table)[0] or "."
    for group in range(file.num_row_groups):
        wanted = [*dict.fromkeys(names), *([f"{column}.path"] if has_path else [])]
        rows = file.read_row_group(group, columns=wanted).to_pylist()
        rows = rows or [{}] * file.metadata.row_group(group).num_rows
        for index, row in enumerate(rows):
            name = row[columns.name] if columns.name else None
            if not name and has_path:
                name = (row[column] or {}).get("path")
            masks = None
            if columns.masks:
                masks = _masks(f"row {count} of {table}", folder, *(row[n] for n in columns.masks))
            yield Job(
                f"{table}#{count}",
                _checked(table, name or f"{stem}-{count:06d}"),
                table,
                Place(column, group, index),
                _style(folder, row[columns.style]) if columns.style else None,
                masks,
            )
            count += 1
    if not count:
        raise ValueError(f"{table} must list pictures or videos, got none")


def _input_column(
    table: str, columns: Columns, names: Sequence[str], others: Sequence[str | None]
) -> str:
    for wanted in (columns.input, *others):
        if wanted is not None and wanted not in names:
            raise ValueError(f"{table} must have the column {wanted}, got {', '.join(names)}")
    if columns.input is not None:
        return columns.input
    usual = [name for name in names if name in _COLUMNS]
    if len(usual) != 1:
        raise ValueError(
            f"{table} must have one of the columns {', '.join(_COLUMNS)}, or --input-column must "
            f"be given, got {', '.join(names)}"
        )
    return usual[0]


def _rows(table: str, rows: pa.Table, column: str, columns: Columns) -> list[_Row]:
    folder = _split(table)[0] or "."
    listed = []
    for index, row in enumerate(rows.to_pylist()):
        if not row[column]:
            raise ValueError(f"{table} must have a path in every row, got none in row {index}")
        masks = None
        if columns.masks:
            masks = _masks(f"row {index} of {table}", folder, *(row[n] for n in columns.masks))
        style = _style(folder, row[columns.style]) if columns.style else None
        name = row[columns.name] if columns.name else None
        listed.append(_Row(row[column], name, style, masks))
    return listed


def _masks(row: str, folder: str, content: str | None, style: str | None) -> tuple[str, str] | None:
    if not content and not style:
        return None
    if not content or not style:
        raise ValueError(f"{row} must have two masks or none, got one")
    return store.join(folder, content), store.join(folder, style)


def _style(folder: str, style: str | None) -> str | None:
    """The style of a row: a preset's name, or a path relative to the table."""
    if not style:
        return None
    return style if style in presets.names() else store.join(folder, style)


def _checked(table: str, name: str) -> str:
    """The name of a result, which may not lead out of the output folder."""
    normal = posixpath.normpath(name.split("://")[-1]).lstrip("/")
    if normal.startswith("..") or normal == ".":
        raise ValueError(f"names of {table} must lie in the output folder, got {name}")
    return normal


def _result_name(job: Job, format: str | None) -> str:
    name = job.output
    stem, dot, _ = name.rpartition(".")
    if job.is_video:
        return name if _suffix(name) in VIDEOS else name + _suffix(job.url)
    if format is not None:
        return f"{stem if dot and _suffix(name) in SUFFIXES else name}{format}"
    try:
        format_of(name)
    except PictureError:  # also if a package is missing, without which it cannot be read, either
        return f"{stem if dot and _suffix(name) in SUFFIXES else name}.png"
    return name


def _suffix(name: str) -> str:
    return posixpath.splitext(name.split("://")[-1])[1].lower()


def _split(url: str) -> tuple[str, str]:
    """The folder and the name of a file."""
    folder, slash, name = url.rpartition("/")
    return (folder or slash), name


def check_format(format: str | None) -> str | None:
    """Check the format of the results.

    Args:
        format: a suffix, with or without its dot; or None.

    Returns:
        The suffix with its dot.

    Raises:
        ValueError: pictures cannot be written in this format.

    Examples:
        >>> from fastfcs.batch.jobs import check_format
        >>> check_format("jpg")
        '.jpg'
    """
    if format is None:
        return None
    suffix = f".{format.lower().removeprefix('.')}"
    if suffix not in WRITABLE:
        raise ValueError(f"format must be one of {', '.join(WRITABLE)}, got {format}")
    format_of(f"a{suffix}")  # raises if a package for it is missing
    return suffix
