"""What is asked of an executor, what it answers, and what it works with."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.errors import NodeFailed
from engine.fileref import Files
from engine.graph.graph import Graph, NodeId
from engine.models import ModelStore
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.checkpoint import CheckpointStore
from engine.run.gates import Gates
from engine.run.last_runs import LastRuns
from engine.run.outputs import OutputFolder
from engine.run.settings import DeviceSettings
from engine.run.values import Slot
from engine.run.work_thread import WorkThread


@dataclass(frozen=True, slots=True)
class Limits:
    """How far nodes may expand: more than this only comes of an expansion that never ends."""

    nodes: int = 200_000
    """Of a whole run."""
    depth: int = 5_000
    """Expansions within expansions: what a loop of that many turns takes, if each turn makes the next."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is asked for."""

    graph: Graph
    """Validated and coerced."""
    targets: tuple[NodeId, ...] | None = None
    """The nodes to run; None means all output nodes."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able values that saved files carry, by the name of their chunk (``prompt``, ``workflow``)."""
    job: str = field(default_factory=lambda: uuid.uuid4().hex)
    client: str | None = None
    """Who watches it, by the name that nodes may send messages to."""
    use_cache: bool = True
    """Whether what is known is used and what is computed is kept."""
    resume: bool = True
    """Whether a long node goes on from a checkpoint that was left behind."""
    keep: tuple[NodeId, ...] = ()
    """Nodes that run too, and whose values the caller wants back."""
    previews: bool = False
    """Whether anybody looks at previews; they are not made otherwise."""
    stop_on_failure: bool = False
    """Whether the first node that fails ends the run; what does not depend on it goes on otherwise."""
    watch_inputs: bool = False
    """Whether nodes are watched for changing what they are given, which takes a look at every value before and after each call."""
    claims_files: bool = False
    """Whether it is remembered, until ``OutputFolder.settle``, which files this job has put where, so that running it a second time after
    a crash puts none there twice."""
    limits: Limits = field(default_factory=lambda: Limits())


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of it. Nodes that were neither ``ran`` nor ``cached`` were not needed, or given up for a failure."""

    job: str
    status: Literal["succeeded", "failed", "cancelled"]
    ui: Mapping[NodeId, Mapping[str, list[Any]]]
    """What nodes have to show, cached ones too; files as ``{"filename", "subfolder", "type"}``."""
    failures: tuple[NodeFailed, ...]
    ran: tuple[NodeId, ...]
    cached: tuple[NodeId, ...]
    """Nodes whose value was taken from the cache or from an equal node of this run."""
    values: Mapping[NodeId, tuple[Slot, ...]]
    """For each node of ``Run.keep`` that has one, its value: a slot per output, each a tuple of (most often) one element."""
    inner: Mapping[NodeId, NodeId] = field(default_factory=dict)
    """Every node that an expansion made, with the node of the workflow it is shown as."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every run of an executor works with."""

    registry: Registry
    files: Files
    cache: OutputCache
    outputs: OutputFolder
    settings: DeviceSettings
    numerics: str
    checkpoints: CheckpointStore | None
    last_runs: LastRuns | None
    device: WorkThread
    """Where node functions run that are not async."""
    io: WorkThread
    """Where files are read and written."""
    models: Callable[[], ModelStore]
    gates: Gates
