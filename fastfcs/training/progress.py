"""A progress bar that shows what is minimised."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping


def progress(
    steps: Iterable[int], start: int, total: int | None, shown: bool
) -> Iterable[tuple[int, Callable[[Mapping[str, float]], None]]]:
    """Steps, and what to tell of each; the bar shows the numbers told, smoothed.

    Without a terminal, a line in fifty, and the last.

    Args:
        start, total: the number of the first step, and of all, if that is known.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    mean: dict[str, float] = {}

    def report(numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            mean[name] = 0.98 * mean.get(name, value) + 0.02 * value

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    lines = shown and not console.is_terminal

    def line() -> None:
        of = "" if total is None else f"/{total}"
        print(f"{done}{of}  {text}", file=sys.stderr, flush=True)

    done, printed, text = start, start, ""
    with Progress(*columns, console=console, disable=lines or not shown) as bar:
        task = bar.add_task("", total=total, completed=start)
        for step in steps:
            yield step, report
            done = step + 1
            text = "  ".join(f"{name} {value:.4f}" for name, value in mean.items())
            bar.update(task, completed=done, description=text)
            if lines and done % 50 == 0:
                line()
                printed = done
    if lines and printed < done:
        line()
