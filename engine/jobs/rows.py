"""Rows of the job store as records, and back. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgpack

from engine.jobs.records import Chunk, Job, Payload, StoredEvent, Submission

JOB_COLUMNS: Final = (
    "id, state, client, priority, number, labels, created, started, finished, attempts, "
    "outputs, errors, models, in_order, last_event, hidden"
)


def job_of(row: Sequence[Any]) -> Job:
    """A row of ``JOB_COLUMNS``."""
    return Job(
        id=row[0],
        state=row[1],
        client=row[2],
        priority=row[3],
        number=row[4],
        labels=json.loads(row[5]),
        created=row[6],
        started=row[7],
        finished=row[8],
        attempts=row[9],
        outputs=json.loads(row[10]),
        errors=tuple(json.loads(row[11])),
        models=tuple(json.loads(row[12])),
        in_order=bool(row[13]),
        last_event=row[14],
        hidden=bool(row[15]),
    )


def payload_text(submission: Submission) -> str:
    return json.dumps(
        {
            "prompt": submission.prompt,
            "targets": submission.targets,
            "extra_data": submission.extra_data,
            "node_errors": submission.node_errors,
            "use_cache": submission.use_cache,
            "stop_on_failure": submission.stop_on_failure,
        },
        separators=(",", ":"),
    )


@lru_cache(maxsize=2)
def payload_of(text: str) -> Payload:
    """Kept for a moment: whoever begins a job and whoever tells of it read the same one. Not to be changed."""
    plain = json.loads(text)
    return Payload(
        prompt=plain["prompt"],
        targets=tuple(plain["targets"]),
        extra_data=plain["extra_data"],
        node_errors=plain["node_errors"],
        use_cache=plain["use_cache"],
        stop_on_failure=plain["stop_on_failure"],
    )


def pack_events(events: Iterable[StoredEvent]) -> bytes:
    """Names, times and data; the numbers and the job are the row's own."""
    body: bytes = msgpack.packb(
        [(event.time, event.name, event.data) for event in events], default=str, unicode_errors="surrogatepass"
    )
    return body


def chunk_of(first: int, last: int, job: str, body: bytes) -> Chunk:
    """The inverse of ``pack_events``, with the row's numbers."""
    plain = msgpack.unpackb(body, strict_map_key=False, unicode_errors="surrogatepass")
    events = [StoredEvent(first + index, job, time, name, data) for index, (time, name, data) in enumerate(plain)]
    return Chunk(job, first, last, events)


def plain_text(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """As JSON; what JSON has no word for as its text."""
    return json.dumps(value, separators=(",", ":"), default=str)
