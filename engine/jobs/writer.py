"""One thread that writes: what is asked for at the same time is committed together, and nobody is answered before."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from engine.errors import ResourceError

T = TypeVar("T")

_TOGETHER: Final = 500
"""Changes in one commit at most."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Change:
    make: Callable[[sqlite3.Connection], Any]
    is_forced: bool
    after: Callable[[Any], None] | None
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: BaseException | None = None


class WriterThread:
    """Owns a connection. Each change is made whole or not at all; several may share a commit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue: SimpleQueue[_Change | None] = SimpleQueue()
        self.has_failed = False
        """Whether the last commit could not be written. For this object's thread, and so for changes."""
        self._thread = threading.Thread(target=self._run, name="mezzotint-store", daemon=True)
        self._thread.start()

    def write(
        self,
        make: Callable[[sqlite3.Connection], T],
        *,
        is_forced: bool = False,
        after: Callable[[T], None] | None = None,
    ) -> Future[T]:
        """Have ``make`` called with the connection inside a transaction. The future has its result once that is committed.

        ``after`` is called on this object's thread between the two, in the order of the changes.
        ``is_forced``: it is to survive a loss of power too, not only of the process. The future fails with whatever ``make`` raises, then
        nothing of it was done, or with ``ResourceError`` when it cannot be written.
        """
        change = _Change(make, is_forced, after)
        self._queue.put(change)
        return change.future

    def close(self) -> None:
        """Write what was asked for, then end."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch: list[_Change] = []
            change = self._queue.get()
            while change is not None:
                batch.append(change)
                if self._queue.empty() or len(batch) >= _TOGETHER:
                    break
                change = self._queue.get()
            is_open = change is not None
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[_Change]) -> None:
        before = self._connection.total_changes
        try:
            forced = any(change.is_forced for change in batch)
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if forced else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            for change in batch:
                self._make(change)
            self._connection.execute("COMMIT")
            # one that changed nothing says nothing of the disk
            self.has_failed = self.has_failed and self._connection.total_changes == before
        except Exception as error:
            self.has_failed = True
            _log.exception("the job store could not be written")
            with contextlib.suppress(sqlite3.Error):  # it may have been rolled back already, or be out of reach
                self._connection.execute("ROLLBACK")
            for change in batch:
                change.error = change.error or ResourceError(
                    f"the job store cannot be written ({error}); is the disk full?"
                )
        for change in batch:
            _answer(change)

    def _make(self, change: _Change) -> None:
        self._connection.execute("SAVEPOINT change")
        try:
            change.result = change.make(self._connection)
        except sqlite3.OperationalError:  # the disk, and so none that share the commit are written
            raise
        except Exception as error:
            change.error = error
            self._connection.execute("ROLLBACK TO change")
        self._connection.execute("RELEASE change")


def _answer(change: _Change) -> None:
    if change.error is None and change.after is not None:
        try:
            change.after(change.result)
        except Exception:  # it is written, whatever those who are told make of it
            _log.exception("a change of the job store could not be told")
    if change.future.set_running_or_notify_cancel():
        if change.error is None:
            change.future.set_result(change.result)
        else:
            change.future.set_exception(change.error)
