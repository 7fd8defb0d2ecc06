"""Those who are told what happens, and those who are not any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.types import Message
from starlette.websockets import WebSocket

from engine.jobs.feed import JobPreview
from engine.jobs.records import Chunk
from engine.service.stream import Connection
from engine.service.wire import pack
from tests.service.jobs_app import jobs_at


class _Broken:
    def hear(self, chunk: Chunk) -> None:
        raise ValueError("broken")

    def show(self, preview: JobPreview) -> None:
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
            watcher.close()

    asyncio.run(main())
    assert "of job j were not taken" in caplog.text


def test_a_subscription_that_is_given_up_at_once_leaves_nothing(tmp_path: Path) -> None:
    """Its place in the sequence is let go of, though nothing was ever read from it."""

    async def main() -> None:
        async with jobs_at(tmp_path) as jobs:
            frames = [{"op": "subscribe", "id": 1}, {"op": "unsubscribe", "id": 1}]
            coming: list[Message] = [{"type": "websocket.receive", "bytes": pack(frame)} for frame in frames]
            coming.append({"type": "websocket.disconnect", "code": 1000})

            async def receive() -> Message:
                return coming.pop(0)

            async def send(message: Message) -> None:
                pass

            websocket = WebSocket({"type": "websocket"}, receive, send)
            coming.insert(0, {"type": "websocket.connect"})
            await websocket.accept()
            with pytest.raises(Exception, match="1000"):
                await Connection(websocket, jobs.desk, jobs.work).serve()
            await asyncio.sleep(0)
            assert not jobs.work.feed._watchers

    asyncio.run(main())
