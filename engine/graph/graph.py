"""What a workflow is: calls of node types, wired by links. Immutable; every change makes a new graph.

graph = Graph({"1": Call("EmptyImage", {"width": 64}), "2": Call("ImageInvert", {"image": Link("1", 0)})})
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NewType, cast

if TYPE_CHECKING:
    import networkx as nx

NodeId = NewType("NodeId", str)

Value = Any
"""A literal input: what JSON can hold."""


class Link(NamedTuple):
    """Output number ``output`` of node ``node``."""

    node: NodeId
    output: int


@dataclass(frozen=True, slots=True)
class BadLink:
    """A bare list that is no link. A file may hold one and so a graph can; ``validate`` reports it, and a valid graph
    has none."""

    received: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One node of a workflow: a node type and the inputs it is called with."""

    type: str
    inputs: Mapping[str, Value | Link] = field(default_factory=dict)
    title: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", MappingProxyType(dict(self.inputs)))

    @property
    def links(self) -> dict[str, Link]:
        """The inputs that are links."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}

    @property
    def literals(self) -> dict[str, Value]:
        """The inputs that are values."""
        return {name: value for name, value in self.inputs.items() if not isinstance(value, Link | BadLink)}

    def with_inputs(self, **inputs: Value | Link) -> Call:
        return replace(self, inputs={**self.inputs, **inputs})


class Graph(Mapping[NodeId, Call]):
    """Calls by node id. Links may dangle or form cycles: a graph is what a file says, ``validate`` says what is wrong
    with it."""

    def __init__(self, calls: Mapping[NodeId, Call] | Mapping[str, Call] | None = None) -> None:
        self._calls: dict[NodeId, Call] = dict(cast("Mapping[NodeId, Call]", calls or {}))

    def __getitem__(self, node: NodeId | str) -> Call:
        return self._calls[cast("NodeId", node)]

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"Graph({len(self)} nodes)"

    @cached_property
    def digraph(self) -> nx.DiGraph[NodeId]:
        """An edge from each node to each of its consumers; links to nodes that are not there have none."""
        import networkx as nx

        digraph: nx.DiGraph[NodeId] = nx.DiGraph()
        digraph.add_nodes_from(self._calls)
        digraph.add_edges_from(
            (link.node, node)
            for node, call in self._calls.items()
            for link in call.links.values()
            if link.node in self._calls
        )
        return digraph

    def ancestors(self, targets: Iterable[NodeId | str]) -> frozenset[NodeId]:
        """The targets and everything they need, whether or not it forms a cycle."""
        seen: set[NodeId] = set()
        waiting = [NodeId(target) for target in targets]
        while waiting:
            node = waiting.pop()
            if node in seen or node not in self._calls:
                continue
            seen.add(node)
            waiting.extend(value.node for value in self._calls[node].inputs.values() if type(value) is Link)
        return frozenset(seen)

    def restrict(self, nodes: Iterable[NodeId]) -> Graph:
        """The graph of these nodes alone, in the order of this graph."""
        wanted = set(nodes)
        return Graph({node: call for node, call in self._calls.items() if node in wanted})

    def with_call(self, node: NodeId | str, call: Call) -> Graph:
        """This graph with one node added or replaced."""
        return Graph({**self._calls, NodeId(node): call})

    def splice(self, sub: Graph, parent: NodeId | str) -> Graph:
        """This graph and the nodes of ``sub``, whose ids get the prefix ``parent.``; links inside ``sub`` follow.

        A link of ``sub`` to a node that is not in ``sub`` is taken to mean this graph's node.
        """

        def inner(node: NodeId) -> NodeId:
            return NodeId(f"{parent}.{node}") if node in sub else node

        def moved(value: Value | Link) -> Value | Link:
            return Link(inner(value.node), value.output) if isinstance(value, Link) else value

        spliced = {
            inner(node): replace(call, inputs={name: moved(value) for name, value in call.inputs.items()})
            for node, call in sub.items()
        }
        return Graph({**self._calls, **spliced})
