"""A node that became a subgraph: its nodes join the run under new names, and its outputs are collected when they are done. Pure."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.errors import DefinitionError
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.run.invoke import collect
from engine.run.live_graph import LiveGraph, inner_prefix
from engine.run.results import Blocked, Demand, Expand, NodeResult, OutputFile, Outputs
from engine.run.values import NodeValue, Slot
from engine.spec import NodeSpec


@dataclass(frozen=True, slots=True)
class Spliced:
    """One call's expansion, in place: its outputs are values, or links to nodes that are now part of the run."""

    outputs: tuple[Any | Link, ...]
    files: tuple[OutputFile, ...] = ()
    ui: Mapping[str, Sequence[Any]] = field(default_factory=dict)


Part = Outputs | Blocked | NodeValue | Spliced
"""What one call of such a node came to."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """Everything one node became."""

    calls: dict[NodeId, Call] = field(default_factory=dict)
    shown: dict[NodeId, NodeId] = field(default_factory=dict)
    """Nodes that are to be seen as others than their parent."""
    parts: list[Part] = field(default_factory=list)

    @property
    def sources(self) -> list[NodeId]:
        """The nodes whose values its outputs are made of."""
        return [link.node for link in self.links]

    @property
    def links(self) -> list[Link]:
        """Where its outputs come from, as far as they are no values."""
        return [
            value for part in self.parts if isinstance(part, Spliced) for value in part.outputs if type(value) is Link
        ]

    def splice(self, made: Expand, prefix: str | None, taken: Container[NodeId]) -> None:
        """Put the nodes of ``made`` in place, their ids behind ``prefix``, or as they are where there is none."""

        def moved(node: NodeId) -> NodeId:
            return NodeId(f"{prefix}.{node}") if prefix and node in made.graph else node

        def relinked(value: Any) -> Any:
            return Link(moved(value.node), value.output) if type(value) is Link else value

        for node, call in made.graph.items():
            inputs = call.inputs
            if prefix and any(type(value) is Link for value in inputs.values()):
                call = replace(call, inputs={name: relinked(value) for name, value in inputs.items()})
            self.calls[moved(node)] = call
        for value in made.outputs:
            if type(value) is Link and value.node not in made.graph and value.node not in taken:
                raise DefinitionError(
                    f"expanded into a graph and returned a link to its node {value.node}, which is not in it"
                )
        self.shown.update({moved(node): shown for node, shown in made.shown.items()})
        self.parts.append(Spliced(tuple(map(relinked, made.outputs)), made.files, made.ui))


def expand(node: NodeId, results: Sequence[NodeResult | NodeValue], taken: LiveGraph) -> Expansion:
    """Name the nodes of all subgraphs that ``node`` returned: ``<node>.<inner>``, or ``<node>.<call>.<inner>`` where there are more calls.

    Raises ``DefinitionError`` for an output that links to a node neither in its subgraph nor in ``taken``, the nodes of the run, and for
    a subgraph that says its names are new where they are not.
    """
    expansion = Expansion()
    place = inner_prefix(node, taken.shown(node))
    for index, result in enumerate(results):
        if isinstance(result, Expand):
            prefix = None
            if result.is_named:
                _check_new(result.graph, taken, expansion.calls)
            else:
                prefix = _free_prefix(f"{place}.{index}" if len(results) > 1 else place, result.graph, taken)
            expansion.splice(result, prefix, taken)
        elif not isinstance(result, Demand):
            expansion.parts.append(result)
    return expansion


def _check_new(graph: Graph, *taken: Container[NodeId]) -> None:
    for inner in graph:
        if any(inner in known for known in taken):
            raise DefinitionError(
                f"expanded into a node {inner}, which is in the run already; ids must be new: let a GraphBuilder make them"
            )


def _free_prefix(prefix: str, graph: Graph, taken: Container[NodeId]) -> str:
    while any(f"{prefix}.{inner}" in taken for inner in graph):
        prefix += "+"
    return prefix


def relinked(part: Part, standing: Callable[[NodeId], NodeId]) -> Part:
    """``part`` with its links going to the nodes that stand for those they name."""
    if not isinstance(part, Spliced):
        return part
    links = (Link(standing(value.node), value.output) if type(value) is Link else value for value in part.outputs)
    return replace(part, outputs=tuple(links))


def assemble(spec: NodeSpec, results: Sequence[Part], slot_of: Callable[[Link], Slot]) -> NodeValue:
    """The value of a node that became a subgraph in at least one of its calls, once the subgraph's nodes are done."""
    parts = [
        _spliced_slots(spec, result, slot_of) if isinstance(result, Spliced) else collect(spec, [result])
        for result in results
    ]
    slots = tuple(tuple(item for part in parts for item in part.slots[index]) for index in range(len(spec.outputs)))
    files = tuple(file for part in parts for file in part.files)
    ui: dict[str, list[Any]] = {}
    for part in parts:
        for name, items in part.ui.items():
            ui.setdefault(name, []).extend(items)
    return NodeValue(slots, files, ui)


def _spliced_slots(spec: NodeSpec, splice: Spliced, slot_of: Callable[[Link], Slot]) -> NodeValue:
    """What links bring, and the values beside them: those of a list output are lists, to be spread like any."""
    slots = []
    for output, value in zip(spec.outputs, splice.outputs, strict=True):
        if type(value) is Link:
            slots.append(slot_of(value))
        else:
            slots.append(tuple(value) if output.is_list and isinstance(value, list | tuple) else (value,))
    return NodeValue(tuple(slots), splice.files, splice.ui)
