"""What a run would do, without doing it: which nodes run, what is known and where, what it takes, and why a node's result is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.errors import NodeFailed
from engine.fileref import Files
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.registry import Registry
from engine.run.binding import bind
from engine.run.cache import OutputCache
from engine.run.explain import KeyParts, Reason, describe, explain
from engine.run.keys import Key, Keyed, derive
from engine.run.last_runs import LastRuns
from engine.run.order import model_groups
from engine.run.plan import Plan, State
from engine.run.targets import lazy_inputs, targets_of
from engine.spec import Estimate, NodeSpec

Fate = Literal["runs", "memory", "disk", "twin", "lazy", "unneeded", "fails"]
"""``memory``, ``disk``: the value is taken from there. ``twin``: another node of the run computes the same. ``lazy``: runs if it is asked
for. ``unneeded``: what needs it is known already. ``fails``: it, or something it needs, cannot be called."""


@dataclass(frozen=True, slots=True)
class NodeForecast:
    """What would become of one node."""

    node: NodeId
    class_type: str
    title: str | None
    fate: Fate
    reasons: tuple[Reason, ...] = ()
    """Why its result is not known, where it runs."""
    steps: int = 0
    """Sampling steps."""
    model_bytes: int = 0
    """Of the weights it brings in, for the first node that brings in these weights."""
    problem: str | None = None
    """Why it cannot be called."""

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "class_type": self.class_type,
            "title": self.title,
            "fate": self.fate,
            "reasons": [
                {"change": r.change, "input": r.input, "node": r.node, "message": r.message} for r in self.reasons
            ],
            "steps": self.steps,
            "model_bytes": self.model_bytes,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would become of a run; nodes that run in the order they would, the others after them."""

    nodes: tuple[NodeForecast, ...]
    ran_before: bool
    """Whether there is a record of an earlier run to compare with."""

    @property
    def runs(self) -> tuple[NodeForecast, ...]:
        return tuple(node for node in self.nodes if node.fate == "runs")

    @property
    def steps(self) -> int:
        return sum(node.steps for node in self.nodes)

    @property
    def model_bytes(self) -> int:
        return sum(node.model_bytes for node in self.nodes)

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": len(self.runs),
            "steps": self.steps,
            "model_bytes": self.model_bytes,
            "ran_before": self.ran_before,
            "nodes": [node.to_json() for node in self.nodes],
        }


def forecast(
    graph: Graph,
    registry: Registry,
    *,
    files: Files,
    cache: OutputCache,
    numerics: str,
    last_runs: LastRuns | None = None,
    targets: tuple[NodeId, ...] | None = None,
) -> Forecast:
    """Foresee a run of a validated, coerced graph. Reads files for their digests if those are not remembered; runs no node.

    Raises ``UsageError`` for a target that is not in the graph.
    """
    wanted = targets_of(graph, registry, targets)
    cone = graph.ancestors(wanted)
    bound = bind({node: graph[node] for node in graph if node in cone}, registry, files)
    keyed = derive(bound.calls, registry, numerics=numerics, run_id="", fingerprints=bound.fingerprints)
    plan = Plan(
        bound.calls,
        wanted,
        known=lambda node: _where(node, keyed, cache) is not None,
        lazy=lambda type_: lazy_inputs(registry, type_),
        groups=model_groups(bound.calls, registry),
    )
    for node in bound.failures:
        if plan.state(node) in (State.WAITING, State.READY):
            plan.fail(node)
    before = last_runs.recall(graph) if last_runs else None
    parts = describe(bound.calls, registry, keyed, numerics, bound.fingerprints)
    seer = _Seer(bound.calls, registry, plan, keyed, cache, bound.failures, parts, before)
    return Forecast(tuple(seer.see(node) for node in _as_they_run(plan, bound.calls)), before is not None)


def _where(node: NodeId, keyed: Keyed, cache: OutputCache) -> Literal["memory", "disk"] | None:
    key = keyed.keys.get(node)
    return cache.where(key) if key is not None and node not in keyed.salted else None


def _as_they_run(plan: Plan, calls: Mapping[NodeId, Call]) -> list[NodeId]:
    ahead = plan.by_rank(State.WAITING, State.READY)
    first = set(ahead)
    return [*ahead, *(node for node in calls if node not in first)]


@dataclass(slots=True)
class _Seer:
    """Tells the fate of one node after the other."""

    calls: Mapping[NodeId, Call]
    registry: Registry
    plan: Plan
    keyed: Keyed
    cache: OutputCache
    failures: Mapping[NodeId, NodeFailed]
    parts: Mapping[NodeId, KeyParts]
    before: Mapping[NodeId, KeyParts] | None
    _counted: set[Key] = field(default_factory=set)

    def see(self, node: NodeId) -> NodeForecast:
        call = self.calls[node]
        fate = self._fate(node)
        failure = self.failures.get(node)
        estimate = self._estimate(node, fate)
        return NodeForecast(
            node=node,
            class_type=call.type,
            title=call.title,
            fate=fate,
            reasons=self._reasons(node) if fate == "runs" else (),
            steps=estimate.steps if fate == "runs" else 0,
            model_bytes=estimate.model_bytes,
            problem=failure.reason if failure else None,
        )

    def _fate(self, node: NodeId) -> Fate:
        state = self.plan.state(node)
        if state is State.DONE:
            return _where(node, self.keyed, self.cache) or "unneeded"
        if state in (State.FAILED, State.SKIPPED):
            return "fails"
        if state in (State.WAITING, State.READY):
            key = self.keyed.keys.get(node)
            return "twin" if key in self._counted else "runs"
        return "lazy" if self.plan.is_used(node) else "unneeded"

    def _estimate(self, node: NodeId, fate: Fate) -> Estimate:
        """What the node takes; nothing if it has no part in the run, or another with the same key was counted already."""
        key = self.keyed.keys.get(node)
        if key is None or key in self._counted or fate not in ("runs", "memory", "disk"):
            return Estimate()
        self._counted.add(key)
        spec: NodeSpec = self.registry[self.calls[node].type]
        if spec.estimate is None:
            return Estimate()
        return spec.estimate(
            **{name: None if type(value) is Link else value for name, value in self.calls[node].inputs.items()}
        )

    def _reasons(self, node: NodeId) -> tuple[Reason, ...]:
        if self.before is None or node not in self.parts or node not in self.before:
            return ()
        return tuple(explain(self.before[node], self.parts[node]))
