"""The word to stop. It belongs to one run, is made when the run is asked for, and is never cleared."""

from __future__ import annotations

from collections.abc import Callable


class CancelToken:
    """Set from any thread or from a signal handler; read by the executor and, through its context, by the running node."""

    def __init__(self) -> None:
        self._cancelled = False
        self.is_patient = False
        """Whether whoever cancelled waits for as long as it takes."""
        self._listeners: list[Callable[[], None]] = []

    def cancel(self, *, patient: bool = False) -> None:
        """Set it. What was cancelled patiently may be cancelled again, without patience."""
        self.is_patient = patient and (self.is_patient or not self._cancelled)
        # no lock: a signal handler that waited for one held by the code it interrupted would wait for ever
        self._cancelled = True
        for listener in tuple(self._listeners):
            listener()

    def __call__(self) -> bool:
        return self._cancelled

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have ``listener`` called on ``cancel``, from whatever thread cancels, perhaps twice; at once if that has happened already.

        Returns what takes the subscription back.
        """
        self._listeners.append(listener)
        if self._cancelled:
            listener()
        return lambda: self._listeners.remove(listener)
