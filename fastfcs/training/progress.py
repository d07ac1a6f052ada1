"""A progress bar that shows what is minimised."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping


def progress(
    steps: range, shown: bool
) -> Iterable[tuple[int, Callable[[Mapping[str, float]], None]]]:
    """Steps, and what to tell of each; the bar shows the numbers told, smoothed.

    Without a terminal, a line in fifty.
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
    with Progress(*columns, console=console, disable=lines or not shown) as bar:
        task = bar.add_task("", total=steps.stop, completed=steps.start)
        for step in steps:
            yield step, report
            text = "  ".join(f"{name} {value:.4f}" for name, value in mean.items())
            bar.update(task, completed=step + 1, description=text)
            if lines and ((step + 1) % 50 == 0 or step + 1 == steps.stop):
                print(f"{step + 1}/{steps.stop}  {text}", file=sys.stderr, flush=True)
