"""The command line's arguments that need reading: ``--set NODE.INPUT=VALUE`` and names of nodes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.errors import UsageError
from engine.graph.graph import Graph, NodeId
from engine.registry import Registry
from engine.spec import InputSpec
from engine.types import BOOLEAN, FLOAT, INT


@dataclass(frozen=True, slots=True)
class Assignment:
    """One ``--set``."""

    node: str
    input: str
    text: str


def parse_assignment(argument: str) -> Assignment:
    """``"6.text=a red circle"``: the node is what stands before the last dot left of the first equals sign."""
    target, equals, text = argument.partition("=")
    node, dot, name = target.rpartition(".")
    if not (equals and dot and node and name):
        raise UsageError(f"--set {argument!r}: expected NODE.INPUT=VALUE, for example --set '6.text=a red circle'")
    return Assignment(node.strip(), name.strip(), text)


def find_node(graph: Graph, name: str) -> NodeId:
    """The node with this id, else the one with this title (upper and lower case alike)."""
    if name in graph:
        return NodeId(name)
    titled = [node for node, call in graph.items() if (call.title or call.type).casefold() == name.casefold()]
    if len(titled) == 1:
        return titled[0]
    if titled:
        raise UsageError(f"{len(titled)} nodes are called {name!r}; use one of their ids: {', '.join(titled)}")
    known = [*graph, *(call.title for call in graph.values() if call.title)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"no node has the id or title {name!r}{hint}")


def apply_assignments(graph: Graph, assignments: Iterable[Assignment], registry: Registry) -> Graph:
    """The graph with each ``--set`` done. A linked input is replaced by the value."""
    for assignment in assignments:
        node = find_node(graph, assignment.node)
        call = graph[node]
        spec = _input_spec(registry, call.type, assignment)
        value = _value(spec, assignment.text)
        graph = graph.with_call(node, call.with_inputs(**{assignment.input: value}))
    return graph


def _input_spec(registry: Registry, type_: str, assignment: Assignment) -> InputSpec | None:
    """The input's declaration; None where the node type is unknown, which ``validate`` reports with all else."""
    spec = registry.get(type_)
    if spec is None:
        return None
    found = spec.input(assignment.input)
    if found is None and not spec.takes_extra:
        names = [known.name for known in spec.inputs if known.is_widget]
        near = difflib.get_close_matches(assignment.input, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
        raise UsageError(f"--set {assignment.node}.{assignment.input}: {type_} has no such input; {hint}")
    return found


def _value(spec: InputSpec | None, text: str) -> Any:
    """The value in the input's type. What does not convert is left as text for ``validate`` to report."""
    if spec is None:
        return _json_or_text(text)
    try:
        if spec.type == INT:
            return int(text)
        if spec.type == FLOAT:
            return float(text)
    except ValueError:
        return text
    if spec.type == BOOLEAN:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(
            text.casefold(), text
        )
    return text if spec.is_widget else _json_or_text(text)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
