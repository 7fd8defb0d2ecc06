"""What is known of a job: as it is asked for, as it stands, and what happened in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

JobState = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]

ENDED: Final[frozenset[JobState]] = frozenset({"succeeded", "failed", "cancelled"})
"""States that no job leaves."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job as it is asked for: checked, with its literals coerced."""

    job: str
    prompt: Mapping[str, Any]
    """API JSON."""
    targets: tuple[str, ...]
    """The nodes it is for."""
    client: str = ""
    """Who asks; the queue is fair between clients."""
    priority: int = 0
    """Higher goes first, and interrupts what is lower."""
    number: float | None = None
    """ComfyUI's place in the queue: lower goes first. None takes the next of a counter."""
    front: bool = False
    """Before all of its priority that are waiting now, without interrupting any."""
    in_order: bool = False
    """Whether its client's jobs run in the order of their numbers whatever models they use."""
    labels: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    request: str = ""
    """Digest of what the client sent: with an idempotency key, what tells the same request from another."""
    extra_data: Mapping[str, Any] = field(default_factory=dict)
    """As ComfyUI's clients send it; ``extra_pnginfo`` goes into saved files."""
    node_errors: Mapping[str, Any] = field(default_factory=dict)
    """What was wrong with outputs that are left out, in ComfyUI's shape."""
    models: tuple[str, ...] = ()
    """Model files it names, ``folder/name``."""
    use_cache: bool = True
    stop_on_failure: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. Times are seconds since 1970."""

    id: str
    state: JobState
    client: str
    priority: int
    number: float
    labels: Mapping[str, str]
    created: float
    started: float | None = None
    """When it was first begun."""
    finished: float | None = None
    attempts: int = 0
    """How often in a row a worker was lost while it made no progress."""
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What its nodes had to show, by node: files as ``{"filename", "subfolder", "type"}``. Complete when it has ended."""
    errors: tuple[Mapping[str, Any], ...] = ()
    """Of each node that failed: node, shown, class_type, pack, input, reason. ``node`` is None where it was no node."""
    models: tuple[str, ...] = ()
    in_order: bool = False
    last_event: int = 0
    """The number of the last thing that happened in it."""
    hidden: bool = False
    """Whether a client took it out of ComfyUI's history."""


@dataclass(frozen=True, slots=True)
class Payload:
    """The bulk of a job, which lists do without."""

    prompt: Mapping[str, Any]
    targets: tuple[str, ...]
    extra_data: Mapping[str, Any]
    node_errors: Mapping[str, Any]
    use_cache: bool
    stop_on_failure: bool

    @property
    def client(self) -> str | None:
        """The socket of ComfyUI's that is told of the job; None where the client named none."""
        client = self.extra_data.get("client_id")
        return client if isinstance(client, str) else None


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """A file that a job left, by content."""

    job: str
    node: str
    digest: str
    """blake3 of the bytes, in hex."""
    filename: str
    subfolder: str
    kind: str
    """``"output"`` or ``"temp"``."""
    media_type: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """Something that happened, with its number: one sequence for all jobs, without a hole.

    Names and data, beside those that come from ``engine.run.events`` in snake case with all fields but ``job``
    (``job_started``: nodes; ``node_cached``: node, shown, tier, ui; ``node_started``: node, shown, class_type; ``node_progress``: node,
    shown, done, total; ``node_expanded``: node, shown, inner; ``node_blocked``: node, shown, class_type, message; ``node_message``: node,
    shown, name, data, client; ``node_warning``: node, shown, message; ``node_checkpointed``: node, shown, place; ``node_finished``: node,
    shown, seconds, ui; ``node_failed``: node, shown, class_type, message, input, pack):

    ``job_queued``: priority, number, client, reason (None, or why it is queued again)
    ``job_leased``: worker, token
    ``job_pausing``, ``job_cancelling``: it was told to, and is still running
    ``job_paused``
    ``job_resumed``
    ``job_finished``: status ("succeeded", "failed", "cancelled"), outputs, errors as in ``Job``
    """

    seq: int
    job: str
    time: float
    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events that were stored together: all of one job, their numbers without a gap."""

    job: str
    first: int
    last: int
    events: Sequence[StoredEvent]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Jobs that were deleted, with all that happened in them."""

    jobs: frozenset[str]
    last: int
    """The highest number of what was deleted."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Some events with numbers in ``after + 1 .. until`` are told no more: their jobs were deleted."""

    after: int
    until: int
