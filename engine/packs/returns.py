"""What a class's function returned, as the engine understands it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.compat.model_values import unwrapped
from engine.errors import DefinitionError
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.packs.info import plain
from engine.run.invoke import returned_nothing, wrong_count
from engine.run.live_graph import LiveGraph, inner_prefix
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


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where a returned value comes out."""

    lists: tuple[bool, ...]
    """Which outputs are lists, for each output."""
    node: NodeId
    live: LiveGraph
    """The run that ``node`` is part of."""
    warn: Callable[[str], None] = lambda message: None
    declared: int | None = None
    """How many of the outputs have to be there; all if it is left out."""

    @property
    def expected(self) -> int:
        return len(self.lists) if self.declared is None else self.declared


def understood(returned: Any, outlet: Outlet) -> Outputs | Expand:
    """What comes out, of a tuple, a dict of ``ui``, ``result`` and ``expand``, or a blocker.

    Raises ``DefinitionError`` for anything else.
    """
    if returned is None and outlet.lists:
        raise returned_nothing(len(outlet.lists))
    ui: Any = None
    expand: Any = None
    result = returned
    if isinstance(returned, Mapping):
        ui, expand = returned.get("ui"), returned.get("expand")
        result = returned.get("result", tuple([] if spread else None for spread in outlet.lists))
    values = _fitted(_values(result, outlet.lists), outlet)
    shown = _ui(ui)
    if expand is None:
        return Outputs(values, ui=shown)
    if not isinstance(expand, Mapping):
        raise DefinitionError(f"expanded into a {type(expand).__name__}; expected a dict of nodes by id")
    subgraph = _Subgraph(expand, outlet.live, outlet.live.shown(outlet.node))
    links = tuple(map(subgraph.output, values))
    return Expand(subgraph.graph(), links, is_named=True, shown=subgraph.shown(), ui=shown)


def _values(result: Any, is_list: Sequence[bool]) -> tuple[Any, ...]:
    """All that was returned, each in its place; what has no place as it is."""
    blocked = blocker_message(result)
    if blocked is not None:
        return (blocked,) * len(is_list)
    if result is None and not is_list:
        return ()
    if not isinstance(result, tuple | list):
        result = (result,)
    places = itertools.chain(is_list, itertools.repeat(False))
    return tuple(_value(value, spread) for value, spread in zip(result, places, strict=False))


def _fitted(values: tuple[Any, ...], outlet: Outlet) -> tuple[Any, ...]:
    """One value for each output. ComfyUI takes it lightly, and so packs do: what is too much is left out, what is missing is so only where
    something is linked to it, and both are told."""
    found, expected, outputs = len(values), outlet.expected, len(outlet.lists)
    if found > outputs or found < expected:
        if found < expected and _is_linked(outlet.node, range(found, expected), outlet.live):
            raise wrong_count(found, expected)
        if values != (None,):  # what a function without outputs returns by habit
            outlet.warn(str(wrong_count(found, expected)))
    lacking = Blocked(f"node {outlet.node} returned only {found} of its {expected} values")
    return values[:outputs] + (lacking,) * (expected - found) + (None,) * (outputs - max(expected, found))


def _is_linked(node: NodeId, outputs: range, live: LiveGraph) -> bool:
    links = (link for call in live.values() for link in call.links.values())
    return any(link.node == node and link.output in outputs for link in links)


def _value(value: Any, spread: bool) -> Any:
    if spread and isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return [_value(item, False) for item in value]
    return blocker_message(value) or unwrapped(value)


def _ui(ui: Any) -> dict[str, list[Any]]:
    if ui is None:
        return {}
    if hasattr(ui, "as_dict"):
        ui = ui.as_dict()
    if not isinstance(ui, Mapping):
        raise DefinitionError(f"returned ui data that is a {type(ui).__name__}; expected a dict of lists")
    return {
        str(name): plain(items) if isinstance(items, list | tuple) else [plain(items)] for name, items in ui.items()
    }


@dataclass(frozen=True, slots=True)
class _Subgraph:
    """An expansion in API format. A loop whose turns name the nodes of all turns before gets shorter names."""

    nodes: Mapping[Any, Any]
    live: LiveGraph
    parent: NodeId
    """The node of the workflow it is shown as."""

    def graph(self) -> Graph:
        return Graph({self.name(str(id_)): self._call(str(id_), entry) for id_, entry in self.nodes.items()})

    def shown(self) -> dict[NodeId, NodeId]:
        """The nodes in it that are to be seen as others; those others may be made themselves."""
        return {
            self.name(str(id_)): self.live.shown(NodeId(str(entry["override_display_id"])))
            for id_, entry in self.nodes.items()
            if entry.get("override_display_id") is not None
        }

    def name(self, id_: str) -> NodeId:
        return inner_prefix(NodeId(id_), self.parent) if id_ in self.nodes else NodeId(id_)

    def output(self, value: Any) -> Any:
        """A link if it leads somewhere: a node may just as well yield a list of a text and a number."""
        link = as_link(value)
        if link is None or not (link.node in self.nodes or link.node in self.live):
            return value
        return Link(self.name(link.node), link.output)

    def _call(self, id_: str, entry: Any) -> Call:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("class_type"), str):
            raise DefinitionError(f"expanded into a node {id_} without a class_type; expected class_type and inputs")
        inputs = entry.get("inputs") or {}
        return Call(entry["class_type"], {str(name): self._input(value) for name, value in inputs.items()})

    def _input(self, value: Any) -> Any:
        """A link, or a value of any kind: an expansion may hold tensors as well."""
        if isinstance(value, Mapping) and value.keys() == {"__value__"}:
            return value["__value__"]
        link = as_link(value)
        return unwrapped(value) if link is None else Link(self.name(link.node), link.output)
