"""Those who are told what happens, and those who are not any more."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from engine.graph.graph import NodeId
from engine.jobs.feed import JobPreview
from engine.jobs.records import Chunk
from engine.run.events import NodeBytes
from engine.service import calls
from engine.service.stream import Connection
from engine.service.wire import BadFrame, pack, unpack, unpack_of_client
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
            watcher = feed.watch(0, previews=True)
            await jobs.run("j")
            chunks = (await watcher.next()).chunks
            assert chunks[0].job == "j"
            assert (await jobs.client.get("/history/j")).json()["j"]["status"]["completed"]
            feed.show(JobPreview("j", "1", "1", b"x"))
            assert [preview.image for preview in (await watcher.next()).previews] == [b"x"]
            socket = jobs.work.hub.join("a")
            await socket.next()
            feed.carry(NodeBytes("j", NodeId("1"), NodeId("1"), 7, b"x"))
            assert await socket.next() == b"\0\0\0\7x"
            watcher.close()

    asyncio.run(main())
    assert "of job j were not taken" in caplog.text


async def tell(jobs: Jobs, *told: Mapping[str, Any] | Callable[[], Awaitable[Any]]) -> list[dict[str, Any]]:
    """Send frames over a stream, and do what is told between them, and cut it; what was answered meanwhile."""
    coming = list(told)
    answers: list[dict[str, Any]] = []

    async def receive() -> Message:
        while coming:
            now = coming.pop(0)
            if isinstance(now, Mapping):
                return {"type": "websocket.receive", "bytes": pack(now)}
            await asyncio.sleep(0.05)  # so that what was asked for before is under way
            await now()
        await asyncio.sleep(0.2)
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Message) -> None:
        if message["type"] == "websocket.send":
            answers.append(unpack(message["bytes"]))

    websocket = WebSocket({"type": "websocket"}, receive, send)
    websocket.client_state = websocket.application_state = WebSocketState.CONNECTED
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

    monkeypatch.setitem(calls.METHODS, "get", slow)

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


def test_whoever_watches_a_job_is_told_that_it_was_deleted(tmp_path: Path) -> None:
    """And who watches another goes on."""

    async def main() -> list[dict[str, Any]]:
        async with jobs_at(tmp_path) as jobs:
            await jobs.run("a")
            await jobs.run("b")
            last = jobs.work.feed.last
            frames = [{"op": "subscribe", "id": job, "job": job, "after": last} for job in ("a", "b")]
            return await tell(jobs, *frames, lambda: jobs.client.delete("/v1/jobs/a"))

    (refused,) = [frame for frame in asyncio.run(main()) if frame["op"] == "error"]
    assert (refused["id"], refused["type"]) == ("a", "JobForgotten")


def test_a_job_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    """Its subscription holds no place."""

    async def main() -> list[dict[str, Any]]:
        async with jobs_at(tmp_path) as jobs:
            answers = await tell(jobs, {"op": "subscribe", "id": 1, "job": "nope"})
            assert not jobs.work.feed._watchers
            return answers

    assert "there is no job 'nope'" in asyncio.run(main())[-1]["message"]


@pytest.mark.parametrize("after", [0, 2, 4, 8, 9])
def test_whoever_missed_what_was_deleted_is_told(tmp_path: Path, after: int) -> None:
    """By one who had seen some of it; not by one who asks for all that is remembered, or has seen it all. So too after a start."""

    async def main() -> list[dict[str, Any]]:
        async with jobs_at(tmp_path) as jobs:
            for job in ("a", "b", "c"):
                await jobs.run(job)  # four events each
            assert jobs.work.feed.last == 12
            await jobs.client.delete("/v1/jobs/b")
        async with jobs_at(tmp_path) as jobs:
            return await tell(jobs, {"op": "subscribe", "id": 1, "after": after})

    told = [frame for frame in asyncio.run(main()) if frame["op"] in ("gap", "events")]
    gaps = [frame for frame in told if frame["op"] == "gap"]
    missed = [{"op": "gap", "id": 1, "after": after, "until": 8}]
    assert gaps == (missed if after in (2, 4) else [])
    assert told[0] == (missed[0] if after in (2, 4) else told[0])
    seen = [event[0] for frame in told if frame["op"] == "events" for event in frame["events"]]
    assert seen == [seq for seq in (*range(1, 5), *range(9, 13)) if seq > after]


def test_a_subscription_that_fails_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Here the store cannot be read."""

    async def main() -> list[dict[str, Any]]:
        async with jobs_at(tmp_path) as jobs:
            await jobs.run("j")

            def unreadable(after: int, job: str | None) -> tuple[list[Chunk], int]:
                raise sqlite3.OperationalError("disk I/O error")

            jobs.work.feed._read = unreadable
            jobs.work.feed._recent.clear()
            return await tell(jobs, {"op": "subscribe", "id": 1, "after": 0})

    refused = asyncio.run(main())[-1]
    assert (refused["op"], refused["id"]) == ("error", 1)
    assert "the subscription failed (OperationalError)" in refused["message"]
    assert "disk I/O error" in caplog.text


def test_a_reader_that_stands_still_keeps_few_pictures(tmp_path: Path) -> None:
    """The newest; and one that wants none keeps none."""

    async def main() -> None:
        async with jobs_at(tmp_path) as jobs:
            feed = jobs.work.feed
            shown, blind = feed.watch(0, previews=True), feed.watch(0)
            for number in range(100):
                feed.show(JobPreview(f"j{number}", "1", "1", b"x"))
            assert [preview.job for preview in (await shown.next()).previews] == [
                f"j{number}" for number in range(84, 100)
            ]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await blind.next()

    asyncio.run(main())


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\xa1a\xdd\x00\x20\x00\x00" + b"\x90" * 2**21,  # two million empty lists
        b"\x81\xa1a\xdd\x00\x00\x00\x04"
        + (b"\xdd\x00\x08\x00\x00" + b"\x01" * 2**19) * 4,  # two million numbers in four
        b"\x81\xa1a\xdf\xff\xff\xff\xff",  # a map that is said to be long
        b"\x81\xa1a" + b"\x91" * 5_000,
    ],
)
def test_a_frame_holds_a_million_items_at_most(data: bytes) -> None:
    """Each would take up a hundred bytes here for one on the way."""
    with pytest.raises(BadFrame, match="expected a msgpack map"):
        unpack_of_client(data)


def test_a_large_workflow_is_no_bomb() -> None:
    """Ten thousand nodes, and the bytes of a picture."""
    nodes = {
        str(number): {"class_type": "X", "inputs": {f"i{index}": index for index in range(9)}}
        for number in range(10_000)
    }
    frame = {"op": "call", "params": {"workflow": nodes, "data": bytes(2**22)}}
    assert unpack_of_client(pack(frame)) == frame
