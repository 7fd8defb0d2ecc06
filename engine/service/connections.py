"""What a connection may send before anybody has looked at it: uvicorn's protocols, with bounds on strangers."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from engine.service.sockets import FIRST_MESSAGE, WIDEN

LARGEST_HEAD: Final = 64 * 2**10
"""Bytes of a request's line and headers."""
HEAD_SECONDS: Final = 20.0
"""Within which they have to come, from the first byte on; of a new connection from its beginning."""


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
    """A websocket that may say little until somebody calls the ``WIDEN`` of its scope, and that may take its time to read."""

    _unsent = 0
    """Bytes that the client had not taken yet when the last ping was sent, or was due to be answered."""
    _has_taken = False
    """Whether it has made room for more since then."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.conn.max_message_size = FIRST_MESSAGE

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][WIDEN] = {"call": self._widen}

    def _widen(self) -> None:
        self.conn.max_message_size = self.config.ws_max_size

    def resume_writing(self) -> None:
        super().resume_writing()
        self._has_taken = True

    def send_keepalive_ping(self) -> None:
        self._has_taken, self._unsent = False, self.transport.get_write_buffer_size()
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """A client that still reads what was sent before the ping is given more time; one that reads nothing of it is hung up on."""
        unsent = self.transport.get_write_buffer_size()
        if self._has_taken or unsent < self._unsent:
            self._has_taken, self._unsent = False, unsent
            self.pong_timer = self.loop.call_later(self.ping_timeout or 0.0, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        if unsent:
            self.transport.abort()  # what it does not read would keep the connection open
