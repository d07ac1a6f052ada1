"""Pairing of input files with output files."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import click


def plan(contents: Collection[str], output: str, force: bool) -> list[tuple[str, str]]:
    """Pair every input with its output, and create the output folder.

    All errors in the paths are raised here, before any work is done.

    Args:
        contents: files, folders, or - for standard input.
        output: a file, a folder, or - for standard output.
        force: whether existing files may be overwritten.

    Returns:
        Pairs of an input and an output.

    Raises:
        ValueError: the paths do not fit together, a folder contains no picture, or an output exists
            and ``force`` is False.

    Examples:
        >>> import os, tempfile
        >>> from fastfcs.cli.jobs import plan
        >>> folder = tempfile.mkdtemp()
        >>> jobs = plan(["a.jpg", "b.bmp"], folder, force=False)
        >>> [(source, os.path.relpath(target, folder)) for source, target in jobs]
        [('a.jpg', 'a.jpg'), ('b.bmp', 'b.png')]
    """
    sources: list[str] = []
    for content in contents:
        sources += _pictures_in(Path(content)) if os.path.isdir(content) else [content]
    if len(sources) == 1 and sources[0] in contents and not _is_folder(output):
        jobs = [(sources[0], output)]
    elif "-" in sources:
        raise ValueError("content must be - alone, with a file or - as output")
    elif output == "-" or os.path.isfile(output):
        raise ValueError(f"output must be a folder for several pictures, got {output}")
    else:
        jobs = [(source, str(Path(output) / _output_name(source))) for source in sources]
    _check_targets(jobs, force)
    folder = Path(jobs[0][1]).parent
    if len(jobs) == 1 and jobs[0][1] == output and not folder.is_dir():
        raise ValueError(f"{output} cannot be written: {folder} is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return jobs


def _check_targets(jobs: list[tuple[str, str]], force: bool) -> None:
    from ..images import format_of

    sources: dict[str, str] = {}
    for source, target in jobs:
        if target in sources:
            raise ValueError(f"{sources[target]} and {source} would both become {target}")
        sources[target] = source
        if target != "-":
            format_of(target)
    existing = [target for target in sources if target != "-" and os.path.lexists(target)]
    if existing and not force:
        more = f", and so do {len(existing) - 1} more" if len(existing) > 1 else ""
        raise ValueError(f"{existing[0]} exists already{more}; --force overwrites")


def _is_folder(output: str) -> bool:
    return output != "-" and (output.endswith(("/", os.sep)) or os.path.isdir(output))


def _pictures_in(folder: Path) -> list[str]:
    from ..images import SUFFIXES

    files = sorted(path for path in folder.iterdir() if path.is_file())
    pictures = [str(path) for path in files if path.suffix.lower() in SUFFIXES]
    if not pictures:
        raise ValueError(f"{folder} must contain pictures ({', '.join(sorted(SUFFIXES))})")
    if len(pictures) < len(files):
        click.echo(f"{folder}: {len(files) - len(pictures)} other files ignored", err=True)
    return pictures


def _output_name(source: str) -> str:
    from ..images import WRITABLE

    path = Path(source)
    return path.name if path.suffix.lower() in WRITABLE else path.stem + ".png"
