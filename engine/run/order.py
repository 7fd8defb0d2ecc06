"""In what order to run what can run: a pure function from a graph to priorities.

Three wishes, in this order where they disagree:

1. One model's nodes together. Loading weights is the dearest thing a run does, so while a node that uses the model at hand can
   run, no node that needs another model does.
2. Outputs early. The targets come nearest first, each with all it needs before the next is begun.
3. Memory freed soon. Of a node's sources the one that takes the most values at a time comes first, while little else is held
   (Sethi and Ullman 1970, "The Generation of Optimal Code for Arithmetic Expressions", their numbering of a tree's registers).

    a - b - c - o        c needs two values at a time at most, x one: the chain runs first and leaves one value,
            x - o        then x. The other way round x would be held all the time.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping

from engine.graph.graph import Call, Link, NodeId
from engine.run.topology import Needs, topological
from engine.spec import NodeSpec
from engine.types import members


def order(
    needed: Needs, targets: Iterable[NodeId], groups: Mapping[NodeId, Hashable] | None = None
) -> dict[NodeId, int]:
    """A rank for every node; the ready node of the lowest rank should run first.

    ``groups`` says which model a node uses; nodes without one run wherever they fit. Nodes that no target needs come last. Linear
    but for sorting. Names do not count: where nothing else decides it is the order of ``needed`` and ``targets``.
    """
    sequence = list(topological(needed))
    heights, widths = _measure(needed, sequence)
    by_height = sorted((node for node in targets if node in heights), key=heights.__getitem__)
    walk = _depth_first(needed, [*by_height, *reversed(sequence)], widths)
    ranks = {node: rank for rank, node in enumerate(walk)}
    return _gather(needed, ranks, groups) if groups else ranks


def _measure(needed: Needs, sequence: Iterable[NodeId]) -> tuple[dict[NodeId, int], dict[NodeId, int]]:
    """For each node the longest way down to a node that needs nothing, and how many values must be held at a time to make it."""
    heights: dict[NodeId, int] = {}
    widths: dict[NodeId, int] = {}
    for node in sequence:
        sources = needed[node]
        heights[node] = 1 + max((heights[source] for source in sources), default=0)
        falling = sorted({source: widths[source] for source in sources}.values(), reverse=True)
        widths[node] = max((width + held for held, width in enumerate(falling)), default=1)
    return heights, widths


def _depth_first(needed: Needs, roots: Iterable[NodeId], widths: Mapping[NodeId, int]) -> list[NodeId]:
    """Every node after its sources, the widest source first."""
    done: dict[NodeId, None] = {}
    entered: set[NodeId] = set()
    stack = list(reversed(list(roots)))
    while stack:
        node = stack[-1]
        if node in done or node not in widths:
            stack.pop()
        elif node in entered:
            done[node] = None
            stack.pop()
        else:
            entered.add(node)
            widest_first = sorted(needed[node], key=widths.__getitem__, reverse=True)
            stack.extend(reversed(widest_first))
    return list(done)


def _gather(needed: Needs, ranks: Mapping[NodeId, int], groups: Mapping[NodeId, Hashable]) -> dict[NodeId, int]:
    """Play the run through and write down the order: the lowest rank first, but changing models as late as possible."""
    open_sources = {node: len(set(needed[node])) for node in ranks}
    users: dict[NodeId, list[NodeId]] = {node: [] for node in ranks}
    for node in ranks:
        for source in set(needed[node]):
            users[source].append(node)
    play = _Play(ranks, groups)
    for node, count in open_sources.items():
        if count == 0:
            play.release(node)
    played: dict[NodeId, int] = {}
    while len(played) < len(ranks):
        node = play.next()
        played[node] = len(played)
        for user in users[node]:
            open_sources[user] -= 1
            if open_sources[user] == 0:
                play.release(user)
    return played


class _Play:
    """The nodes that could run, by group, and the group whose model is at hand."""

    def __init__(self, ranks: Mapping[NodeId, int], groups: Mapping[NodeId, Hashable]) -> None:
        self._ranks = ranks
        self._groups = groups
        self._free: list[tuple[int, NodeId]] = []
        self._ready: dict[Hashable, list[tuple[int, NodeId]]] = {groups[node]: [] for node in ranks if node in groups}
        self._turns: list[tuple[int, Hashable]] = []
        self._current: Hashable = None

    def release(self, node: NodeId) -> None:
        """``node`` can run."""
        entry = (self._ranks[node], node)
        if node not in self._groups:
            heapq.heappush(self._free, entry)
            return
        group = self._groups[node]
        heapq.heappush(self._ready[group], entry)
        heapq.heappush(self._turns, (entry[0], group))

    def next(self) -> NodeId:
        """Take the node to run."""
        at_hand = self._ready.get(self._current) or []
        # what is free may end in an output, or be what more of the current group waits for: it goes before a change of model
        if not at_hand and (self._current is None or not self._free):
            at_hand = self._change()
        heap = min((heap for heap in (self._free, at_hand) if heap), key=lambda heap: heap[0])
        return heapq.heappop(heap)[1]

    def _change(self) -> list[tuple[int, NodeId]]:
        """The heap of the group whose turn it is; the current group changes unless a free node comes first anyway."""
        while self._turns and not self._is_waiting(*self._turns[0]):
            heapq.heappop(self._turns)
        if not self._turns or (self._free and self._free[0][0] < self._turns[0][0]):
            return []
        self._current = self._turns[0][1]
        return self._ready[self._current]

    def _is_waiting(self, rank: int, group: Hashable) -> bool:
        waiting = self._ready[group]
        return bool(waiting) and waiting[0][0] <= rank


def model_groups(calls: Mapping[NodeId, Call], specs: Mapping[str, NodeSpec]) -> dict[NodeId, NodeId]:
    """For each node with a MODEL input, the node where that model comes from (the loader, behind whatever patches it)."""
    inputs: dict[str, tuple[str, ...]] = {}
    origins: dict[NodeId, NodeId] = {}
    for node in calls:
        way = []
        at = node
        while (
            at not in origins and (source := _model_source(calls, specs, inputs, at)) is not None and source not in way
        ):
            way.append(at)
            at = source
        for passed in way:
            origins[passed] = origins.get(at, at)
    return origins


def _model_source(
    calls: Mapping[NodeId, Call], specs: Mapping[str, NodeSpec], inputs: dict[str, tuple[str, ...]], node: NodeId
) -> NodeId | None:
    call = calls[node]
    if call.type not in inputs:
        spec = specs.get(call.type)
        inputs[call.type] = tuple(entry.name for entry in spec.inputs if "MODEL" in members(entry.type)) if spec else ()
    for name in inputs[call.type]:
        value = call.inputs.get(name)
        if type(value) is Link and value.node in calls:
            return value.node
    return None
