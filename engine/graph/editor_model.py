"""The editor's file as data: nodes, slots, links and subgraph definitions, read from JSON with an eye for what
people's files hold.

Both schemas are read, 0.4 (links as arrays) and 1 (links as objects). What a loader does not need may be absent or
malformed; a node that is none is an ``UnreadableWorkflow``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from engine.errors import UnreadableWorkflow
from engine.graph.text import clip, kind
from engine.types import ANY, COMBO

MUTED: Final = 2
BYPASSED: Final = 4

INPUT_NODE: Final = "-10"
"""Inside a subgraph, where its inputs come from."""
OUTPUT_NODE: Final = "-20"


@dataclass(frozen=True, slots=True)
class Slot:
    """An input or an output of a node. ``widget`` names the widget an input slot stands for."""

    name: str
    type: str
    link: str | None = None
    widget: str | None = None

    @property
    def input(self) -> str:
        return self.widget or self.name


@dataclass(frozen=True)
class EditorNode:
    """A node as the file has it. ``inputs`` is None where the file does not list them."""

    id: str
    type: str
    mode: int = 0
    title: str | None = None
    inputs: tuple[Slot, ...] | None = None
    outputs: tuple[Slot, ...] = ()
    values: Sequence[Any] | Mapping[str, Any] = ()
    named: Mapping[str, Any] | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    override: Mapping[str, Any] = field(default_factory=dict)
    """Values by name that stand before the stored ones: those of the group node around it."""

    @cached_property
    def by_name(self) -> dict[str, Slot]:
        """The input slots by their own name."""
        return {slot.name: slot for slot in self.inputs or ()}

    @property
    def runs(self) -> bool:
        return self.mode not in (MUTED, BYPASSED)


@dataclass(frozen=True, slots=True)
class EditorLink:
    """From output ``origin_slot`` of ``origin`` to input ``target_slot`` of ``target``."""

    id: str
    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(frozen=True)
class Diagram:
    """One canvas: the top level, or the inside of a subgraph."""

    nodes: Mapping[str, EditorNode]
    links: Mapping[str, EditorLink]

    @cached_property
    def arrivals(self) -> dict[tuple[str, int], str]:
        """Link ids by the input slot they end in."""
        return {(link.target, link.target_slot): link.id for link in self.links.values()}

    @cached_property
    def departures(self) -> dict[tuple[str, int], list[EditorLink]]:
        """Links by the output slot they begin in."""
        found: dict[tuple[str, int], list[EditorLink]] = {}
        for link in self.links.values():
            found.setdefault((link.origin, link.origin_slot), []).append(link)
        return found


@dataclass(frozen=True)
class Definition:
    """A subgraph: a diagram and the names of what goes in. Links from ``INPUT_NODE`` slot i carry input i."""

    id: str
    name: str
    inputs: tuple[str, ...]
    diagram: Diagram
    is_group: bool = False
    """A legacy group node: made for one instance, whose values its nodes already hold."""


def read_diagram(data: Mapping[str, Any], where: str, warnings: list[str]) -> Diagram:
    """The nodes and links of one canvas. Raises ``UnreadableWorkflow`` for a node that has no id or type."""
    nodes: dict[str, EditorNode] = {}
    entries = data.get("nodes")
    if not isinstance(entries, list):
        raise UnreadableWorkflow(f"{where}: expected a list of nodes, found {kind(entries)}")
    for index, entry in enumerate(entries):
        node = read_node(entry, f"{where}, entry {index} of its nodes")
        if node.id in nodes:
            warnings.append(f"{where}: two nodes have the id {clip(node.id)}; the first is used")
        nodes.setdefault(node.id, node)
    links = {link.id: link for link in _read_links(data.get("links"), where, warnings)}
    return Diagram(nodes, links)


def read_node(entry: object, where: str) -> EditorNode:
    """One entry of ``nodes``."""
    if not isinstance(entry, Mapping):
        raise UnreadableWorkflow(f"{where}: expected a node, found {kind(entry)}")
    id_ = _id(entry.get("id"))
    if id_ is None:
        raise UnreadableWorkflow(
            f"{where}: expected a node with a number or a text as its id, found {kind(entry.get('id'))}"
        )
    type_ = entry.get("type")
    if not isinstance(type_, str):
        raise UnreadableWorkflow(f"node {clip(id_)}: expected the name of its type, found {kind(type_)}")
    mode, title, values, named = entry.get("mode"), entry.get("title"), entry.get("widgets_values"), None
    if isinstance(entry.get("widgets_values_named"), Mapping):
        named = entry["widgets_values_named"]
    return EditorNode(
        id=id_,
        type=type_,
        mode=mode if isinstance(mode, int) else 0,
        title=title if isinstance(title, str) and title else None,
        inputs=tuple(_read_slots(entry["inputs"])) if isinstance(entry.get("inputs"), list) else None,
        outputs=tuple(_read_slots(entry.get("outputs"))),
        values=values if isinstance(values, list | Mapping) else (),
        named=named,
        properties=_mapping(entry.get("properties")),
    )


def read_definitions(data: Mapping[str, Any], warnings: list[str]) -> dict[str, Definition]:
    """All subgraph definitions of a file by id, also those that definitions bring along."""
    found: dict[str, Definition] = {}
    waiting: list[Any] = [data]
    while waiting:
        listed = _mapping(_mapping(waiting.pop()).get("definitions")).get("subgraphs")
        for entry in listed if isinstance(listed, list) else ():
            id_ = _id(_mapping(entry).get("id"))
            if id_ is None or id_ in found:
                continue
            found[id_] = _read_definition(id_, entry, warnings)
            waiting.append(entry)
    return found


def _read_definition(id_: str, entry: Mapping[str, Any], warnings: list[str]) -> Definition:
    name = entry.get("name") if isinstance(entry.get("name"), str) else id_
    diagram = read_diagram(entry, f"subgraph {clip(str(name))}", warnings)
    inputs = tuple(slot.name for slot in _read_slots(entry.get("inputs")))
    aliases = {
        _id(_mapping(entry.get(key)).get("id")) or fixed: fixed
        for key, fixed in (("inputNode", INPUT_NODE), ("outputNode", OUTPUT_NODE))
    }
    links = {
        link.id: EditorLink(
            link.id,
            aliases.get(link.origin, link.origin),
            link.origin_slot,
            aliases.get(link.target, link.target),
            link.target_slot,
        )
        for link in diagram.links.values()
    }
    return Definition(id_, str(name), inputs, Diagram(diagram.nodes, links))


def _read_slots(entries: object) -> Iterator[Slot]:
    for entry in entries if isinstance(entries, list) else ():
        slot = _mapping(entry)
        name, widget = slot.get("name"), _mapping(slot.get("widget")).get("name")
        yield Slot(
            name=name if isinstance(name, str) else "",
            type=_socket_type(slot.get("type")),
            link=_id(slot.get("link")),
            widget=widget if isinstance(widget, str) else None,
        )


def _socket_type(type_: object) -> str:
    """Choices are a list in old files; 0 and -1 stand for anything."""
    if isinstance(type_, list):
        return COMBO
    return type_ if isinstance(type_, str) and type_ else ANY


def _read_links(entries: object, where: str, warnings: list[str]) -> Iterator[EditorLink]:
    for entry in entries if isinstance(entries, list) else ():
        link = _read_link(entry)
        if link is not None:
            yield link
        elif entry is not None:
            warnings.append(f"{where}: a link that cannot be read is left out")


def _read_link(entry: object) -> EditorLink | None:
    if isinstance(entry, Mapping):
        parts = [entry.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
    elif isinstance(entry, list) and len(entry) >= 5:
        parts = entry[:5]
    else:
        return None
    id_, origin, target = _id(parts[0]), _id(parts[1]), _id(parts[3])
    if id_ is None or origin is None or target is None:
        return None
    return EditorLink(id_, origin, _index(parts[2]), target, _index(parts[4]))


def _id(value: object) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return str(value)


def _index(value: object) -> int:
    text = _id(value)
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else -1


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
