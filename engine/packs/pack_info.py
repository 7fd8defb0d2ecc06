"""What editors are told of packs' nodes: asked for anew when it is wanted, and as last known where there is no answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from engine.errors import MezzotintError

_EACH: Final = 2.0
"""Seconds without any answer after which those still missing are not waited for."""
_ALL: Final = 10.0
"""Seconds for all of them."""

_log = logging.getLogger(__name__)


class NoAnswer(MezzotintError):
    """A question to a pack's class that has no answer: none in time, or nobody to ask."""


class Asking(Protocol):
    """Whoever can be asked about many types at once: ``engine.jobs.gentle.Gentle``."""

    def ask_all(self, what: str, types: Sequence[str], each: float, total: float) -> Mapping[str, Any]:
        """For each type what it said, or the ``MezzotintError``; ``NoAnswer`` where it said nothing."""
        ...


class PackInfo:
    """The ``object_info`` of packs' node types. Safe to use from several threads."""

    def __init__(self, asking: Asking, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """``known`` is what was remembered from an earlier process."""
        self._asking = asking
        self._known: dict[str, dict[str, Any]] = {type_: dict(info) for type_, info in (known or {}).items()}
        self._lock = threading.Lock()

    def of(self, type_: str) -> dict[str, Any] | None:
        """What is known of one type; None if nothing is, or if it cannot say."""
        with self._lock:
            return self._known.get(type_)

    def known(self) -> dict[str, dict[str, Any]]:
        """What is known of all types."""
        with self._lock:
            return dict(self._known)

    def refresh(self, types: Iterable[str], *, each: float = _EACH, total: float = _ALL) -> dict[str, dict[str, Any]]:
        """Ask ``types`` anew, for their choices change with the files there are; blocks for up to ``total`` seconds.

        A type whose class raises is left out. Of one that does not answer in time what was last known is returned, if anything was.
        """
        wanted = list(dict.fromkeys(types))
        answers = self._asking.ask_all("describe", wanted, each, total)
        silent = [type_ for type_ in wanted if isinstance(answers.get(type_), NoAnswer | None)]
        if silent:
            more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
            _log.warning(
                "no answer about %s%s; what was last known is served: %s", silent[0], more, answers.get(silent[0])
            )
        with self._lock:
            for type_ in set(wanted) - set(silent):
                self._take(type_, answers[type_])
            return {type_: self._known[type_] for type_ in wanted if type_ in self._known}

    def _take(self, type_: str, answer: Any) -> None:
        if isinstance(answer, Mapping):
            self._known[type_] = dict(answer)
            return
        self._known.pop(type_, None)
        _log.warning("node type %s cannot say what it takes, and is left out: %s", type_, answer)
