"""Nodes that become others: what runs under which name, what is told and kept of it, and what ends it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest

from engine.graph.graph import Call, Graph, Link, NodeId
from engine.registry import Registry
from engine.run import events
from engine.run.cache import OutputCache
from engine.run.context import NodeContext
from engine.run.disk_tier import DiskTier
from engine.run.executor import Run
from engine.run.request import Limits
from engine.run.results import Blocked, Expand, OutputFile, Outputs
from engine.spec import NodeSpec, Output, RawLink, node
from tests.engine.run.toolbox import Calls, Listener, graph, ids, make_executor


def _link(name: str, output: int = 0) -> Link:
    return Link(NodeId(name), output)


def _becomes(
    type_: str, inner: Mapping[str, Call], *outputs: Any, log: list[str] | None = None, **more: Any
) -> NodeSpec:
    """A node that becomes ``inner`` whatever it is given."""

    @node(type_, category="test", outputs=[Output("INT") for _ in outputs], expands=True)
    def becomes(value: int = 0) -> Any:
        if log is not None:
            log.append(type_)
        return Expand(Graph(inner), outputs, **more)

    return becomes


@node("Down", category="test", outputs=[Output("INT")], expands=True)
def down(n: int) -> Any:
    """n, one expansion for each."""
    if n == 0:
        return 0
    inner = {"d": Call("Down", {"n": n - 1}), "a": Call("Add", {"a": _link("d"), "b": 1})}
    return Expand(Graph(inner), (_link("a"),))


@node("Times", category="test", outputs=[Output("INT")], expands=True)
def times(value: int, count: int = 2) -> Any:
    """value + count, one Add a time."""
    inner = {
        str(index): Call("Add", {"a": value if index == 0 else _link(str(index - 1)), "b": 1}) for index in range(count)
    }
    return Expand(Graph(inner), (_link(str(count - 1)),))


@node("Around", category="test", outputs=[Output("INT")], expands=True)
def around(value: int) -> Any:
    """value + 5, by way of two nodes that expand themselves."""
    inner = {"x": Call("Times", {"value": value, "count": 2}), "y": Call("Times", {"value": _link("x"), "count": 3})}
    return Expand(Graph(inner), (_link("y"),))


def _shown(inner: str, type_: str = "Around", **inputs: Any) -> Graph:
    return graph(**{inner: (type_, inputs), "s": ("Show", {"value": f"{inner}/0"})})


# names, and what is told


def test_expansions_stand_within_expansions(tmp_path: Path) -> None:
    """The ids say the way; every event of an inner node names the one node of the workflow that is seen."""
    listener = Listener()
    result = make_executor(Calls().registry(times, around), tmp_path).run_sync(
        Run(_shown("r", value=10), job="j"), listener
    )
    assert result.ui == {"s": {"text": ["15"]}}
    inner = ("r.x", "r.y", "r.x.0", "r.x.1", "r.y.0", "r.y.1", "r.y.2")
    assert result.inner == dict.fromkeys(inner, "r")
    assert [(event.node, event.shown, event.inner) for event in listener.of(events.NodeExpanded)] == [
        ("r", "r", ("r.x", "r.y")),
        ("r.x", "r", ("r.x.0", "r.x.1")),
        ("r.y", "r", ("r.y.0", "r.y.1", "r.y.2")),
    ]
    for kind in (events.NodeStarted, events.NodeFinished):
        told = {event.node: event.shown for event in listener.of(kind)}
        assert told == {**dict.fromkeys(inner, "r"), "r": "r", "s": "s"}
    assert set(result.ran) == {*inner, "r", "s"}


def test_a_node_within_knows_what_it_is_part_of(tmp_path: Path) -> None:
    """Its parent, the node it is shown as, its depth, and the workflow as it stands."""
    seen: list[Any] = []

    @node("Where", category="test", outputs=[Output("INT")])
    def where(ctx: NodeContext, value: int = 0) -> int:
        live = ctx.graph
        seen.append((ctx.node, live.parent(ctx.node), live.shown(ctx.node), live.depth(ctx.node)))
        seen.append((live[ctx.node].type, "s" in live, "nobody" in live, len(live), sorted(live)))
        return 7

    inner = _becomes("Inner", {"w": Call("Where")}, _link("w"))
    outer = _becomes("Outer", {"i": Call("Inner")}, _link("i"))
    result = make_executor(Calls().registry(where, inner, outer), tmp_path).run_sync(Run(_shown("o", "Outer")))
    assert result.ui == {"s": {"text": ["7"]}}
    assert seen == [("o.i.w", "o.i", "o", 2), ("Where", True, False, 4, ["o", "o.i", "o.i.w", "s"])]


def test_an_expansion_may_name_who_its_nodes_are_shown_as(tmp_path: Path) -> None:
    """One node is seen as another of the workflow, and what it becomes in turn is seen there too."""
    listener = Listener()
    inner = {"x": Call("Times", {"value": 1}), "y": Call("Add", {"a": _link("x")})}
    become = _becomes("Become", inner, _link("y"), shown={NodeId("x"): NodeId("s")})
    result = make_executor(Calls().registry(times, become), tmp_path).run_sync(Run(_shown("b", "Become")), listener)
    assert result.inner == {"b.x": "s", "b.y": "b", "b.x.0": "s", "b.x.1": "s"}
    assert {event.node: event.shown for event in listener.of(events.NodeFinished)} == {
        **result.inner,
        NodeId("b"): "b",
        NodeId("s"): "s",
    }


def test_of_a_list_each_call_becomes_a_graph_of_its_own(tmp_path: Path) -> None:
    """Calls that expand, yield a value or are blocked may stand beside each other; the values keep their order."""

    @node("Some", category="test", outputs=[Output("INT")], expands=True)
    def some(value: int) -> Any:
        if value == 1:
            return Blocked()
        return value if value == 2 else Expand(Graph({"a": Call("Add", {"a": value, "b": 100})}), (_link("a"),))

    run = graph(a=("Spread", {"count": 5}), m=("Some", {"value": "a/0"}), s=("Show", {"value": "m/0"}))
    result = make_executor(Calls().registry(some), tmp_path).run_sync(Run(run))
    assert result.ui == {"s": {"text": ["100", "2", "103", "104"]}}
    assert set(result.inner) == {"m.0.a", "m.3.a", "m.4.a"}


def test_ui_and_files_of_an_expanding_node_are_its_own(tmp_path: Path) -> None:
    """They are told when it has finished, over all its calls, and its files are written."""

    @node("Telling", category="test", outputs=[Output("INT")], output_node=True, expands=True)
    def telling(value: int) -> Any:
        inner = Graph({"s": Call("Show", {"value": value}), "a": Call("Add", {"a": value})})
        file = OutputFile(b"%d" % value, "told", ".txt", ui="texts")
        return Expand(inner, (_link("a"),), files=(file,), ui={"text": [f"became {value}"]})

    listener = Listener()
    run = graph(a=("Spread", {"count": 2}), t=("Telling", {"value": "a/0"}))
    result = make_executor(Calls().registry(telling), tmp_path).run_sync(Run(run), listener)
    names = ["told_00001_.txt", "told_00002_.txt"]
    own = {
        "text": ["became 0", "became 1"],
        "texts": [{"filename": name, "subfolder": "", "type": "output"} for name in names],
    }
    assert result.ui == {"t": own, "t.0.s": {"text": ["0"]}, "t.1.s": {"text": ["1"]}}
    assert [event.ui for event in listener.of(events.NodeFinished) if event.node == "t"] == [own]
    assert [(tmp_path / "output" / name).read_text() for name in names] == ["0", "1"]


def test_output_nodes_within_run_whether_or_not_anything_needs_them(tmp_path: Path) -> None:
    """Others run only if something does."""
    calls = Calls()
    inner = {"s": Call("Show", {"value": 5}), "idle": Call("Fail", {"value": 1})}
    result = make_executor(calls.registry(_becomes("Become", inner, 3)), tmp_path).run_sync(Run(_shown("b", "Become")))
    assert (result.status, result.ui) == ("succeeded", {"s": {"text": ["3"]}, "b.s": {"text": ["5"]}})
    assert sorted(calls.log) == [("Show", 3), ("Show", 5)]


def test_an_expansion_into_nothing_is_its_values(tmp_path: Path) -> None:
    """No nodes, no event of an expansion; values of any kind pass."""
    listener = Listener()
    result = make_executor(Calls().registry(_becomes("Become", {}, 3)), tmp_path).run_sync(
        Run(_shown("b", "Become")), listener
    )
    assert (result.ui, listener.of(events.NodeExpanded)) == ({"s": {"text": ["3"]}}, [])


# depth


def test_three_hundred_expansions_within_each_other(tmp_path: Path) -> None:
    """The ids stay short however deep, and are the same in every run."""
    executor = make_executor(Calls().registry(down), tmp_path)
    results = [executor.run_sync(Run(_shown("d", "Down", n=300), use_cache=False)) for _ in range(2)]
    assert [result.ui for result in results] == [{"s": {"text": ["300"]}}] * 2
    assert len(results[0].inner) == 600
    assert set(results[0].inner.values()) == {"d"}
    assert max(map(len, results[0].inner)) < 150
    assert list(results[0].inner) == list(results[1].inner)


def test_deep_down_a_result_is_shared_with_what_was_computed_before(tmp_path: Path) -> None:
    """One turn more computes one addition more."""
    calls = Calls()
    executor = make_executor(calls.registry(down), tmp_path)
    executor.run_sync(Run(_shown("d", "Down", n=40)))
    calls.log.clear()
    assert executor.run_sync(Run(_shown("d", "Down", n=41))).ui == {"s": {"text": ["41"]}}
    assert calls.log == [("Add", (40, 1)), ("Show", 41)]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(nodes=50), "expanded the run beyond 50 nodes; the condition that ends its loop is never met"),
        (Limits(depth=10), "expanded 10 times within itself; the condition that ends its loop is never met"),
    ],
)
def test_an_expansion_that_never_ends_is_ended(limits: Limits, message: str, tmp_path: Path) -> None:
    """The failure names the node of the workflow, and what does not depend on it has run."""
    calls = Calls()
    run = graph(d=("Down", {"n": -1}), s=("Show", {"value": "d/0"}), o=("Show", {"value": 4}))
    result = make_executor(calls.registry(down), tmp_path).run_sync(Run(run, limits=limits))
    assert (result.status, result.ui) == ("failed", {"o": {"text": ["4"]}})
    (failure,) = result.failures
    assert (failure.shown, failure.class_type, failure.reason) == ("d", "Down", message)
    assert str(failure).startswith("node d, in its inner node d.d")
    assert len(result.inner) <= 50


def test_what_stays_within_its_limits_runs(tmp_path: Path) -> None:
    """Just as many nodes and expansions as are allowed."""
    executor = make_executor(Calls().registry(down), tmp_path)
    result = executor.run_sync(Run(_shown("d", "Down", n=10), limits=Limits(nodes=22, depth=10)))
    assert result.ui == {"s": {"text": ["10"]}}
    for limits in (Limits(nodes=21), Limits(depth=9)):
        assert executor.run_sync(Run(_shown("d", "Down", n=10), limits=limits, use_cache=False)).status == "failed"


# links to what there is


def test_names_that_an_expansion_says_are_new_are_kept(tmp_path: Path) -> None:
    """``is_named`` puts nothing in front."""
    become = _becomes("Become", {"new": Call("Add", {"a": 1})}, _link("new"), is_named=True)
    result = make_executor(Calls().registry(become), tmp_path).run_sync(Run(_shown("b", "Become")))
    assert (result.ui, result.inner) == ({"s": {"text": ["2"]}}, {"new": "b"})


@pytest.mark.parametrize("taken", ["s", "b", "idle"])
def test_names_that_are_taken_fail_the_node(taken: str, tmp_path: Path) -> None:
    """Whether or not the node of that name is needed; the message says what to do."""
    become = _becomes("Become", {taken: Call("Add", {"a": 1})}, _link(taken), is_named=True)
    run = _shown("b", "Become").with_call("idle", Call("Const"))
    result = make_executor(Calls().registry(become), tmp_path).run_sync(Run(run))
    assert [str(failure) for failure in result.failures] == [
        f"node b (Become): expanded into a node {taken}, which is in the run already; "
        "ids must be new: let a GraphBuilder make them"
    ]


def test_two_calls_may_not_make_nodes_of_one_name(tmp_path: Path) -> None:
    """The second call of a list finds the name taken by the first."""
    become = _becomes("Become", {"new": Call("Const")}, _link("new"), is_named=True)
    run = graph(a=("Spread", {"count": 2}), b=("Become", {"value": "a/0"}), s=("Show", {"value": "b/0"}))
    result = make_executor(Calls().registry(become), tmp_path).run_sync(Run(run))
    assert ["expanded into a node new, which is in the run already" in str(f) for f in result.failures] == [True]


def test_inner_nodes_may_use_nodes_of_the_workflow(tmp_path: Path) -> None:
    """Those that run anyway, and those that nothing needed before, with all that these need."""
    calls = Calls()
    inner = {"x": Call("Add", {"a": _link("a"), "b": _link("idle")})}
    run = graph(
        c=("Const", {"value": 10}),
        idle=("Add", {"a": "c/0", "b": 20}),
        a=("Const", {"value": 1}),
        b=("Become", {"value": "a/0"}),
        s=("Show", {"value": "b/0"}),
        never=("Const", {"value": 99}),
    )
    result = make_executor(calls.registry(_becomes("Become", inner, _link("x"))), tmp_path).run_sync(Run(run))
    assert (result.status, result.ui) == ("succeeded", {"s": {"text": ["31"]}})
    assert sorted(calls.log) == [("Add", (1, 30)), ("Add", (10, 20)), ("Const", 1), ("Const", 10), ("Show", 31)]


def test_an_output_may_be_that_of_a_node_nothing_needed_before(tmp_path: Path) -> None:
    """A node that chooses one of two others by their names: the other one never runs."""
    calls = Calls()
    run = graph(
        c=("Const", {"value": 10}),
        idle=("Add", {"a": "c/0", "b": 20}),
        b=("Become", {}),
        s=("Show", {"value": "b/0"}),
        never=("Fail", {}),
    )
    result = make_executor(calls.registry(_becomes("Become", {}, _link("idle"))), tmp_path).run_sync(Run(run))
    assert (result.status, result.ui) == ("succeeded", {"s": {"text": ["30"]}})
    assert calls.log == [("Const", 10), ("Add", (10, 20)), ("Show", 30)]


def test_a_node_nothing_needed_before_may_itself_be_out_of_reach(tmp_path: Path) -> None:
    """It fails as it would have in the workflow, and the node that became it is given up."""
    run = graph(idle=("Fail", {"value": 1}), b=("Become", {}), s=("Show", {"value": "b/0"}))
    result = make_executor(Calls().registry(_becomes("Become", {}, _link("idle"))), tmp_path).run_sync(Run(run))
    assert [str(failure) for failure in result.failures] == ["node idle (Fail): ValueError: no good: 1"]
    assert (result.status, result.ran) == ("failed", ())


def test_an_inner_node_may_use_a_value_that_was_let_go(tmp_path: Path) -> None:
    """Where nothing keeps it, it is computed once more."""
    calls = Calls()
    run = graph(
        c=("Const", {"value": 10}),
        x=("Add", {"a": "c/0"}),
        b=("Become", {"value": "x/0"}),
        s=("Show", {"value": "b/0"}),
    )
    become = _becomes("Become", {"y": Call("Add", {"a": _link("c"), "b": 5})}, _link("y"))
    executor = make_executor(calls.registry(become), tmp_path, OutputCache(memory=0))
    assert executor.run_sync(Run(run)).ui == {"s": {"text": ["15"]}}
    assert calls.log == [("Const", 10), ("Add", (10, 1)), ("Const", 10), ("Add", (10, 5)), ("Show", 15)]


@pytest.mark.parametrize(
    ("inner", "output", "message"),
    [
        (
            {"x": Call("Add", {"a": _link("nobody")})},
            "x",
            "node b, in its inner node b.x (Add), input a: linked to node nobody, which is not in the workflow",
        ),
        (
            {"x": Call("Add", {"a": _link("y", 3)}), "y": Call("Const")},
            "x",
            "node b, in its inner node b.x (Add), input a: linked to output 3 of node b.y (Const), which has 1",
        ),
        (
            {"x": Call("Add")},
            "nobody",
            "node b (Become): expanded into a graph and returned a link to its node nobody, which is not in it",
        ),
        (
            {"x": Call("Nope")},
            "x",
            "node b, in its inner node b.x (Nope): no such node type is loaded; "
            "install the pack that brings it or replace the node",
        ),
        ({"x": Call("Fail", {"value": 3})}, "x", "node b, in its inner node b.x (Fail): ValueError: no good: 3"),
        (
            {
                "x": Call("Add", {"a": _link("y")}),
                "y": Call("Add", {"a": _link("z")}),
                "z": Call("Add", {"a": _link("x")}),
            },
            "x",
            "node b, in its inner node b.z (Add): waits for its own result (b.z -> b.y -> b.x -> b.z), so it can never run; "
            "remove one of these links",
        ),
        (
            {"x": Call("Add", {"a": _link("b")})},
            "x",
            "node b, in its inner node b.x (Add): waits for its own result (b.x -> b -> b.x), so it can never run; "
            "remove one of these links",
        ),
    ],
    ids=["dangling", "no such output", "no such result", "unknown", "failing", "cycle", "cycle around"],
)
def test_what_goes_wrong_within_names_the_node_that_is_seen(
    inner: dict[str, Call], output: str, message: str, tmp_path: Path
) -> None:
    """One failure, one line: the node of the workflow, the one within it, and the input."""
    listener = Listener()
    executor = make_executor(Calls().registry(_becomes("Become", inner, _link(output))), tmp_path)
    run = _shown("b", "Become").with_call("o", Call("Show", {"value": 1}))
    result = executor.run_sync(Run(run), listener)
    assert [str(failure) for failure in result.failures] == [message]
    assert [event.shown for event in listener.of(events.NodeFailed)] == ["b"]
    assert (result.status, result.ui) == ("failed", {"o": {"text": ["1"]}})


def test_a_result_that_links_to_an_output_its_node_lacks_fails(tmp_path: Path) -> None:
    """In one line, like every other wrong link."""
    become = _becomes("Become", {"x": Call("Add", {"a": 1})}, _link("x", 4))
    result = make_executor(Calls().registry(become), tmp_path).run_sync(Run(_shown("b", "Become")))
    assert [str(failure) for failure in result.failures] == [
        "node b (Become): expanded into a graph and returned a link to output 4 of node b.x (Add), which has 1"
    ]


def test_an_expansion_with_the_wrong_number_of_outputs_fails(tmp_path: Path) -> None:
    """As any other node that returns more than it declares."""

    @node("Become", category="test", outputs=[Output("INT")], expands=True)
    def become() -> Any:
        return Expand(Graph({"x": Call("Const")}), (_link("x"), _link("x")))

    result = make_executor(Calls().registry(become), tmp_path).run_sync(Run(_shown("b", "Become")))
    assert [failure.reason for failure in result.failures] == [
        "returned 2 values, but declares 1 output; make the two agree"
    ]


def test_an_input_may_be_the_link_itself(tmp_path: Path) -> None:
    """A raw link is passed as it is written, to a node that becomes more of what stands behind it; its source runs first."""
    calls = Calls()
    seen: list[Any] = []

    @node("Again", category="test", outputs=[Output("INT")], expands=True)
    def again(ctx: NodeContext, source: Annotated[Any, RawLink()]) -> Any:
        seen.append((source, [name for name, _ in calls.log]))
        copied = ctx.graph[source.node]
        return Expand(Graph({"copy": copied.with_inputs(b=1000)}), (_link("copy"),))

    run = graph(
        c=("Const", {"value": 7}),
        a=("Add", {"a": "c/0", "b": 1}),
        x=("Again", {"source": "a/0"}),
        s=("Show", {"value": "x/0"}),
    )
    assert make_executor(calls.registry(again), tmp_path).run_sync(Run(run)).ui == {"s": {"text": ["1007"]}}
    assert seen == [(Link(NodeId("a"), 0), ["Const", "Add"])]


# what is computed, and what is kept


def test_what_occurs_twice_is_computed_once(tmp_path: Path) -> None:
    """Equal nodes of one expansion, of two, and of the workflow are one; all of them are told of."""
    calls = Calls()
    inner = {
        "p": Call("Add", {"a": 1, "b": 2}),
        "q": Call("Add", {"a": 1, "b": 2}),
        "r": Call("Add", {"a": _link("p"), "b": _link("q")}),
    }
    run = graph(
        k=("Add", {"a": 1, "b": 2}),
        x=("Become", {"value": 1}),
        y=("Become", {"value": 2}),
        z=("Add", {"a": "x/0", "b": "y/0"}),
        w=("Add", {"a": "z/0", "b": "k/0"}),
        s=("Show", {"value": "w/0"}),
    )
    listener = Listener()
    executor = make_executor(calls.registry(_becomes("Become", inner, _link("r"))), tmp_path)
    assert executor.run_sync(Run(run), listener).ui == {"s": {"text": ["15"]}}
    assert sorted(calls.log) == [("Add", (1, 2)), ("Add", (3, 3)), ("Add", (6, 6)), ("Add", (12, 3)), ("Show", 15)]
    told = [event.node for event in (*listener.of(events.NodeCached), *listener.of(events.NodeFinished))]
    assert sorted(told) == sorted(["k", "w", "z", "s", *(f"{o}{i}" for o in "xy" for i in ("", ".p", ".q", ".r"))])


def _slow(log: list[str]) -> NodeSpec:
    @node("Slow", category="test", outputs=[Output("INT")])
    def slow(value: int) -> int:
        log.append(f"Slow {value}")
        time.sleep(0.06)  # long enough to be worth keeping on disk
        return value

    return slow


def test_of_an_expanding_node_only_the_inner_ones_are_on_disk(tmp_path: Path) -> None:
    """A new process expands it again, and finds what it became."""
    log: list[str] = []
    inner = {"p": Call("Slow", {"value": 1}), "q": Call("Slow", {"value": 2})}

    def run() -> tuple[Any, int]:
        specs = (_slow(log), _becomes("Become", inner, _link("p"), _link("q"), log=log))
        registry: Registry = Calls().registry(*specs)
        cache = OutputCache(disk=DiskTier(tmp_path / "cache", registry.codecs))
        executor = make_executor(registry, tmp_path, cache)
        result = executor.run_sync(Run(graph(b=("Become", {})), targets=(), keep=ids("b")))
        return (result.values, sorted(result.cached)), cache.info().objects

    values = {"b": ((1,), (2,))}
    assert run() == ((values, []), 2)
    assert run() == ((values, ["b.p", "b.q"]), 2)
    assert log == ["Become", "Slow 1", "Slow 2", "Become"]


def test_a_node_that_might_have_expanded_and_did_not_is_on_disk_like_any_other(tmp_path: Path) -> None:
    """What it yielded follows from its inputs, and its key counts all that it could have become."""

    @node("Might", category="test", outputs=[Output("INT")], expands=True)
    def might() -> int:
        time.sleep(0.06)
        return 1

    registry = Calls().registry(might)
    cache = OutputCache(disk=DiskTier(tmp_path / "cache", registry.codecs))
    result = make_executor(registry, tmp_path, cache).run_sync(Run(_shown("m", "Might")))
    cache.flush()
    assert (result.ui, cache.info().objects) == ({"s": {"text": ["1"]}}, 1)


def test_in_one_process_an_expansion_is_known_as_a_whole(tmp_path: Path) -> None:
    """The second run neither expands it nor names its inner nodes."""
    log: list[str] = []
    become = _becomes("Become", {"x": Call("Add", {"a": 1})}, _link("x"), log=log)
    executor = make_executor(Calls().registry(become), tmp_path)
    run = Run(graph(b=("Become", {})), targets=ids("b"))
    executor.run_sync(run)
    result = executor.run_sync(run)
    assert (log, result.cached, result.inner) == (["Become"], ids("b"), {})


def test_an_inner_node_with_another_version_makes_the_outer_one_another(tmp_path: Path) -> None:
    """What stands below an expansion does not outlive a change within it."""

    def registry(version: int) -> Registry:
        @node("Inner", category="test", outputs=[Output("INT")], version=version)
        def inner() -> int:
            return version

        @node("Below", category="test", outputs=[Output("INT")], output_node=True)
        def below(value: int) -> Outputs:
            time.sleep(0.06)
            return Outputs((value,), ui={"text": [str(value)]})

        return Calls().registry(inner, below, _becomes("Become", {"x": Call("Inner")}, _link("x")))

    shown = []
    for version in (1, 1, 2):
        known = registry(version)
        executor = make_executor(known, tmp_path, OutputCache(disk=DiskTier(tmp_path / "cache", known.codecs)))
        result = executor.run_sync(Run(graph(b=("Become", {}), s=("Below", {"value": "b/0"}))))
        shown.append((result.ui[NodeId("s")]["text"], result.cached))
    assert shown == [(["1"], ()), (["1"], ids("s")), (["2"], ())]
