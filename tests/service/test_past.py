"""What ComfyUI's clients are told of jobs that have ended, and of which they are told nothing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.jobs_app import Jobs, jobs_at
from tests.service.running import harmless


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with jobs_at(tmp_path) as found:
        yield found


async def told(jobs: Jobs) -> set[str]:
    """The jobs of each view, which are the same in all of them."""
    client, known = jobs.client, [job.id for job in jobs.work.store.find()]
    views = [
        set(await jobs.history()),
        {job["id"] for job in (await client.get("/api/jobs")).json()["jobs"]},
        {job for name in known for job in await jobs.history(f"/{name}")},
        {name for name in known if (await client.get(f"/api/jobs/{name}")).status_code == 200},
    ]
    assert views.count(views[0]) == len(views), views
    assert (await client.get("/api/jobs")).json()["pagination"]["total"] == len(views[0])
    return views[0]


async def test_what_was_deleted_is_told_by_no_view(jobs: Jobs) -> None:
    """One entry or all: ComfyUI's views have forgotten it, by its id too; our own routes have not."""
    for name in ("a", "b", "c"):
        await jobs.run(name)
    assert await told(jobs) == {"a", "b", "c"}
    await jobs.client.post("/history", json={"delete": ["b", "none"]})
    assert await told(jobs) == {"a", "c"}
    await jobs.client.post("/history", json={"clear": True})
    assert await told(jobs) == set()
    assert (await jobs.client.get("/v1/jobs")).json()["total"] == 3
    assert (await jobs.client.get("/v1/jobs/b")).json()["state"] == "succeeded"


async def test_what_was_taken_out_of_the_queue_is_told_by_no_view(jobs: Jobs) -> None:
    """It never ran; one that was interrupted is told as such."""
    await jobs.run("ran", state="cancelled")
    for name in ("waits", "held"):
        await jobs.client.post("/prompt", json={"prompt": harmless(), "prompt_id": name})
    await jobs.client.post("/v1/jobs/held/pause")
    await jobs.client.post("/queue", json={"delete": ["waits"]})
    await jobs.client.post("/api/jobs/held/cancel")
    assert await told(jobs) == {"ran"}
    assert (await jobs.history())["ran"]["status"]["status_str"] == "error"
    assert (await jobs.client.get("/v1/jobs", params={"state": "cancelled"})).json()["total"] == 3


async def test_the_loop_reads_nothing(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views that need the store ask it on other threads, whatever is at hand."""
    for name in ("a", "b"):
        await jobs.run(name, outputs={"1": {"text": ["x"]}})
    await jobs.submit("waits")
    wanted = await jobs.history()
    jobs.work.hub._ended.clear()  # as if many others had ended since
    store, here = jobs.work.store, threading.get_ident()
    read = store._read

    def checked(query: str, values: Any) -> list[Any]:
        assert threading.get_ident() != here, query
        return read(query, values)

    monkeypatch.setattr(store, "_read", checked)
    for path in ("/history", "/history/a", "/api/jobs", "/api/jobs/a", "/queue"):
        assert (await jobs.client.get(path)).status_code == 200, path
    assert await jobs.history() == wanted


async def test_a_broken_disk_is_no_empty_history(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store cannot be read at all that is a fault, not a list with nothing in it."""
    await jobs.run("a")

    def fails(job: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(type(jobs.work.store), "payload", lambda self, job: fails(job))
    for path in ("/history", "/api/jobs", "/api/jobs/a"):
        assert (await jobs.client.get(path)).status_code == 500


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["a", "b", "c"]),
        ("?max_items=-1", ["a", "b", "c"]),
        ("?max_items=-1&offset=-1", ["a", "b", "c"]),
        ("?max_items=2&offset=-1", ["b", "c"]),
        ("?offset=-5", ["a", "b", "c"]),
        ("?max_items=1&offset=1", ["b"]),
        ("?max_items=-1&offset=1", ["b", "c"]),
    ],
)
async def test_a_negative_number_is_none(jobs: Jobs, query: str, ids: list[str]) -> None:
    """Clients say that they want all, and from no place on, by numbers below zero."""
    for name in ("a", "b", "c"):
        await jobs.run(name)
    assert list(await jobs.history(query)) == ids
