"""The editor's format: the canvas as a person left it. Read into the graph that the editor itself would send.

The conversion is the editor's own: subgraphs are unfolded (ids joined by ``:``), values go to their inputs by
position, reroutes and primitives are followed to what they stand for, muted nodes and what only notes something are
left out, bypassed nodes pass on the input that fits. An input that ends up with neither link nor value is left out,
for ``validate`` to report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import UnreadableWorkflow
from engine.graph.editor_flatten import Flattener, Scope, Supply
from engine.graph.editor_groups import group_definition, group_name
from engine.graph.editor_model import Definition, EditorNode, read_definitions, read_diagram
from engine.graph.editor_widgets import CONTROL_NAME, widget_values
from engine.graph.graph import Call, Graph, Link, NodeId, Value
from engine.graph.seeds import Control, SeedInput, is_seed
from engine.graph.text import kind
from engine.registry import Registry


@dataclass(frozen=True, slots=True)
class ModelHint:
    """Where a model file that a workflow uses can be had, as the workflow itself says."""

    name: str
    url: str
    directory: str
    """The model folder it belongs in."""
    node: NodeId | None = None


@dataclass(frozen=True, slots=True)
class EditorResult:
    """What an editor's file says."""

    graph: Graph
    warnings: tuple[str, ...] = ()
    model_hints: tuple[ModelHint, ...] = ()
    seeds: tuple[SeedInput, ...] = ()
    names: Mapping[NodeId, str] = field(default_factory=dict)
    """``Node name for S&R`` of the nodes where it is not the node type."""


def looks_like_editor(data: Mapping[str, Any]) -> bool:
    """Whether a JSON object is meant as an editor's file: it has a list of nodes."""
    return isinstance(data.get("nodes"), list)


def read_editor(data: Mapping[str, Any], registry: Registry) -> EditorResult:
    """The graph of an editor's file, schema 0.4 or 1.

    A node of an unknown type keeps its links and its values that have names. Raises ``UnreadableWorkflow`` for a file
    whose nodes cannot be read, whose reroutes lead in a circle, or whose subgraphs contain themselves.
    """
    if not isinstance(data, Mapping):
        raise UnreadableWorkflow(f"expected an editor's file with a list of nodes, found {kind(data)}")
    warnings: list[str] = []
    top = read_diagram(data, "the workflow", warnings)
    definitions = read_definitions(data, warnings)
    groups = _groups(data)

    def find(node: EditorNode) -> Definition | None:
        name = group_name(node.type)
        if name is not None and name in groups:
            return group_definition(name, groups[name], node, registry)
        return definitions.get(node.type)

    reader = _Reader(Flattener(top, find, registry), registry)
    for scope, node in reader.flat.nodes():
        reader.add(scope, node)
    hints = (*_hints(data, None), *reader.hints)
    graph = Graph(reader.calls)
    return EditorResult(
        graph, tuple(dict.fromkeys(warnings)), tuple(dict.fromkeys(hints)), tuple(reader.seeds), reader.names
    )


def _groups(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    extra = data.get("extra")
    groups = extra.get("groupNodes") if isinstance(extra, Mapping) else None
    return (
        {name: group for name, group in groups.items() if isinstance(group, Mapping)}
        if isinstance(groups, Mapping)
        else {}
    )


def _hints(holder: Mapping[str, Any], node: NodeId | None) -> Iterator[ModelHint]:
    models = holder.get("models")
    for model in models if isinstance(models, list) else ():
        if isinstance(model, Mapping):
            name, url, directory = (model.get(key) for key in ("name", "url", "directory"))
            if isinstance(name, str) and isinstance(url, str):
                yield ModelHint(name, url, directory if isinstance(directory, str) else "", node)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Makes calls of nodes, and notes on the way what else the nodes say."""

    flat: Flattener
    registry: Registry
    calls: dict[NodeId, Call] = field(default_factory=dict)
    hints: list[ModelHint] = field(default_factory=list)
    seeds: list[SeedInput] = field(default_factory=list)
    names: dict[NodeId, str] = field(default_factory=dict)

    def add(self, scope: Scope, node: EditorNode) -> None:
        id_ = scope.id(node)
        values, controls = self._values(node)
        supplies: dict[str, Supply] = {}
        inputs: dict[str, Value | Link] = dict(values)
        for name, origin in self._origins(scope, node):
            if isinstance(origin, Supply):
                supplies[name] = origin
                inputs[name] = origin.value
            else:
                inputs[name] = origin
        self.calls[id_] = Call(node.type, self._in_order(node, inputs), node.title or self._title(node))
        self.seeds.extend(self._seeds(id_, self.calls[id_], controls, supplies))
        self.hints.extend(_hints(node.properties, id_))
        alias = node.properties.get("Node name for S&R")
        if isinstance(alias, str) and alias != node.type:
            self.names[id_] = alias

    def _values(self, node: EditorNode) -> tuple[Mapping[str, Value], Mapping[str, Control]]:
        spec = self.registry.get(node.type)
        if spec is not None:
            widgets = widget_values(spec, node)
            return widgets.values, widgets.controls
        named = node.named if node.named is not None else node.values
        known = named if isinstance(named, Mapping) else {}
        return {name: value for name, value in known.items() if name != CONTROL_NAME}, {}

    def _origins(self, scope: Scope, node: EditorNode) -> Iterator[tuple[str, Link | Supply]]:
        spec = self.registry.get(node.type)
        for slot in self.flat.slots(scope, node):
            if slot.link is None:
                continue
            known = spec.input(slot.input) if spec else None
            origin = self.flat.origin(scope, slot.link, known.type if known else slot.type)
            if origin is not None:
                yield slot.input, origin

    def _in_order(self, node: EditorNode, inputs: Mapping[str, Value | Link]) -> dict[str, Value | Link]:
        spec = self.registry.get(node.type)
        declared = [known.name for known in spec.inputs if known.name in inputs] if spec else []
        return {name: inputs[name] for name in (*declared, *inputs)}

    def _title(self, node: EditorNode) -> str:
        spec = self.registry.get(node.type)
        return spec.title if spec else node.type

    def _seeds(
        self, id_: NodeId, call: Call, controls: Mapping[str, Control], supplies: Mapping[str, Supply]
    ) -> Iterator[SeedInput]:
        spec = self.registry.get(call.type)
        for known in spec.inputs if spec else ():
            if is_seed(known) and known.name in call.literals:
                own = controls.get(known.name, "fixed")
                supply = supplies.get(known.name)
                if supply is None:
                    yield SeedInput(id_, known.name, own, f"{id_}.{known.name}")
                else:
                    yield SeedInput(id_, known.name, supply.control or own, supply.widget)
