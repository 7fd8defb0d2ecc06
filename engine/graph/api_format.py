"""The API format: what clients post and what pictures carry as ``prompt``. An object of nodes by id.

    {"3": {"class_type": "KSampler", "inputs": {"steps": 20, "model": ["4", 0]}, "_meta": {"title": "First pass"}}}

A list of a node id and an output number is a link. As ComfyUI's executor does, a float without fraction is taken for
an output number; beyond it, an integer is taken for a node id. Any other bare list is kept as a ``BadLink`` for
``validate`` to report: a list that is a value is written ``{"__value__": [...]}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from engine.errors import UnreadableWorkflow
from engine.graph.graph import BadLink, Call, Graph, Link, NodeId, Value
from engine.graph.text import clip, kind

WRAPPER: Final = "__value__"
_PLAIN: Final = frozenset({int, float, str, bool, type(None)})


def read_api(data: object) -> Graph:
    """The graph of an API-format object. What is wrong inside a well-formed node is left to ``validate``.

    Raises ``UnreadableWorkflow``, naming the node, for anything that has not the shape of the format.
    """
    if not isinstance(data, Mapping):
        raise UnreadableWorkflow(f"expected an object of nodes by id, found {kind(data)}")
    return Graph({NodeId(str(node)): _read_call(str(node), entry) for node, entry in data.items()})


def write_api(graph: Graph) -> dict[str, dict[str, Any]]:
    """The API-format object of a graph; ``read_api`` gives the same graph back."""
    return {str(node): _write_call(call) for node, call in graph.items()}


def _read_call(node: str, entry: object) -> Call:
    if not isinstance(entry, Mapping):
        raise UnreadableWorkflow(
            f"node {clip(node)}: expected an object with class_type and inputs, found {kind(entry)}"
        )
    class_type = entry.get("class_type")
    if not isinstance(class_type, str):
        found = kind(class_type) if "class_type" in entry else "none"
        raise UnreadableWorkflow(f"node {clip(node)}: expected a class_type that names its node type, found {found}")
    inputs = entry.get("inputs")
    if not isinstance(inputs, Mapping):
        found = kind(inputs) if "inputs" in entry else "none"
        where = f"node {clip(node)} ({clip(class_type)})"
        raise UnreadableWorkflow(f"{where}: expected an object of inputs by name, found {found}")
    return Call(class_type, {str(name): _read_value(value) for name, value in inputs.items()}, _title(entry))


def _title(entry: Mapping[str, Any]) -> str | None:
    meta = entry.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return title if isinstance(title, str) else None


def _read_value(value: object) -> Value | Link | BadLink:
    if type(value) in _PLAIN:  # most are
        return value
    if isinstance(value, list):
        return _read_link(value) or BadLink(tuple(value))
    if isinstance(value, dict) and WRAPPER in value:
        return value[WRAPPER]
    return value


def _read_link(value: list[Any]) -> Link | None:
    if len(value) != 2:
        return None
    node, output = value
    if not isinstance(node, str | int) or isinstance(node, bool):
        return None
    if isinstance(output, float) and output.is_integer():
        output = int(output)
    if not isinstance(output, int) or isinstance(output, bool):
        return None
    return Link(NodeId(str(node)), output)


def _write_call(call: Call) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "inputs": {name: _write_value(value) for name, value in call.inputs.items()},
        "class_type": call.type,
    }
    if call.title is not None:
        entry["_meta"] = {"title": call.title}
    return entry


def _write_value(value: Value | Link | BadLink) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Link):
        return [str(value.node), value.output]
    if isinstance(value, BadLink):
        return list(value.received)
    if isinstance(value, list | tuple):
        return {WRAPPER: list(value)}
    if isinstance(value, Mapping) and WRAPPER in value:
        return {WRAPPER: dict(value)}
    return value
