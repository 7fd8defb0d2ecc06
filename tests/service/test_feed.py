"""Those who are told what happens, and those who are not any more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine.graph.graph import NodeId
from engine.jobs.feed import JobPreview
from engine.jobs.records import Chunk
from engine.run.events import NodeBytes
from engine.service import stream
from engine.service.stream import Connection
from engine.service.wire import pack, unpack
from tests.service.jobs_app import Jobs, jobs_at


class _Broken:
    def hear(self, chunk: Chunk) -> None:
        raise ValueError("broken")

    def show(self, preview: JobPreview) -> None:
        raise ValueError("broken")

    def carry(self, message: NodeBytes) -> None:
        raise ValueError("broken")


def test_one_that_fails_keeps_nothing_from_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither from those told after it nor from watchers; the log says what was not taken."""

    async def main() -> None:
        async with jobs_at(tmp_path) as jobs:
            feed = jobs.work.feed
            feed._listeners.insert(0, _Broken())
            watcher = feed.watch(0)
            await jobs.run("j")
            chunks, _ = await watcher.next()
            assert chunks[0].job == "j"
            assert (await jobs.client.get("/history/j")).json()["j"]["status"]["completed"]
            feed.show(JobPreview("j", "1", "1", b"x"))
            assert [preview.image for preview in (await watcher.next())[1]] == [b"x"]
            socket = jobs.work.hub.join("a")
            await socket.next()
            feed.carry(NodeBytes("j", NodeId("1"), NodeId("1"), 7, b"x"))
            assert await socket.next() == b"\0\0\0\7x"
            watcher.close()

    asyncio.run(main())
    assert "of job j were not taken" in caplog.text


async def tell(jobs: Jobs, *frames: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Send frames over a stream and cut it; what was answered meanwhile."""
    coming: list[Message] = [{"type": "websocket.connect"}]
    coming += [{"type": "websocket.receive", "bytes": pack(frame)} for frame in frames]
    answers: list[dict[str, Any]] = []

    async def receive() -> Message:
        if coming:
            return coming.pop(0)
        await asyncio.sleep(0.2)
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Message) -> None:
        if message["type"] == "websocket.send":
            answers.append(unpack(message["bytes"]))

    websocket = WebSocket({"type": "websocket"}, receive, send)
    await websocket.accept()
    with pytest.raises(WebSocketDisconnect):
        await Connection(websocket, jobs.desk, jobs.work).serve()
    return answers


def test_a_subscription_that_is_given_up_at_once_leaves_nothing(tmp_path: Path) -> None:
    """Its place in the sequence is let go of, though nothing was ever read from it."""

    async def main() -> None:
        async with jobs_at(tmp_path) as jobs:
            await tell(jobs, {"op": "subscribe", "id": 1}, {"op": "unsubscribe", "id": 1})
            assert not jobs.work.feed._watchers

    asyncio.run(main())


def test_a_stream_asks_no_more_at_once_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over that is read later, and answered too."""
    at_once: list[int] = []
    under_way: set[object] = set()

    async def slow(*_: Any) -> int:
        me = object()
        under_way.add(me)
        at_once.append(len(under_way))
        await asyncio.sleep(0.01)
        under_way.discard(me)
        return 1

    monkeypatch.setitem(stream._METHODS, "get", slow)

    async def main() -> list[dict[str, Any]]:
        async with jobs_at(tmp_path) as jobs:
            frames = [{"op": "call", "id": number, "method": "get", "params": {}} for number in range(50)]
            return await tell(jobs, *frames)

    answered = [frame["id"] for frame in asyncio.run(main()) if frame["op"] == "answer"]
    assert sorted(answered) == list(range(50))
    assert max(at_once) == 16


@pytest.mark.parametrize("number", [[1], {}, "x" * 65, b"x"])
def test_an_id_is_short(tmp_path: Path, number: Any) -> None:
    """It comes back with each answer, and so is refused where it is no number or short text."""

    async def main() -> list[dict[str, Any]]:
        async with jobs_at(tmp_path) as jobs:
            return await tell(jobs, {"op": "subscribe", "id": number})

    refused = asyncio.run(main())[-1]
    assert (refused["op"], refused["id"]) == ("error", None)
    assert "at most 64" in refused["message"]
