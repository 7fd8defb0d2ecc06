"""What ComfyUI's clients are sent who read slowly: what may be missed, and what may not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from engine.graph.graph import NodeId
from engine.jobs.feed import JobPreview
from engine.jobs.report import Report
from engine.run import events
from engine.service.comfy import hub
from engine.service.comfy.hub import Socket
from tests.service.jobs_app import Jobs, jobs_at

N = NodeId("1")


async def read(socket: Socket) -> list[str | bytes]:
    """All that waits for a client."""
    return [frame for _ in range(len(socket._waiting)) if (frame := await socket.next()) is not None]


async def begin(jobs: Jobs, job: str, client: str) -> Report:
    """A job of ``client`` that runs, as far as anybody is told; what its worker says of it goes to the report."""
    await jobs.submit(job, extra_data={"client_id": client})
    now = time.time()
    token = await asyncio.wrap_future(jobs.work.store.lease(job, "cpu", 1, now, now + 60))
    assert token is not None
    return Report(jobs.work.store, jobs.work.feed, job, token)


def test_a_slow_reader_misses_previews_and_no_results(tmp_path: Path) -> None:
    """Pictures on the way are left out for who is behind; what a node or a pack made comes whole, and once."""

    async def main() -> None:
        async with jobs_at(tmp_path) as jobs:
            feed, socket = jobs.work.feed, jobs.work.hub.join("a")
            await begin(jobs, "j", "a")
            await asyncio.sleep(0)
            await read(socket)
            for number in range(100):
                feed.show(JobPreview("j", "1", "1", b"preview %d" % number))
                feed.show(JobPreview("j", "1", "1", b"made %d" % number, is_result=True))
                feed.carry(events.NodeBytes("j", N, N, 1000, b"sent %d" % number, "a"))
            frames = [frame for frame in await read(socket) if isinstance(frame, bytes)]
            assert [frame for frame in frames if b"made" in frame] == [
                b"\0\0\0\1\0\0\0\1made %d" % number for number in range(100)
            ]
            assert [frame for frame in frames if b"sent" in frame] == [
                b"\0\0\x03\xe8sent %d" % number for number in range(100)
            ]
            assert 0 < len([frame for frame in frames if b"preview" in frame]) < 8

    asyncio.run(main())


def test_who_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is behind with messages; results wait beside them and have more room, but some end too."""
    monkeypatch.setattr(hub, "_BACKLOG", 100)
    monkeypatch.setattr(hub, "_RESULTS", 1000)

    async def main() -> None:
        patient = Socket("a")
        for _ in range(10):
            patient.send(bytes(100), is_result=True)
        for _ in range(10):
            patient.send("x" * 10)
        assert len(await read(patient)) == 20
        for _ in range(11):
            patient.send(bytes(100), is_result=True)
        assert (patient.is_closed, await patient.next()) == (True, None)
        behind = Socket("b")
        for _ in range(11):
            behind.send("x" * 10)
        assert (behind.is_closed, await behind.next()) == (True, None)

    asyncio.run(main())


def test_results_keep_their_place_among_messages(tmp_path: Path) -> None:
    """A client tells by the node that was begun last whose a result is; what is stored waits for the disk, and results wait with it."""

    async def main() -> None:
        async with jobs_at(tmp_path) as jobs:
            socket = jobs.work.hub.join("a")
            report = await begin(jobs, "j", "a")
            for node in (N, NodeId("2")):
                report.hear(events.NodeStarted("j", node, node, "X"))
                report.hear(events.NodePreview("j", node, node, f"made {node}".encode(), is_result=True))
                report.hear(events.NodeMessage("j", node, node, f"before {node}", None, "a"))
                report.hear(events.NodeBytes("j", node, node, 7, f"sent {node}".encode(), "a"))
                report.hear(events.NodeMessage("j", node, node, f"after {node}", None))
            await report.settle()
            wanted = ("executing", "made", "before", "sent", "after")
            told = [frame if isinstance(frame, str) else frame.decode() for frame in await read(socket)]
            assert [word for frame in told for word in wanted if word in frame] == [*wanted, *wanted]
            stored = jobs.work.store.events(0, "j")
            assert {event.name for chunk in stored for event in chunk.events} == {
                "job_queued",
                "job_leased",
                "node_started",
                "node_message",
            }

    asyncio.run(main())
