"""Writes on a thread of its own, so that no run waits for a disk; and says when all of it is there."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

BACKLOG: Final = 1 << 30
"""Bytes of values that may wait to be written, and so be kept in memory."""


class Writer:
    """Does jobs in order. A job must not raise."""

    def __init__(self, backlog: int = BACKLOG) -> None:
        self._limit = backlog
        self._jobs: deque[tuple[Callable[[], None], int]] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, job: Callable[[], None], nbytes: int) -> bool:
        """Have ``job`` done, which keeps ``nbytes`` in memory until then. False if too much is waiting already."""
        with self._changed:
            if self._jobs and self._waiting + nbytes > self._limit:
                return False
            self._jobs.append((job, nbytes))
            self._waiting += nbytes
            if self._thread is None:
                # a daemon: who must have it on disk calls flush
                self._thread = threading.Thread(target=self._work, name="mezzotint-writer", daemon=True)
                self._thread.start()
            return True

    @property
    def is_busy(self) -> bool:
        return bool(self._jobs) or self._thread is not None

    def flush(self) -> None:
        """Wait until everything put so far is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._thread is None)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._thread = None
                    self._changed.notify_all()
                    return
                job, nbytes = self._jobs[0]
            job()
            with self._changed:
                self._jobs.popleft()
                self._waiting -= nbytes
            del job  # it holds the value
