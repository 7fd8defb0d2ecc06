"""What one attempt at a job says, on its way into the store."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Future
from typing import Final

from engine.errors import ResourceError
from engine.jobs.changes import Happening
from engine.jobs.feed import Feed, JobPreview
from engine.jobs.happenings import happening
from engine.jobs.store import Store
from engine.run.events import Event, NodeBytes, NodePreview

_log: Final = logging.getLogger(__name__)


class Report:
    """Belongs to an event loop. What comes while something is being stored is stored together after it, so that nothing is out of order."""

    def __init__(self, store: Store, feed: Feed, job: str, token: int) -> None:
        self._store = store
        self._feed = feed
        self._job = job
        self._token = token
        self._waiting: list[Happening | NodePreview | NodeBytes] = []
        self._storing: asyncio.Task[None] | None = None
        self._trouble: ResourceError | None = None

    def hear(self, event: Event) -> None:
        match event:
            case NodePreview(is_result=False):
                self._pass_on(event)
            case NodePreview() | NodeBytes():
                self._put(event)
            case _ if (stored := happening(event, time.time())) is not None:
                self._put(stored)

    def _put(self, waiting: Happening | NodePreview | NodeBytes) -> None:
        self._waiting.append(waiting)
        if self._storing is None:
            self._storing = asyncio.create_task(self._store_all())

    async def settle(self) -> None:
        """Everything is in the store. Raises ``ResourceError`` if the store cannot be written; what it has not taken is kept."""
        while self._storing is not None or self._waiting:
            if self._storing is None:
                self._storing = asyncio.create_task(self._store_all())
            await self._storing
            if self._trouble is not None:
                raise self._trouble

    async def _store_all(self) -> None:
        self._trouble = None
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, NodePreview | NodeBytes):
                del self._waiting[0]
                self._pass_on(first)
                continue
            taken = self._take()
            try:
                await asyncio.wrap_future(self._append(taken))
            except ResourceError as error:
                self._waiting, self._trouble = taken + self._waiting, error
                break
            except Exception:  # it would be the same the next time
                _log.exception("what job %s said cannot be stored: %s", self._job, [name for _, name, _ in taken])
        self._storing = None

    def _take(self) -> list[Happening]:
        """All that is to be stored before the next that is only passed on."""
        taken: list[Happening] = []
        for waiting in self._waiting:
            if isinstance(waiting, NodePreview | NodeBytes):
                break
            taken.append(waiting)
        del self._waiting[: len(taken)]
        return taken

    def _pass_on(self, event: NodePreview | NodeBytes) -> None:
        if isinstance(event, NodeBytes):
            self._feed.carry(event)
        else:
            self._feed.show(JobPreview(event.job, event.node, event.shown, event.image, event.is_result))

    def _append(self, happened: list[Happening]) -> Future[bool]:
        return self._store.append(self._job, self._token, happened)
