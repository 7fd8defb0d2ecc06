"""The desk: what every route works with, and what can be asked of the service whichever way it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from engine.files import LocalFiles
    from engine.places import Places
    from engine.registry import Registry
    from engine.service.logs import LogRing
    from engine.service.settings import ServiceSettings


@dataclass(slots=True)
class Desk:
    """Built once by ``engine.service.app``; a route finds it with ``desk_of``."""

    settings: ServiceSettings
    registry: Registry
    files: LocalFiles
    log_ring: LogRing | None = None
    """The last lines of the log, for those who look on."""
    web_directories: dict[str, Path] = field(default_factory=dict)
    """The folder of scripts for the editor that a pack brings, by the pack's name."""
    user_lock: Lock = field(default_factory=Lock)
    """Held while something in the user folder is read and written back."""

    @property
    def places(self) -> Places:
        return self.settings.places


def desk_of(request: HTTPConnection) -> Desk:
    """The desk of the service that a request or a websocket came to."""
    desk: Desk = request.app.state.desk
    return desk
