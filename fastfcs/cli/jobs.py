"""Pairing of input files with output files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import click

from ..errors import counted


def plan(
    contents: Collection[str],
    output: str,
    force: bool,
    *,
    recursive: bool = False,
    skip_existing: bool = False,
) -> list[tuple[str, str]]:
    """Pair every input with its output, and create the output folders.

    All errors in the paths are raised here, before any work is done. What is left out is reported
    on standard error.

    Args:
        contents: files, folders, or - for standard input.
        output: a file, a folder, or - for standard output.
        force: whether existing files may be overwritten.
        recursive: whether folders are read with their subfolders, which the outputs mirror.
        skip_existing: whether pictures whose output exists are left out.

    Returns:
        Pairs of an input and an output.

    Raises:
        ValueError: the paths do not fit together, a folder contains no picture, both ``force`` and
            ``skip_existing`` are True, or neither is and an output exists.

    Examples:
        >>> import os, tempfile
        >>> from fastfcs.cli.jobs import plan
        >>> folder = tempfile.mkdtemp()
        >>> jobs = plan(["a.jpg", "b.bmp"], folder, force=False)
        >>> [(source, os.path.relpath(target, folder)) for source, target in jobs]
        [('a.jpg', 'a.jpg'), ('b.bmp', 'b.png')]
    """
    if skip_existing and force:
        raise ValueError("--skip-existing must be given without --force")
    sources: list[tuple[str, Path]] = []  # with their output in the output folder
    for content in contents:
        if os.path.isdir(content):
            folder = Path(content)
            pictures = _pictures_in(folder, recursive, Path(output))
            sources += [(str(path), path.relative_to(folder)) for path in pictures]
        else:
            sources.append((content, Path(Path(content).name)))
    if len(sources) == 1 and sources[0][0] in contents and not _is_folder(output):
        jobs = [(sources[0][0], output)]
        check_folder(output)
    elif any(source == "-" for source, _ in sources):
        raise ValueError("content must be - alone, with a file or - as output")
    elif output == "-" or os.path.isfile(output):
        raise ValueError(f"output must be a folder for several pictures, got {output}")
    else:
        jobs = [(source, str(Path(output) / _output_name(path))) for source, path in sources]
    existing = _existing_targets(jobs)
    if skip_existing and existing:
        click.echo(f"{counted(len(existing), 'picture')} skipped: the output exists", err=True)
        jobs = [(source, target) for source, target in jobs if target not in existing]
    elif existing and not force:
        more = f", and so do {len(existing) - 1} more" if len(existing) > 1 else ""
        raise ValueError(f"{existing[0]} exists already{more}; --force overwrites")
    for _, target in jobs:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
    return jobs


def check_folder(output: str) -> None:
    """Check that the folder of an output exists.

    Args:
        output: a file, or a link to one.

    Raises:
        ValueError: there is no such folder.

    Examples:
        >>> from fastfcs.cli.jobs import check_folder
        >>> check_folder("gone/a.png")
        Traceback (most recent call last):
        ValueError: gone/a.png cannot be written: gone is not a folder
    """
    folder = Path(os.path.realpath(output) if os.path.islink(output) else output).parent
    if not folder.is_dir():
        raise ValueError(f"{output} cannot be written: {folder} is not a folder")


def _existing_targets(jobs: list[tuple[str, str]]) -> list[str]:
    """The outputs that exist; raises if two are the same or one is no picture."""
    from ..images import format_of

    sources: dict[str, str] = {}
    for source, target in jobs:
        if target in sources:
            raise ValueError(f"{sources[target]} and {source} would both become {target}")
        sources[target] = source
        if target != "-":
            format_of(target)
    return [target for target in sources if target != "-" and os.path.exists(target)]


def _is_folder(output: str) -> bool:
    return output != "-" and (output.endswith(("/", os.sep)) or os.path.isdir(output))


def _pictures_in(folder: Path, recursive: bool, output: Path) -> list[Path]:
    """The pictures in a folder, without those in the output folder; reports what is ignored."""
    from ..images import RAW_SUFFIXES, SUFFIXES

    pictures: list[Path] = []
    ignored: Counter[str] = Counter()
    folders = [folder]
    while folders:
        for path in folders.pop().iterdir():
            kind = "folder" if path.is_dir() else "file"
            if path.name.startswith("."):
                # Folders' settings, AppleDouble files and what a killed run has left.
                ignored[f"hidden {kind}"] += 1
            elif path.is_dir():
                if path.resolve() == output.resolve():
                    continue
                if not recursive:
                    ignored["folder"] += 1
                elif path.is_symlink():  # may lead back to where it is
                    ignored["linked folder"] += 1
                else:
                    folders.append(path)
            elif path.suffix.lower() in SUFFIXES:
                pictures.append(path)
            else:
                ignored["other file"] += 1
    if not pictures:
        suffixes = ", ".join(sorted(SUFFIXES - RAW_SUFFIXES))
        raise ValueError(f"{folder} must contain pictures ({suffixes}, or cameras' raw files)")
    if ignored:
        counts = [counted(ignored[kind], kind) for kind in sorted(ignored)]
        click.echo(f"{folder}: {', '.join(counts)} ignored", err=True)
    return sorted(pictures)


def _output_name(path: Path) -> Path:
    from ..images import PictureError, format_of

    try:
        format_of(path)
    except PictureError:  # also if a package is missing, without which it cannot be read, either
        return path.with_suffix(".png")
    return path
