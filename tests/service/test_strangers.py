"""How much those may take up who have not shown the token yet: websockets, messages, heads of requests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from engine.service.connections import LARGEST_HEAD, HttpConnection
from engine.service.security import Guard, Policy
from engine.service.sockets import ALIKE, FIRST_MESSAGE, STRANGERS
from tests.service.guarded import TOKEN, echo, scope_of
from tests.service.serving import served

IN = {"X-Mezzotint-Token": TOKEN}
TOKEN_LINE = b"X-Mezzotint-Token: " + TOKEN.encode()


async def stream(websocket: WebSocket) -> None:
    """Lets in who says "open", as the native stream does with the token, then tells how much it is told."""
    await websocket.accept()
    if not websocket.scope["state"]["authenticated"] and await websocket.receive_text() != "open":
        await websocket.close(1008)
        return
    await websocket.send_text("hello")
    while (message := await websocket.receive())["type"] == "websocket.receive":
        await websocket.send_text(str(len(message["text"])))


def guard(sockets: int = 100) -> Guard:
    app = Starlette(routes=[WebSocketRoute("/v1/stream", stream), Route("/{path:path}", echo, methods=["GET", "POST"])])
    return Guard(app, Policy(token=TOKEN.encode(), sockets=sockets))


class Visitor:
    """One websocket at a guard, held open."""

    def __init__(self, at: Guard, address: str = "203.0.113.9", *, token: bool = False) -> None:
        headers = list(IN.items()) if token else []
        extensions: dict[str, dict[str, str]] = {"websocket.http.response": {}}
        scope = scope_of(
            "websocket", "/v1/stream", headers, subprotocols=[], extensions=extensions, client=(address, 1)
        )
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(at(scope, self._incoming.get, self._sent.put))

    async def told(self) -> str:
        """The next thing it is told: the text, the status of a refusal, or the kind of message."""
        message = await self._sent.get()
        return str(message.get("text") or message.get("status") or message["type"])

    def say(self, text: str) -> None:
        self._incoming.put_nowait({"type": "websocket.receive", "text": text})

    async def leave(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.gather(self._task, return_exceptions=True)


Knock = Callable[..., Visitor]


@pytest.fixture
async def knock() -> AsyncIterator[Knock]:
    """Visitors, who all leave in the end."""
    visitors: list[Visitor] = []

    def knocked(*given: Any, **more: Any) -> Visitor:
        visitors.append(Visitor(*given, **more))
        return visitors[-1]

    yield knocked
    await asyncio.gather(*(visitor.leave() for visitor in visitors))


async def test_strangers_have_few_places(knock: Knock) -> None:
    """So many of one address and so many in all may wait; those who show the token are let past, and a place left is free."""
    at = guard()
    waiting = [knock(at) for _ in range(ALIKE)]
    assert [await visitor.told() for visitor in waiting] == ["websocket.accept"] * ALIKE
    assert await knock(at).told() == "503"
    assert await knock(at, token=True).told() == "websocket.accept"
    others = [knock(at, f"203.0.113.{100 + number}") for number in range(STRANGERS - ALIKE)]
    assert {await visitor.told() for visitor in others} == {"websocket.accept"}
    assert await knock(at, "203.0.113.250").told() == "503"
    await waiting.pop().leave()
    assert await knock(at).told() == "websocket.accept"


async def test_who_is_let_in_is_no_stranger(knock: Knock) -> None:
    """One that the app talks to takes one of the many places and frees one of the few; one that is shown out frees it too."""
    at = guard(sockets=ALIKE + 1)
    for _ in range(ALIKE):
        visitor = knock(at)
        visitor.say("open")
        assert [await visitor.told(), await visitor.told()] == ["websocket.accept", "hello"]
    shown_out = knock(at)
    shown_out.say("wrong")
    assert [await shown_out.told(), await shown_out.told()] == ["websocket.accept", "websocket.close"]
    await shown_out.leave()
    assert await knock(at, token=True).told() == "websocket.accept"
    assert await knock(at, token=True).told() == "503"
    assert await knock(at).told() == "503"
    await visitor.leave()
    assert await knock(at, token=True).told() == "websocket.accept"


# over a wire


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(guard()) as found:
        yield found


def test_a_strangers_message_is_short(address: str) -> None:
    """A longer one is not even taken in, whole or in parts; who is let in, by either way, may say much more."""
    url = address.replace("http://", "ws://") + "/v1/stream"
    long = "x" * (FIRST_MESSAGE + 1)
    for said in (long, [long[:3000], long[3000:]]):
        with connect(url) as stranger:
            stranger.send(said)
            with pytest.raises(ConnectionClosed) as caught:
                stranger.recv(timeout=30)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009
    with connect(url) as wrong:
        wrong.send(long[1:])
        with pytest.raises(ConnectionClosed) as caught:
            wrong.recv(timeout=30)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008
    with connect(url) as friend:
        friend.send("open")
        assert friend.recv(timeout=30) == "hello"
        friend.send(long * 100)
        assert friend.recv(timeout=30) == str(len(long) * 100)
    with connect(url, additional_headers=IN) as known:
        assert known.recv(timeout=30) == "hello"
        known.send(long * 100)
        assert known.recv(timeout=30) == str(len(long) * 100)


def spoken(address: str, *parts: bytes) -> bytes:
    """What the service answers to bytes as they are, until it hangs up."""
    host, _, port = address.removeprefix("http://").partition(":")
    with closing(socket.create_connection((host, int(port)), timeout=30)) as wire:
        answer = b""
        try:
            for part in parts:
                wire.sendall(part)
            while data := wire.recv(65536):
                answer += data
        except ConnectionError:  # it hung up while it was still being talked to
            pass
        return answer


def head(*lines: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join((method + b" /x HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *lines, b"", b""))


@pytest.mark.parametrize(
    "parts",
    [
        (head(b"X-A: " + b"a" * (LARGEST_HEAD + 1)),),
        (head(*[b"X-%d: a" % number for number in range(LARGEST_HEAD // 8)]),),
        (b"GET /" + b"a" * LARGEST_HEAD + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",),
        (head()[:-2] + b"X-A: ", *[b"a" * 10_000] * 100),
    ],
    ids=["long", "many", "address", "endless"],
)
def test_a_head_is_bounded(address: str, parts: tuple[bytes, ...]) -> None:
    """Too large a line, too many or one that does not end is answered 400, and the connection ends."""
    answer = spoken(address, *parts)
    assert answer.startswith(b"HTTP/1.1 400") or (answer == b"" and len(parts) > 1)


def test_what_fits_is_taken(address: str) -> None:
    """Some thousand headers of a request, and the head of a second one on the same connection."""
    many = [b"X-%d: a" % number for number in range(1000)]
    first = head(*many, b"X-A: " + b"a" * 20_000, TOKEN_LINE).replace(b"close", b"keep-alive", 1)
    answer = spoken(address, first * 4, head(TOKEN_LINE))
    assert answer.count(b"HTTP/1.1 200") == 5


def test_a_body_does_not_count_as_a_head(address: str) -> None:
    """It may be larger than any head, and the next request is as welcome."""
    size = 3 * LARGEST_HEAD
    first = head(TOKEN_LINE, b"Content-Length: %d" % size, method=b"POST").replace(b"close", b"keep-alive", 1)
    answer = spoken(address, first, b"x" * size, head(TOKEN_LINE))
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"POST %d True" % size in answer


def test_connections_are_counted() -> None:
    """One more than there is room for is hung up on at once; the others go on, and a place left is free."""
    token = head(TOKEN_LINE)
    with served(guard(), connections=2) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as held:
            held.sendall(b"GET")
            assert spoken(address, token).startswith(b"HTTP/1.1 200")
            with socket.create_connection((host, int(port)), timeout=30) as second:
                second.sendall(b"GET")
                assert spoken(address, token) == b""
        assert spoken(address, token).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"GET /x HT",),
        (head(TOKEN_LINE).replace(b"close", b"keep-alive"), b"GET"),
    ],
)
def test_a_head_comes_in_time(monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]) -> None:
    """Who connects and says nothing, or does not end a head, first or later, is hung up on."""
    monkeypatch.setattr(HttpConnection, "head_seconds", 0.2)
    with served(guard()) as address:
        answer = spoken(address, *parts)
    assert answer.startswith(b"HTTP/1.1 200") == (len(parts) == 2)
