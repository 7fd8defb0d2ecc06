"""HTTP routes of node packs: passed on to the worker that has imported the packs, and its answers passed back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

from starlette.datastructures import URLPath
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from engine.jobs.web_address import WebAddress
from engine.packs.report import NotedRoute
from engine.service.comfy.routing import as_json
from engine.service.pack_proxy import Refused, forward
from engine.service.pack_table import RouteTable, answers, comparable

PATIENCE: Final = 60.0
"""Seconds a pack has to begin its answer."""

_log = logging.getLogger(__name__)


class PackRoutes(BaseRoute):
    """A route for all routes of all packs. It belongs behind the service's own, which win that way."""

    def __init__(
        self,
        routes: Callable[[], Sequence[NotedRoute]],
        address: Callable[[], WebAddress | None],
        *,
        limit: int,
        patience: float = PATIENCE,
    ) -> None:
        """``routes`` and ``address`` are asked at each request: both change when a worker is replaced.

        ``limit`` is in bytes of a request's body, ``patience`` in seconds to the first byte of the answer.
        """
        self._routes = routes
        self._address = address
        self._limit = limit
        self._patience = patience
        self._known: tuple[Sequence[NotedRoute], RouteTable] = ((), RouteTable(()))

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """A path that a pack noted; in part only, where it did so for other methods."""
        if scope["type"] not in ("http", "websocket"):
            return Match.NONE, {}
        found = self._table().at(comparable(raw_path(scope)))
        if not found:
            return Match.NONE, {}
        if scope["type"] == "websocket":
            return Match.FULL, {"pack_route": found[0]}
        route = next((route for route in found if answers(route, scope["method"])), None)
        if route is None:
            allowed = sorted({"GET" if route.method == "STATIC" else route.method for route in found})
            return Match.PARTIAL, {"pack_route": None, "pack_methods": allowed}
        return Match.FULL, {"pack_route": route}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Packs' routes have no names here."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in the pack's name. Whatever is wrong with it is an answer of one line."""
        if scope["type"] == "websocket":
            await _refuse_websocket(WebSocket(scope, receive, send))
            return
        route: NotedRoute | None = scope["pack_route"]
        if route is None:
            methods = ", ".join(scope["pack_methods"])
            refusal = _refusal(f"expected {methods}, found {scope['method']}", 405)
            refusal.headers["Allow"] = methods
            await refusal(scope, receive, send)
            return
        try:
            address = self._address()
            if address is None:
                raise Refused("its worker is not there: it starts, or is being replaced; try again in a moment", 503)
            await forward(address, raw_path(scope), scope, receive, send, limit=self._limit, patience=self._patience)
        except Refused as refused:
            _log.log(
                logging.WARNING if refused.status >= 500 else logging.INFO,
                "pack %s: %s %s: %s", route.pack, route.method, route.path, refused,
            )  # fmt: skip
            await _refusal(f"pack {route.pack}: {refused}", refused.status)(scope, receive, send)

    def _table(self) -> RouteTable:
        routes = self._routes()
        if routes is not self._known[0]:
            self._known = (routes, RouteTable(routes))
        return self._known[1]


def raw_path(scope: Scope) -> str:
    """The path of a request as it came, encoded, without the prefix that the service is mounted at."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else quote(scope["path"])
    prefix = quote(scope.get("root_path", ""))
    return path.removeprefix(prefix) if prefix and path.startswith(f"{prefix}/") else path


async def _refuse_websocket(socket: WebSocket) -> None:
    refusal = _refusal("websockets of node packs are not supported; messages of packs come over /ws", 501)
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(refusal)
    else:
        await socket.close(1011, "not supported")


def _refusal(text: str, status: int) -> Response:
    body: dict[str, Any] = {"error": text}
    return as_json(body, status)
