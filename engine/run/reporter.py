"""Hands the events of one run to whoever listens, in order and on one thread, whichever thread they come from."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from engine.run.events import Event, OnEvent

TICK: Final = 0.02
"""Seconds between two deliveries of what other threads post. Waking the loop for every event would make a computing thread wait for it
each time: of two Python threads only one runs, and on a busy machine handing over takes longer than a small node."""

_log = logging.getLogger(__name__)


class Reporter:
    """Belongs to the event loop it is made on."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._waiting: deque[Event] = deque()
        self._is_due = False

    def post(self, event: Event) -> None:
        """Hand on an event: at once on the loop's thread, within ``TICK`` from others."""
        self._waiting.append(event)
        if threading.get_ident() == self._thread:
            self._hand_on()
        elif not self._is_due:
            self._is_due = True
            self.wake(self._tick)

    def wake(self, callback: Callable[[], object]) -> None:
        """Have ``callback`` called on the loop, from any thread or a signal handler."""
        with contextlib.suppress(RuntimeError):  # the loop was closed: the run is over
            self._loop.call_soon_threadsafe(callback)

    def _tick(self) -> None:
        """Hand on what there is and come back for more, until there is none for one tick."""
        if not self._waiting:
            self._is_due = False
        if self._waiting:
            self._is_due = True
            self._hand_on()
            self._loop.call_later(TICK, self._tick)

    def _hand_on(self) -> None:
        while self._waiting:
            event = self._waiting.popleft()
            try:
                self._on_event(event)
            except Exception:  # who watches a run must not be able to end it
                _log.exception("the listener to job %s failed on %s", event.job, type(event).__name__)
