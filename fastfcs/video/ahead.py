"""Iterating ahead in a thread, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = 0.1  # seconds between looks at whether the consumer has gone


def ahead(items: Iterable[T], size: int = 4) -> Iterator[T]:
    """Iterate in a thread of its own, a few items ahead of the consumer.

    Args:
        items: what to iterate over.
        size: number of items that may wait.

    Yields:
        The items. What iterating raises is raised here.

    Examples:
        >>> from fastfcs.video.ahead import ahead
        >>> list(ahead(range(3)))
        [0, 1, 2]
    """
    queue: Queue[tuple[T] | BaseException | None] = Queue(size)
    gone = Event()

    def put(item: tuple[T] | BaseException | None) -> None:
        while not gone.is_set():
            try:
                return queue.put(item, timeout=_PATIENCE)
            except Full:
                pass

    def work() -> None:
        try:
            for item in items:
                put((item,))
                if gone.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = queue.get(timeout=_PATIENCE)
            except Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        gone.set()
        thread.join()
