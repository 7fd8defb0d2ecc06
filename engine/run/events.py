"""What happens during a job, as frozen data: a closed union, in the order it happens."""

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
    tier: Literal["memory", "disk", "run"]
    """``"run"``: it was being computed at that moment, for another node with the same key."""
    ui: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """As in ``NodeFinished``: files are put into the output folder for this run too."""


@dataclass(frozen=True, slots=True)
class NodeStarted:
    job: str
    node: NodeId
    class_type: str


@dataclass(frozen=True, slots=True)
class NodeProgress:
    job: str
    node: NodeId
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class NodePreview:
    job: str
    node: NodeId
    image: bytes
    """JPEG, longest side 512."""


@dataclass(frozen=True, slots=True)
class NodeWarning:
    job: str
    node: NodeId
    message: str


@dataclass(frozen=True, slots=True)
class NodeFinished:
    job: str
    node: NodeId
    seconds: float
    ui: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """File items are ``{"filename", "subfolder", "type"}``."""


@dataclass(frozen=True, slots=True)
class NodeFailed:
    job: str
    node: NodeId
    class_type: str
    message: str
    input: str | None = None


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
    | NodeWarning
    | NodeFinished
    | NodeFailed
    | JobFinished
)
OnEvent = Callable[[Event], None]
