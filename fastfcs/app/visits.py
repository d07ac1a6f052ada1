"""The visitors of a page, each with work of their own."""

from __future__ import annotations

import atexit
import secrets
import time
from pathlib import Path
from threading import Lock, Timer

from gradio.utils import get_upload_folder

from ..stylizer import Stylizer
from .turns import Turns
from .visit import Visit

STAY = 600
"""Seconds that files are kept after a visitor has left."""

_STALE = 86_400  # seconds after which a visitor has left who never said so
_LAST = 10  # seconds that work may take to end


class Visits:
    """The visitors of one page.

    Args:
        stylizer: whose network they share.

    Examples:
        >>> from fastfcs import Stylizer
        >>> from fastfcs.app.visits import Visits
        >>> visits = Visits(Stylizer(weights="tiny", refine=True))
        >>> visits.of("a") is visits.of("a"), visits.of("a") is visits.of("b")
        (True, False)
        >>> visits.end("a"), visits.end("b")
        (None, None)
    """

    def __init__(self, stylizer: Stylizer) -> None:
        self._stylizer, self._turns = stylizer, Turns()
        self._visits: dict[str, Visit] = {}
        self._used: dict[str, float] = {}
        self._leaving: dict[str, Timer] = {}
        self._lock = Lock()
        atexit.register(self.end_all)

    def of(self, session: str) -> Visit:
        """Find the work of a visitor by their session, or begin it."""
        now = time.monotonic()
        for other, used in list(self._used.items()):
            if now - used > _STALE:
                self.end(other)
        with self._lock:
            self._used[session] = now
            if session in self._leaving:
                self._end_later(session)
            if session not in self._visits:
                # In Gradio's folder, the one that it serves files from. The name is a secret.
                folder = Path(get_upload_folder()) / f"visit-{secrets.token_hex(16)}"
                self._visits[session] = Visit(self._stylizer, self._turns, folder)
            return self._visits[session]

    def leave(self, session: str) -> None:
        """Remove a visitor's files in ten minutes, or ten minutes after what still comes.

        A telephone may have lost its connection, and a closed page has events under way.
        """
        with self._lock:
            if session in self._visits:
                self._visits[session].cancel()
                self._end_later(session)

    def _end_later(self, session: str) -> None:
        if session in self._leaving:
            self._leaving[session].cancel()
        timer = self._leaving[session] = Timer(STAY, self.end, [session])
        timer.daemon = True
        timer.start()

    def end_all(self) -> None:
        """End all work, and remove all files."""
        for session in list(self._visits):
            self.end(session)
        self._turns.settle(_LAST)

    def end(self, session: str) -> None:
        """Remove a visitor's files."""
        with self._lock:
            self._leaving.pop(session, None)
            self._used.pop(session, None)
            visit = self._visits.pop(session, None)
        if visit:
            visit.close()
