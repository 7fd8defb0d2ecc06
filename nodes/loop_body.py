"""What is done in each turn of a loop, found in the graph and copied for the turns after the first.

The body is what depends on the loop's start and leads to its end. A copy takes the start's place by values of its own turn: the item
over a ``LoopItem``, the index as a number, and what is carried from the turn before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from engine.errors import InputError
from engine.graph.graph import Call, Link, NodeId

if TYPE_CHECKING:
    from engine.run.live_graph import LiveGraph

LOOP, ITEM, INDEX, CARRIED = range(4)
"""The outputs of a LoopStart."""

Wire = Any
"""What an input of a call holds: a literal or a ``Link``."""

_ENDS: Final = ("carried", "collect", "go_on")


@dataclass(frozen=True, slots=True)
class Turn:
    """What comes out of one turn."""

    number: int
    carried: Wire
    go_on: Wire
    chain: Link | None
    """All that was collected up to here; None where nothing is."""


@dataclass(frozen=True, slots=True)
class Body:
    """The part of a graph that a loop repeats, as it is in the first turn."""

    start: NodeId
    end: Mapping[str, Wire]
    """The inputs of the loop's end."""
    calls: Mapping[NodeId, Call]
    has_items: bool

    @property
    def loop(self) -> Link:
        return Link(self.start, LOOP)

    def first(self, calls: dict[NodeId, Call]) -> Turn:
        """The turn that the graph as drawn is; what it needs beyond that goes into ``calls``."""
        return self._turn(0, self.end, "0", None, calls)

    def after(self, before: Turn, prefix: str, calls: dict[NodeId, Call]) -> Turn:
        """The next turn, its nodes put into ``calls`` under ids that begin with ``prefix``."""
        number = before.number + 1
        place = {node: NodeId(f"{prefix}.{node}") for node in self.calls}
        item: Wire = Link(NodeId(f"{prefix}:item"), 0) if self.has_items else number
        of_start = {LOOP: self.loop, ITEM: item, INDEX: number, CARRIED: before.carried}

        def moved(value: Wire) -> Wire:
            if type(value) is not Link:
                return value
            if value.node == self.start:
                return of_start[value.output]
            return Link(place[value.node], value.output) if value.node in place else value

        for node, call in self.calls.items():
            calls[place[node]] = replace(call, inputs={name: moved(value) for name, value in call.inputs.items()})
        if self.has_items:
            calls[item.node] = Call("LoopItem", {"loop": self.loop, "turn": number})
        end = {"carried": before.carried} | {name: moved(self.end[name]) for name in _ENDS if name in self.end}
        return self._turn(number, end, prefix, before.chain, calls)

    def shown(self, graph: LiveGraph, prefix: str) -> dict[NodeId, NodeId]:
        """A copy is seen where its original is."""
        return {NodeId(f"{prefix}.{node}"): graph.shown(node) for node in self.calls}

    def _turn(
        self, number: int, end: Mapping[str, Wire], prefix: str, chain: Link | None, calls: dict[NodeId, Call]
    ) -> Turn:
        if "collect" in end:
            kept = NodeId(f"{prefix}:kept")
            calls[kept] = Call("LoopKeep", {"value": end["collect"], **({"chain": chain} if chain else {})})
            chain = Link(kept, 0)
        return Turn(number, end.get("carried", Link(self.start, CARRIED)), end.get("go_on", True), chain)


def find_body(graph: LiveGraph, end: NodeId, *, has_items: bool) -> Body:
    """The body of the loop that ends at ``end``."""
    inputs = graph[end].inputs
    start = inputs.get("loop")
    if type(start) is not Link or graph[start.node].type != "LoopStart" or start.output != LOOP:
        raise InputError("expected a link to the loop output of a LoopStart", input="loop")
    ends = [value.node for name in _ENDS if type(value := inputs.get(name)) is Link]
    within = {start.node}
    calls: dict[NodeId, Call] = {}
    for node in _sources_first(graph, ends, start.node):
        call = graph[node]
        if any(link.node in within for link in call.links.values()):
            within.add(node)
            calls[node] = call
    return Body(start.node, inputs, calls, has_items)


def _sources_first(graph: Mapping[NodeId, Call], nodes: Iterable[NodeId], without: NodeId) -> list[NodeId]:
    """The nodes and all they need, each behind what it needs, down to ``without``."""
    seen = {without}
    ordered: list[NodeId] = []
    waiting = [(node, False) for node in nodes]
    while waiting:
        node, is_done = waiting.pop()
        if is_done:
            ordered.append(node)
        elif node not in seen and node in graph:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(link.node, False) for link in graph[node].links.values()]
    return ordered


def loose_ends(graph: LiveGraph, body: Body) -> list[NodeId]:
    """Nodes of the workflow that show what is in the loop without leading to an end of it: they see its first turn alone."""
    workflow = graph.workflow
    used = {link.node for call in workflow.values() for link in call.links.values()}
    within = {body.start}
    for node in _sources_first(workflow, workflow, body.start):
        call = workflow[node]
        if call.type != "LoopEnd" and any(link.node in within for link in call.links.values()):
            within.add(node)
    return [node for node in workflow if node in within and node not in used and node != body.start]
