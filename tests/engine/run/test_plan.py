"""The scheduler, step by step and against random graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.graph.graph import Call, Graph, Link, NodeId
from engine.run.plan import Plan, State
from tests.engine.run.dags import dags
from tests.engine.run.toolbox import graph, ids

Calls = Mapping[str, tuple[str, Mapping[str, Any]]]
"""A graph's nodes as ``graph`` takes them."""


def play(plan: Plan, *, failing: frozenset[str] = frozenset()) -> list[NodeId]:
    """Run everything in the plan's order."""
    ran = []
    while (node := plan.first_ready()) is not None:
        plan.start(node)
        ran.append(node)
        (plan.fail if node in failing else plan.finish)(node)
    return ran


def make(
    calls: Calls, *, lazy: Mapping[str, frozenset[str]] | None = None, targets: str = "d", known: str = ""
) -> Plan:
    return Plan(
        graph(**calls),
        ids(*targets),
        known=lambda node: node in known,
        lazy=lambda type_: (lazy or {}).get(type_, frozenset()),
    )


DIAMOND: Calls = {
    "a": ("Const", {}),
    "b": ("Add", {"a": "a/0"}),
    "c": ("Add", {"a": "a/0", "b": 2}),
    "d": ("Add", {"a": "b/0", "b": "c/0"}),
    "x": ("Const", {}),
}


def test_readiness_follows_the_links_and_values_are_dropped_after_their_last_user() -> None:
    """a is needed until b and c have run; nothing that no target needs ever runs."""
    plan = make(DIAMOND)
    assert plan.ready() == ["a"]
    plan.start(NodeId("a"))
    assert plan.finish(NodeId("a")) == []
    assert plan.ready() == ["b", "c"]
    for node, freed in [("b", []), ("c", ["a"]), ("d", ["b", "c", "d"])]:
        plan.start(NodeId(node))
        assert sorted(plan.finish(NodeId(node))) == freed
    assert plan.state(NodeId("x")) is State.IDLE
    assert plan.stuck() == []


def test_a_known_node_needs_none_of_its_ancestors() -> None:
    """With b and c known, a never comes up."""
    assert play(make(DIAMOND, known="bc")) == ["d"]
    assert play(make(DIAMOND, known="d")) == []
    assert play(make(DIAMOND, known="b")) == ["a", "c", "d"]


def test_kept_values_are_never_dropped() -> None:
    """Nor is a kept node left out when no target needs it."""
    plan = Plan(graph(**DIAMOND), ids("b"), keep=ids("b", "x"))
    freed: list[NodeId] = []
    while (node := plan.first_ready()) is not None:
        plan.start(node)
        freed += plan.finish(node)
    assert freed == ["a"]
    assert plan.nodes(State.DONE) == ["b", "x"]


def test_a_failure_gives_up_its_users_and_what_only_they_needed() -> None:
    """d is given up with b, and so c, which nothing else needs, does not run."""
    plan = make(DIAMOND)
    plan.start(NodeId("a"))
    plan.finish(NodeId("a"))
    plan.start(NodeId("b"))
    assert plan.fail(NodeId("b")) == ["a"]
    assert [plan.state(node).value for node in ids(*"abcd")] == ["freed", "failed", "idle", "skipped"]
    assert plan.ready() == []


LAZY: Calls = {
    "a": ("Const", {}),
    "b": ("Add", {"a": "a/0"}),
    "p": ("Pick", {"first": True, "a": "b/0", "b": "x/0"}),
    "x": ("Const", {"value": 2}),
    "d": ("Add", {"a": "p/0"}),
}
PICK = {"Pick": frozenset("ab")}


def test_a_lazy_input_is_needed_once_it_is_demanded() -> None:
    """p runs, asks for a, waits for b's way, and runs again with it; x never runs."""
    plan = make(LAZY, lazy=PICK)
    assert plan.ready() == ["p"]
    assert plan.given(NodeId("p")) == frozenset()
    plan.start(NodeId("p"))
    plan.demand(NodeId("p"), ["a"])
    assert plan.given(NodeId("p")) == {"a"}
    assert play(plan) == ["a", "b", "p", "d"]
    assert plan.state(NodeId("x")) is State.IDLE


def test_a_demand_for_what_is_known_is_ready_at_once() -> None:
    """Nothing has to run for it."""
    plan = make(LAZY, lazy=PICK, known="b")
    plan.start(NodeId("p"))
    plan.demand(NodeId("p"), ["a"])
    assert plan.ready() == ["p"]


@pytest.mark.parametrize("inputs", [[], ["first"], ["nope"], ["a", "first"]])
def test_only_lazy_linked_inputs_may_be_demanded(inputs: list[str]) -> None:
    """Anything else would wait for ever."""
    plan = make(LAZY, lazy=PICK)
    plan.start(NodeId("p"))
    with pytest.raises(ValueError, match="not lazy and linked"):
        plan.demand(NodeId("p"), inputs)


def test_nothing_may_be_demanded_twice() -> None:
    """The node has it already, so asking again would never end."""
    plan = make(LAZY, lazy=PICK)
    plan.start(NodeId("p"))
    plan.demand(NodeId("p"), ["a"])
    for node in ids("a", "b"):
        plan.start(node)
        plan.finish(node)
    plan.start(NodeId("p"))
    with pytest.raises(ValueError, match="was given"):
        plan.demand(NodeId("p"), ["a"])


def test_demanding_a_failed_branch_gives_up_who_demands_it() -> None:
    """The branch failed for somebody else before."""
    plan = Plan(
        graph(f=("Fail", {}), s=("Show", {"value": "f/0"}), p=("Pick", {"first": True, "a": "f/0"})),
        ids("s", "p"),
        lazy=lambda type_: PICK.get(type_, frozenset()),
    )
    plan.start(NodeId("f"))
    plan.fail(NodeId("f"))
    plan.start(NodeId("p"))
    plan.demand(NodeId("p"), ["a"])
    assert plan.state(NodeId("p")) is State.SKIPPED


def test_an_expansion_runs_its_nodes_then_the_node_again() -> None:
    """b becomes two nodes; what it was given is let go when nothing else needs it."""
    plan = make(DIAMOND)
    for node in ids("a", "b"):
        plan.start(node)
        if node == "a":
            plan.finish(node)
    inner = {NodeId("b.1"): Call("Const", {}), NodeId("b.2"): Call("Add", {"a": Link(NodeId("a"), 0)})}
    plan.expand(NodeId("b"), inner, ids("b.1", "b.2"))
    assert sorted(play(plan)) == ["b", "b.1", "b.2", "c", "d"]


def test_an_expansion_may_need_again_what_was_freed() -> None:
    """Its inner node links to a, whose value nobody had use for any more: a runs again."""
    calls: Calls = {"a": ("Const", {}), "b": ("Add", {"a": "a/0"}), "d": ("Add", {"a": "b/0"})}
    plan = make(calls)
    for node in ids("a", "b"):
        plan.start(node)
        plan.finish(node)
    plan.start(NodeId("d"))
    assert plan.state(NodeId("a")) is State.FREED
    plan.expand(NodeId("d"), {NodeId("d.1"): Call("Add", {"a": 1})}, ids("d.1", "a"))
    assert sorted(play(plan)) == ["a", "d", "d.1"]


def test_nodes_that_need_each_other_are_stuck() -> None:
    """A cycle neither runs nor hangs the plan: it says so."""
    plan = make({"a": ("Add", {"a": "d/0"}), "d": ("Add", {"a": "a/0"})})
    assert plan.first_ready() is None
    assert sorted(plan.stuck()) == ["a", "d"]


@given(dags(failing=True), st.data())
def test_every_node_runs_at_most_once_and_after_its_inputs(graph: Graph, data: st.DataObject) -> None:
    """Over random graphs, targets, known nodes and failures: what should run does, once, in order, and nothing else."""
    targets = data.draw(st.lists(st.sampled_from(list(graph)), min_size=1, unique=True))
    known = data.draw(st.sets(st.sampled_from(list(graph))))
    failing = frozenset(node for node in graph if graph[node].type == "Fail")
    plan = Plan(graph, targets, known=known.__contains__)
    ran = play(plan, failing=failing)
    have = known | set(ran) - failing
    for position, node in enumerate(ran):
        sources = {link.node for link in graph[node].links.values()}
        assert sources <= (known | set(ran[:position])) - (failing - known)
    assert len(ran) == len(set(ran))
    for target in targets:
        hopeless = _depends_on_failure(graph, target, failing - known, known)
        assert (target in have) == (not hopeless)
    assert plan.stuck() == []


def _depends_on_failure(
    graph: Graph, node: NodeId, failing: frozenset[NodeId] | set[NodeId], known: set[NodeId]
) -> bool:
    if node in known:
        return False
    return node in failing or any(
        _depends_on_failure(graph, link.node, failing, known) for link in graph[node].links.values()
    )


@given(dags(), st.data())
def test_values_are_held_exactly_as_long_as_somebody_needs_them(graph: Graph, data: st.DataObject) -> None:
    """A value is dropped when its last user has run, not before; in the end only kept ones are left."""
    kept = data.draw(st.sets(st.sampled_from(list(graph))))
    plan = Plan(graph, list(graph), keep=kept)
    held: set[NodeId] = set()
    while (node := plan.first_ready()) is not None:
        assert {link.node for link in graph[node].links.values()} <= held
        plan.start(node)
        freed = plan.finish(node)
        held.add(node)
        assert set(freed) <= held
        held -= set(freed)
    assert held == kept


def test_what_could_not_be_had_again_is_held_to_the_end() -> None:
    """A value that ``hold`` names is never among those to drop."""
    calls = graph(a=("Const", {}), b=("Add", {"a": "a/0"}))
    plan = Plan(calls, ids("b"), hold=lambda node: node == "a")
    for node in ids("a", "b"):
        plan.start(node)
        assert plan.finish(node) == (["b"] if node == "b" else [])
    assert plan.state(NodeId("a")) is State.DONE
