"""What a run says of itself, as the store keeps it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, get_args

from engine.jobs.changes import Happening
from engine.jobs.records import StoredEvent
from engine.run import events
from engine.run.events import Event
from engine.run.request import RunResult


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


_UNSTORED: Final = (events.NodePreview, events.NodeBytes, events.JobQueued, events.JobFinished)
"""Pictures on the way and bytes are not kept; that a job waits or has ended is for whoever changes its state to say."""

_FREE: Final = {"ui", "data"}
"""What nodes may put anything into."""

_SHAPES: Final = {
    kind: (_snake(kind.__name__), tuple(entry.name for entry in fields(kind) if entry.name != "job"))
    for kind in get_args(Event)
    if kind not in _UNSTORED
}


def happening(event: Event, now: float) -> Happening | None:
    """An event with its time; None for one that is not stored."""
    shape = _SHAPES.get(type(event))
    if shape is None:
        return None
    name, names = shape
    data = {entry: getattr(event, entry) for entry in names}
    for entry in _FREE & data.keys():
        data[entry] = text_keys(data[entry])
    return now, name, data


def text_keys(value: Any) -> Any:
    """What nodes say, with text for keys: packs also use numbers and tuples, which could be stored but not read or told again."""
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else str(name): text_keys(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [text_keys(item) for item in value]
    return value


_KINDS: Final = {name: kind for kind, (name, _) in _SHAPES.items()}


def event_of(stored: StoredEvent) -> Event | None:
    """The event that was stored; None for those that are the store's own, such as ``job_queued``."""
    kind = _KINDS.get(stored.name)
    made: Event | None = kind(job=stored.job, **stored.data) if kind is not None else None
    return made


def failures_of(result: RunResult) -> list[dict[str, Any]]:
    """``Job.errors`` of a run."""
    names = ("node", "shown", "class_type", "pack", "input", "reason")
    return [{name: getattr(failure, name) for name in names} for failure in result.failures]


def failure_of_all(reason: str) -> dict[str, Any]:
    """``Job.errors`` where no node can be named."""
    return {"node": None, "shown": None, "class_type": None, "pack": None, "input": None, "reason": reason}
