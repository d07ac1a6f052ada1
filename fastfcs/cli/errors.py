"""User errors, reported as one sentence on standard error with exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..errors import BAD_INPUT, sentence


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
