"""What a node's function may return.

Plain values (one, or a tuple of as many as the node has outputs) are the common case; the classes say the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.graph.graph import Graph, Link, NodeId


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file a node wants in the output (or temp) folder.

    It is data, not an effect: the run places it, so a cached node's files are placed again without running the node, each time
    with the metadata of the run at hand.
    """

    data: bytes
    prefix: str
    """Name without counter; may hold folders and ``%width%``-like tokens."""
    extension: str
    width: int = 0
    height: int = 0
    batch_index: int = 0
    kind: Literal["output", "temp"] = "output"
    ui: str = "images"
    """The list of the node's ui output that names the file."""
    numbered: bool = True
    """Whether the file gets the next free number; otherwise it is called ``<prefix>.<extension>``, and ``<prefix>_2.<extension>`` and so
    on where that is taken. Nothing is overwritten either way."""
    bare: bool = False
    """Whether the file goes without the run's metadata."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Values with files or data for the user interface beside them."""

    values: tuple[Any, ...] = ()
    files: tuple[OutputFile, ...] = ()
    ui: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demand:
    """The node needs these lazy inputs and will be called again with them."""

    inputs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Expand:
    """The node becomes ``graph``; ``outputs`` are its results: values, or links into the graph or to nodes of the run."""

    graph: Graph
    outputs: tuple[Any | Link, ...]
    is_named: bool = False
    """The graph's ids are new in the run and stay; otherwise each is put behind the expanding node's."""
    shown: Mapping[NodeId, NodeId] = field(default_factory=dict)
    """Nodes of ``graph`` that a user is to see as another node of the workflow than the expanding one."""
    files: tuple[OutputFile, ...] = ()
    ui: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Beside the outputs, as in ``Outputs``."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """What depends on this value does not run; with a reason the user is told."""

    reason: str | None = None


NodeResult = Outputs | Demand | Expand | Blocked
