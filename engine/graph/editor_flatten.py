"""An editor's canvases made into one flat graph: subgraphs unfolded, reroutes and primitives followed, muted and
bypassed nodes gone.

Everything keeps its own stack, so that the length of a chain and the depth of nesting are limited by counts and not
by Python's stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from engine.errors import UnreadableWorkflow
from engine.graph.editor_model import (
    BYPASSED,
    INPUT_NODE,
    MUTED,
    OUTPUT_NODE,
    Definition,
    Diagram,
    EditorNode,
    Slot,
)
from engine.graph.editor_widgets import as_control, assign, ordered_inputs
from engine.graph.graph import Link, NodeId, Value
from engine.graph.seeds import CONTROLS, Control, is_seed
from engine.graph.text import clip
from engine.registry import Registry
from engine.spec import InputSpec, NodeSpec
from engine.types import ANY, SocketType, accepts

REROUTE: Final = "Reroute"
PRIMITIVE: Final = "PrimitiveNode"
VIRTUAL: Final = frozenset({REROUTE, PRIMITIVE, "Note", "MarkdownNote"})

MOST_NODES: Final = 250_000
MOST_INSTANCES: Final = 10_000
"""Uses of subgraphs, each level counted."""
DEEPEST: Final = 100
"""Levels of subgraphs in subgraphs."""


@dataclass(frozen=True, slots=True)
class Supply:
    """A value that comes from a widget elsewhere: a primitive's, or one on the outside of a subgraph."""

    value: Value
    widget: str
    control: Control | None = None


@dataclass(frozen=True, eq=False)
class Scope:
    """One canvas in its place: the top level, or one instance of a subgraph."""

    diagram: Diagram
    path: str = ""
    parent: Scope | None = None
    instance: EditorNode | None = None
    definition: Definition | None = None
    supplies: Mapping[str, Supply] = field(default_factory=dict)
    """Values on the outside of the instance, by the name of the subgraph's input."""
    depth: int = 0

    def id(self, node: EditorNode) -> NodeId:
        return NodeId(f"{self.path}:{node.id}" if self.path else node.id)


@dataclass(frozen=True, slots=True)
class _Onward:
    """The origin is to be sought at ``link``; where none is found, it is ``held``."""

    scope: Scope
    link: str | None
    held: Supply | None = None


Origin = Link | Supply | None
FindDefinition = Callable[[EditorNode], Definition | None]


class Flattener:
    """Unfolds the canvases of one file."""

    def __init__(self, top: Diagram, find_definition: FindDefinition, registry: Registry) -> None:
        self._top = Scope(top)
        self._find = find_definition
        self._registry = registry
        self._inside: dict[NodeId, Scope] = {}
        self._origins: dict[tuple[str, str, str], Origin] = {}

    def nodes(self) -> Iterator[tuple[Scope, EditorNode]]:
        """The nodes that run, in the order of the file, the content of a subgraph in the place of its instance."""
        count = 0
        waiting = [(self._top, iter(self._top.diagram.nodes.values()))]
        while waiting:
            scope, left = waiting[-1]
            node = next(left, None)
            if node is None:
                waiting.pop()
                continue
            count += 1
            if count > MOST_NODES:
                raise UnreadableWorkflow(
                    f"the workflow unfolds to more than {MOST_NODES} nodes; use its subgraphs less often"
                )
            if not node.runs or node.type in VIRTUAL:
                continue
            inner = self._enter(scope, node)
            if inner is None:
                yield scope, node
            else:
                waiting.append((inner, iter(inner.diagram.nodes.values())))

    def slots(self, scope: Scope, node: EditorNode) -> tuple[Slot, ...]:
        """The input slots of a node; where the file lists none, as an editor would make them from the node's type."""
        if node.inputs is not None:
            return node.inputs
        spec = self._registry.get(node.type)
        return slots_from_spec(spec, node, scope.diagram) if spec else ()

    def origin(self, scope: Scope, link: str, wanted: str) -> Origin:
        """Where what arrives over a link truly comes from, for an input of type ``wanted``.

        Raises ``UnreadableWorkflow`` if following the link leads in a circle.
        """
        trail: dict[tuple[str, str, str], Supply | None] = {}
        found: Origin = None
        here: _Onward = _Onward(scope, link)
        while here.link is not None:
            key = (here.scope.path, here.link, wanted)
            if key in trail:
                raise UnreadableWorkflow(
                    f"link {clip(here.link)} leads in a circle through reroutes or bypassed nodes; cut it"
                )
            if key in self._origins:
                found = self._origins[key]
                break
            step = self._step(here.scope, here.link, wanted)
            trail[key] = step.held if isinstance(step, _Onward) else None
            if not isinstance(step, _Onward):
                found = step
                break
            here = step
        for key, held in reversed(trail.items()):
            found = held if found is None else found
            self._origins[key] = found
        return found

    def _step(self, scope: Scope, link_id: str, wanted: str) -> _Onward | Origin:
        link = scope.diagram.links.get(link_id)
        if link is None:
            return None
        if link.origin == INPUT_NODE and scope.definition is not None:
            return self._outward(scope, link.origin_slot)
        node = scope.diagram.nodes.get(link.origin)
        if node is None or node.mode == MUTED:
            return None
        if node.mode == BYPASSED:
            slot = bypass(self.slots(scope, node), _output_type(node, link.origin_slot), link.origin_slot, wanted)
            return _Onward(scope, slot.link) if slot else None
        if node.type == REROUTE:
            return _Onward(scope, _reroute_link(scope, node))
        if node.type == PRIMITIVE:
            return _primitive(scope, node)
        inner = None if node.type in VIRTUAL else self._enter(scope, node)
        if inner is not None:
            return _Onward(inner, inner.diagram.arrivals.get((OUTPUT_NODE, link.origin_slot)))
        return None if node.type in VIRTUAL else Link(scope.id(node), link.origin_slot)

    def _outward(self, scope: Scope, slot: int) -> _Onward | None:
        definition, instance, parent = scope.definition, scope.instance, scope.parent
        if definition is None or instance is None or parent is None or not 0 <= slot < len(definition.inputs):
            return None
        name = definition.inputs[slot]
        if instance.inputs is None:
            link = parent.diagram.arrivals.get((instance.id, slot))
        else:
            outer = instance.by_name.get(name)
            link = outer.link if outer else None
        return _Onward(parent, link, scope.supplies.get(name))

    def _enter(self, scope: Scope, node: EditorNode) -> Scope | None:
        """The inside of a node, if it is an instance of a subgraph."""
        path = scope.id(node)
        inner = self._inside.get(path)
        if inner is None:
            definition = self._find(node)
            if definition is None:
                return None
            inner = self._inside[path] = self._open(scope, node, definition)
        return inner

    def _open(self, scope: Scope, node: EditorNode, definition: Definition) -> Scope:
        around: Scope | None = scope
        while around is not None:
            if around.definition is not None and around.definition.id == definition.id:
                raise UnreadableWorkflow(
                    f"subgraph {clip(definition.name)} contains itself (node {clip(scope.id(node))}); take it out"
                )
            around = around.parent
        if scope.depth >= DEEPEST or len(self._inside) >= MOST_INSTANCES:
            raise UnreadableWorkflow(
                f"subgraphs are nested more than {DEEPEST} deep or used more than {MOST_INSTANCES} times; use them less"
            )
        path = scope.id(node)
        supplies = {} if definition.is_group else promoted(definition, node, path, self._registry)
        return Scope(definition.diagram, path, scope, node, definition, supplies, scope.depth + 1)


def slots_from_spec(spec: NodeSpec, node: EditorNode, diagram: Diagram) -> tuple[Slot, ...]:
    """Sockets first, then one slot per widget."""
    inputs = ordered_inputs(spec)
    in_order = [known for known in inputs if not known.is_widget] + [known for known in inputs if known.is_widget]
    return tuple(
        Slot(known.name, known.type, diagram.arrivals.get((node.id, index)), known.name if known.is_widget else None)
        for index, known in enumerate(in_order)
    )


def bypass(inputs: tuple[Slot, ...], offered: str, index: int, wanted: str) -> Slot | None:
    """The input of a bypassed node that stands in for its output number ``index`` of type ``offered``."""
    same = inputs[index] if 0 <= index < len(inputs) else None
    if wanted == ANY:
        return same or (inputs[0] if inputs else None)
    if same is not None and accepts(offered, same.type) and accepts(wanted, same.type):
        return same
    equal = next((slot for slot in inputs if slot.type == wanted), None)
    return equal or next((slot for slot in inputs if accepts(wanted, slot.type)), None)


def promoted(definition: Definition, instance: EditorNode, path: str, registry: Registry) -> dict[str, Supply]:
    """The values that an instance of a subgraph holds on its outside, by the name of the subgraph's input."""
    places = list(_promoted_inputs(definition, registry))
    values, controls = _promoted_values(instance, places)
    if instance.named is not None:
        names = {place.name for place in places}
        values = {name: value for name, value in instance.named.items() if name in names}
    return {
        name: Supply(value, f"{path}.{name}", controls.get(name)) for name, value in values.items() if value is not None
    }


def _promoted_values(instance: EditorNode, places: list[InputSpec]) -> tuple[dict[str, Value], dict[str, Control]]:
    values = instance.values
    if isinstance(values, Mapping):
        return {place.name: values[place.name] for place in places if place.name in values}, {}
    proxies = instance.properties.get("proxyWidgets")
    if not isinstance(proxies, list) or not proxies:
        return assign(places, values)
    if len(proxies) != len(values):
        return {}, {}
    # ["-1", name] is one of the instance's own; every other value stays in the widget inside
    own = [(proxy[1], value) for proxy, value in zip(proxies, values, strict=True) if _is_own(proxy)]
    return {str(name): value for name, value in own}, {}


def _is_own(proxy: object) -> bool:
    return isinstance(proxy, list) and len(proxy) >= 2 and str(proxy[0]) == "-1"


def _promoted_inputs(definition: Definition, registry: Registry) -> Iterator[InputSpec]:
    """The inputs of a subgraph that feed a widget inside, as inputs of the subgraph."""
    for index, name in enumerate(definition.inputs):
        for link in definition.diagram.departures.get((INPUT_NODE, index), ()):
            target = definition.diagram.nodes.get(link.target)
            slot = next((slot for slot in (target.inputs if target else None) or () if slot.link == link.id), None)
            if target is None or slot is None:
                continue
            spec = registry.get(target.type)
            known = spec.input(slot.input) if spec else None
            if known is None and slot.widget is not None:
                known = InputSpec(slot.input, SocketType(slot.type), required=True)
            if known is not None and (slot.widget is not None or known.is_widget):
                yield replace(known, name=name, seed=is_seed(known))
                break


def _output_type(node: EditorNode, index: int) -> str:
    return node.outputs[index].type if 0 <= index < len(node.outputs) else ANY


def _reroute_link(scope: Scope, node: EditorNode) -> str | None:
    if node.inputs:
        return node.inputs[0].link
    return scope.diagram.arrivals.get((node.id, 0))


def _primitive(scope: Scope, node: EditorNode) -> Supply | None:
    values = [*node.values.values()] if isinstance(node.values, Mapping) else node.values
    if not values or values[0] is None:
        return None
    control = as_control(values[1]) if len(values) > 1 and values[1] in CONTROLS else None
    return Supply(values[0], f"{scope.id(node)}.value", control)
