"""The word to stop. It belongs to one run, is made when the run is asked for, and is never cleared."""

from __future__ import annotations

import threading


class CancelToken:
    """Set from any thread; read by the executor and, through its context, by the running node."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    def __call__(self) -> bool:
        return self._event.is_set()
