"""What a connection may send before anybody has looked at it: uvicorn's protocols, with bounds on strangers."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from engine.service.sockets import FIRST_MESSAGE, WIDEN

LARGEST_HEAD: Final = 64 * 2**10
"""Bytes of a request's line and headers."""
HEAD_SECONDS: Final = 20.0
"""Within which they have to come, from the first byte on; of a new connection from its beginning."""

_OUTQ: Final = termios.TIOCOUTQ if sys.platform == "linux" else None
"""What Linux is asked how much of what was sent is not acknowledged."""


class HttpConnection(HttpToolsProtocol):
    """A connection whose requests have a head of bounded size, that comes in bounded time."""

    head_seconds = HEAD_SECONDS
    _is_in_head = True
    _head = 0
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._most, self.limit_concurrency = self.limit_concurrency, None  # counted before a head is read, not after

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            transport.abort()  # one more would take the files away that jobs need
            return
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            self._head += len(data)
            self._begin()
        super().data_received(data)
        if self._is_in_head and self._head > LARGEST_HEAD and not self.transport.is_closing():
            self.send_400_response(f"expected at most {LARGEST_HEAD} bytes of headers, found more")

    def on_message_begin(self) -> None:
        self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._disarm()
        self._is_in_head, self._head = False, 0
        found = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if found > LARGEST_HEAD:
            raise ValueError("the head is too large")  # the parser stops, and 400 is answered
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_head = True
        super().on_message_complete()

    def _begin(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self._give_up)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        self.transport.close()


class SocketConnection(WebSocketsSansIOProtocol):
    """A websocket that may say little until somebody calls the ``WIDEN`` of its scope, and that is dropped when its client stands still.

    A client is asked for a sign of life every 20 seconds. One that is sent, or sends, something long over a thin line cannot answer before
    that is through, and so every byte counts. One that reads nothing is cut off, with whatever waits to be sent to it.
    """

    _moves = 0
    """How often something was received, or a message was sent."""
    _seen = (0, 0)
    """The moves, and the bytes that the client had still to take, when it was last looked at."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.conn.max_message_size = FIRST_MESSAGE

    def data_received(self, data: bytes) -> None:
        self._moves += 1
        super().data_received(data)

    async def send(self, message: Any) -> None:
        await super().send(message)
        self._moves += 1

    def send_keepalive_ping(self) -> None:
        super().send_keepalive_ping()
        self._is_moving()

    def keepalive_timeout(self) -> None:
        if self._is_moving() and not self.transport.is_closing():
            self.pong_timer = self.loop.call_later(self.ping_timeout or 0, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.transport.abort()  # closing waits until all is sent, which it never is to one that reads nothing

    def _is_moving(self) -> bool:
        """Whether the client sent or took anything since this was last asked; or could not be heard, since we do not read."""
        before = self._seen
        self._seen = self._moves, self.transport.get_write_buffer_size() + _on_the_way(self.transport)
        return self.read_paused or self._seen[0] > before[0] or self._seen[1] < before[1]

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][WIDEN] = {"call": self._widen}

    def _widen(self) -> None:
        self.conn.max_message_size = self.config.ws_max_size


def _on_the_way(transport: asyncio.Transport) -> int:
    """Bytes that the system has taken and the client has not; 0 where the system does not tell."""
    opened = transport.get_extra_info("socket")
    if _OUTQ is None or opened is None or opened.fileno() < 0:
        return 0
    return int.from_bytes(fcntl.ioctl(opened.fileno(), _OUTQ, bytes(4)), sys.byteorder)
