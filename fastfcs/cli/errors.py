"""User errors, reported as one sentence on standard error with exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..memory import is_exhausted

BAD_INPUT = (ValueError, OSError, RuntimeError, MemoryError)


@contextmanager
def sentences() -> Iterator[None]:
    """Report bad input as one sentence and exit with code 2.

    Yields:
        Nothing; the block is the command's work.

    Raises:
        SystemExit: the block raised one of `BAD_INPUT`.

    Examples:
        >>> from fastfcs.cli.errors import sentences
        >>> with sentences():
        ...     raise ValueError("strength must be in [0, 1], got 2")
        Traceback (most recent call last):
        SystemExit: 2
    """
    try:
        yield
    except BAD_INPUT as error:
        click.echo(sentence(error), err=True)
        sys.exit(2)


def sentence(error: Exception) -> str:
    """Describe an error in one line.

    Args:
        error: one of `BAD_INPUT`.

    Returns:
        The sentence.

    Examples:
        >>> from fastfcs.cli.errors import sentence
        >>> sentence(ValueError("strength must be in [0, 1], got 2"))
        'strength must be in [0, 1], got 2'
        >>> sentence(RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"))
        'not enough memory; smaller pictures need less'
    """
    text = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if is_exhausted(error):
        return "not enough memory; smaller pictures need less"
    return text
