"""The desk: what every route works with, and what can be asked of the service whichever way it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from engine.jobs.store import Submitted
from engine.service.wire import EventFrames

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from engine.files import LocalFiles
    from engine.jobs.dispatcher import Dispatcher
    from engine.jobs.feed import Feed
    from engine.jobs.records import Submission
    from engine.jobs.store import Store
    from engine.places import Places
    from engine.registry import Registry
    from engine.service.comfy.hub import Hub
    from engine.service.logs import LogRing
    from engine.service.operations import Metrics
    from engine.service.packs import Packs
    from engine.service.served import Folder
    from engine.service.settings import ServiceSettings


@dataclass(slots=True)
class Desk:
    """Built once by ``engine.service.app``; a route finds it with ``desk_of``."""

    settings: ServiceSettings
    registry: Registry
    files: LocalFiles
    log_ring: LogRing | None = None
    """The last lines of the log, for those who look on."""
    web_directories: dict[str, Folder] = field(default_factory=dict)
    """The folder of scripts for the editor that a pack brings, by the pack's name."""
    user_lock: Lock = field(default_factory=Lock)
    """Held while something in the user folder is read and written back."""
    work: Work | None = None
    """Jobs, and those who work at them; None for routes that need none."""

    @property
    def places(self) -> Places:
        return self.settings.places


@dataclass(slots=True)
class Work:
    """The part of the desk that jobs pass over."""

    store: Store
    feed: Feed
    dispatcher: Dispatcher
    hub: Hub
    packs: Packs
    metrics: Metrics
    queue_limit: int
    event_frames: EventFrames = field(default_factory=EventFrames)

    async def submit(self, submission: Submission) -> Submitted:
        """Put a job on disk, then into the queue. Raises ``Conflict`` or ``QueueFull``."""
        return await self.dispatcher.submit(submission, queue_limit=self.queue_limit)


def desk_of(request: HTTPConnection) -> Desk:
    """The desk of the service that a request or a websocket came to."""
    desk: Desk = request.app.state.desk
    return desk


def work_of(request: HTTPConnection) -> Work:
    """The part of the desk that jobs pass over."""
    work = desk_of(request).work
    assert work is not None, "the app was built without jobs"
    return work
