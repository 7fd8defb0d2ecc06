"""The HTTP routes of packs, answered where the packs are, by what they are written for: aiohttp. In a worker alone.

Each route is there twice, as it was written and below ``/api``, which is how ComfyUI's clients ask for it.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from engine.compat.host import Route
from engine.jobs.web_address import SECRET_HEADER, WebAddress
from engine.packs.report import NotedRoute
from engine.run.failures import one_line

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LONGEST_PATH: Final = 100
"""Bytes of a Unix socket's path that every system takes."""
_TO_END: Final = 1.0
"""Seconds that requests under way have when the worker ends."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PackServer:
    """A server that listens."""

    address: WebAddress
    routes: tuple[NotedRoute, ...]
    """Those that could be added, with all the paths they are found at."""
    _runner: web.AppRunner

    async def close(self) -> None:
        await self._runner.cleanup()
        self.address.remove()


async def serve_routes(routes: Sequence[Route]) -> PackServer:
    """Serve ``routes`` on this event loop. Those that cannot be added are named in the log and left out. Raises ``OSError``."""
    address = _unix_address()
    secret = "" if address else secrets.token_hex(32)
    app = web.Application(
        client_max_size=0, middlewares=[_needs(secret)] if secret else []
    )  # the service limits bodies
    added = add_routes(app.router, routes)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_TO_END)
    await runner.setup()
    if address is not None and address.socket is not None:
        await web.UnixSite(runner, address.socket).start()
    else:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = WebAddress(port=runner.addresses[0][1], secret=secret)
    return PackServer(address, added, runner)


def _unix_address() -> WebAddress | None:
    """A place for a socket, in a new folder that only this user may enter; None where there can be none."""
    if os.name != "posix" or not hasattr(socket, "AF_UNIX"):
        return None
    folder = Path(tempfile.mkdtemp(prefix="mezzotint-"))
    path = folder / "packs"
    if len(os.fsencode(path)) > _LONGEST_PATH:
        folder.rmdir()
        return None
    return WebAddress(socket=str(path))


def _needs(secret: str) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(SECRET_HEADER, "")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), secret.encode()):
            raise web.HTTPForbidden
        return await handler(request)

    return check


def add_routes(router: web.UrlDispatcher, routes: Sequence[Route]) -> tuple[NotedRoute, ...]:
    """Add ``routes`` and return what was added. Where two claim one place, the first has it, and one that says ``/api`` itself."""
    adder = _Adder(router, {route.path for route in routes if route.method == "HEAD"})
    return (*adder.add("", routes), *adder.add("/api", routes))


class _Adder:
    def __init__(self, router: web.UrlDispatcher, heads: set[str]) -> None:
        self._router = router
        self._heads = heads
        """Paths with a HEAD of their own; elsewhere a GET answers it."""
        self._resources: dict[str, web.Resource] = {}
        self._folders: set[str] = set()

    def add(self, prefix: str, routes: Iterable[Route]) -> list[NotedRoute]:
        added = []
        for route in routes:
            path = f"{prefix}{route.path}"
            try:
                self._add(path, route)
            except Exception as error:
                # below /api it is of no use to say it again
                _log.log(
                    logging.DEBUG if prefix else logging.WARNING,
                    "pack %s: its route %s %s is left out: %s", route.pack, route.method, path, one_line(error),
                )  # fmt: skip
            else:
                added.append(NotedRoute(route.method, path, route.pack))
        return added

    def _add(self, path: str, route: Route) -> None:
        """Raises whatever aiohttp raises for a path or a method that is none, ``ValueError`` for what was taken before."""
        if not isinstance(path, str) or not path.startswith("/"):
            raise ValueError(f"expected a path that begins with /, found {route.path!r}")
        if route.directory is not None:
            self._add_folder(path.rstrip("/"), route.directory)
            return
        if not callable(route.handler):
            raise ValueError(f"expected a function to handle it, found {route.handler!r}")
        resource = self._resources.get(path)
        if resource is None:
            resource = self._resources[path] = self._router.add_resource(path)
        resource.add_route(route.method, _guarded(route))
        if route.method == "GET" and path not in self._heads:
            resource.add_route("HEAD", _guarded(route))

    def _add_folder(self, path: str, directory: str) -> None:
        if not path or path in self._folders:
            raise ValueError(
                "expected a folder of its own, found " + ("that of another route" if path else "all paths")
            )
        self._router.add_static(path, directory)
        self._folders.add(path)


def _guarded(route: Route) -> Handler:
    """The handler of ``route``; whatever it raises is an answer in one line, and a line in the log."""
    handler = route.handler
    assert handler is not None

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            answer = handler(request)
            if inspect.isawaitable(answer):
                answer = await answer
            if not isinstance(answer, web.StreamResponse):
                raise TypeError(f"expected a response of aiohttp's, found {type(answer).__name__}")
            return answer
        except (web.HTTPException, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # sys.exit, and what stops a run, must not end the worker's loop
            if request.writer.output_size > 0:  # it is too late for another answer
                raise ConnectionError(f"pack {route.pack}: {one_line(error)}") from error
            _log.warning("pack %s: %s %s failed", route.pack, route.method, route.path, exc_info=error)
            text = f"pack {route.pack}: {route.method} {route.path} failed: {one_line(error)}"
            return web.json_response({"error": text}, status=500)

    return handle
