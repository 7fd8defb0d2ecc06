"""What those are told who keep the service running, and that it keeps itself running."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine.service import app, operations
from engine.service.settings import ServiceSettings
from tests.service.jobs_app import Jobs, jobs_at


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with jobs_at(tmp_path) as found:
        yield found


async def health(jobs: Jobs) -> tuple[int, Any]:
    answer = await jobs.client.get("/healthz")
    return answer.status_code, answer.json()


async def test_health_is_whether_jobs_can_be_kept(jobs: Jobs) -> None:
    """A store that refuses to be written makes the service unhealthy, for as long as it does; asking writes nothing where all is well."""
    database = jobs.work.store._writer._connection
    database.execute("PRAGMA busy_timeout = 0")
    before = database.total_changes
    assert await health(jobs) == (200, {"status": "ok"})
    assert database.total_changes == before
    with closing(sqlite3.connect(jobs.desk.places.state / "jobs.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = {"status": "the job store cannot be written", "error": "ResourceError"}
        assert await health(jobs) == (503, refused)
        other.execute("ROLLBACK")
    assert await health(jobs) == (200, {"status": "ok"})


async def test_a_full_disk_is_unhealthy_after_changes_of_nothing(jobs: Jobs) -> None:
    """Once a change could not be written, the next that can be says so: one that had nothing to write does not."""
    writer = jobs.work.store._writer

    def fails(database: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    await asyncio.gather(asyncio.wrap_future(writer.write(fails)), return_exceptions=True)
    await asyncio.wrap_future(writer.write(lambda database: None))
    assert writer.has_failed
    assert await health(jobs) == (200, {"status": "ok"})
    assert not writer.has_failed


async def test_health_needs_no_thread_of_the_pool(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many slow requests hold every thread there is, health is answered; without the one that writes, it is bad."""
    monkeypatch.setattr(operations, "_PATIENCE", 5.0)
    held = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(held.wait, 30)) for _ in range(64)]
    try:
        assert await health(jobs) == (200, {"status": "ok"})
    finally:
        held.set()
        await asyncio.gather(*busy)
    monkeypatch.setattr(operations, "_PATIENCE", 0.05)
    writer = jobs.work.store._writer
    writer._queue.put(None)
    await asyncio.to_thread(writer._thread.join)
    assert await health(jobs) == (503, {"status": "the job store cannot be written", "error": "TimeoutError"})


class _Broken:
    """A store whose old jobs cannot be deleted the first times."""

    def __init__(self) -> None:
        self.asked = 0

    def prune(self, *, count: int, before: float) -> Future[int]:
        self.asked += 1
        answer: Future[int] = Future()
        answer.set_exception(sqlite3.DatabaseError("malformed"))
        return answer


async def test_old_jobs_are_deleted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure to delete them, of whatever kind, is not the last try."""
    monkeypatch.setattr(app, "_PRUNE_EVERY", 0)
    store = _Broken()
    pruning = asyncio.create_task(app._prune(store, ServiceSettings()))  # type: ignore[arg-type]
    while store.asked < 3:
        assert not pruning.done()
        await asyncio.sleep(0)
    pruning.cancel()
