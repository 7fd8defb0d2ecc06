"""Websockets whose clients take their time to read, by the server there is in life."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import connect

from engine.service.connections import SocketConnection
from tests.service.serving import served

SIZE = 16 * 2**20
ended = threading.Event()


async def send_much(websocket: WebSocket) -> None:
    """Three large messages, and a word after them."""
    await websocket.accept()
    try:
        for number in range(3):
            await websocket.send_bytes(bytes([number]) * SIZE)
            await asyncio.sleep(0)
        await websocket.send_text("end")
        await websocket.receive()
    finally:
        ended.set()


class Slow(socket.socket):
    """Takes some megabytes a second."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        time.sleep(0.004)
        return super().recv(size, flags)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A service that wants its pings answered in less time than a message takes."""
    begin = SocketConnection.start_keepalive

    def soon(self: SocketConnection) -> None:
        self.ping_interval = self.ping_timeout = 0.2
        begin(self)

    monkeypatch.setattr(SocketConnection, "start_keepalive", soon)
    ended.clear()
    with served(Starlette(routes=[WebSocketRoute("/ws", send_much)])) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


def _connected(kind: type[socket.socket], address: tuple[str, int]) -> socket.socket:
    made = kind(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    made.settimeout(30)
    made.connect(address)
    return made


def test_who_reads_slowly_is_not_taken_for_gone(address: tuple[str, int]) -> None:
    """A ping waits behind what was sent before it: for as long as that is being read the connection is kept."""
    with connect(
        f"ws://{address[0]}:{address[1]}/ws",
        sock=_connected(Slow, address),
        max_size=None,
        compression=None,
        ping_interval=None,
    ) as client:
        began = time.monotonic()
        for number in range(3):
            assert client.recv(timeout=30) == bytes([number]) * SIZE
        assert client.recv(timeout=30) == "end"
        assert time.monotonic() - began > 1


def test_who_reads_nothing_is_hung_up_on(address: tuple[str, int]) -> None:
    """And what waits for it is let go of."""
    with _connected(socket.socket, address) as silent:
        key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        silent.sendall(b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key + b"\r\n")
        assert ended.wait(10)
