"""One request passed on to a worker: its body streamed there, the answer streamed back, and neither with what is the service's own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import TYPE_CHECKING, Any, Final

from starlette.types import Receive, Scope, Send

from engine.errors import MezzotintError
from engine.jobs.web_address import SECRET_HEADER, WebAddress
from engine.service.credentials import TOKEN_HEADER

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

RawHeaders = Iterable[tuple[bytes, bytes]]

_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
     b"transfer-encoding", b"upgrade")
)  # fmt: skip
"""Of one connection, not of the message (RFC 9110, 7.6.1)."""

_FOR_US: Final = frozenset((b"cookie", b"authorization", TOKEN_HEADER, b"expect", SECRET_HEADER.lower().encode()))
"""Credentials, and what the server has seen to already."""

_NOT_A_PACKS: Final = frozenset(
    (b"set-cookie", b"set-cookie2", b"clear-site-data", b"strict-transport-security", b"service-worker-allowed",
     b"alt-svc", b"public-key-pins", b"x-content-type-options", b"date", b"server")
)  # fmt: skip
"""What an answer says of the whole site, which no pack may; and what the server says itself."""

_AUTO: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_CONNECT: Final = 10.0
"""Seconds to reach a worker on this machine."""

_log = logging.getLogger(__name__)


class Refused(MezzotintError):
    """A request that has no answer of the pack's; ``status`` is the one to give."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class _ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def forward(
    address: WebAddress, path: str, scope: Scope, receive: Receive, send: Send, *, limit: int, patience: float
) -> None:
    """Have the worker at ``address`` answer. ``path`` is encoded; ``limit`` is in bytes of the body, ``patience`` in seconds.

    Raises ``Refused`` as long as nothing of an answer was sent: 413, 501 without aiohttp, 503 without a worker, 504 after too long.
    """
    upload = _Upload(receive, limit)
    gone = asyncio.create_task(upload.gone())
    try:
        async with _session(address) as session:
            response = await _first_byte(_ask(session, address, path, scope, upload), upload, gone, patience)
            async with response:
                await _until(_answer(response, send, scope["method"]), gone)
    except _ClientLeft:
        return
    finally:
        await _cancelled(gone)


def request_headers(headers: RawHeaders) -> list[tuple[str, str]]:
    """What the worker is sent of a request's headers."""
    dropped = _HOP | _FOR_US | _named_in_connection(headers)
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name.lower() not in dropped]


def response_headers(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """What a client is sent of a pack's headers: no cookie, nothing for other origins, and never a type to be guessed."""
    dropped = _HOP | _NOT_A_PACKS | _named_in_connection(headers)
    kept = [(name.lower(), value) for name, value in headers]
    kept = [(name, value) for name, value in kept if name not in dropped and not name.startswith(b"access-control-")]
    return [*kept, (b"x-content-type-options", b"nosniff")]


def _named_in_connection(headers: RawHeaders) -> frozenset[bytes]:
    named = (value for name, value in headers if name.lower() == b"connection")
    return frozenset(part.strip().lower() for value in named for part in value.split(b","))


class _Upload:
    """The body of a request, as it comes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._size = 0
        self._is_over = asyncio.Event()
        self.moved = time.monotonic()
        """When something of it came last."""
        self.is_too_large = False
        self.has_left = False

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._receive()
            self.moved = time.monotonic()
            if message["type"] == "http.disconnect":
                self.has_left = True
                self._is_over.set()
                raise ConnectionError("the client has left")
            chunk: bytes = message.get("body", b"")
            self._size += len(chunk)
            if self._size > self._limit:
                self.is_too_large = True
                raise ConnectionError("the body is too large")
            if chunk:
                yield chunk
            if not message.get("more_body", False):
                self._is_over.set()
                return

    def none(self) -> None:
        """There is no body to be sent."""
        self._is_over.set()

    async def gone(self) -> None:
        """Returns when the client has left."""
        await self._is_over.wait()
        while not self.has_left:
            self.has_left = (await self._receive())["type"] == "http.disconnect"


def _session(address: WebAddress) -> ClientSession:
    """A session for one request: a socket of this machine is opened at once, and none goes stale."""
    try:
        import aiohttp
    except ImportError:
        raise Refused('its HTTP routes need aiohttp, which is not there; pip install "mezzotint[packs]"', 501) from None
    connector = aiohttp.TCPConnector() if address.socket is None else aiohttp.UnixConnector(path=address.socket)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
    )


async def _ask(session: ClientSession, address: WebAddress, path: str, scope: Scope, upload: _Upload) -> ClientResponse:
    from yarl import URL

    headers = request_headers(scope["headers"])
    if address.secret:
        headers.append((SECRET_HEADER, address.secret))
    query = scope.get("query_string", b"").decode("latin-1")
    url = URL(f"http://127.0.0.1:{address.port or 80}{path}{'?' if query else ''}{query}", encoded=True)
    data = upload.chunks() if _has_body(scope["headers"]) else None
    if data is None:
        upload.none()
    return await session.request(
        scope["method"], url, headers=headers, data=data, allow_redirects=False, skip_auto_headers=_AUTO
    )


def _has_body(headers: RawHeaders) -> bool:
    told = {name.lower(): value for name, value in headers}
    return b"transfer-encoding" in told or told.get(b"content-length", b"0") != b"0"


async def _first_byte(
    asking: Awaitable[ClientResponse], upload: _Upload, gone: asyncio.Task[None], patience: float
) -> ClientResponse:
    """The response, when it begins. An upload may take its time, as long as it moves."""
    import aiohttp

    task = asyncio.ensure_future(asking)
    try:
        while not (task.done() or gone.done()):
            left = upload.moved + patience - time.monotonic()
            if left <= 0:
                raise Refused(f"expected an answer within {patience:g} s, found none", 504)
            await asyncio.wait({task, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _ClientLeft
        return task.result()
    except (aiohttp.ClientError, OSError) as error:
        if upload.has_left:
            raise _ClientLeft from error
        if upload.is_too_large:
            raise Refused("the body of the request is larger than this service takes", 413) from error
        _log.debug("a worker did not answer", exc_info=error)
        raise Refused(
            "its worker ended before it had answered, and is being replaced; try again in a moment", 503
        ) from error
    finally:
        await _cancelled(task)


async def _answer(response: ClientResponse, send: Send, method: str) -> None:
    """Pass the answer on. One that breaks off is broken off for the client too: it is told no end."""
    import aiohttp

    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": response_headers(response.raw_headers),
        }
    )
    try:
        if method != "HEAD":
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except (aiohttp.ClientError, OSError) as error:
        _log.warning("a pack's answer to %s broke off: %s", response.url.path, error)
        raise _ClientLeft from error
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until(answering: Awaitable[None], gone: asyncio.Task[None]) -> None:
    """Answer, unless the client leaves before the end."""
    task = asyncio.ensure_future(answering)
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        await _cancelled(task)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """End a task that is not wanted any more, and wait for its end."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
