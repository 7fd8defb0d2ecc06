"""Websockets whose clients stand still, and those that are only slow."""

from __future__ import annotations

import os
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from tests.service.serving import served

_PING = 0.2


class Sender:
    """An app that sends without end, and notes when that is over."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.app = Starlette(routes=[WebSocketRoute("/", self._serve)])

    async def _serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_bytes(bytes(2**16))
        finally:
            self.over.set()


@contextmanager
def opened(address: str) -> Iterator[socket.socket]:
    """A websocket that answers nothing, pings neither; little of what is sent to it fits on the way."""
    url = urlsplit(address)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        connection.connect((url.hostname, url.port))
        key = b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET / HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert connection.recv(12) == b"HTTP/1.1 101"
        yield connection


def test_one_that_reads_nothing_is_cut_off() -> None:
    """Whoever sends to it does not wait for ever."""
    sender = Sender()
    with served(sender.app, ping=_PING) as address, opened(address):
        assert sender.over.wait(20)


def test_one_that_reads_slowly_is_let_be() -> None:
    """It cannot answer in time what it has not come to yet."""
    sender = Sender()
    with served(sender.app, ping=_PING) as address, opened(address) as connection:
        until = time.monotonic() + 12 * _PING
        while time.monotonic() < until:
            assert len(connection.recv(2**14)) > 0
            time.sleep(0.01)
        assert not sender.over.is_set()
