"""Workflows written in Python.

    w = Builder(registry)
    model, clip, vae = w.CheckpointLoaderSimple(ckpt_name="demo.safetensors")
    positive = w.CLIPTextEncode(clip=clip, text="a red circle")
    latent = w.at("3", title="First pass").KSampler(model=model, positive=positive, ...)
    w.SaveImage(images=w.VAEDecode(samples=latent, vae=vae), filename_prefix="circle")
    graph = w.graph()

Every line is checked as it is written: an unknown node type or input, an output of the wrong type, a value out of
range is an ``InvalidGraph`` right there, with the message ``validate`` would give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from engine.errors import DefinitionError, InvalidGraph
from engine.fileref import Files
from engine.graph.checks import Checker
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.graph.text import listed, nearest, shown
from engine.registry import Registry
from engine.spec import Output


@dataclass(frozen=True, slots=True)
class Handle:
    """One output of a node that was added to ``builder``."""

    builder: Builder
    link: Link
    type: str

    def __repr__(self) -> str:
        return f"<output {self.link.output} ({self.type}) of node {self.link.node}>"


@dataclass(frozen=True, slots=True)
class Added(Sequence[Handle]):
    """A node that was added: its outputs by number, by name, or unpacked. One with a single output is itself that
    output."""

    builder: Builder
    id: NodeId
    outputs: tuple[Output, ...]

    def __len__(self) -> int:
        return len(self.outputs)

    @overload
    def __getitem__(self, key: int | str) -> Handle: ...

    @overload
    def __getitem__(self, key: slice) -> Sequence[Handle]: ...

    def __getitem__(self, key: int | str | slice) -> Handle | Sequence[Handle]:
        """Raises ``DefinitionError`` for an output the node does not have."""
        if isinstance(key, slice):
            return [self[index] for index in range(len(self))[key]]
        labels = [output.label for output in self.outputs]
        if isinstance(key, str) and key in labels:
            key = labels.index(key)
        if isinstance(key, str) or not -len(labels) <= key < len(labels):
            raise DefinitionError(f"node {self.id} has no output {key}; its outputs are {listed(labels)}")
        index = key % len(labels)
        return Handle(self.builder, Link(self.id, index), self.outputs[index].type)

    def __iter__(self) -> Iterator[Handle]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next node goes: ``place.KSampler(...)`` adds it there."""

    builder: Builder
    id: str | None
    title: str | None

    def __getattr__(self, type_: str) -> NodeType:
        return self.builder.type(_public(type_), self)


@dataclass(frozen=True, slots=True)
class NodeType:
    """Adds a node of one type when it is called with the node's inputs."""

    name: str
    place: Place

    def __call__(self, **inputs: Any) -> Added:
        """Add the node. An input is a value, a ``Handle``, or a node with a single output; None leaves it out.

        Raises ``InvalidGraph`` with everything that is wrong with the node.
        """
        return self.place.builder.add(self.name, self.place, inputs)


class Builder:
    """A graph in the making. Node types are its attributes; for one that is no Python name there is ``type``."""

    def __init__(self, registry: Registry, files: Files | None = None) -> None:
        """With ``files`` the files that nodes name have to be there."""
        self._registry = registry
        self._calls: dict[NodeId, Call] = {}
        self._checker = Checker(self._calls, registry, files, strict=True)
        self._next = 1

    def __getattr__(self, type_: str) -> NodeType:
        return self.type(_public(type_))

    def type(self, name: str, place: Place | None = None) -> NodeType:
        """A node type by its id. Raises ``DefinitionError`` for one the registry does not have."""
        if name not in self._registry:
            close = nearest(name, self._registry)
            raise DefinitionError(
                f"there is no node type {shown(name)}" + (f"; did you mean {shown(close)}?" if close else "")
            )
        return NodeType(name, place or Place(self, None, None))

    def at(self, id: str | int | None = None, title: str | None = None) -> Place:
        """Where to add the next node: with an id of its own (the next free number by default) and a title."""
        return Place(self, None if id is None else str(id), title)

    def graph(self) -> Graph:
        """What has been added so far."""
        return Graph(self._calls)

    def add(self, type_: str, place: Place, inputs: dict[str, Any]) -> Added:
        """Add a node; ``NodeType`` is the pleasant way to do it."""
        node = self._claim(place.id)
        given = {name: self._value(type_, name, value) for name, value in inputs.items() if value is not None}
        self._calls[node] = Call(type_, given, place.title)
        problems = self._checker.node_problems(node)
        if problems:
            del self._calls[node]
            raise InvalidGraph(problems)
        return Added(self, node, self._registry[type_].outputs)

    def _claim(self, id_: str | None) -> NodeId:
        if id_ is None:
            while NodeId(str(self._next)) in self._calls:
                self._next += 1
            return NodeId(str(self._next))
        if NodeId(id_) in self._calls:
            raise DefinitionError(f"node {id_} is there already ({self._calls[NodeId(id_)].type}); choose another id")
        return NodeId(id_)

    def _value(self, type_: str, name: str, value: Any) -> Any:
        if isinstance(value, Added):
            if len(value) != 1:
                labels = listed(output.label for output in value.outputs)
                raise DefinitionError(
                    f"{type_}, input {name}: expected one output, found node {value.id} with {labels}; name one"
                )
            value = value[0]
        if not isinstance(value, Handle):
            return value
        if value.builder is not self:
            raise DefinitionError(
                f"{type_}, input {name}: {value} belongs to another builder; build the graph with one"
            )
        return value.link


def _public(name: str) -> str:
    """Python itself asks objects for names with underscores around them; those are no node types."""
    if name.startswith("__"):
        raise AttributeError(name)
    return name
