"""Jobs on disk, on a real file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import ResourceError
from engine.jobs.changes import Conflict, QueueFull
from engine.jobs.records import Chunk, OutputRecord, Submission
from engine.jobs.store import Committed, Ending, Store

ASKED = Submission(
    job="j", prompt={"1": {"class_type": "X", "inputs": {}}}, targets=("1",), client="c", labels={"k": "v"}
)


@pytest.fixture
def chunks() -> list[Committed]:
    return []


@pytest.fixture
def store(tmp_path: Path, chunks: list[Committed]) -> Iterator[Store]:
    opened = Store(tmp_path / "jobs.sqlite", chunks.append)
    yield opened
    opened.close()


def _begun(store: Store, job: str = "j") -> int:
    store.submit(replace(ASKED, job=job), 1.0).result()
    token = store.lease(job, "cpu", 1, 2.0, 9.0).result()
    assert token is not None
    return token


def test_a_job_is_there_for_whoever_opens_the_file_next(tmp_path: Path) -> None:
    """All of it, as soon as the submission is answered."""
    first = Store(tmp_path / "jobs.sqlite")
    first.submit(ASKED, 1.0).result()
    second = sqlite3.connect(tmp_path / "jobs.sqlite")
    assert second.execute("SELECT id, state FROM jobs").fetchall() == [("j", "queued")]
    second.close()
    first.close()
    again = Store(tmp_path / "jobs.sqlite")
    payload = again.payload("j")
    assert payload is not None
    assert (payload.prompt, payload.targets) == (ASKED.prompt, ASKED.targets)
    again.close()


def test_numbers_have_no_holes_whatever_fails(store: Store, chunks: list[Chunk]) -> None:
    """A change that is refused takes no number, also when it shares a commit with others."""
    waiting = [store.submit(replace(ASKED, job=f"j{index % 5}"), 1.0) for index in range(10)]
    refused = [future for future in waiting if future.exception() is not None]
    assert len(refused) == 5
    assert [seq for chunk in chunks for seq in range(chunk.first, chunk.last + 1)] == [1, 2, 3, 4, 5]
    assert store.last_event() == 5


def test_an_old_token_changes_nothing(store: Store) -> None:
    """A worker that was given up and is still there can neither tell nor end anything."""
    old = _begun(store)
    assert store.give_back("j", old, "queued", "lost", 3.0, counts=True).result() == 1
    new = store.lease("j", "cpu", 2, 4.0, 9.0).result()
    assert new is not None
    assert new > old
    before = store.last_event()
    assert store.append("j", old, [(5.0, "node_finished", {"node": "1"})]).result() is False
    assert store.finish("j", old, Ending("succeeded", {}), 5.0).result() is False
    assert store.give_back("j", old, "queued", "", 5.0).result() is None
    assert store.last_event() == before
    assert store.finish("j", new, Ending("succeeded", {}), 6.0).result() is True


def test_only_one_worker_gets_a_job(store: Store) -> None:
    """Of two that ask at once."""
    store.submit(ASKED, 1.0).result()
    tokens = [store.lease("j", name, 1, 2.0, 9.0) for name in ("a", "b")]
    assert [token.result() is None for token in tokens] == [False, True]


def test_progress_takes_back_lost_workers(store: Store) -> None:
    """Three in a row count, and a finished node or a checkpoint ends the row."""
    token = _begun(store)
    store.give_back("j", token, "queued", "lost", 3.0, counts=True).result()
    again = store.lease("j", "cpu", 2, 4.0, 9.0).result()
    assert again is not None
    store.append("j", again, [(5.0, "node_started", {"node": "1"})]).result()
    assert (found := store.get("j")) is not None
    assert found.attempts == 1
    store.append("j", again, [(5.0, "node_checkpointed", {"node": "1", "shown": "1", "place": "p"})]).result()
    assert (found := store.get("j")) is not None
    assert found.attempts == 0


def test_what_ran_waits_again_after_a_start(store: Store) -> None:
    """The death of the service counts as nobody's failure, and what was paused stays so."""
    _begun(store)
    store.submit(replace(ASKED, job="p"), 1.0).result()
    assert store.pause("p", 2.0).result() == "queued"
    assert store.recover(5.0).result() == ["j"]
    assert [(job.id, job.attempts) for job in store.waiting()] == [("j", 0)]
    assert store.lease("j", "cpu", 2, 6.0, 9.0).result() is not None


def test_keys_conflicts_and_limits(store: Store) -> None:
    """A key names one job of its client; an id is used once; a client's queue has an end."""
    keyed = replace(ASKED, idempotency_key="k", request="r")
    assert store.submit(keyed, 1.0).result().is_new
    assert not store.submit(replace(keyed, job="other"), 2.0).result().is_new
    assert store.submit(replace(keyed, job="theirs", client="d"), 2.0).result().is_new
    with pytest.raises(Conflict, match="another request"):
        store.submit(replace(keyed, job="third", request="other"), 2.0).result()
    with pytest.raises(Conflict, match="already"):
        store.submit(ASKED, 2.0).result()
    with pytest.raises(QueueFull):
        store.submit(replace(ASKED, job="more"), 2.0, queue_limit=1).result()


def test_events_are_read_from_any_number_on(store: Store) -> None:
    """Of all jobs, and of one; from the middle of what was stored together too."""
    token = _begun(store)
    store.append("j", token, [(3.0, "node_progress", {"done": n}) for n in range(5)]).result()
    store.submit(replace(ASKED, job="k"), 4.0).result()
    for after in range(9):
        found = [event.seq for chunk in store.events(after) for event in chunk.events if event.seq > after]
        assert found == list(range(after + 1, 9))
    assert [event.data["done"] for event in store.events(5, "j")[0].events if event.seq > 5] == [3, 4]


def test_search_and_retention(store: Store) -> None:
    """By state, label and time; ended jobs go when they are too many or too old, with all that is known of them."""
    for index in range(4):
        token = _begun(store, f"j{index}")
        record = OutputRecord(f"j{index}", "1", "d" * 64, "x.png", "", "output", "image/png", 3)
        store.finish(f"j{index}", token, Ending("succeeded", {"1": {}}, files=[record]), 10.0 + index).result()
    store.submit(replace(ASKED, job="w", labels={"k": "w"}), 20.0).result()
    assert [job.id for job in store.find(labels={"k": "v"}, states=["succeeded"], limit=2)] == ["j3", "j2"]
    assert [job.id for job in store.find(since=15.0)] == ["w"]
    assert store.count(labels={"k": "w"}) == 1
    assert store.prune(count=3, before=11.5).result() == 2
    assert {job.id for job in store.find()} == {"j2", "j3", "w"}
    assert store.outputs("j0") == []
    assert len(store.output("d" * 64)) == 2
    assert all(chunk.job != "j0" for chunk in store.events(0))


def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    """It is named, and what is in it stays."""
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(b"this is somebody's letter, and no database at all" * 50)
    before = path.read_bytes()
    with pytest.raises(ResourceError, match=r"jobs\.sqlite"):
        Store(path)
    assert path.read_bytes() == before


def test_a_node_that_finishes_again_is_no_progress(store: Store) -> None:
    """What was computed by one lost worker and again by the next does not take back the losses."""
    done = [(5.0, "node_finished", {"node": "1"})]
    token: int | None = _begun(store)
    for losses in (1, 2, 3):
        assert token is not None
        store.append("j", token, done).result()
        assert store.give_back("j", token, "queued", "lost", 6.0, counts=True).result() == losses
        token = store.lease("j", "cpu", 2, 7.0, 9.0).result()
    assert token is not None
    store.append("j", token, [*done, (8.0, "node_finished", {"node": "2"})]).result()
    assert (found := store.get("j")) is not None
    assert found.attempts == 0


def test_an_older_file_is_brought_up_to_date(tmp_path: Path) -> None:
    """With the jobs in it."""
    path = tmp_path / "jobs.sqlite"
    with closing(Store(path)) as first:
        first.submit(ASKED, 1.0).result()
    with closing(sqlite3.connect(path)) as older:
        older.executescript("DROP TABLE progress; PRAGMA user_version = 1;")
    with closing(Store(path)) as again:
        token = again.lease("j", "cpu", 1, 2.0, 9.0).result()
        assert token is not None
        assert again.append("j", token, [(5.0, "node_finished", {"node": "1"})]).result()


def test_the_store_goes_on_after_an_error_of_the_disk(tmp_path: Path) -> None:
    """What could not be written says so, nothing of it is there, and what comes later is written."""
    with closing(Store(tmp_path / "jobs.sqlite")) as store, closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as other:
        store._writer._connection.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        refused = [store.submit(replace(ASKED, job=name), 1.0) for name in ("a", "b")]
        for future in refused:
            with pytest.raises(ResourceError, match="cannot be written"):
                future.result()
        other.execute("ROLLBACK")
        assert store.submit(replace(ASKED, job="a"), 1.0).result().is_new
        assert [event.seq for chunk in store.events(0) for event in chunk.events] == [1]
