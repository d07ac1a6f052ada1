"""The progress bar shown by every loop that takes minutes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

_LINE = 50  # steps per line where standard error is not a terminal


class ProgressBar:
    """A context manager that shows progress and the latest numbers on standard error.

    Where standard error is not a terminal, every fiftieth step and the last one print a line.

    Args:
        total: total number of steps, or None if it is not known.
        done: number of steps that are already done.
        shown: whether to show anything.
        smoothing: weight of the past in the moving averages of the numbers; 0 shows the latest.
        console: the `rich` console to which other lines are printed meanwhile; by default a new
            one.

    Examples:
        >>> from fastfcs.progress import ProgressBar
        >>> with ProgressBar(2, shown=False, smoothing=0) as bar:
        ...     for step in range(2):
        ...         bar.report({"loss": 1 / (step + 1)})
        ...         bar.advance()
        >>> bar.text
        'loss 0.5000'
    """

    def __init__(
        self,
        total: int | None,
        done: int = 0,
        *,
        shown: bool = True,
        smoothing: float = 0.98,
        console: Console | None = None,
    ) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = console or Console(stderr=True)
        self._total, self._done, self._printed = total, float(done), float(done)
        self._smoothing, self._averages = smoothing, dict[str, float]()
        self._prints_lines = shown and not console.is_terminal
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not shown or self._prints_lines,
        )
        self._task = self._bar.add_task("", total=total, completed=done)

    @property
    def text(self) -> str:
        """The numbers as they are shown."""
        return "  ".join(f"{name} {value:#.4g}" for name, value in self._averages.items())

    def report(self, numbers: Mapping[str, float]) -> None:
        """Add a step's numbers, by name, to their averages; `advance` shows them."""
        for name, value in numbers.items():
            average = self._averages.get(name, value)
            self._averages[name] = self._smoothing * average + (1 - self._smoothing) * value

    def advance(self, steps: float = 1) -> None:
        """Count one more step, or a fraction of it; fractions may add up to a step inexactly."""
        self._done = round(self._done + steps, 6)
        self._bar.update(self._task, completed=self._done, description=self.text)
        if self._prints_lines and self._done % _LINE == 0:
            self._print_line()

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if error is None and self._prints_lines and self._printed < self._done:
            self._print_line()

    def _print_line(self) -> None:
        of_total = "" if self._total is None else f"/{self._total}"
        print(f"{self._done:.0f}{of_total}  {self.text}", file=sys.stderr, flush=True)
        self._printed = self._done


def progress_bar(
    steps: Iterable[int], start: int, total: int | None, shown: bool = True
) -> Iterator[tuple[int, Callable[[Mapping[str, float]], None]]]:
    """Iterate over steps with a `ProgressBar`.

    Args:
        steps: consecutive step numbers.
        start: the number of the first step.
        total: total number of steps, or None if it is not known.
        shown: whether to show anything.

    Yields:
        The step, and a function that reports its numbers, by name.

    Examples:
        >>> from fastfcs.progress import progress_bar
        >>> for step, report in progress_bar(range(2), 0, 2, shown=False):
        ...     report({"loss": 1 / (step + 1)})
    """
    with ProgressBar(total, start, shown=shown) as bar:
        for step in steps:
            yield step, bar.report
            bar.advance()
