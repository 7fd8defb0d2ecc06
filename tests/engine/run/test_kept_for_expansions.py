"""What a run keeps for nodes that may yet become others, and what it must not keep of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from engine.graph.graph import Call, Graph, Link, NodeId
from engine.run.executor import Run
from engine.run.results import Blocked, Expand
from engine.spec import Lazy, NodeSpec, Output, node
from tests.engine.run.toolbox import Calls, graph, ids, make_executor


def _link(name: str, output: int = 0) -> Link:
    return Link(NodeId(name), output)


def _drawing(numbers: Iterator[int], *, pure: bool) -> NodeSpec:
    @node("Draw", category="test", outputs=[Output("INT")], pure=pure)
    def draw(value: int = 0) -> int:
        return next(numbers)

    return draw


@node("Turn", category="test", outputs=[Output("INT")], expands=True)
def turn(value: int, left: int) -> Any:
    """Adds what the node ``draw`` of the workflow yields, ``left`` times."""
    if left == 0:
        return value
    calls = {
        "sum": Call("Add", {"a": value, "b": _link("draw")}),
        "next": Call("Turn", {"value": _link("sum"), "left": left - 1}),
    }
    return Expand(Graph(calls), (_link("next"),))


@pytest.mark.parametrize(("pure", "use_cache"), [(False, True), (True, False)])
def test_what_an_expansion_links_to_ran_once(tmp_path: Path, *, pure: bool, use_cache: bool) -> None:
    """Four turns add the first number that was drawn: an impure node, and any node of a run that keeps nothing, does not run again."""
    registry = Calls().registry(turn, _drawing(itertools.count(100), pure=pure))
    run = graph(draw=("Draw", {}), t=("Turn", {"value": "draw/0", "left": 4}), s=("Show", {"value": "t/0"}))
    result = make_executor(registry, tmp_path).run_sync(Run(run, use_cache=use_cache))
    assert result.ui == {"s": {"text": ["500"]}}
    assert result.ran.count(NodeId("draw")) == 1


def test_a_lazy_input_that_was_not_asked_for_is_no_none(tmp_path: Path) -> None:
    """A result that was made of a None that came over the link is not taken for one without it."""
    values: Iterator[Any] = iter([7, None, 8])

    @node("Source", category="test", outputs=[Output("*")], pure=False)
    def source() -> Any:
        return (next(values),)

    @node("Pass", category="test", outputs=[Output("*")])
    def passed(ctx: Any, a: Annotated[Any, Lazy()]) -> Any:
        from engine.run.results import Demand

        return Demand(frozenset({"a"})) if "a" in ctx.missing else (a,)

    executor = make_executor(Calls().registry(source, passed), tmp_path)
    run = graph(x=("Source", {}), p=("Pass", {"a": "x/0"}))
    found = [executor.run_sync(Run(run, targets=ids("p"), keep=ids("p"))).values[NodeId("p")] for _ in range(3)]
    assert found == [((7,),), ((None,),), ((8,),)]


def test_a_list_beside_links_is_spread_like_any_other(tmp_path: Path) -> None:
    """A list output of an expansion that is a plain list has as many elements."""

    @node("Mixed", category="test", outputs=[Output("INT", is_list=True), Output("INT")], expands=True)
    def mixed() -> Any:
        return Expand(Graph({"a": Call("Add", {"a": 1})}), ([1, 2, 3], _link("a")))

    run = graph(m=("Mixed", {}), add=("Add", {"a": "m/0", "b": "m/1"}))
    result = make_executor(Calls().registry(mixed), tmp_path).run_sync(Run(run, targets=ids("add"), keep=ids("add")))
    assert result.values[NodeId("add")] == ((3, 4, 5),)


def test_output_nodes_within_an_expansion_show_themselves_every_time(tmp_path: Path) -> None:
    """The second run expands again, two levels deep, and the inner file is placed anew."""

    @node("Inner", category="test", outputs=[Output("INT")], expands=True)
    def inner(value: int) -> Any:
        calls = {"a": Call("Add", {"a": value}), "save": Call("Save", {"value": _link("a")})}
        return Expand(Graph(calls), (_link("a"),))

    @node("Outer", category="test", outputs=[Output("INT")], expands=True)
    def outer(value: int = 1) -> Any:
        return Expand(Graph({"i": Call("Inner", {"value": value})}), (_link("i"),))

    executor = make_executor(Calls().registry(inner, outer), tmp_path)
    run = Run(graph(o=("Outer", {})), targets=ids("o"))
    names = [executor.run_sync(run).ui[NodeId("o.i.save")]["texts"][0]["filename"] for _ in range(2)]
    assert names == ["out_00001_.txt", "out_00002_.txt"]


def test_a_blocked_output_of_an_expansion_leaves_the_others(tmp_path: Path) -> None:
    """Behind the closed door nothing runs; the other output comes."""

    @node("Door", category="test", outputs=[Output("INT")])
    def door(value: int) -> Any:
        return Blocked()

    @node("Both", category="test", outputs=[Output("INT"), Output("INT")], expands=True)
    def both() -> Any:
        calls = {
            "door": Call("Door", {"value": 1}),
            "behind": Call("Add", {"a": _link("door")}),
            "good": Call("Add", {"a": 4}),
        }
        return Expand(Graph(calls), (_link("behind"), _link("good")))

    run = graph(b=("Both", {}), no=("Show", {"value": "b/0"}), yes=("Show", {"value": "b/1"}))
    result = make_executor(Calls().registry(door, both), tmp_path).run_sync(Run(run))
    assert result.status == "succeeded"
    assert result.ui == {"yes": {"text": ["5"]}}
    assert not {"b.behind", "no"} & set(result.ran)


def test_what_calls_exit_while_it_is_bound_fails_alone(tmp_path: Path) -> None:
    """In the workflow and in an expansion: the node fails, and the executor serves the next run."""

    def leave(**inputs: Any) -> Any:
        raise SystemExit(3)

    @node("Leaves", category="test", outputs=[Output("INT")], fingerprint=leave)
    def leaves(value: int = 0) -> int:
        return value

    @node("Becomes", category="test", outputs=[Output("INT")], expands=True)
    def becomes() -> Any:
        return Expand(Graph({"l": Call("Leaves", {"value": 1})}), (_link("l"),))

    executor = make_executor(Calls().registry(leaves, becomes), tmp_path)
    for name, type_ in (("l", "Leaves"), ("b", "Becomes")):
        calls: dict[str, Any] = {name: (type_, {}), "s": ("Show", {"value": f"{name}/0"})}
        run = graph(**calls, fine=("Show", {"value": 1}))
        result = executor.run_sync(Run(run))
        (failure,) = result.failures
        assert "called sys.exit(3)" in str(failure)
        assert failure.shown == name
        assert result.ui == {"fine": {"text": ["1"]}}


def test_a_failure_before_anything_ran_ends_a_run_that_ends_with_failures(tmp_path: Path) -> None:
    """A node that cannot be bound is a failure like any other."""

    def fails(**inputs: Any) -> Any:
        raise ValueError("unreadable")

    @node("Unreadable", category="test", outputs=[Output("INT")], fingerprint=fails)
    def unreadable() -> int:
        return 1

    run = graph(u=("Unreadable", {}), s=("Show", {"value": "u/0"}), other=("Show", {"value": 2}))
    result = make_executor(Calls().registry(unreadable), tmp_path).run_sync(Run(run, stop_on_failure=True))
    assert result.status == "failed"
    assert result.ran == ()
