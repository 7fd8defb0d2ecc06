"""Loops that carry state: what they compute, how often, and what is kept of it."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import pytest

from engine.graph.graph import Call, Graph, Link, NodeId
from engine.graph.validate import validate
from engine.run import events
from engine.run.executor import Run
from nodes.loops import Chain
from tests.engine.run.toolbox import Listener, graph
from tests.nodes.runs import Bench


def math_node(expression: str, **variables: Any) -> tuple[str, dict[str, Any]]:
    return "MathExpression", {"expression": expression, **variables}


def outcome(bench: Bench, loop: Graph) -> tuple[list[Any], list[Any], list[Any]]:
    """Carried, collected and count of the loop that ends at ``r``."""
    result = bench.run(loop)
    assert result.status == "succeeded", result.failures
    carried, collected, count = result.values[NodeId("r")]
    return list(carried), list(collected), list(count)


FACTORIAL = graph(
    s=("LoopStart", {"count": 6, "initial": 1}),
    m=math_node("a * (b + 1)", a="s/3", b="s/2"),
    r=("LoopEnd", {"loop": "s/0", "carried": "m/0", "collect": "m/0"}),
)


def test_a_counted_loop_carries_what_each_turn_made_to_the_next(bench: Bench) -> None:
    """Factorials: each turn multiplies by its number; all of them are collected in order."""
    assert outcome(bench, FACTORIAL) == ([720], [1, 2, 6, 24, 120, 720], [6])


def test_the_loop_is_valid_and_its_turns_are_seen_at_the_nodes_of_the_workflow(bench: Bench) -> None:
    """There is nothing to complain of; events of a copy name the node it is a copy of."""
    shown = FACTORIAL.with_call("p", Call("PreviewAny", {"source": Link(NodeId("r"), 1)}))
    assert validate(shown, bench.registry()) == []
    listener = Listener()
    assert bench.executor().run_sync(Run(shown), listener).ui == {"p": {"text": ["1", "2", "6", "24", "120", "720"]}}
    assert [event.shown for event in listener.of(events.NodeStarted)].count("m") == 6
    assert listener.of(events.NodeWarning) == []


def test_a_loop_over_items_goes_through_them_in_order(bench: Bench) -> None:
    """With the running total carried, and each item and index at hand."""
    total = graph(
        n=("ListLines", {"text": "ant\nbear\ncat"}),
        s=("LoopStart", {"items": "n/0", "initial": ""}),
        f=("FormatText", {"template": "{a}{b}:{c} ", "a": "s/3", "b": "s/2", "c": "s/1"}),
        r=("LoopEnd", {"loop": "s/0", "carried": "f/0", "collect": "s/1"}),
    )
    assert outcome(bench, total) == (["0:ant 1:bear 2:cat "], ["ant", "bear", "cat"], [3])


@pytest.mark.parametrize(("count", "expected"), [(2, 2), (9, 4), (-1, 4), (1, 1)])
def test_a_count_limits_the_items(bench: Bench, count: int, expected: int) -> None:
    """The smaller number counts."""
    loop = graph(
        n=("ListRange", {"start": 5, "stop": 9}),
        s=("LoopStart", {"items": "n/0", "count": count}),
        m=math_node("a * 2", a="s/1"),
        r=("LoopEnd", {"loop": "s/0", "collect": "m/0"}),
    )
    assert outcome(bench, loop) == ([None], [10, 12, 14, 16][:expected], [expected])


@pytest.mark.parametrize("start", [{"items": "n/0"}, {"count": 0}])
def test_a_loop_without_turns_gives_what_it_began_with_and_runs_nothing(bench: Bench, start: dict[str, Any]) -> None:
    """Its body would fail if it ran."""
    loop = graph(
        n=("ListRange", {"stop": 0}),
        s=("LoopStart", {"initial": 7, **start}),
        f=("Fail", {"value": "s/3"}),
        r=("LoopEnd", {"loop": "s/0", "carried": "f/0", "collect": "f/0"}),
        p=("PreviewAny", {"source": "r/0"}),
    )
    assert outcome(bench, loop) == ([7], [], [0])


def test_what_does_not_depend_on_the_start_runs_once(bench: Bench) -> None:
    """It lies in the loop, and is given to every turn; the turns themselves run each."""
    loop = graph(
        s=("LoopStart", {"count": 5, "initial": 0}),
        once=("Log", {"value": 10}),
        m=math_node("a + b", a="s/3", b="once/0"),
        each=("Log", {"value": "m/0"}),
        r=("LoopEnd", {"loop": "s/0", "carried": "each/0"}),
    )
    assert outcome(bench, loop) == ([50], [], [5])
    assert bench.log == [10, 10, 20, 30, 40, 50]


def test_the_index_and_the_item_may_go_straight_to_the_end(bench: Bench) -> None:
    """Without any node between."""
    loop = graph(
        n=("ListRange", {"start": 3, "stop": 6}),
        s=("LoopStart", {"items": "n/0"}),
        r=("LoopEnd", {"loop": "s/0", "carried": "s/1", "collect": "s/2"}),
    )
    assert outcome(bench, loop) == ([5], [0, 1, 2], [3])


def test_whole_lists_are_carried_and_collected(bench: Bench) -> None:
    """A list on the carried wire stays one: each turn makes every number of it larger."""
    loop = graph(
        n=("ListRange", {"start": 0, "stop": 3}),
        s=("LoopStart", {"count": 3, "initial": "n/0"}),
        m=math_node("a + 10", a="s/3"),
        r=("LoopEnd", {"loop": "s/0", "carried": "m/0", "collect": "m/0"}),
    )
    assert outcome(bench, loop) == ([30, 31, 32], [10, 11, 12, 20, 21, 22, 30, 31, 32], [3])


def while_loop(limit: int, start: dict[str, Any], condition: str = "a < 200") -> Graph:
    return graph(
        s=("LoopStart", {"initial": limit, **start}),
        m=math_node("a + 1", a="s/3"),
        c=math_node(condition, a="m/0"),
        r=("LoopEnd", {"loop": "s/0", "carried": "m/0", "collect": "m/0", "go_on": "c/2"}),
    )


def test_a_loop_with_a_condition_takes_as_many_turns_as_it_needs(bench: Bench) -> None:
    """Two hundred of them, none computed in advance, in a second or two; node ids do not grow with the turns."""
    began = time.perf_counter()
    result = bench.run(while_loop(0, {}))
    assert time.perf_counter() - began < 5
    assert [list(slot) for slot in result.values[NodeId("r")]] == [[200], list(range(1, 201)), [200]]
    assert max(len(node) for node in result.inner) < 20
    assert len([node for node in result.ran if node.endswith(".m")]) == 199


@pytest.mark.parametrize(("start", "turns"), [({"count": 3}, 3), ({"items": "x/0"}, 4), ({"count": 1}, 1)])
def test_items_and_count_limit_a_loop_with_a_condition(bench: Bench, start: dict[str, Any], turns: int) -> None:
    """Whatever the condition says."""
    loop = while_loop(0, {}).with_call("x", Call("ListRange", {"start": 0, "stop": 4}))
    links = {name: Link(NodeId("x"), 0) if value == "x/0" else value for name, value in start.items()}
    limited = loop.with_call("s", loop["s"].with_inputs(**links))
    assert outcome(bench, limited) == ([turns], list(range(1, turns + 1)), [turns])


def test_a_condition_that_is_false_at_once_leaves_one_turn(bench: Bench) -> None:
    """The first turn has been when it is asked."""
    assert outcome(bench, while_loop(500, {})) == ([501], [501], [1])


def test_newtons_method_stops_when_it_is_near_enough(bench: Bench) -> None:
    """A loop somebody could want: the square root of 2, by the change of each turn."""
    newton = graph(
        s=("LoopStart", {"initial": 1.0}),
        x=math_node("(a + 2 / a) / 2", a="s/3"),
        c=math_node("abs(a - b) > 1e-12", a="x/1", b="s/3"),
        r=("LoopEnd", {"loop": "s/0", "carried": "x/1", "go_on": "c/2"}),
    )
    carried, _, count = outcome(bench, newton)
    assert math.isclose(carried[0], math.sqrt(2), rel_tol=1e-15)
    assert count == [6]


def nested(inner_start: dict[str, Any], inner_end: dict[str, Any]) -> Graph:
    """The outer loop's turns 0, 1, 2 over an inner loop that adds its index to what is carried, twice as much in each outer turn."""
    return graph(
        o=("LoopStart", {"count": 3, "initial": 0}),
        i=("LoopStart", {"initial": "o/3", **inner_start}),
        m=math_node("a + b * 10 + c", a="i/3", b="o/2", c="i/2"),
        go=math_node("a < 2", a="i/2"),
        e=("LoopEnd", {"loop": "i/0", "carried": "m/0", "collect": "m/0", **inner_end}),
        t=("Sum", {"values": "e/1"}),
        r=("LoopEnd", {"loop": "o/0", "carried": "e/0", "collect": "t/0"}),
    )


@pytest.mark.parametrize(("start", "end"), [({"count": 3}, {}), ({"count": -1}, {"go_on": Link(NodeId("go"), 2)})])
def test_nested_loops(bench: Bench, start: dict[str, Any], end: dict[str, Any]) -> None:
    """Both kinds of inner loop in a counted outer one give what two nested loops of Python give."""
    value, sums = 0, []
    for outer in range(3):
        collected = []
        for inner in range(3):
            value += outer * 10 + inner
            collected.append(value)
        sums.append(sum(collected))
    assert outcome(bench, nested(start, end)) == ([value], sums, [3])


def test_three_loops_within_each_other_and_one_with_a_condition_around(bench: Bench) -> None:
    """Count the innermost turns: 2 * 3 in each of the turns of a loop that ends at 20 or more."""
    loops = graph(
        a=("LoopStart", {"initial": 0}),
        b=("LoopStart", {"count": 2, "initial": "a/3"}),
        c=("LoopStart", {"count": 3, "initial": "b/3"}),
        m=math_node("a + 1", a="c/3"),
        ce=("LoopEnd", {"loop": "c/0", "carried": "m/0"}),
        be=("LoopEnd", {"loop": "b/0", "carried": "ce/0", "collect": "ce/0"}),
        go=math_node("a < 20", a="be/0"),
        r=("LoopEnd", {"loop": "a/0", "carried": "be/0", "collect": "be/1", "go_on": "go/2"}),
    )
    assert outcome(bench, loops) == ([24], [3, 6, 9, 12, 15, 18, 21, 24], [4])


def test_an_inner_loop_that_starts_outside_of_the_outer_one(bench: Bench) -> None:
    """Its start does not depend on the outer loop, so it is shared; its body does, so it is copied."""
    shared = graph(
        o=("LoopStart", {"count": 3}),
        i=("LoopStart", {"count": 2, "initial": 0}),
        own=("Log", {"value": "i/2"}),
        m=math_node("a + b * 10 + c", a="i/3", b="o/2", c="own/0"),
        e=("LoopEnd", {"loop": "i/0", "carried": "m/0"}),
        r=("LoopEnd", {"loop": "o/0", "collect": "e/0"}),
    )
    assert outcome(bench, shared)[1] == [1, 21, 41]
    assert sorted(bench.log) == [0, 1]


def test_two_loops_with_equal_starts_do_not_mix(bench: Bench) -> None:
    """The starts are computed once for both; each has its own body."""
    two = graph(
        s1=("LoopStart", {"count": 3, "initial": 1}),
        m1=math_node("a * 2", a="s1/3"),
        e1=("LoopEnd", {"loop": "s1/0", "carried": "m1/0"}),
        s2=("LoopStart", {"count": 3, "initial": 1}),
        m2=math_node("a * 3", a="s2/3"),
        e2=("LoopEnd", {"loop": "s2/0", "carried": "m2/0"}),
        r=("MakeList", {"value0": "e1/0", "value1": "e2/0"}),
    )
    assert bench.values(two) == [8, 27]


def test_a_loop_after_a_loop(bench: Bench) -> None:
    """What the first collected is gone through by the second."""
    chain = graph(
        s1=("LoopStart", {"count": 4}),
        m1=math_node("a * a", a="s1/2"),
        e1=("LoopEnd", {"loop": "s1/0", "collect": "m1/0"}),
        s2=("LoopStart", {"items": "e1/1", "initial": 0}),
        m2=math_node("a + b", a="s2/3", b="s2/1"),
        r=("LoopEnd", {"loop": "s2/0", "carried": "m2/0"}),
    )
    assert outcome(bench, chain) == ([14], [], [4])


def test_a_loop_that_is_known_is_not_run_again_and_a_longer_one_goes_on(bench: Bench) -> None:
    """A larger count computes the turns that are new, though each turn needs the one before."""
    loop = graph(
        s=("LoopStart", {"count": 3, "initial": 1}),
        m=("Log", {"value": "s/3"}),
        d=math_node("a * 2", a="m/0"),
        r=("LoopEnd", {"loop": "s/0", "carried": "d/0"}),
    )
    executor = bench.executor()
    bench.run(loop, executor=executor)
    assert bench.run(loop, executor=executor).ran == ()
    assert bench.log == [1, 2, 4]
    longer = bench.run(loop.with_call("s", loop["s"].with_inputs(count=5)), executor=executor)
    assert bench.log == [1, 2, 4, 8, 16]
    assert longer.values[NodeId("r")][0] == (32,)


def test_an_item_more_leaves_the_others_as_they_are(bench: Bench) -> None:
    """Wherever in the list it comes, and whatever follows the loop: what was made of the others is known."""
    loop = graph(
        n=("ListLines", {"text": "ant\ncat"}),
        s=("LoopStart", {"items": "n/0"}),
        m=("Log", {"value": "s/1"}),
        e=("LoopEnd", {"loop": "s/0", "collect": "m/0"}),
        r=("Log", {"value": "e/1"}),
    )
    executor = bench.executor()
    bench.run(loop, executor=executor)
    assert bench.log == ["ant", "cat"]  # what the second logs is known from the first by then
    more = loop.with_call("n", loop["n"].with_inputs(text="ant\nbear\ncat"))
    assert bench.run(more, executor=executor).values[NodeId("r")] == (("ant", "bear", "cat"),)
    assert bench.log == ["ant", "cat", "bear"]


def test_pictures_go_through_a_loop_and_another_process_computes_no_turn_again(bench: Bench) -> None:
    """Each turn adds light, and takes long enough to be kept on disk, where the next process finds it."""
    loop = graph(
        e=("EmptyImage", {"width": 4, "height": 2, "color": 0}),
        s=("LoopStart", {"count": 3, "initial": "e/0"}),
        b=("Brighten", {"image": "s/3"}),
        r=("LoopEnd", {"loop": "s/0", "carried": "b/0", "collect": "b/0"}),
    )
    for count in (3, 3, 4):
        with contextlib.closing(bench.executor(disk=True)) as executor:
            result = bench.run(loop.with_call("s", loop["s"].with_inputs(count=count)), executor=executor)
        carried, collected, _ = result.values[NodeId("r")]
        assert [round(image.mean().item(), 4) for image in collected] == [0.5, 0.75, 0.875, 0.9375][:count]
        assert carried[0].equal(collected[-1])
        assert bench.log == ["brighten"] * count


def test_pictures_of_a_loop_are_saved_in_every_run(bench: Bench) -> None:
    """A run that computes nothing puts its files as one that does, in this process and in the next."""
    loop = graph(
        e=("EmptyImage", {"width": 4, "height": 2, "color": 0}),
        s=("LoopStart", {"count": 2, "initial": "e/0"}),
        b=("Brighten", {"image": "s/3"}),
        r=("LoopEnd", {"loop": "s/0", "carried": "b/0", "collect": "b/0"}),
        f=("SaveImages", {"images": "r/1", "names": "light"}),
    )
    for _ in range(2):
        with contextlib.closing(bench.executor(disk=True)) as executor:
            for _ in range(2):
                assert executor.run_sync(Run(loop)).status == "succeeded"
    again = ["", "_2", "_3", "_4"]
    assert sorted(path.name for path in (bench.folder / "output").iterdir()) == sorted(
        f"light_{index}{suffix}.png" for index in (1, 2) for suffix in again
    )
    assert bench.log == ["brighten"] * 2


def test_a_branch_not_taken_in_a_turn_does_not_run_there(bench: Bench) -> None:
    """Each turn decides for itself."""
    loop = graph(
        s=("LoopStart", {"count": 4}),
        even=math_node("a % 2 == 0", a="s/2"),
        logged=("Log", {"value": "s/2"}),
        w=("Switch", {"condition": "even/2", "if_true": "logged/0", "if_false": -1}),
        r=("LoopEnd", {"loop": "s/0", "collect": "w/0"}),
    )
    assert outcome(bench, loop)[1] == [0, -1, 2, -1]
    assert bench.log == [0, 2]


def test_a_failure_in_a_turn_names_the_node_of_the_workflow(bench: Bench) -> None:
    """The third turn divides by zero."""
    loop = graph(
        s=("LoopStart", {"count": 5}),
        m=math_node("1 / (2 - a)", a="s/2"),
        r=("LoopEnd", {"loop": "s/0", "collect": "m/1"}),
    )
    failure = bench.failure(loop)
    assert "node m" in failure
    assert "expected a number to divide by, found 0" in failure


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        (
            graph(s=("LoopStart", {}), r=("LoopEnd", {"loop": "s/0", "carried": "s/3"})),
            "node r (LoopEnd), input go_on: expected an end of the loop",
        ),
        (
            graph(s=("LoopStart", {"count": 2}), w=("Log", {"value": "s/0"}), r=("LoopEnd", {"loop": "w/0"})),
            "node r (LoopEnd), input loop: expected a link to the loop output of a LoopStart",
        ),
        (
            graph(s=("LoopStart", {"count": 100_001}), r=("LoopEnd", {"loop": "s/0"})),
            "node s (LoopStart), input count: expected at most 100000 turns, found 100001",
        ),
    ],
)
def test_a_loop_that_is_none_is_said(bench: Bench, loop: Graph, message: str) -> None:
    """The message names what is missing."""
    assert message in bench.failure(loop)


def test_what_hangs_on_a_loop_without_ending_in_it_is_warned_of(bench: Bench) -> None:
    """It sees the first turn alone; what ends in the loop, or comes behind it, is not named."""
    loose = graph(
        s=("LoopStart", {"count": 3}),
        m=math_node("a + 1", a="s/2"),
        show=("PreviewAny", {"source": "m/0"}),
        r=("LoopEnd", {"loop": "s/0", "collect": "m/0"}),
        after=("PreviewAny", {"source": "r/1"}),
    )
    listener = Listener()
    result = bench.executor().run_sync(Run(loose), listener)
    assert result.ui == {"show": {"text": ["1"]}, "after": {"text": ["1", "2", "3"]}}
    (warning,) = listener.of(events.NodeWarning)
    assert warning.message.startswith("what leads to node show (PreviewAny) begins in this loop")


def test_a_chain_counts_its_own_bytes_and_comes_apart_in_order() -> None:
    """However long it is, nothing recurses."""

    class Big:
        nbytes = 100

    chain = Chain(None, [Big()])
    for number in range(10_000):
        chain = Chain(chain, [number, {"samples": Big()}])
    assert chain.nbytes == 100
    assert chain.unwind()[1:6:2] == [0, 1, 2]
    assert len(chain.unwind()) == 20_001
