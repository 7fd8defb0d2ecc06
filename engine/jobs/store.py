"""Jobs on disk: what was asked for, who is at it, what happened, what came of it. Every change is one transaction.

    store = Store(Path("state/jobs.sqlite"), publish=feed.publish)
    submitted = store.submit(submission, time.time()).result()

Writing happens on one thread and answers with futures; reading happens beside it and sees what is committed. Whoever holds a lease says
so with its token: what comes with an older one changes nothing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.jobs import changes
from engine.jobs.changes import Happening
from engine.jobs.records import ENDED, Chunk, Forgotten, Job, JobState, OutputRecord, Payload, Submission
from engine.jobs.rows import JOB_COLUMNS, chunk_of, job_of, payload_of, plain_text
from engine.jobs.schema import open_database, open_reader
from engine.jobs.writer import WriterThread

Committed = Chunk | Forgotten
_Made = tuple[Any, Committed | list[Chunk] | None]
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Submitted:
    job: Job
    is_new: bool
    """False where the idempotency key named a job that was there."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ends."""

    state: JobState
    outputs: Mapping[str, Mapping[str, Any]]
    errors: Sequence[Mapping[str, Any]] = ()
    files: Sequence[OutputRecord] = ()


class Store:
    """One SQLite file. Belongs to one service at a time."""

    def __init__(self, path: Path, publish: Callable[[Committed], None] = lambda news: None) -> None:
        """``publish`` is told of all events, and of what is deleted, in their order, on the writing thread, once they are committed.

        Raises ``ResourceError`` for a file that cannot be used.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = WriterThread(open_database(str(path)))
        self._reader = open_reader(str(path))
        self._reading = threading.Lock()
        self._publish = publish

    def close(self) -> None:
        self._writer.close()
        with self._reading:
            self._reader.close()

    # changes that clients ask for

    def submit(self, submission: Submission, now: float, *, queue_limit: int | None = None) -> Future[Submitted]:
        """Put a job into the queue; it is on disk when the future is done. Raises ``Conflict`` or ``QueueFull``."""

        def change(db: sqlite3.Connection) -> tuple[Submitted, Chunk | None]:
            known = changes.known(db, submission)
            if known is not None:
                return Submitted(known, False), None
            changes.check_free(db, submission, queue_limit)
            number = changes.number_for(db, submission)
            changes.insert(db, submission, number, now)
            queued = {"priority": submission.priority, "number": number, "client": submission.client, "reason": None}
            chunk = changes.record(db, submission.job, [(now, "job_queued", queued)])
            return Submitted(changes.read_job(db, submission.job), True), chunk

        return self._change(change, is_forced=True)

    def pause(self, job: str, now: float) -> Future[JobState | None]:
        """Hold a waiting job. Returns its state before; None for an unknown id. One that is running has to be stopped by its worker."""
        return self._move(job, {"queued": "paused"}, "job_paused", {}, now)

    def resume(self, job: str, now: float) -> Future[JobState | None]:
        """Put a paused job into the queue again."""
        return self._move(job, {"paused": "queued"}, "job_resumed", {}, now)

    def cancel(self, job: str, now: float) -> Future[JobState | None]:
        """End a job that is not running. Returns its state before; None for an unknown id."""
        finished = {"status": "cancelled", "outputs": {}, "errors": []}
        return self._move(job, {"queued": "cancelled", "paused": "cancelled"}, "job_finished", finished, now)

    def note(self, job: str, name: str, now: float) -> Future[None]:
        """Something happened that changes no state."""
        return self._change(lambda db: (None, changes.record(db, job, [(now, name, {})])))

    def hide(self, jobs: Sequence[str] | None) -> Future[None]:
        """Take ended jobs out of ComfyUI's history; None means all."""

        def change(db: sqlite3.Connection) -> tuple[None, None]:
            ended = "finished IS NOT NULL"
            if jobs is None:
                db.execute(f"UPDATE jobs SET hidden = 1 WHERE {ended}")
            else:
                db.executemany(f"UPDATE jobs SET hidden = 1 WHERE id = ? AND {ended}", [(job,) for job in jobs])
            return None, None

        return self._change(change)

    def forget(self, job: str) -> Future[bool]:
        """Delete a job that has ended, and all that is known of it. Its files stay. Whether there was one."""

        def change(db: sqlite3.Connection) -> tuple[bool, Forgotten | None]:
            forgotten = changes.forget(db, "id = ?", (job,))
            return forgotten is not None, forgotten

        return self._change(change)

    def prune(self, *, count: int, before: float) -> Future[int]:
        """Delete ended jobs beyond the ``count`` newest, and those that ended before a time. Returns how many."""

        def change(db: sqlite3.Connection) -> tuple[int, Forgotten | None]:
            kept = "SELECT id FROM jobs WHERE finished IS NOT NULL ORDER BY finished DESC LIMIT ?"
            forgotten = changes.forget(db, f"(finished < ? OR id NOT IN ({kept}))", (before, count))
            return len(forgotten.jobs) if forgotten is not None else 0, forgotten

        return self._change(change)

    def check(self) -> Future[None]:
        """Done when the store can be read and written. Something is written only where the last change could not be."""

        def change(db: sqlite3.Connection) -> tuple[None, None]:
            db.execute("SELECT value FROM counters").fetchall()
            if self._writer.has_failed:
                db.execute("INSERT INTO counters VALUES ('check', 1) ON CONFLICT DO UPDATE SET value = value + 1")
            return None, None

        return self._change(change)

    # changes of those who work

    def lease(self, job: str, worker: str, pid: int, now: float, expires: float) -> Future[int | None]:
        """Claim a waiting job. Returns the token; None if it is not waiting any more."""

        def change(db: sqlite3.Connection) -> tuple[int | None, Chunk | None]:
            moved = db.execute(
                "UPDATE jobs SET state = 'running', started = coalesce(started, ?) WHERE id = ? AND state = 'queued'",
                (now, job),
            )
            if not moved.rowcount:
                return None, None
            token = changes.advance(db, "token")
            db.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?, ?)", (job, token, worker, pid, now, expires)
            )
            return token, changes.record(db, job, [(now, "job_leased", {"worker": worker, "token": token})])

        return self._change(change)

    def renew(self, token: int, expires: float) -> Future[None]:
        """Keep a claim."""

        def change(db: sqlite3.Connection) -> tuple[None, None]:
            db.execute("UPDATE leases SET expires = ? WHERE token = ?", (expires, token))
            return None, None

        return self._change(change)

    def append(self, job: str, token: int, happened: Sequence[Happening]) -> Future[bool]:
        """Store what a worker says. Whether the token still counts."""

        def change(db: sqlite3.Connection) -> tuple[bool, Chunk | None]:
            if not changes.holds(db, job, token):
                return False, None
            changes.follow_progress(db, job, happened)
            return True, changes.record(db, job, happened)

        return self._change(change)

    def finish(self, job: str, token: int, ending: Ending, now: float) -> Future[bool]:
        """The job has ended. Whether the token still counted."""

        def change(db: sqlite3.Connection) -> tuple[bool, Chunk | None]:
            if not changes.holds(db, job, token):
                return False, None
            db.execute(
                "UPDATE jobs SET state = ?, finished = ?, outputs = ?, errors = ? WHERE id = ?",
                (ending.state, now, plain_text(ending.outputs), plain_text(ending.errors), job),
            )
            db.executemany("INSERT INTO outputs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(changes.output_row, ending.files))
            db.execute("DELETE FROM leases WHERE job = ?", (job,))
            changes.forget_progress(db, job)
            finished = {"status": ending.state, "outputs": ending.outputs, "errors": list(ending.errors)}
            return True, changes.record(db, job, [(now, "job_finished", finished)])

        return self._change(change)

    def give_back(
        self, job: str, token: int, state: JobState, reason: str, now: float, *, counts: bool = False
    ) -> Future[int | None]:
        """A worker lets go of a job that has not ended: it is ``queued`` or ``paused``.

        With ``counts`` the worker was lost. Returns how often in a row that happened without progress; None if the token does not count.
        """

        def change(db: sqlite3.Connection) -> tuple[int | None, Chunk | None]:
            if not changes.holds(db, job, token):
                return None, None
            return changes.release(db, job, state, reason, now, counts=counts)

        return self._change(change)

    def recover(self, now: float) -> Future[list[str]]:
        """After a start: what an earlier service was at when it died waits again. That counts as nobody's failure."""

        def change(db: sqlite3.Connection) -> tuple[list[str], list[Chunk]]:
            lost = [job for (job,) in db.execute("SELECT id FROM jobs WHERE state = 'running'").fetchall()]
            released = [
                changes.release(db, job, "queued", "the service was started again", now, counts=False) for job in lost
            ]
            return lost, [chunk for _, chunk in released if chunk is not None]

        return self._change(change)

    # reading

    def get(self, job: str) -> Job | None:
        rows = self._read(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", (job,))
        return job_of(rows[0]) if rows else None

    def payload(self, job: str) -> Payload | None:
        rows = self._read("SELECT body FROM payloads WHERE job = ?", (job,))
        return payload_of(rows[0][0]) if rows else None

    def find(
        self,
        *,
        states: Iterable[JobState] = (),
        labels: Mapping[str, str] | None = None,
        client: str | None = None,
        since: float | None = None,
        until: float | None = None,
        hidden: bool = True,
        newest_first: bool = True,
        order: str = "created",
        limit: int = 100,
        offset: int = 0,
    ) -> list[Job]:
        """Jobs by state, labels (all of them), client and time of creation. ``order``: created, duration or finished."""
        where, values = changes.conditions(states, labels, client, since, until, hidden)
        by = {"created": "created", "finished": "finished", "duration": "(finished - started)"}[order]
        way = "DESC" if newest_first else "ASC"
        query = f"SELECT {JOB_COLUMNS} FROM jobs {where} ORDER BY {by} {way}, rowid {way} LIMIT ? OFFSET ?"
        return [job_of(row) for row in self._read(query, (*values, limit, offset))]

    def count(
        self,
        *,
        states: Iterable[JobState] = (),
        labels: Mapping[str, str] | None = None,
        client: str | None = None,
        since: float | None = None,
        until: float | None = None,
        hidden: bool = True,
    ) -> int:
        where, values = changes.conditions(states, labels, client, since, until, hidden)
        return int(self._read(f"SELECT count(*) FROM jobs {where}", values)[0][0])

    def totals(self) -> dict[str, int]:
        """How many jobs there are of each state."""
        return dict(self._read("SELECT state, count(*) FROM jobs GROUP BY state", ()))

    def waiting(self) -> list[Job]:
        """All that is queued, without order."""
        return [job_of(row) for row in self._read(f"SELECT {JOB_COLUMNS} FROM jobs WHERE state = 'queued'", ())]

    def last_event(self) -> int:
        """The highest number given so far."""
        return int(self._read("SELECT value FROM counters WHERE name = 'event'", ())[0][0])

    def replay(self, after: int, job: str | None) -> tuple[list[Chunk], int]:
        """A page of ``events``, and the highest number of one that was deleted with its job: up to there some may be missing."""
        page = self.events(after, job)
        # read after the page: nothing that was deleted before is missing without being told
        rows = self._read("SELECT value FROM counters WHERE name = 'forgotten'", ())
        return page, int(rows[0][0]) if rows else 0

    def events(self, after: int, job: str | None = None, limit: int = _PAGE) -> list[Chunk]:
        """Chunks with events after a number, in order, at most ``limit``; the first may begin before it."""
        if job is not None:
            query = "SELECT first, last, job, body FROM events WHERE job = ? AND last > ? ORDER BY first LIMIT ?"
            return [chunk_of(*row) for row in self._read(query, (job, after, limit))]
        # chunks do not overlap, so that the one with ``after`` in it is the last that begins at or before it
        query = """SELECT first, last, job, body FROM events
            WHERE first >= coalesce((SELECT max(first) FROM events WHERE first <= ?), 0) AND last > ? ORDER BY first LIMIT ?"""
        return [chunk_of(*row) for row in self._read(query, (after, after, limit))]

    def outputs(self, job: str) -> list[OutputRecord]:
        return [OutputRecord(*row) for row in self._read("SELECT * FROM outputs WHERE job = ?", (job,))]

    def output(self, digest: str) -> list[OutputRecord]:
        """The files with this content, the newest first."""
        return [
            OutputRecord(*row)
            for row in self._read("SELECT * FROM outputs WHERE digest = ? ORDER BY rowid DESC", (digest,))
        ]

    def latest_outputs(self, limit: int) -> list[OutputRecord]:
        """The files made last, the newest first."""
        return [OutputRecord(*row) for row in self._read("SELECT * FROM outputs ORDER BY rowid DESC LIMIT ?", (limit,))]

    def _read(self, query: str, values: Sequence[Any]) -> list[Any]:
        with self._reading:
            return self._reader.execute(query, values).fetchall()

    # writing

    def _move(
        self, job: str, moves: Mapping[JobState, JobState], name: str, data: Mapping[str, Any], now: float
    ) -> Future[JobState | None]:
        def change(db: sqlite3.Connection) -> tuple[JobState | None, Chunk | None]:
            row = db.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone()
            before: JobState | None = row[0] if row else None
            if before is None or before not in moves:
                return before, None
            state = moves[before]
            ended = now if state in ENDED else None
            db.execute("UPDATE jobs SET state = ?, finished = ? WHERE id = ?", (state, ended, job))
            if ended is not None:
                changes.forget_progress(db, job)
            return before, changes.record(db, job, [(now, name, data)])

        return self._change(change, is_forced=True)

    def _change(self, change: Callable[[sqlite3.Connection], _Made], *, is_forced: bool = False) -> Future[Any]:
        """``change`` gives its result and the news that came of it."""

        outer: Future[Any] = Future()

        def publish(made: _Made) -> None:
            news = made[1]
            for one in news if isinstance(news, list) else [] if news is None else [news]:
                self._publish(one)

        def answer(inner: Future[tuple[Any, Any]]) -> None:
            if not outer.set_running_or_notify_cancel():
                return
            error = inner.exception()
            if error is not None:
                outer.set_exception(error)
            else:
                outer.set_result(inner.result()[0])

        self._writer.write(change, is_forced=is_forced, after=publish).add_done_callback(answer)
        return outer
