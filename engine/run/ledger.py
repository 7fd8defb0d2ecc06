"""Where a run stands: its plan, the values it holds, what has been told and what failed; and how what a node returned changes that.

Used from the device thread, the io thread and the event loop; ``lock`` guards the plan and all that goes with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

from engine.errors import DefinitionError, NodeFailed
from engine.graph.graph import Call, Link, NodeId
from engine.run import events
from engine.run.book import Book
from engine.run.cache import Claim, Hit, Made, Tier, Unshared
from engine.run.expansion import Expansion, Part, assemble, expand, relinked
from engine.run.failures import input_of_file, node_failure
from engine.run.invoke import collect
from engine.run.keys import Key
from engine.run.live_graph import LiveGraph
from engine.run.order import model_groups
from engine.run.plan import Plan, State
from engine.run.request import Run, Tools
from engine.run.results import Blocked, Demand, Expand, NodeResult, Outputs
from engine.run.targets import check_nodes, is_output, lazy_inputs, targets_of
from engine.run.values import Handle, NodeValue, Slot

DEVICE_LANE: Final = "device"
ASYNC_LANE: Final = "async"

CallResult = NodeResult | NodeValue
"""What one call returned, or what it came to when it took place before."""


@dataclass(slots=True)
class Called:
    """What the calls of one node returned, in order."""

    results: list[CallResult] = field(default_factory=list)
    count: int = 0
    """How many of them have a result; the others had a blocked argument."""
    hits: list[Hit] = field(default_factory=list)
    """Those that did not take place, since their results are known."""
    seconds: float = 0.0
    """Spent in the node's function."""


class Ledger:
    """The state of one run."""

    def __init__(self, tools: Tools, run: Run, post: events.OnEvent, check: Callable[[], None]) -> None:
        """``post`` takes events from any thread; ``check`` raises when the run is to stop."""
        self._tools = tools
        self._run = run
        self._post = post
        self._check = check
        self.lock = threading.RLock()
        self.book = Book(tools.registry, tools.files, tools.numerics, run.job, check)
        self.plan = Plan({}, ())
        self._is_planned = False
        self._may_expand = False
        self.handles: dict[NodeId, Handle] = {}
        self.live = LiveGraph(run.graph)
        self._unkept: set[NodeId] = set()
        """Nodes that became others, output nodes among them."""
        self._hits: dict[NodeId, Hit] = {}
        """Values found in the cache that nobody was told of yet."""
        self.expansions: dict[NodeId, list[Part]] = {}
        """What nodes became that expanded."""
        self.ran: list[NodeId] = []
        self.cached: list[NodeId] = []
        self.ui: dict[NodeId, dict[str, list[Any]]] = {}
        self.failures: dict[NodeId, NodeFailed] = {}
        self.is_over = False
        """A failure has ended the run."""

    def prepare(self) -> None:
        """Find files, derive keys, look up what is known and tell of it."""
        graph = self._run.graph
        targets = targets_of(graph, self._tools.registry, self._run.targets)
        check_nodes(graph, self._run.keep)
        self._check()
        cone = graph.ancestors([*targets, *self._run.keep])
        admitted = self.book.admit({node: graph[node] for node in graph if node in cone})
        self._may_expand = any(self.book.spec(node).expands for node in admitted if node not in self.book.failures)
        self.plan = Plan(
            admitted,
            map(self.book.standing, targets),
            keep={self.book.standing(node) for node in self._run.keep},
            known=self._is_known,
            lazy=partial(lazy_inputs, self._tools.registry),
            lane=self._lane,
            hold=self._is_precious,
            groups=model_groups(admitted, self._tools.registry),
        )
        self._is_planned = True
        waiting = self.plan.nodes(State.WAITING, State.READY)
        self._post(events.JobStarted(self._run.job, len(waiting)))
        self._fail_unbound(waiting)
        self._announce_hits()

    def _is_precious(self, node: NodeId) -> bool:
        """Whether the value of ``node`` would have to be computed again, or would be another, if a node became others that link to it."""
        return self._may_expand and self.key(node) is None

    def _is_known(self, node: NodeId) -> bool:
        key = self.key(node)
        hit = self._tools.cache.lookup(key) if key is not None else None
        if hit is None:
            return False
        self.handles[node] = hit.value
        self._hits[node] = hit
        return True

    def _lane(self, type_: str) -> str:
        spec = self._tools.registry.get(type_)
        return ASYNC_LANE if spec is not None and spec.is_async else DEVICE_LANE

    def key(self, node: NodeId) -> Key | None:
        """The key to look ``node`` up by, if it may be looked up."""
        return self.book.cache_key(node) if self._run.use_cache else None

    def given(self, node: NodeId) -> frozenset[str]:
        """The linked inputs that ``node`` gets now."""
        return self.plan.given(node)

    def slot(self, link: Link) -> Slot:
        """The value at the other end of a link; decodes it if it is on disk."""
        return self.handles[link.node].load().slots[link.output]

    # from what a node returned to its value

    def settle(self, node: NodeId, called: Called, claim: Claim | Unshared) -> None:
        results = called.results
        if any(isinstance(result, Demand) for result in results):
            self._demand(node, results)
        elif any(isinstance(result, Expand) for result in results):
            self._expand(node, results)
        elif results and not called.count:
            # nobody is told of it, and what is given its value does not run either
            self._pass_on(node, collect(self.book.spec(node), [Blocked() for _ in results]))
        else:
            spec = self.book.spec(node)
            value = collect(spec, [result for result in results if isinstance(result, Outputs | Blocked | NodeValue)])
            made = Made(value, called.seconds, lasting=node not in self.book.keyed.fleeting)
            if called.hits and len(called.hits) == called.count:
                claim.land(made)
                self.accept_hit(node, Hit(value, called.hits[0].tier))
            else:
                self._accept_made(node, made, claim)

    def _demand(self, node: NodeId, results: Sequence[CallResult]) -> None:
        names = {name for result in results if isinstance(result, Demand) for name in result.inputs}
        with self.lock:
            try:
                freed = self.plan.demand(node, names)
            except ValueError as error:
                raise DefinitionError(self._wrong_demand(node, names)) from error
            self._drop(freed)
        self._announce_hits()

    def _wrong_demand(self, node: NodeId, names: set[str]) -> str:
        spec = self.book.spec(node)
        found = ", ".join(sorted(names)) or "nothing"
        lazy = sorted(entry.name for entry in spec.inputs if entry.lazy)
        unknown = sorted(name for name in names if spec.input(name) is None)
        if unknown:
            return f"asked for input {', '.join(unknown)}, which it does not have; its lazy inputs are {', '.join(lazy) or 'none'}"
        return f"demanded {found}; it may demand lazy inputs that are linked, each of them once"

    def _expand(self, node: NodeId, results: Sequence[CallResult]) -> None:
        expansion = expand(node, results, self.live)
        self._check_limits(node, expansion.calls)
        self._check_outputs(expansion)
        bound = self.book.bind({**self._drawn_in(expansion), **expansion.calls})
        standing = self.book.standing
        with self.lock:
            self.live.grow(node, expansion.calls, expansion.shown)
            admitted = self.book.enter(bound)
            self.expansions[node] = [relinked(part, standing) for part in expansion.parts]
            targets = [
                standing(inner) for inner, call in expansion.calls.items() if is_output(self._tools.registry, call.type)
            ]
            if targets:
                self._remember_outputs_within(node)
            self._drop(self.plan.expand(node, admitted, map(standing, expansion.sources), targets))
            self._fail_unbound(admitted)
        if expansion.calls:
            self._post(events.NodeExpanded(self._run.job, node, self.live.shown(node), tuple(expansion.calls)))
        self._announce_hits()

    def _remember_outputs_within(self, node: NodeId) -> None:
        """What ``node`` comes to, and those that became it, is not to be kept: its output nodes would not run when it is known."""
        at: NodeId | None = node
        while at is not None and at not in self._unkept:
            self._unkept.add(at)
            at = self.live.parent(at)

    def _check_limits(self, node: NodeId, calls: Mapping[NodeId, Call]) -> None:
        limits = self._run.limits
        if len(self.live) + len(calls) > limits.nodes:
            raise DefinitionError(
                f"expanded the run beyond {limits.nodes} nodes; the condition that ends its loop is never met"
            )
        if self.live.depth(node) >= limits.depth:
            raise DefinitionError(
                f"expanded {limits.depth} times within itself; the condition that ends its loop is never met"
            )

    def _check_outputs(self, expansion: Expansion) -> None:
        """Inner links are looked at where their nodes are bound; those the outputs are made of are not inputs of any node."""
        for link in expansion.links:
            call = expansion.calls.get(link.node) or self.live[link.node]
            spec = self._tools.registry.get(call.type)
            if spec is not None and not 0 <= link.output < len(spec.outputs):
                found = f"output {link.output} of node {link.node} ({call.type}), which has {len(spec.outputs)}"
                raise DefinitionError(f"expanded into a graph and returned a link to {found}")

    def _drawn_in(self, expansion: Expansion) -> dict[NodeId, Call]:
        """Nodes of the workflow that nothing needed until an expansion linked to them, and theirs."""
        workflow, known = self.live.workflow, self.book.names
        linked = [link for call in expansion.calls.values() for link in call.inputs.values() if type(link) is Link]
        missing = {
            link.node
            for link in (*linked, *expansion.links)
            if link.node not in expansion.calls and link.node not in known and link.node in workflow
        }
        return {new: workflow[new] for new in workflow.ancestors(missing) if new not in known} if missing else {}

    def assemble(self, node: NodeId, claim: Claim | Unshared) -> None:
        value = assemble(self.book.spec(node), self.expansions[node], self.slot)
        kept = Unshared() if node in self._unkept else claim
        self._accept_made(node, Made(value, 0.0, lasting=False), kept)

    def _accept_made(self, node: NodeId, made: Made, claim: Claim | Unshared) -> None:
        claim.land(made)
        ui = self._place(node, made.value)
        self._post(events.NodeFinished(self._run.job, node, self.live.shown(node), made.seconds, ui))
        self.ran.append(node)
        self._finish(node, made.value)

    def accept_hit(self, node: NodeId, hit: Hit) -> None:
        self._tell_cached(node, hit.value, hit.tier)
        self._finish(node, hit.value)

    def _finish(self, node: NodeId, value: Handle) -> None:
        self._pass_on(node, value)
        self._announce_twins(node, value)

    def _pass_on(self, node: NodeId, value: Handle) -> None:
        with self.lock:
            self.handles[node] = value
            self._drop(self.plan.finish(node))

    def _announce_hits(self) -> None:
        """Tell of what was found in the cache, and put its files where this run's files go."""
        while True:
            with self.lock:
                if not self._hits:
                    return
                node = next(iter(self._hits))
                hit = self._hits.pop(node)
            try:
                self._tell_cached(node, hit.value, hit.tier)
                self._announce_twins(node, hit.value)
            except Exception as error:  # a full disk, say: it is this node's failure
                self.fail(node, self.failure(node, error))

    def _announce_twins(self, node: NodeId, value: Handle) -> None:
        for twin in self.book.twins.get(node, ()):
            self._tell_cached(twin, value, "run")

    def _tell_cached(self, node: NodeId, value: Handle, tier: Tier) -> None:
        ui = self._place(node, value)
        self._post(events.NodeCached(self._run.job, node, self.live.shown(node), tier, ui))
        self.cached.append(node)

    def _place(self, node: NodeId, value: Handle) -> dict[str, list[Any]]:
        """The node's ui data with its files in it, written to their folder."""
        ui = {name: list(items) for name, items in value.ui.items()}
        for index, file in enumerate(value.files):
            claim = (self._run.job, f"{node}#{index}") if self._run.claims_files else None
            ui.setdefault(file.ui, []).append(self._tools.outputs.place(file, self._run.metadata, claim))
        if ui:
            self.ui[node] = ui
        return ui

    def _drop(self, nodes: Sequence[NodeId]) -> None:
        for node in nodes:
            self.handles.pop(node, None)

    # failures

    def failure(self, node: NodeId, error: BaseException) -> NodeFailed:
        call = self.book.calls[node]
        return node_failure(node, call.type, error, input=input_of_file(error, call.inputs))

    def fail(self, node: NodeId, failure: NodeFailed) -> None:
        spec = self._tools.registry.get(failure.class_type)
        failure = failure.located(self.live.shown(node), spec.pack if spec else None)
        self.failures[node] = failure
        self.is_over = self.is_over or self._run.stop_on_failure
        self._post(
            events.NodeFailed(
                self._run.job,
                node,
                self.live.shown(node),
                failure.class_type,
                failure.reason,
                failure.input,
                failure.pack,
            )
        )
        with self.lock:
            self._drop(self.plan.fail(node))

    def _fail_unbound(self, nodes: Iterable[NodeId]) -> None:
        """Fail what is needed and cannot be called, before anything is computed in vain."""
        for node in nodes:
            if node in self.book.failures and self.plan.state(node) in (State.WAITING, State.READY):
                self.fail(node, self.book.failures[node])

    # after

    def status(self) -> Literal["succeeded", "failed", "cancelled"]:
        if self.failures and self._run.stop_on_failure:
            return "failed"
        if not self._is_planned or self.plan.nodes(State.WAITING, State.READY, State.RUNNING):
            return "cancelled"
        return "failed" if self.failures else "succeeded"

    def kept(self) -> dict[NodeId, tuple[Slot, ...]]:
        handles = {node: self.handles.get(self.book.standing(node)) for node in self._run.keep}
        return {node: handle.load().slots for node, handle in handles.items() if handle is not None}
