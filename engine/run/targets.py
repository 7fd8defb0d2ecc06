"""What a run is for: its output nodes, or the nodes it was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import UsageError
from engine.graph.graph import Graph, NodeId
from engine.spec import NodeSpec


def targets_of(graph: Graph, specs: Mapping[str, NodeSpec], asked: tuple[NodeId, ...] | None) -> tuple[NodeId, ...]:
    """The nodes asked for, or else all output nodes. Raises ``UsageError`` for one that is not there."""
    if asked is None:
        return tuple(node for node, call in graph.items() if is_output(specs, call.type))
    check_nodes(graph, asked)
    return asked


def check_nodes(graph: Graph, nodes: tuple[NodeId, ...]) -> None:
    """Raises ``UsageError`` for a node that is not in ``graph``."""
    for node in nodes:
        if node not in graph:
            shown = ", ".join(list(graph)[:8]) + (", ..." if len(graph) > 8 else "")
            raise UsageError(f"there is no node {node} in the workflow; its nodes are {shown or 'none'}")


def is_output(specs: Mapping[str, NodeSpec], type_: str) -> bool:
    spec = specs.get(type_)
    return spec is not None and spec.output_node


def lazy_inputs(specs: Mapping[str, NodeSpec], type_: str) -> frozenset[str]:
    """The inputs of a node type that are computed only when it asks for them."""
    spec = specs.get(type_)
    return spec.lazy_inputs if spec else frozenset()
