"""The scheduler without any input or output: what is needed, what can run, what may be dropped. Nothing else knows readiness.

A node is needed when it is a target or a needed node requires it. A needed node whose value is known requires nothing, so its
ancestors never come up. Lazy inputs are required once they are demanded. When a node cannot be had, whatever requires it is given
up, and what only that needed is not needed any more.

    IDLE ──need──▶ WAITING ──sources there──▶ READY ──start──▶ RUNNING ──finish──▶ DONE ──no user left──▶ FREED
      ▲               │  ▲                                      │  │
      └──not needed───┘  └────────demand, expand────────────────┘  └──fail──▶ FAILED (then users: SKIPPED)
"""

from __future__ import annotations

import enum
import heapq
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from engine.graph.graph import Call, Link, NodeId
from engine.run.order import order


class State(enum.Enum):
    """Where a node is on its way."""

    IDLE = "idle"
    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FREED = "freed"
    FAILED = "failed"
    SKIPPED = "skipped"


_AHEAD = frozenset({State.WAITING, State.READY})
_OVER = frozenset({State.FAILED, State.SKIPPED})

_NO_NAMES: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Node:
    sources: dict[str, NodeId]
    lazy: frozenset[str]
    state: State = State.IDLE
    rank: tuple[int, ...] = ()
    target: bool = False
    keep: bool = False
    required: set[NodeId] = field(default_factory=set)
    """Sources without which it cannot run now."""
    missing: set[NodeId] = field(default_factory=set)
    """Those of them that are not there yet."""
    users: set[NodeId] = field(default_factory=set)
    """Needed nodes linked to this one: while there is one, the value is held."""
    requirers: set[NodeId] = field(default_factory=set)
    """Needed nodes that require this one: while there is one, it is needed."""
    demanded: set[str] = field(default_factory=set)
    """Lazy inputs it has asked for."""


class Plan:
    """One run's progress. Every method is a pure change of this object; ``known`` is the only question it asks."""

    def __init__(
        self,
        calls: Mapping[NodeId, Call],
        targets: Iterable[NodeId],
        *,
        keep: Collection[NodeId] = (),
        known: Callable[[NodeId], bool] = lambda node: False,
        lazy: Callable[[str], frozenset[str]] = lambda type_: _NO_NAMES,
        lane: Callable[[str], Hashable] = lambda type_: None,
        hold: Callable[[NodeId], bool] = lambda node: False,
        groups: Mapping[NodeId, Hashable] | None = None,
    ) -> None:
        """``known`` says whether a node's value can be had without running it; it is asked once, when the node is first needed.

        ``lazy`` and ``lane`` give, for a node type, its lazy inputs and the lane its nodes run in. ``keep`` are targets whose values
        are never dropped; nor are those of which ``hold`` says that they could not be had again: a node may yet become others that
        link to them. ``groups`` is for ``engine.run.order``.
        """
        self._known = known
        self._lazy = lazy
        self._lane = lane
        self._hold = hold
        self._lanes: dict[NodeId, Hashable] = {}
        self._nodes: dict[NodeId, _Node] = {}
        self._heaps: dict[Hashable, list[tuple[tuple[int, ...], int, NodeId]]] = {}
        self._tie = itertools.count()
        self._expansions = itertools.count(1)
        self._is_ranked = False
        self._add(calls)
        wanted = list(dict.fromkeys([*targets, *keep]))
        for node in wanted:
            self._nodes[node].target = True
        for node in keep:
            self._nodes[node].keep = True
        for node in wanted:
            self._need(node)
        self._is_ranked = True
        self._rank(wanted, (), groups)

    # what is the case

    def state(self, node: NodeId) -> State:
        return self._nodes[node].state

    def nodes(self, *states: State) -> list[NodeId]:
        """The nodes in any of ``states``."""
        return [name for name, node in self._nodes.items() if node.state in states]

    def ready(self) -> list[NodeId]:
        """All nodes that can run now, the one to run first in front."""
        return self.by_rank(State.READY)

    def by_rank(self, *states: State) -> list[NodeId]:
        """The nodes in any of ``states``, the one that should run first in front."""
        return sorted(self.nodes(*states), key=lambda name: self._nodes[name].rank)

    def is_used(self, node: NodeId) -> bool:
        """Whether a needed node is linked to ``node``, if only by an input that it has not asked for."""
        return bool(self._nodes[node].users)

    def first_ready(self, lane: Hashable = None) -> NodeId | None:
        """The node of ``lane`` to run first."""
        heap = self._heaps.get(lane, [])
        while heap and (self._nodes[heap[0][2]].state is not State.READY):
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def given(self, node: NodeId) -> frozenset[str]:
        """The linked inputs whose values ``node`` gets when it starts now: all but the lazy ones it has not asked for."""
        entry = self._nodes[node]
        return frozenset(name for name in entry.sources if name not in entry.lazy or name in entry.demanded)

    def stuck(self) -> list[NodeId]:
        """Nodes that will wait for ever, when nothing runs and nothing can: each needs the one before it, the first the last."""
        waiting = [] if self.nodes(State.READY, State.RUNNING) else self.nodes(State.WAITING)
        if not waiting:
            return []
        trail = {waiting[0]: 0}
        at = waiting[0]
        while True:
            at = next(source for source in self._nodes[at].missing if self._nodes[source].state is State.WAITING)
            if at in trail:
                return [*trail][: trail[at] - 1 if trail[at] else None : -1]
            trail[at] = len(trail)

    # what happens

    def start(self, node: NodeId) -> None:
        """``node`` runs now."""
        self._expect(node, State.READY)
        self._nodes[node].state = State.RUNNING

    def finish(self, node: NodeId) -> list[NodeId]:
        """``node`` has its value. Returns the nodes whose values nobody in this run will ask for again."""
        self._expect(node, State.RUNNING)
        entry = self._nodes[node]
        entry.state = State.DONE
        for user in entry.requirers:
            self._arrived(user, node)
        freed = self._let_go(node)
        if self._is_droppable(node):
            entry.state = State.FREED
            freed.append(node)
        return freed

    def demand(self, node: NodeId, inputs: Iterable[str]) -> list[NodeId]:
        """The running ``node`` needs these lazy inputs before it can go on. Returns what may be dropped, as ``finish`` does.

        Raises ``ValueError`` for an input that is no link or that it has already.
        """
        self._expect(node, State.RUNNING)
        entry = self._nodes[node]
        names = set(inputs)
        if not names or not names <= (entry.lazy & entry.sources.keys()) - entry.demanded:
            raise ValueError(f"node {node} asks for inputs that are not lazy and linked, or that it was given")
        entry.demanded |= names
        return self._wait_for(node, [entry.sources[name] for name in entry.sources if name in names])

    def expand(
        self, node: NodeId, calls: Mapping[NodeId, Call], sources: Iterable[NodeId], targets: Iterable[NodeId] = ()
    ) -> list[NodeId]:
        """The running ``node`` becomes ``calls``: it can run again, to collect its outputs, once ``sources`` are there.

        ``calls`` may link to nodes known before; their ids must be new. ``targets`` among them run whether or not anything requires them.
        Returns what may be dropped.
        """
        self._expect(node, State.RUNNING)
        entry = self._nodes[node]
        self._add(calls)
        wanted = list(dict.fromkeys(sources))
        # in the place of the node, the newest expansion first, so that a loop ends before what stands behind it begins
        self._rank([*wanted, *targets], (entry.rank[0], -next(self._expansions)) if entry.rank else (), None)
        freed: list[NodeId] = []
        for target in targets:
            self._nodes[target].target = True
            freed += self._need(target)
        given = set(entry.sources.values())
        entry.sources = {f"{node}.{index}": source for index, source in enumerate(wanted)}
        entry.required = set()
        freed += self._wait_for(node, wanted)
        return freed + self._unlink(node, given - set(wanted))

    def fail(self, node: NodeId) -> list[NodeId]:
        """``node`` will never have a value, and so nothing that requires it. Returns what may be dropped."""
        return self._give_up(node, State.FAILED)

    # how

    def _expect(self, node: NodeId, state: State) -> None:
        found = self._nodes[node].state
        if found is not state:
            raise ValueError(f"node {node} is {found.value}, expected {state.value}")

    def _add(self, calls: Mapping[NodeId, Call]) -> None:
        for name, call in calls.items():
            self._lanes[name] = self._lane(call.type)
            sources = {key: value.node for key, value in call.inputs.items() if type(value) is Link}
            self._nodes[name] = _Node(sources, self._lazy(call.type))
        for name in calls:
            entry = self._nodes[name]
            if not all(source in self._nodes for source in entry.sources.values()):
                raise ValueError(f"node {name} is linked to a node that is not in the plan")

    def _rank(
        self, targets: Iterable[NodeId], prefix: tuple[int, ...], groups: Mapping[NodeId, Hashable] | None
    ) -> None:
        """Give ranks below ``prefix`` to all that might still run for ``targets`` and has none."""
        wanted = list(dict.fromkeys(targets))
        ahead = list(self._ahead(wanted))
        among = set(ahead)
        needed = {name: [source for source in self._nodes[name].sources.values() if source in among] for name in ahead}
        here = {name: group for name, group in (groups or {}).items() if name in among}
        for name, rank in order(needed, [name for name in wanted if name in among], here).items():
            self._nodes[name].rank = (*prefix, rank)
            if self._nodes[name].state is State.READY:
                self._push(name)

    def _ahead(self, targets: Iterable[NodeId]) -> Iterator[NodeId]:
        seen: set[NodeId] = set()
        stack = list(reversed(list(targets)))
        while stack:
            name = stack.pop()
            entry = self._nodes[name]
            if name in seen or entry.rank or entry.state not in (State.IDLE, State.WAITING, State.READY):
                continue
            seen.add(name)
            yield name
            stack.extend(reversed(entry.sources.values()))

    def _push(self, name: NodeId) -> None:
        if not self._is_ranked:
            return
        heap = self._heaps.setdefault(self._lanes[name], [])
        heapq.heappush(heap, (self._nodes[name].rank, next(self._tie), name))

    def _need(self, name: NodeId) -> list[NodeId]:
        """Make ``name`` and what it requires needed, down to what is known or under way. Returns what may be dropped."""
        waiting = [name]
        hopeless: list[NodeId] = []
        while waiting:
            at = waiting.pop()
            entry = self._nodes[at]
            if entry.state not in (State.IDLE, State.FREED):
                continue
            if self._known(at):
                entry.state = State.DONE
                for user in entry.requirers:
                    self._arrived(user, at)
                continue
            entry.state = State.WAITING
            entry.required, entry.missing, entry.demanded = set(), set(), set()
            for key, source in entry.sources.items():
                self._nodes[source].users.add(at)
                if key not in entry.lazy:
                    self._require(at, source)
                    waiting.append(source)
            if any(self._nodes[source].state in _OVER for source in entry.required):
                hopeless.append(at)
            self._ready_if_complete(at)
        freed: list[NodeId] = []
        for at in hopeless:
            if self._nodes[at].state is State.WAITING:
                freed += self._give_up(at, State.SKIPPED)
        return freed

    def _require(self, user: NodeId, source: NodeId) -> None:
        entry = self._nodes[user]
        entry.required.add(source)
        self._nodes[source].requirers.add(user)
        if self._nodes[source].state is not State.DONE:
            entry.missing.add(source)

    def _arrived(self, user: NodeId, source: NodeId) -> None:
        self._nodes[user].missing.discard(source)
        self._ready_if_complete(user)

    def _ready_if_complete(self, name: NodeId) -> None:
        entry = self._nodes[name]
        if entry.state is State.WAITING and not entry.missing:
            entry.state = State.READY
            self._push(name)

    def _wait_for(self, name: NodeId, sources: Iterable[NodeId]) -> list[NodeId]:
        """``name`` stops running and waits for more sources."""
        entry = self._nodes[name]
        entry.state = State.WAITING
        for source in sources:
            self._nodes[source].users.add(name)
            self._require(name, source)
        freed: list[NodeId] = []
        for source in list(entry.missing):
            freed += self._need(source)
        if any(self._nodes[source].state in _OVER for source in entry.required):
            freed += self._give_up(name, State.SKIPPED)
        self._ready_if_complete(name)
        return freed

    def _is_droppable(self, name: NodeId) -> bool:
        entry = self._nodes[name]
        return not (entry.users or entry.keep or self._hold(name))

    def _give_up(self, name: NodeId, state: State) -> list[NodeId]:
        freed: list[NodeId] = []
        waiting = [(name, state)]
        while waiting:
            at, verdict = waiting.pop()
            entry = self._nodes[at]
            if entry.state in _OVER:
                continue
            entry.state = verdict
            waiting += [(user, State.SKIPPED) for user in entry.requirers if self._nodes[user].state in _AHEAD]
            freed += self._let_go(at)
        return freed

    def _let_go(self, name: NodeId) -> list[NodeId]:
        """``name`` needs its sources no more: what nobody else uses is freed, what nobody else requires is not needed."""
        return self._unlink(name, set(self._nodes[name].sources.values()))

    def _unlink(self, name: NodeId, sources: Iterable[NodeId]) -> list[NodeId]:
        freed: list[NodeId] = []
        waiting = [(name, source) for source in sources]
        while waiting:
            user, source = waiting.pop()
            entry = self._nodes[source]
            entry.users.discard(user)
            entry.requirers.discard(user)
            if entry.state is State.DONE and self._is_droppable(source):
                entry.state = State.FREED
                freed.append(source)
            elif entry.state in _AHEAD and not entry.requirers and not entry.target:
                entry.state = State.IDLE
                waiting += [(source, further) for further in entry.sources.values()]
        return freed
