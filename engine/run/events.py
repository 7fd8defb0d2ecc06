"""What happens during a job, as frozen data: a closed union, in the order it happens.

``node`` is where it happens. ``shown`` is the node of the workflow that a user sees it at: the same one, or the one that became it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.graph.graph import NodeId


@dataclass(frozen=True, slots=True)
class JobQueued:
    job: str


@dataclass(frozen=True, slots=True)
class JobStarted:
    job: str
    nodes: int
    """How many nodes will run."""


@dataclass(frozen=True, slots=True)
class NodeCached:
    job: str
    node: NodeId
    shown: NodeId
    tier: Literal["memory", "disk", "run"]
    """``"run"``: it was being computed at that moment, for another node with the same key."""
    ui: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """As in ``NodeFinished``: files are put into the output folder for this run too."""


@dataclass(frozen=True, slots=True)
class NodeStarted:
    job: str
    node: NodeId
    shown: NodeId
    class_type: str


@dataclass(frozen=True, slots=True)
class NodeProgress:
    job: str
    node: NodeId
    shown: NodeId
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class NodePreview:
    job: str
    node: NodeId
    shown: NodeId
    image: bytes
    """JPEG, longest side 512; a result may be PNG, and of any size."""
    is_result: bool = False
    """Whether it is what a client waits for, rather than a picture on the way, which may be missed."""


@dataclass(frozen=True, slots=True)
class NodeExpanded:
    job: str
    node: NodeId
    shown: NodeId
    inner: tuple[NodeId, ...]
    """What it became."""


@dataclass(frozen=True, slots=True)
class NodeBlocked:
    """A node does not run because of a value it was given, and the user is to know why."""

    job: str
    node: NodeId
    shown: NodeId
    class_type: str
    message: str


@dataclass(frozen=True, slots=True)
class NodeMessage:
    """A node's own message, as third-party packs send them to their scripts in a browser."""

    job: str
    node: NodeId
    shown: NodeId
    name: str
    data: Any
    """What JSON can hold, or bytes."""
    client: str | None = None
    """The one it is for; None where it is for everybody."""


@dataclass(frozen=True, slots=True)
class NodeBytes:
    """The same of bytes that may be large, as third-party packs send pictures, sound and film: passed on in order, and not kept."""

    job: str
    node: NodeId
    shown: NodeId
    kind: int
    """What browsers tell the message by, as they do others by name."""
    data: bytes
    client: str | None = None
    """As in ``NodeMessage``."""


@dataclass(frozen=True, slots=True)
class NodeCheckpointed:
    """A long node has kept its half-finished state: if the process dies now, it goes on from here."""

    job: str
    node: NodeId
    shown: NodeId
    place: str


@dataclass(frozen=True, slots=True)
class NodeWarning:
    job: str
    node: NodeId
    shown: NodeId
    message: str


@dataclass(frozen=True, slots=True)
class NodeFinished:
    job: str
    node: NodeId
    shown: NodeId
    seconds: float
    ui: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """File items are ``{"filename", "subfolder", "type"}``."""


@dataclass(frozen=True, slots=True)
class NodeFailed:
    job: str
    node: NodeId
    shown: NodeId
    class_type: str
    message: str
    input: str | None = None
    pack: str | None = None
    """The third-party pack the node comes from."""


@dataclass(frozen=True, slots=True)
class JobFinished:
    job: str
    status: Literal["succeeded", "failed", "cancelled"]


Event = (
    JobQueued
    | JobStarted
    | NodeCached
    | NodeStarted
    | NodeProgress
    | NodePreview
    | NodeCheckpointed
    | NodeExpanded
    | NodeBlocked
    | NodeMessage
    | NodeBytes
    | NodeWarning
    | NodeFinished
    | NodeFailed
    | JobFinished
)
OnEvent = Callable[[Event], None]
