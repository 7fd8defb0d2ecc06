"""What a class's function returned, as the engine understands it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from engine.errors import DefinitionError
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.run.results import Blocked, Expand, Outputs


def as_link(value: Any) -> Link | None:
    """``value`` as a link if it is one: a list of a node id, which is a text, and an output number."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    node, output = value
    if not isinstance(node, str) or isinstance(output, bool) or not isinstance(output, int | float):
        return None
    return Link(NodeId(node), int(output))


def blocker_message(value: Any) -> Blocked | None:
    """``value`` as the engine's own if it is a pack's ``ExecutionBlocker``."""
    if type(value).__name__ == "ExecutionBlocker" and hasattr(value, "message"):
        return Blocked(value.message)
    return None


def understood(returned: Any, is_list: Sequence[bool], known: Container[str]) -> Outputs | Expand:
    """A tuple, a dict of ``ui``, ``result`` and ``expand``, or a blocker. ``known`` are the nodes of the run.

    Raises ``DefinitionError`` for anything else.
    """
    ui: Any = None
    expand: Any = None
    result = returned
    if isinstance(returned, Mapping):
        ui, expand = returned.get("ui"), returned.get("expand")
        result = returned.get("result", () if not is_list else (None,) * len(is_list))
    values = _values(result, is_list)
    shown = _ui(ui)
    if expand is None:
        return Outputs(values, ui=shown)
    graph, seen_as = _graph(expand)
    links = tuple(_output(value, graph, known) for value in values)
    return Expand(graph, links, is_named=True, shown=seen_as, ui=shown)


def _values(result: Any, is_list: Sequence[bool]) -> tuple[Any, ...]:
    blocked = blocker_message(result)
    if blocked is not None:
        return (blocked,) * len(is_list)
    if result is None and not is_list:
        return ()
    if not isinstance(result, tuple | list):
        result = (result,)
    return tuple(
        _value(value, spread) for value, spread in zip(result, [*is_list, *_more(result, is_list)], strict=False)
    )


def _more(result: Sequence[Any], is_list: Sequence[bool]) -> list[bool]:
    """For values beyond those that are declared: they are counted, and then told of."""
    return [False] * (len(result) - len(is_list))


def _value(value: Any, spread: bool) -> Any:
    if spread and isinstance(value, list | tuple):
        return [blocker_message(item) or item for item in value]
    return blocker_message(value) or value


def _ui(ui: Any) -> dict[str, list[Any]]:
    if ui is None:
        return {}
    if hasattr(ui, "as_dict"):
        ui = ui.as_dict()
    if not isinstance(ui, Mapping):
        raise DefinitionError(f"returned ui data that is a {type(ui).__name__}; expected a dict of lists")
    return {str(name): list(items) if isinstance(items, list | tuple) else [items] for name, items in ui.items()}


def _graph(expand: Any) -> tuple[Graph, dict[NodeId, NodeId]]:
    """The subgraph of an expansion, and the nodes in it that are shown as others."""
    if not isinstance(expand, Mapping):
        raise DefinitionError(f"expanded into a {type(expand).__name__}; expected a dict of nodes by id")
    calls: dict[NodeId, Call] = {}
    shown: dict[NodeId, NodeId] = {}
    for id_, entry in expand.items():
        node = NodeId(str(id_))
        if not isinstance(entry, Mapping) or not isinstance(entry.get("class_type"), str):
            raise DefinitionError(f"expanded into a node {node} without a class_type; expected class_type and inputs")
        inputs = entry.get("inputs") or {}
        calls[node] = Call(entry["class_type"], {str(name): _input(value) for name, value in inputs.items()})
        if entry.get("override_display_id") is not None:
            shown[node] = NodeId(str(entry["override_display_id"]))
    return Graph(calls), shown


def _input(value: Any) -> Any:
    """A link, or a value of any kind: an expansion may hold tensors as well."""
    if isinstance(value, Mapping) and value.keys() == {"__value__"}:
        return value["__value__"]
    return as_link(value) or value


def _output(value: Any, graph: Graph, known: Container[str]) -> Any:
    """A link if it leads somewhere: a node may just as well yield a list of a text and a number."""
    link = as_link(value)
    return link if link is not None and (link.node in graph or link.node in known) else value
