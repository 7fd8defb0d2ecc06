"""The service's log: lines on the standard error, and the last of them for those who look on."""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from typing import Any, Final

Entry = dict[str, str]
"""``{"t": time in ISO 8601, "m": text}``."""

CAPACITY: Final = 1000
_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LogRing(logging.Handler):
    """Keeps the last lines of a log and passes each new one on to whoever subscribed.

    Subscribers are called in the thread that logs, and must not block. ``followers`` are the ids of clients that asked to be sent
    the log; whoever sends it reads them.
    """

    def __init__(self, capacity: int = CAPACITY, most_followers: int = 2000) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self._subscribers: list[Callable[[Entry], None]] = []
        self._followers: dict[str, None] = {}
        self._most_followers = most_followers
        self._guard = Lock()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = {"t": _time(record), "m": self.format(record) + "\n"}
            with self._guard:
                self._entries.append(entry)
                subscribers = tuple(self._subscribers)
            for tell in subscribers:
                tell(entry)
        except Exception:
            self.handleError(record)

    def entries(self) -> list[Entry]:
        """What is remembered, oldest first."""
        with self._guard:
            return list(self._entries)

    def subscribe(self, tell: Callable[[Entry], None]) -> Callable[[], None]:
        """Call ``tell`` with each new entry, until the function that comes back is called."""
        with self._guard:
            self._subscribers.append(tell)

        def end() -> None:
            with self._guard:
                if tell in self._subscribers:
                    self._subscribers.remove(tell)

        return end

    @property
    def followers(self) -> frozenset[str]:
        with self._guard:
            return frozenset(self._followers)

    def follow(self, client: str, wanted: bool) -> None:
        """Let a client be sent the log, or no more. Of too many the one that asked first is forgotten."""
        with self._guard:
            self._followers.pop(client, None)
            if wanted:
                self._followers[client] = None
            while len(self._followers) > self._most_followers:
                del self._followers[next(iter(self._followers))]


class TextFormatter(logging.Formatter):
    """One line for people; the job is named if there is one."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        line = super().formatMessage(record)
        job = getattr(record, "job", None)
        return line if job is None else f"{line} [job {job}]"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, and ``job`` and ``exc`` where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        job = getattr(record, "job", None)
        if job is not None:
            line["job"] = str(job)
        if record.exc_info:
            line["exc"] = self.formatException(record.exc_info)
        return json.dumps(line)


def setup_logging(format: str, level: str, ring: LogRing | None = None) -> None:
    """Send all that is logged to the standard error as ``"text"`` or ``"json"`` lines, and to ``ring``.

    Handlers that were there are taken away, so that nothing is said twice. Raises ``ValueError`` for an unknown level.
    """
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.setLevel(level.upper())
    root.addHandler(stream)
    if ring is not None:
        root.addHandler(ring)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat()
