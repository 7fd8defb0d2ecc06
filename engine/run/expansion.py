"""A node that became a subgraph: its nodes join the run under new names, and its outputs are collected when they are done. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.errors import DefinitionError
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.run.invoke import collect
from engine.run.results import Blocked, Demand, Expand, NodeResult, Outputs
from engine.run.values import NodeValue, Slot
from engine.spec import NodeSpec


@dataclass(frozen=True, slots=True)
class Spliced:
    """One call's expansion, in place: its outputs are values, or links to nodes that are now part of the run."""

    outputs: tuple[Any | Link, ...]


Part = Outputs | Blocked | Spliced
"""What one call of such a node came to."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """Everything one node became."""

    calls: dict[NodeId, Call] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)

    @property
    def sources(self) -> list[NodeId]:
        """The nodes whose values its outputs are made of."""
        return [
            value.node
            for part in self.parts
            if isinstance(part, Spliced)
            for value in part.outputs
            if type(value) is Link
        ]


def expand(node: NodeId, results: Sequence[NodeResult], taken: Collection[NodeId]) -> Expansion:
    """Name the nodes of all subgraphs that ``node`` returned: ``<node>.<inner>``, or ``<node>.<call>.<inner>`` where there are more calls.

    Raises ``DefinitionError`` for an output that links to a node neither in its subgraph nor in ``taken``, the nodes of the run.
    """
    expansion = Expansion()
    for index, result in enumerate(results):
        if isinstance(result, Expand):
            prefix = _free_prefix(f"{node}.{index}" if len(results) > 1 else node, result.graph, taken)
            expansion.calls.update(Graph().splice(result.graph, prefix))
            expansion.parts.append(
                Spliced(tuple(_moved(value, result.graph, prefix, taken) for value in result.outputs))
            )
        elif not isinstance(result, Demand):
            expansion.parts.append(result)
    return expansion


def _free_prefix(prefix: str, graph: Graph, taken: Collection[NodeId]) -> str:
    while any(f"{prefix}.{inner}" in taken for inner in graph):
        prefix += "+"
    return prefix


def _moved(value: Any, graph: Graph, prefix: str, taken: Collection[NodeId]) -> Any:
    if type(value) is not Link:
        return value
    if value.node in graph:
        return Link(NodeId(f"{prefix}.{value.node}"), value.output)
    if value.node in taken:
        return value
    raise DefinitionError(f"expanded into a graph and returned a link to its node {value.node}, which is not in it")


def relinked(part: Part, standing: Callable[[NodeId], NodeId]) -> Part:
    """``part`` with its links going to the nodes that stand for those they name."""
    if not isinstance(part, Spliced):
        return part
    links = (Link(standing(value.node), value.output) if type(value) is Link else value for value in part.outputs)
    return replace(part, outputs=tuple(links))


def assemble(spec: NodeSpec, results: Sequence[Part], slot_of: Callable[[Link], Slot]) -> NodeValue:
    """The value of a node that became a subgraph in at least one of its calls, once the subgraph's nodes are done."""
    parts = [
        _spliced_slots(result, slot_of) if isinstance(result, Spliced) else collect(spec, [result])
        for result in results
    ]
    slots = tuple(tuple(item for part in parts for item in part.slots[index]) for index in range(len(spec.outputs)))
    files = tuple(file for part in parts for file in part.files)
    ui: dict[str, list[Any]] = {}
    for part in parts:
        for name, items in part.ui.items():
            ui.setdefault(name, []).extend(items)
    return NodeValue(slots, files, ui)


def _spliced_slots(splice: Spliced, slot_of: Callable[[Link], Slot]) -> NodeValue:
    return NodeValue(tuple(slot_of(value) if type(value) is Link else (value,) for value in splice.outputs))
