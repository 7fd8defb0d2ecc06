"""The stream without holes, the client on it, and jobs over HTTP, against a real service."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from engine import client as client_module
from engine.cli.remote import RemoteRunner
from engine.client import Client, ServiceError, SyncClient
from engine.graph.api_format import read_api
from engine.graph.graph import NodeId
from engine.jobs.records import StoredEvent
from engine.places import Places
from engine.run.request import Run
from engine.service.wire import pack, unpack
from tests.service.process import ServiceProcess


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    running = ServiceProcess(tmp_path_factory.mktemp("service"))
    try:
        running.start()
        yield running
    finally:
        running.close()


def shown(text: str, length: int = 5) -> dict[str, Any]:
    """A workflow that shows a text, after a chain of nodes; it needs no torch."""
    graph: dict[str, Any] = {"0": {"class_type": "PrimitiveString", "inputs": {"value": text}}}
    for index in range(1, length):
        graph[str(index)] = {
            "class_type": "StringConcatenate",
            "inputs": {"string_a": [str(index - 1), 0], "string_b": str(index), "delimiter": "-"},
        }
    graph["out"] = {"class_type": "PreviewAny", "inputs": {"source": [str(length - 1), 0]}}
    return graph


Seen = tuple[int, str, str]


class Cut:
    """A client whose connection is dropped again and again, without a word, and that says each time where it was."""

    def __init__(self, url: str, cuts: int) -> None:
        self._address = url.replace("http", "ws") + "/v1/stream"
        self._draw = random.Random(1)
        self.left = cuts
        self.seen: list[Seen] = []

    async def run(self, until: asyncio.Future[int]) -> list[Seen]:
        while not (until.done() and self.seen and self.seen[-1][0] >= until.result()):
            async with connect(self._address, compression=None) as socket:
                await socket.send(pack({"op": "subscribe", "id": 1, "after": self.seen[-1][0] if self.seen else 0}))
                frames = self._draw.randrange(1, 6) if self.left > 0 else 1_000
                with contextlib.suppress(TimeoutError):
                    for _ in range(frames):
                        self._take(unpack(_binary(await asyncio.wait_for(socket.recv(), 0.5))))
                self.left -= 1
                socket.transport.abort()
        return self.seen

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["op"] == "events":
            self.seen += [(event[0], event[1], event[3]) for event in frame["events"]]


def _binary(data: str | bytes) -> bytes:
    assert isinstance(data, bytes)
    return data


async def _watch(url: str, until: asyncio.Future[int]) -> list[Seen]:
    seen: list[Seen] = []
    async with Client(url) as client:
        async for event in client.events(after=0):
            assert isinstance(event, StoredEvent)
            seen.append((event.seq, event.job, event.name))
            if until.done() and event.seq >= until.result():
                break
    return seen


async def test_a_client_that_is_cut_off_200_times_misses_nothing(service: ServiceProcess) -> None:
    """While jobs run: its sequence equals that of one that was never cut, which has no hole."""
    until: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    cut = Cut(service.url, 200)
    async with Client(service.url) as client:
        watching = asyncio.gather(_watch(service.url, until), cut.run(until))
        jobs = 0
        while cut.left > 0:
            jobs += 1
            ended = await client.wait((await client.submit(shown(f"cut {jobs}")))["id"])
            assert ended["state"] == "succeeded"
        last = await client.wait((await client.submit(shown("the last")))["id"])
        until.set_result(last["last_event"])
        await client.submit(shown("one more, for those who have seen the last already"))
        both = await watching
    steady, seen = ([event for event in events if event[0] <= until.result()] for events in both)
    assert seen == steady
    assert [seq for seq, _, _ in steady] == list(range(1, len(steady) + 1))
    assert jobs > 10


def test_a_job_tells_its_whole_life(service: ServiceProcess) -> None:
    """From the queue to its end, in order, with what it showed."""
    with SyncClient(service.url) as client:
        job = client.submit(shown("life", 2), labels={"of": "one"})
        events = [event for event in client.events(job["id"]) if isinstance(event, StoredEvent)]
        names = [event.name for event in events]
        assert names[:3] == ["job_queued", "job_leased", "job_started"]
        assert names[-1] == "job_finished"
        ended = client.get(job["id"])
        assert ended["state"] == "succeeded"
        assert ended["outputs"]["out"]["text"] == ["life-1"]
        assert [found["id"] for found in client.list(labels={"of": "one"})] == [job["id"]]


def test_a_key_names_one_job(service: ServiceProcess) -> None:
    """The same request again is the job of the first time; another request under its key is refused."""
    with SyncClient(service.url) as client:
        first = client.submit(shown("key"), idempotency_key="k")
        assert client.submit(shown("key"), idempotency_key="k")["id"] == first["id"]
        with pytest.raises(ServiceError, match="another request"):
            client.submit(shown("other"), idempotency_key="k")


def test_wrong_workflows_are_refused_with_all_that_is_wrong(service: ServiceProcess) -> None:
    """Two mistakes, two problems, and nothing in the queue."""
    graph = shown("x", 2)
    graph["1"]["inputs"]["string_a"] = ["77", 0]
    graph["out"]["class_type"] = "PreviewAnything"
    with SyncClient(service.url) as client:
        before = len(client.list(limit=1000))
        with pytest.raises(ServiceError) as refused:
            client.submit(graph)
        assert {problem["type"] for problem in refused.value.problems} == {"bad_link", "missing_node_type"}
        assert len(client.list(limit=1000)) == before
    answer = httpx.post(f"{service.url}/v1/jobs", json={"workflow": graph})
    assert answer.status_code == 422
    assert len(answer.json()["problems"]) == 2


def test_unknown_jobs_are_unknown(service: ServiceProcess) -> None:
    """Never "done"."""
    assert httpx.get(f"{service.url}/v1/jobs/nope").status_code == 404
    assert httpx.post(f"{service.url}/v1/jobs/nope/cancel").status_code == 404
    with SyncClient(service.url) as client:
        with pytest.raises(ServiceError, match="no job"):
            client.get("nope")
        with pytest.raises(ServiceError, match="no job"):
            client.wait("nope")
        with pytest.raises(ServiceError, match="no job"):
            next(client.events("nope"))
        assert client.wait(client.submit(shown("known"))["id"])["state"] == "succeeded"


def test_a_waiting_job_is_held_and_cancelled(service: ServiceProcess) -> None:
    """Of a queue that waits behind a held one, only what was cancelled does not run."""
    with httpx.Client(base_url=service.url) as http, SyncClient(service.url) as client:
        jobs = [client.submit(shown(f"held {index}", 300))["id"] for index in range(20)]
        assert http.post(f"/v1/jobs/{jobs[-1]}/pause").json()["state"] == "paused"
        assert http.post(f"/v1/jobs/{jobs[-2]}/cancel").json()["state"] == "cancelled"
        assert [client.wait(job)["state"] for job in jobs[:-2]] == ["succeeded"] * 18
        assert client.get(jobs[-1])["state"] == "paused"
        assert http.post(f"/v1/jobs/{jobs[-1]}/resume").status_code == 200
        assert client.wait(jobs[-1])["state"] == "succeeded"
        assert http.post(f"/v1/jobs/{jobs[-1]}/resume").status_code == 409
        assert client.get(jobs[-2])["state"] == "cancelled"
        assert http.delete(f"/v1/jobs/{jobs[-2]}").status_code == 204
        assert http.get(f"/v1/jobs/{jobs[-2]}").status_code == 404


def test_the_command_lists_shows_and_watches(service: ServiceProcess, tmp_path: Path) -> None:
    """``mezzotint jobs`` tells what the service knows."""
    import json
    import subprocess
    import sys

    with SyncClient(service.url) as client:
        job = client.submit(shown("command"))["id"]
        client.wait(job)

    def command(*arguments: str) -> str:
        code = "from engine.cli import main; main()"
        call = [sys.executable, "-c", code, "jobs", *arguments, "--server", service.url]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout

    assert job in command("list", "--state", "succeeded")
    assert json.loads(command("show", job))["state"] == "succeeded"
    lines = [json.loads(line) for line in command("watch", job).splitlines()]
    assert lines[-1]["name"] == "job_finished"


def test_a_runs_files_come_here_and_take_nobodys_place(
    service: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``mezzotint run --server``: in parts, and beside a file of the same name with other contents."""
    monkeypatch.setattr(client_module, "_PART", 100)
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "here"}},
    }
    places = Places(output=tmp_path / "out", temp=tmp_path / "temp")
    runner = RemoteRunner(service.url, places)
    first = asyncio.run(runner.run(Run(read_api(graph))))
    (image,) = first.ui[NodeId("2")]["images"]
    came = (places.output / image["filename"]).read_bytes()
    assert len(came) > 100
    assert came == (service.place / "output" / image["filename"]).read_bytes()

    theirs = places.output / image["filename"].replace("00001", "00002")
    theirs.write_bytes(b"a file of this machine")
    again = asyncio.run(runner.run(Run(read_api(graph), use_cache=False)))
    (image,) = again.ui[NodeId("2")]["images"]
    assert theirs.read_bytes() == b"a file of this machine"
    assert image["filename"].startswith("here_00002_-")
    assert (places.output / image["filename"]).read_bytes() == came
