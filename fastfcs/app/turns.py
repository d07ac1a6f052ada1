"""Who computes when several visitors ask at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Condition, Lock, Thread
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = 0.2  # seconds between looks at whether a wait shall end


class Turns:
    """One computation at a time, for two would slow each other down more than twofold.

    A long one lets short ones pass between its steps.

    Examples:
        >>> from fastfcs.app.turns import Turns
        >>> turns = Turns()
        >>> with turns.long():
        ...     turns.let_pass()
        >>> turns.short(lambda: 1 + 1)
        2
    """

    def __init__(self) -> None:
        self._long, self._computing = Lock(), Lock()
        self._counts = Condition()
        self._waiting = self._passed = 0

    @contextmanager
    def long(self, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Compute for as long as it takes; what ``check`` raises ends the wait for it."""
        while not self._long.acquire(timeout=_PATIENCE):
            check()
        try:
            with self._computing:
                yield
        finally:
            self._long.release()

    def short(self, work: Callable[[], T]) -> T:
        """Compute for a second or two."""
        with self._counts:
            self._waiting += 1
        try:
            with self._computing:
                return start(work).result()
        finally:
            with self._counts:
                self._waiting -= 1
                self._passed += 1
                self._counts.notify_all()

    def let_pass(self) -> None:
        """Let a short computation that is waiting go first; within `long`."""
        with self._counts:
            if not self._waiting:
                return
            passed = self._passed
            self._computing.release()
            self._counts.wait_for(lambda: self._passed > passed)
        self._computing.acquire()

    def settle(self, seconds: float) -> None:
        """Wait until nobody computes, at most for some seconds."""
        if self._computing.acquire(timeout=seconds):
            self._computing.release()


def start(work: Callable[[], T]) -> Future[T]:
    """Compute in a thread of its own, which ends with the work.

    OpenMP keeps a team of threads for every thread that has computed, as long as that one lives,
    and several teams on the same cores are each a fifth to a half slower.

    Args:
        work: what to compute.

    Returns:
        Its result, once there is one.

    Examples:
        >>> from fastfcs.app.turns import start
        >>> start(lambda: 1 + 1).result()
        2
    """
    future: Future[T] = Future()

    def fulfil() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=fulfil, daemon=True).start()
    return future
