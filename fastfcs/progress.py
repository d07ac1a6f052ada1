"""The progress bar of everything that takes minutes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping


def progress_bar(
    steps: Iterable[int],
    start: int,
    total: int | None,
    shown: bool = True,
    *,
    smoothing: float = 0.98,
) -> Iterator[tuple[int, Callable[[Mapping[str, float]], None]]]:
    """Iterate over steps with a progress bar on standard error that also shows numbers.

    Where standard error is not a terminal, every fiftieth step and the last print a line instead.

    Args:
        steps: step numbers, ascending.
        start: number of the first step.
        total: number of all steps, or None if it is not known.
        shown: False shows nothing.
        smoothing: weight of the past in the moving average of the numbers; 0 shows the latest.

    Yields:
        Each step, and a function to report its numbers, by name.

    Examples:
        >>> for step, report in progress_bar(range(2), 0, 2, shown=False):
        ...     report({"loss": 1 / (step + 1)})
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
    averages: dict[str, float] = {}

    def report(numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            averages[name] = smoothing * averages.get(name, value) + (1 - smoothing) * value

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    lines = shown and not console.is_terminal

    def print_line() -> None:
        of_total = "" if total is None else f"/{total}"
        print(f"{done}{of_total}  {text}", file=sys.stderr, flush=True)

    done, printed, text = start, start, ""
    with Progress(*columns, console=console, disable=lines or not shown) as bar:
        task = bar.add_task("", total=total, completed=start)
        for step in steps:
            yield step, report
            done = step + 1
            text = "  ".join(f"{name} {value:.4f}" for name, value in averages.items())
            bar.update(task, completed=done, description=text)
            if lines and done % 50 == 0:
                print_line()
                printed = done
    if lines and printed < done:
        print_line()
