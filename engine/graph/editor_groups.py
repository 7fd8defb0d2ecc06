"""Legacy group nodes: a node of type ``workflow>NAME`` stands for the nodes that ``extra.groupNodes`` keeps under NAME.

An instance's sockets are the unlinked inputs of the inner nodes in order, its outputs their unlinked outputs, its
values their values one after the other. So each instance is made into a subgraph of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from engine.errors import UnreadableWorkflow
from engine.graph.editor_flatten import PRIMITIVE, slots_from_spec
from engine.graph.editor_model import (
    INPUT_NODE,
    OUTPUT_NODE,
    Definition,
    Diagram,
    EditorLink,
    EditorNode,
    Slot,
    read_node,
)
from engine.graph.editor_widgets import CONTROL_NAME, align, ordered_inputs
from engine.graph.seeds import CONTROLS
from engine.graph.text import clip, kind
from engine.registry import Registry
from engine.spec import MISSING, InputSpec
from engine.types import SocketType

PREFIXES: Final = ("workflow>", "workflow/")

_Place = tuple[str, str]
"""An inner node's id and the name of one of its inputs."""


def group_name(type_: str) -> str | None:
    """The NAME of a group node's type."""
    return next((type_.removeprefix(prefix) for prefix in PREFIXES if type_.startswith(prefix)), None)


def group_definition(name: str, data: Mapping[str, Any], instance: EditorNode, registry: Registry) -> Definition:
    """The subgraph that one instance of a group node is. Raises ``UnreadableWorkflow`` if the kept nodes are none."""
    group = _read_group(name, data, registry)
    slots = {(node.id, slot.input): slot for node in group.nodes for slot in node.inputs or ()}
    entries = list(_exposed(group, instance, slots))
    links = dict(group.links)
    for index, (place, _) in enumerate(entries):
        links[f"in{index}"] = EditorLink(f"in{index}", INPUT_NODE, index, place[0], -1)
        slots[place] = replace(slots[place], link=f"in{index}")
    for index, (node, slot) in enumerate(_exits(group)):
        links[f"out{index}"] = EditorLink(f"out{index}", node, slot, OUTPUT_NODE, index)
    values = _values(group, instance, registry)
    nodes = {node.id: _filled(node, slots, values.get(node.id, {})) for node in group.nodes}
    return Definition(
        f"{PREFIXES[0]}{name}", name, tuple(outer for _, outer in entries), Diagram(nodes, links), is_group=True
    )


@dataclass(frozen=True, slots=True)
class _Group:
    nodes: tuple[EditorNode, ...]
    """Their slots hold the links between them."""
    links: Mapping[str, EditorLink]
    external: frozenset[tuple[str, int]]
    """Outputs that are linked inside and yet visible outside."""
    config: Mapping[str, Any]

    def setting(self, node: str, side: str, name: str) -> Mapping[str, Any]:
        found: Any = self.config
        for key in (node, side, name):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def hides(self, node: str, name: str) -> bool:
        return self.setting(node, "input", name).get("visible") is False


def _read_group(name: str, data: Mapping[str, Any], registry: Registry) -> _Group:
    entries = data.get("nodes")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise UnreadableWorkflow(f"group node {clip(name)}: expected a list of nodes, found {kind(entries)}")
    links = {link.id: link for link in _read_links(data.get("links"))}
    arrivals = {(link.target, link.target_slot): link.id for link in links.values()}
    nodes = []
    for index, entry in enumerate(entries):
        node = read_node({**entry, "id": index}, f"group node {clip(name)}")
        spec = registry.get(node.type)
        slots = node.inputs if node.inputs is not None or spec is None else slots_from_spec(spec, node, Diagram({}, {}))
        linked = tuple(replace(slot, link=arrivals.get((node.id, place))) for place, slot in enumerate(slots or ()))
        nodes.append(replace(node, inputs=linked))
    external = frozenset(
        (str(entry[0]), entry[1]) for entry in _lists(data.get("external"), 2) if isinstance(entry[1], int)
    )
    config = data.get("config")
    return _Group(tuple(nodes), links, external, config if isinstance(config, Mapping) else {})


def _read_links(entries: object) -> Iterator[EditorLink]:
    """Links of a group name nodes by their place in its list; those with null go outside."""
    for index, entry in enumerate(_lists(entries, 4)):
        if all(isinstance(part, int) for part in entry[:4]):
            yield EditorLink(f"link{index}", str(entry[0]), entry[1], str(entry[2]), entry[3])


def _lists(entries: object, shortest: int) -> Iterator[Sequence[Any]]:
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, list) and len(entry) >= shortest:
            yield entry


def _exposed(group: _Group, instance: EditorNode, slots: Mapping[_Place, Slot]) -> Iterator[tuple[_Place, str]]:
    """Inner inputs with the name of the instance's slot that feeds them: sockets by their order, widgets by their
    names."""
    outer = instance.inputs or ()
    free = [place for place, slot in slots.items() if slot.link is None and not group.hides(*place)]
    sockets = [place for place in free if slots[place].widget is None]
    yield from zip(sockets, [slot.name for slot in outer if slot.widget is None], strict=False)
    names = _outer_names(group, free)
    for slot in outer:
        place = names.get(slot.input)
        if slot.widget is not None and place is not None:
            yield place, slot.name


def _outer_names(group: _Group, places: Sequence[_Place]) -> dict[str, _Place]:
    """What an instance calls the inner inputs: their own names, with the node's title before a name that is taken."""
    titles = {node.id: node.title or node.type for node in group.nodes}
    names: dict[str, _Place] = {}
    for node, name in places:
        own = group.setting(node, "input", name).get("name")
        outer = own if isinstance(own, str) else name
        names.setdefault(f"{titles[node]} {name}" if outer in names else outer, (node, name))
    return names


def _exits(group: _Group) -> Iterator[tuple[str, int]]:
    """The inner outputs that are outputs of the group."""
    used = {(link.origin, link.origin_slot) for link in group.links.values()}
    for node in group.nodes:
        for index in range(len(node.outputs)):
            inside = (node.id, index) in used and (node.id, index) not in group.external
            if group.setting(node.id, "output", str(index)).get("visible", not inside):
                yield node.id, index


def _values(group: _Group, instance: EditorNode, registry: Registry) -> dict[str, dict[str, Any]]:
    """The instance's values by inner node and input."""
    if isinstance(instance.values, Mapping):
        return {}
    owners: list[str] = []
    places: list[InputSpec] = []
    for node in group.nodes:
        linked = {slot.input for slot in node.inputs or () if slot.link is not None}
        for place in _widgets(node, registry):
            if place.name not in linked and not group.hides(node.id, place.name):
                owners.append(node.id)
                places.append(place)
    found: dict[str, dict[str, Any]] = {}
    for owner, (place, value, control) in zip(owners, align(places, instance.values), strict=False):
        held = found.setdefault(owner, {})
        held[place.name] = value
        if control is not MISSING:
            held[CONTROL_NAME] = control
    return found


def _widgets(node: EditorNode, registry: Registry) -> list[InputSpec]:
    spec = registry.get(node.type)
    if spec is not None:
        return [known for known in ordered_inputs(spec) if known.is_widget]
    if node.type != PRIMITIVE:
        return []
    controlled = not isinstance(node.values, Mapping) and len(node.values) > 1 and node.values[1] in CONTROLS
    type_ = node.outputs[0].type if node.outputs else "*"
    return [InputSpec("value", SocketType(type_), required=True, seed=controlled)]


def _filled(node: EditorNode, slots: Mapping[_Place, Slot], values: Mapping[str, Any]) -> EditorNode:
    """An inner node with the slots and the values it has in one instance."""
    inputs = tuple(slots[node.id, slot.input] for slot in node.inputs or ())
    if node.type == PRIMITIVE and values:
        return replace(node, inputs=inputs, values=[values["value"], values.get(CONTROL_NAME)])
    return replace(node, inputs=inputs, override=values)
