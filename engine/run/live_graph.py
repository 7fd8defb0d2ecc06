"""The workflow as it stands during its run: what the file says, and what nodes became since.

A node made by an expansion has a parent, the node that became it, and stands for a node the user can see: the outermost parent,
unless the expansion named another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from blake3 import blake3

from engine.graph.graph import Call, Graph, NodeId

_LONGEST: Final = 120


def inner_prefix(node: NodeId, shown: NodeId) -> NodeId:
    """What the ids of the nodes that ``node`` becomes begin with: its own id, or, far down, a digest of it.

    Every turn of a loop may stand within the one before, and ids that name all of them would fill the memory.
    """
    if len(node) <= _LONGEST:
        return node
    return NodeId(f"{shown}.~{blake3(node.encode(errors='surrogatepass')).hexdigest()[:16]}")


class LiveGraph(Mapping[NodeId, Call]):
    """Calls as the workflow and the expansions wrote them. Grows under the run's lock; may be read from any thread."""

    def __init__(self, graph: Graph) -> None:
        self.workflow = graph
        """What the run was asked to run."""
        self._inner: dict[NodeId, Call] = {}
        self._parents: dict[NodeId, NodeId] = {}
        self._shown: dict[NodeId, NodeId] = {}
        self._depths: dict[NodeId, int] = {}

    def __getitem__(self, node: NodeId | str) -> Call:
        found = self._inner.get(NodeId(node))
        return self.workflow[node] if found is None else found

    def __contains__(self, node: object) -> bool:
        return node in self._inner or node in self.workflow

    def __iter__(self) -> Iterator[NodeId]:
        yield from self.workflow
        yield from tuple(self._inner)

    def __len__(self) -> int:
        return len(self.workflow) + len(self._inner)

    def parent(self, node: NodeId) -> NodeId | None:
        """The node that became ``node`` and others; None for a node of the workflow."""
        return self._parents.get(node)

    def shown(self, node: NodeId) -> NodeId:
        """The node of the workflow that a user sees at work while ``node`` is."""
        return self._shown.get(node, node)

    def depth(self, node: NodeId) -> int:
        """How many expansions lie between the workflow and ``node``."""
        return self._depths.get(node, 0)

    def inner(self) -> dict[NodeId, NodeId]:
        """Every node that an expansion made, with the node it is shown as."""
        return dict(self._shown)

    def grow(self, parent: NodeId, calls: Mapping[NodeId, Call], shown: Mapping[NodeId, NodeId]) -> None:
        """``parent`` became ``calls``; ``shown`` names those that are not shown as ``parent`` is."""
        usual, depth = self.shown(parent), self.depth(parent) + 1
        for node, call in calls.items():
            self._inner[node] = call
            self._parents[node] = parent
            self._shown[node] = shown.get(node, usual)
            self._depths[node] = depth
