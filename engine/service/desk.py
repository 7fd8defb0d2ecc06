"""The desk: what every route works with, and what can be asked of the service whichever way it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from engine.files import LocalFiles
    from engine.places import Places
    from engine.registry import Registry
    from engine.service.settings import ServiceSettings


@dataclass(slots=True)
class Desk:
    """Built once by ``engine.service.app``; a route finds it with ``desk_of``."""

    settings: ServiceSettings
    registry: Registry
    files: LocalFiles

    @property
    def places(self) -> Places:
        return self.settings.places


def desk_of(request: HTTPConnection) -> Desk:
    """The desk of the service that a request or a websocket came to."""
    desk: Desk = request.app.state.desk
    return desk
