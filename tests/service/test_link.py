"""A client whose service behaves badly, is slow, or is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from engine.client import Client, Gap, ServiceError, Unreachable
from engine.jobs.records import StoredEvent
from engine.service.wire import pack, unpack
from engine.subscription import Replaced

Answer = Callable[[ServerConnection, Mapping[str, Any]], Awaitable[None]]


@asynccontextmanager
async def service(answer: Answer, **hello: Any) -> AsyncIterator[str]:
    """The address of a service that gives ``answer`` to each frame."""

    async def handle(socket: ServerConnection) -> None:
        await socket.send(pack({"op": "hello", "version": 1, "last": 0, **hello}))
        async for data in socket:
            assert isinstance(data, bytes)
            await answer(socket, unpack(data))

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def close_large(socket: ServerConnection, frame: Mapping[str, Any]) -> None:
    if len(frame["params"].get("data", b"")) > 1_000:
        await socket.close(1009, "message too big")
    else:
        await asyncio.sleep(0.1)
        await socket.send(pack({"op": "answer", "id": frame["id"], "result": {"id": frame["method"]}}))


async def test_what_is_too_large_for_the_service_fails_alone() -> None:
    """The connection is closed over it, which the other question survives."""
    async with service(close_large) as url, Client(url) as client:
        small = asyncio.create_task(client.get("j"))
        with pytest.raises(ServiceError, match="expected less bytes in one message, found 2") as refused:
            await client.upload("a.png", bytes(2_000))
        assert refused.value.type == "too_large"
        assert await small == {"id": "get"}


async def test_what_is_said_to_be_too_large_is_not_sent() -> None:
    """The service says at first what it takes."""

    async def never(socket: ServerConnection, frame: Mapping[str, Any]) -> None:
        raise AssertionError

    async with service(never, largest=1_000) as url, Client(url) as client:
        with pytest.raises(ServiceError, match="expected at most 1000 bytes in one message, found 1"):
            await client.upload("a.png", bytes(1_000))


async def test_who_is_not_let_in_does_not_try_for_ever() -> None:
    """Closed as a matter of policy: whatever waits is told."""

    async def refuse(socket: ServerConnection, frame: Mapping[str, Any]) -> None:
        await socket.close(1008, "no token")

    async with service(refuse) as url, Client(url) as client:
        with pytest.raises(ServiceError, match="no token"):
            await asyncio.wait_for(client.get("j"), 10)
        with pytest.raises(ServiceError, match="no token"):
            await asyncio.wait_for(client.get("j"), 10)
        with pytest.raises(ServiceError, match="no token"):
            await asyncio.wait_for(anext(client.events()), 10)


async def test_a_question_that_the_service_dies_of_is_given_up() -> None:
    """It is asked again, less and less often, and then no more."""
    asked = 0

    async def die(socket: ServerConnection, frame: Mapping[str, Any]) -> None:
        nonlocal asked
        asked += 1
        socket.transport.abort()

    async with service(die) as url, Client(url, patience=0.5) as client:
        with pytest.raises(Unreachable, match="times while the service was asked to get"):
            await asyncio.wait_for(client.get("j"), 20)
        assert 5 <= asked <= 7


async def test_whatever_else_answers_is_no_service() -> None:
    """It is not connected to again."""

    async def never(socket: ServerConnection, frame: Mapping[str, Any]) -> None:
        raise AssertionError

    async with service(never, op="welcome") as url:
        with pytest.raises(Unreachable, match="no service of ours"):
            await asyncio.wait_for(Client(url).__aenter__(), 10)


class Flood:
    """A service with many events."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.sent = 0
        self.asked: list[int] = []
        self._sending: dict[int, asyncio.Task[None]] = {}

    async def answer(self, socket: ServerConnection, frame: Mapping[str, Any]) -> None:
        if frame["op"] == "unsubscribe":
            self._sending.pop(frame["id"]).cancel()
        else:
            self.asked.append(frame["after"])
            self._sending[frame["id"]] = asyncio.create_task(self._send(socket, frame["id"], frame["after"]))

    async def _send(self, socket: ServerConnection, number: int, after: int) -> None:
        for first in range(after + 1, self.last + 1, 500):
            numbers = range(first, min(first + 500, self.last + 1))
            events = [[seq, "j", 0.0, "node_progress", {}] for seq in numbers]
            await socket.send(pack({"op": "events", "id": number, "events": events}))
            self.sent = numbers[-1]
            await asyncio.sleep(0.002)


async def test_a_slow_reader_holds_no_more_than_it_can_read_soon() -> None:
    """It stops the service, goes on later where it was, and misses nothing."""
    flood = Flood(30_000)
    async with service(flood.answer) as url, Client(url) as client:
        events = client.events(after=0)
        seen = [await anext(events)]
        await asyncio.sleep(0.5)
        assert flood.asked == [0]
        assert 4_000 <= flood.sent < 10_000
        while len(seen) < flood.last:
            seen.append(await asyncio.wait_for(anext(events), 10))
        await events.aclose()  # type: ignore[attr-defined]
    assert [event.seq for event in seen if isinstance(event, StoredEvent)] == list(range(1, flood.last + 1))
    assert len(flood.asked) >= 30_000 // 6_000


async def test_what_is_missing_is_told() -> None:
    """And a service whose store was replaced does not keep its watchers waiting."""

    async def answer(socket: ServerConnection, frame: Mapping[str, Any]) -> None:
        if frame["op"] == "subscribe":
            await socket.send(pack({"op": "subscribed", "id": frame["id"], "after": min(frame["after"], 50)}))
            await socket.send(pack({"op": "gap", "id": frame["id"], "after": 7, "until": 9}))

    async with service(answer) as url, Client(url) as client:
        assert await asyncio.wait_for(anext(client.events(after=7)), 10) == Gap(7, 9)
        late = client.events(after=99)
        assert isinstance(await asyncio.wait_for(anext(late), 10), Gap)
        with pytest.raises(Replaced, match="its job store is another one"):
            await asyncio.wait_for(anext(late), 10)
