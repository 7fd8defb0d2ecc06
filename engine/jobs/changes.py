"""The steps that changes of the job store are made of. Each is done inside a transaction that the caller has begun."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from engine.errors import MezzotintError
from engine.jobs.records import Chunk, Forgotten, Job, JobState, OutputRecord, StoredEvent, Submission
from engine.jobs.rows import JOB_COLUMNS, job_of, pack_events, payload_text, plain_text

Happening = tuple[float, str, Mapping[str, Any]]
"""Time, name and data of an event that has no number yet."""


class Conflict(MezzotintError):
    """A job of this id exists, or the idempotency key was used for another request."""


class QueueFull(MezzotintError):
    """The client has as many jobs waiting as it may have."""


def known(db: sqlite3.Connection, submission: Submission) -> Job | None:
    """The job that the idempotency key names. Raises ``Conflict`` if it was another request."""
    if submission.idempotency_key is None:
        return None
    row = db.execute(
        "SELECT job, request FROM idempotency WHERE client = ? AND key = ?",
        (submission.client, submission.idempotency_key),
    ).fetchone()
    if row is None:
        return None
    if row[1] != submission.request:
        raise Conflict(
            f"the idempotency key {submission.idempotency_key!r} was used for another request, job {row[0]}; use a new key"
        )
    return read_job(db, row[0])


_CLIENTS: Final = 10
"""How many times over the queue of one client may be filled by all of them: any number of names costs a client nothing."""


def check_free(db: sqlite3.Connection, submission: Submission, queue_limit: int | None) -> None:
    """Raises ``Conflict``, or ``QueueFull`` where as many jobs wait, paused ones among them, as may."""
    if db.execute("SELECT 1 FROM jobs WHERE id = ?", (submission.job,)).fetchone():
        raise Conflict(f"there is a job {submission.job!r} already; leave the id out to be given one")
    if queue_limit is None:
        return
    query = "SELECT count(*) FROM jobs WHERE state IN ('queued', 'paused')"
    (waiting,) = db.execute(query).fetchone()  # of an index alone, unlike what is asked of a client
    if waiting < queue_limit:
        return
    if waiting >= _CLIENTS * queue_limit:
        raise QueueFull(f"{waiting} jobs are waiting, which is as many as may; come back when some have run")
    (waiting,) = db.execute(f"{query} AND client = ?", (submission.client,)).fetchone()
    if waiting >= queue_limit:
        raise QueueFull(
            f"{waiting} jobs of this client are waiting, which is as many as may; come back when some have run"
        )


def number_for(db: sqlite3.Connection, submission: Submission) -> float:
    if submission.number is not None:
        return submission.number
    number = advance(db, "number")
    return float(-number if submission.front else number)


def advance(db: sqlite3.Connection, name: str, by: int = 1) -> int:
    """The counter, advanced."""
    query = "UPDATE counters SET value = value + ? WHERE name = ? RETURNING value"
    return int(db.execute(query, (by, name)).fetchone()[0])


def insert(db: sqlite3.Connection, submission: Submission, number: float, now: float) -> None:
    db.execute(
        "INSERT INTO jobs (id, state, client, priority, number, in_order, labels, models, created) "
        "VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?)",
        (
            submission.job,
            submission.client,
            submission.priority,
            number,
            submission.in_order,
            plain_text(submission.labels),
            plain_text(submission.models),
            now,
        ),
    )
    db.execute("INSERT INTO payloads VALUES (?, ?)", (submission.job, payload_text(submission)))
    db.executemany(
        "INSERT INTO labels VALUES (?, ?, ?)",
        [(name, value, submission.job) for name, value in submission.labels.items()],
    )
    if submission.idempotency_key is not None:
        db.execute(
            "INSERT INTO idempotency VALUES (?, ?, ?, ?)",
            (submission.client, submission.idempotency_key, submission.job, submission.request),
        )


def read_job(db: sqlite3.Connection, job: str) -> Job:
    return job_of(db.execute(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", (job,)).fetchone())


def record(db: sqlite3.Connection, job: str, happened: Sequence[Happening]) -> Chunk | None:
    """Number events and store them."""
    if not happened:
        return None
    last = advance(db, "event", len(happened))
    first = last - len(happened) + 1
    events = [StoredEvent(first + index, job, *event) for index, event in enumerate(happened)]
    updated = db.execute("UPDATE jobs SET last_event = ? WHERE id = ?", (last, job))
    if not updated.rowcount:
        raise Conflict(f"there is no job {job!r} any more")
    db.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (first, last, job, pack_events(events)))
    return Chunk(job, first, last, events)


def holds(db: sqlite3.Connection, job: str, token: int) -> bool:
    return db.execute("SELECT 1 FROM leases WHERE job = ? AND token = ?", (job, token)).fetchone() is not None


def follow_progress(db: sqlite3.Connection, job: str, happened: Sequence[Happening]) -> None:
    """Note how far a job has come. After a checkpoint, or a node that had not finished before, a lost worker has not worked in vain; a
    node that is finished anew each time proves nothing."""
    finished = [(job, str(data["node"])) for _, name, data in happened if name == "node_finished"]
    checkpoints = [
        (job, str(data["node"]), str(data["place"]), now) for now, name, data in happened if name == "node_checkpointed"
    ]
    new = db.executemany("INSERT OR IGNORE INTO progress VALUES (?, ?)", finished).rowcount if finished else 0
    if checkpoints:
        db.executemany("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?)", checkpoints)
    if checkpoints or new:
        db.execute("UPDATE jobs SET attempts = 0 WHERE id = ? AND attempts > 0", (job,))


def forget_progress(db: sqlite3.Connection, job: str) -> None:
    """The job has ended."""
    for table in ("checkpoints", "progress"):
        db.execute(f"DELETE FROM {table} WHERE job = ?", (job,))


def forget(db: sqlite3.Connection, where: str, values: Sequence[Any]) -> Forgotten | None:
    """Delete jobs that have ended, and note up to which number events may be missing from now on."""
    query = f"DELETE FROM jobs WHERE finished IS NOT NULL AND {where} RETURNING id, last_event"
    deleted = dict(db.execute(query, values).fetchall())
    if not deleted:
        return None
    last = max(deleted.values())
    db.execute(
        "INSERT INTO counters VALUES ('forgotten', ?) ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
        (last,),
    )
    return Forgotten(frozenset(deleted), last)


def release(
    db: sqlite3.Connection, job: str, state: JobState, reason: str, now: float, *, counts: bool
) -> tuple[int, Chunk | None]:
    db.execute("DELETE FROM leases WHERE job = ?", (job,))
    query = (
        "UPDATE jobs SET state = ?, attempts = attempts + ? WHERE id = ? RETURNING attempts, priority, number, client"
    )
    attempts, priority, number, client = db.execute(query, (state, int(counts), job)).fetchone()
    queued = {"priority": priority, "number": number, "client": client, "reason": reason}
    happened: Happening = (now, "job_paused", {}) if state == "paused" else (now, "job_queued", queued)
    return attempts, record(db, job, [happened])


def output_row(record: OutputRecord) -> tuple[Any, ...]:
    return (
        record.job,
        record.node,
        record.digest,
        record.filename,
        record.subfolder,
        record.kind,
        record.media_type,
        record.size,
    )


def conditions(
    states: Iterable[JobState],
    labels: Mapping[str, str] | None,
    client: str | None,
    since: float | None,
    until: float | None,
    hidden: bool,
) -> tuple[str, list[Any]]:
    """A WHERE clause and its values. Not ``hidden``: without jobs that were taken out of ComfyUI's history, or out of the queue before they
    had begun."""
    parts: list[str] = []
    values: list[Any] = []
    wanted = list(states)
    if wanted:
        parts.append(f"state IN ({','.join('?' * len(wanted))})")
        values += wanted
    for name, value in (labels or {}).items():
        parts.append("id IN (SELECT job FROM labels WHERE name = ? AND value = ?)")
        values += [name, value]
    for condition, bound in (("client = ?", client), ("created >= ?", since), ("created < ?", until)):
        if bound is not None:
            parts.append(condition)
            values.append(bound)
    if not hidden:
        parts.append("hidden = 0 AND NOT (state = 'cancelled' AND started IS NULL)")
    return (f"WHERE {' AND '.join(parts)}" if parts else ""), values
