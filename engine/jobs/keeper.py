"""Keeps one worker process: started when it is wanted, started anew when it has died, and never left behind."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from engine.errors import UsageError
from engine.jobs.loaded import Loaded
from engine.jobs.messages import OnBroadcast, WorkerSettings
from engine.jobs.process import NotStarted, WorkerDied, WorkerProcess
from engine.packs.describe import PackHooks

_LOADING: Final = 600.0
"""Seconds each pack has to load."""
_DEATHS: Final = 2
"""Deaths in a row, while a pack is imported, that leave it out: one alone may be the machine's, which was short of memory."""
_POLL: Final = 0.2

_log = logging.getLogger(__name__)


class Keeper:
    """Safe to use from several threads."""

    def __init__(self, settings: WorkerSettings, on_broadcast: OnBroadcast, hooks: PackHooks) -> None:
        """``hooks`` answers for the packs' classes, which are in the process."""
        self._settings = settings
        self._on_broadcast = on_broadcast
        self._hooks = hooks
        self._starting = threading.Lock()
        self._process: WorkerProcess | None = None
        self._loaded: Loaded | None = None
        self._deaths: Counter[str] = Counter()
        """By pack: how often the process died at its import since one came up."""
        self._is_closed = False

    @property
    def settings(self) -> WorkerSettings:
        """Those of the next process: with the packs that are left out by now."""
        return self._settings

    @property
    def last_loaded(self) -> Loaded | None:
        """What the latest process had loaded, if there was one."""
        return self._loaded

    @property
    def at_hand(self) -> WorkerProcess | None:
        """The process, if there is one that lives and has loaded its packs. Starts nothing."""
        process = self._process
        return process if process is not None and process.is_alive else None

    def living(self) -> tuple[WorkerProcess, Loaded]:
        """The process, started if there is none; waits until it is ready.

        A pack that ends the process each time it is imported, or does not come to an end with it, is left out from then on. Raises
        ``NotStarted`` where no process comes up for another reason, ``UsageError`` when this was closed, also in the meantime.
        """
        with self._starting:
            while True:
                if self._is_closed:
                    raise UsageError("the executor is closed")
                process, loaded = self.at_hand, self._loaded
                if process is not None and loaded is not None:
                    return process, loaded
                self._process = None
                self._start()

    def close(self, *, at_once: bool = False) -> None:
        """Let the process end; ``at_once``: kill one that is at something. One that is only starting is not waited for."""
        self._is_closed = True
        process = self._process
        if at_once and process is not None and process.is_busy:
            process.kill("the service ended")
        with self._starting:  # whoever starts one looks often enough whether it is still wanted
            if self._process is not None:
                self._process.close()
                self._process = None

    def _start(self) -> None:
        """One try. Without a process afterwards there is to be another."""
        process = WorkerProcess(self._settings, self._on_broadcast, lambda: self._is_closed)
        try:
            self._loaded = Loaded.from_ready(self._when_ready(process), self._hooks)
            self._process = process
            self._deaths.clear()
        except TimeoutError:
            process.kill("its packs took too long to load")
            self._leave_out(process.loading, f"its import did not come to an end within {_LOADING:g} s")
        except WorkerDied as error:
            self._blame(process.loading, f"its import failed: {error}")
        except BaseException:
            process.kill("nobody waits for it any more")
            raise

    def _when_ready(self, process: WorkerProcess) -> Mapping[str, Any]:
        """What it says when everything is loaded. Raises ``TimeoutError`` when one pack takes too long, ``WorkerDied``."""
        while True:
            try:
                return process.ready.result(_POLL)
            except TimeoutError:
                if self._is_closed:
                    raise UsageError("the executor was closed while its worker started") from None
                if time.monotonic() - process.loading_since > _LOADING:
                    raise

    def _blame(self, pack: str | None, reason: str) -> None:
        if pack is not None:
            self._deaths[pack] += 1
            if self._deaths[pack] < _DEATHS:
                _log.warning("pack %s is tried once more: %s", pack, reason)
                return
        self._leave_out(pack, reason)

    def _leave_out(self, pack: str | None, reason: str) -> None:
        if pack is None or pack in self._settings.skip:
            raise NotStarted(f"the worker did not start: {reason}")
        _log.warning("pack %s is left out: %s", pack, reason)
        self._settings = replace(self._settings, skip={**self._settings.skip, pack: reason})
