"""Working through the pictures of a command, with a progress bar and a report on each."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..errors import BAD_INPUT, sentence
from ..progress import ProgressBar

if TYPE_CHECKING:
    from rich.console import Console

Report = dict[str, Any]


@contextmanager
def one_picture(bar: ProgressBar) -> Iterator[None]:
    """Advance a bar by one picture at its end.

    Args:
        bar: the bar.

    Yields:
        Nothing; the block works on the picture.

    Examples:
        >>> from fastfcs.cli.work import one_picture
        >>> from fastfcs.progress import ProgressBar
        >>> with ProgressBar(1, shown=False) as bar, one_picture(bar):
        ...     pass
    """
    try:
        yield
    finally:
        bar.advance(1.0)


def work_through(
    jobs: Sequence[tuple[str, str]],
    process: Callable[[str, str], Report],
    console: Console,
    as_json: bool,
    notes: Sequence[str] = (),
    step: Callable[[ProgressBar], AbstractContextManager[None]] = one_picture,
) -> None:
    """Make every output from its input, and exit with code 2 if any could not be made.

    Args:
        jobs: pairs of an input and an output, from `fastfcs.cli.jobs.plan`.
        process: makes one output. Returns its "size" (width and height), "notes", and what else
            there is to report; "seconds" and "peak_memory", the largest resident memory of the
            process so far in bytes, are added.
        console: for messages.
        as_json: whether to print the reports as JSON on standard output.
        notes: that hold for all outputs.
        step: advances a bar by one picture while the block works on it.

    Raises:
        SystemExit: an output could not be made.

    Examples:
        >>> import io
        >>> from rich.console import Console
        >>> from fastfcs.cli.work import work_through
        >>> text = io.StringIO()
        >>> process = lambda source, target: {"size": [24, 16], "notes": ["cropped"]}
        >>> work_through([("a.png", "b.png")], process, Console(file=text), as_json=False)
        >>> text.getvalue().splitlines()[0]
        'a.png: cropped'
    """
    for note in notes:
        console.print(note)
    failed = False
    shown = not as_json and console.is_terminal
    with ProgressBar(len(jobs), shown=shown, console=console) as bar:
        for source, target in jobs:
            with step(bar):
                report = _report(process, source, target)
            _print(console, report)
            if as_json:
                if "notes" in report:
                    report["notes"] = [*notes, *report["notes"]]
                click.echo(json.dumps(report))
            failed |= "error" in report
    if failed:
        sys.exit(2)


def _report(process: Callable[[str, str], Report], source: str, target: str) -> Report:
    report: Report = {"input": source, "output": target}
    start = time.perf_counter()
    try:
        report |= process(source, target)
    except BAD_INPUT as error:
        message = sentence(error)
        named = message if message.startswith(source) else f"{source}: {message}"
        return report | {"error": named}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return report | {"seconds": round(time.perf_counter() - start, 3), "peak_memory": peak}


def _print(console: Console, report: Report) -> None:
    if "error" in report:
        console.print(report["error"])
        return
    for note in report["notes"]:
        console.print(f"{report['input']}: {note}")
    width, height = report["size"]
    console.print(f"{report['output']}: {width} x {height}, {report['seconds']:.2f} s")
