"""Runs of small graphs: what runs, what is told, what is kept, and what happens when nodes misbehave."""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

from engine.errors import InputError, UsageError
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.run import events
from engine.run.cache import OutputCache
from engine.run.cancel import CancelToken
from engine.run.checkpoint import CheckpointStore
from engine.run.context import NodeContext
from engine.run.executor import Run
from engine.run.results import Blocked, Expand, Outputs
from engine.spec import Output, Socket, node
from tests.engine.run.toolbox import Calls, Listener, graph, ids, make_executor

DOUBLE = graph(a=("Const", {"value": 2}), b=("Add", {"a": "a/0", "b": 3}), show=("Show", {"value": "b/0"}))


def test_a_graph_runs_to_its_output_and_tells_the_way(tmp_path: Path) -> None:
    """Sources run first, the output's ui data is in the result, and each node is told of from start to finish."""
    listener = Listener()
    result = make_executor(Calls().registry(), tmp_path).run_sync(Run(DOUBLE, job="j"), listener)
    assert (result.status, result.ran, result.ui) == ("succeeded", ids("a", "b", "show"), {"show": {"text": ["5"]}})
    assert listener.events[0] == events.JobStarted("j", 3)
    assert [e.node for e in listener.of(events.NodeStarted)] == ["a", "b", "show"]
    assert [(e.node, e.ui) for e in listener.of(events.NodeFinished)][-1] == ("show", {"text": ["5"]})
    assert listener.events[-1] == events.JobFinished("j", "succeeded")


def test_what_is_known_is_not_computed_again(tmp_path: Path) -> None:
    """The second run takes the output from the cache, needs none of its ancestors, and still shows it."""
    calls, listener = Calls(), Listener()
    executor = make_executor(calls.registry(), tmp_path)
    executor.run_sync(Run(DOUBLE))
    calls.log.clear()
    result = executor.run_sync(Run(DOUBLE, job="again"), listener)
    assert calls.log == []
    assert (result.ran, result.cached, result.ui) == ((), ids("show"), {"show": {"text": ["5"]}})
    assert listener.of(events.NodeCached) == [
        events.NodeCached("again", NodeId("show"), NodeId("show"), "memory", {"text": ["5"]})
    ]


def test_only_what_changed_and_what_follows_runs(tmp_path: Path) -> None:
    """A changed literal reruns its node and its descendants, on the cached values of the rest."""
    calls = Calls()
    executor = make_executor(calls.registry(), tmp_path)
    executor.run_sync(Run(DOUBLE))
    calls.log.clear()
    result = executor.run_sync(Run(DOUBLE.with_call("b", DOUBLE["b"].with_inputs(b=10))))
    assert calls.log == [("Add", (2, 10)), ("Show", 12)]
    assert result.cached == ids("a")


def test_without_the_cache_everything_runs_and_nothing_is_kept(tmp_path: Path) -> None:
    """``use_cache=False`` neither reads nor writes results."""
    calls = Calls()
    executor = make_executor(calls.registry(), tmp_path)
    executor.run_sync(Run(DOUBLE, use_cache=False))
    executor.run_sync(Run(DOUBLE, use_cache=False))
    executor.run_sync(Run(DOUBLE))
    assert [name for name, _ in calls.log] == ["Const", "Add", "Show"] * 3


def test_equal_nodes_are_computed_once(tmp_path: Path) -> None:
    """Two nodes with equal keys compute once; the second is told as cached by this run, and both place their files."""
    calls, listener = Calls(), Listener()
    twins = graph(
        a=("Const", {"value": 7}),
        b=("Const", {"value": 7}),
        x=("Save", {"value": "a/0"}),
        y=("Save", {"value": "b/0"}),
    )
    result = make_executor(calls.registry(), tmp_path).run_sync(Run(twins), listener)
    assert calls.log == [("Const", 7), ("Save", 7)]
    assert {e.node: e.tier for e in listener.of(events.NodeCached)} == {"b": "run", "y": "run"}
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == ["out_00001_.txt", "out_00002_.txt"]
    assert result.ui[NodeId("y")]["texts"] == [{"filename": "out_00002_.txt", "subfolder": "", "type": "output"}]


def test_a_cached_output_still_puts_its_files(tmp_path: Path) -> None:
    """A run that computes nothing writes the files again, under the next number."""
    executor = make_executor(Calls().registry(), tmp_path)
    saving = graph(a=("Const", {"value": 7}), s=("Save", {"value": "a/0", "prefix": "deep/er"}))
    executor.run_sync(Run(saving))
    result = executor.run_sync(Run(saving))
    assert result.ran == ()
    assert result.ui == {"s": {"texts": [{"filename": "er_00002_.txt", "subfolder": "deep", "type": "output"}]}}
    assert (tmp_path / "output/deep/er_00002_.txt").read_text() == "7"


def test_values_can_be_kept_for_the_caller(tmp_path: Path) -> None:
    """A kept node runs whether or not it is a target; its value comes back slot by slot."""
    executor = make_executor(Calls().registry(), tmp_path)
    assert executor.run_sync(Run(DOUBLE, targets=(), keep=ids("b"))).values == {"b": ((5,),)}
    assert executor.run_sync(Run(DOUBLE, targets=(), keep=ids("b"))).values == {"b": ((5,),)}


def test_a_target_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    """The message names the node and those there are."""
    with pytest.raises(UsageError, match="no node 9 in the workflow; its nodes are a, b, show"):
        make_executor(Calls().registry(), tmp_path).run_sync(Run(DOUBLE, targets=ids("9")))


def test_what_does_not_depend_on_a_failure_goes_on_and_every_failure_is_told(tmp_path: Path) -> None:
    """Two nodes fail, their dependants are given up, the third output comes."""
    broken = graph(
        f=("Fail", {"value": 1}),
        g=("Fail", {"value": 2}),
        a=("Const", {"value": 3}),
        x=("Show", {"value": "f/0"}),
        y=("Show", {"value": "g/0"}),
        z=("Show", {"value": "a/0"}),
    )
    result = make_executor(Calls().registry(), tmp_path).run_sync(Run(broken))
    assert result.status == "failed"
    assert sorted(str(failure) for failure in result.failures) == [
        "node f (Fail): ValueError: no good: 1",
        "node g (Fail): ValueError: no good: 2",
    ]
    assert result.ui == {"z": {"text": ["3"]}}


def _fails_with(body: Callable[[], Any], outputs: list[Output], tmp_path: Path) -> str:
    @node("Bad", category="test", outputs=outputs, output_node=True)
    def bad() -> Any:
        return body()

    result = make_executor(Calls().registry(bad), tmp_path).run_sync(Run(Graph({"1": Call("Bad")})))
    assert result.status == "failed"
    return str(result.failures[0])


def _raise(error: BaseException) -> Callable[[], Any]:
    def body() -> Any:
        raise error

    return body


@pytest.mark.parametrize(
    ("body", "outputs", "message"),
    [
        (lambda: (1, 2), ["INT"], "node 1 (Bad): returned 2 values, but declares 1 output; make the two agree"),
        (lambda: 1, [], "node 1 (Bad): returned 1 value, but declares 0 outputs; make the two agree"),
        (
            lambda: None,
            ["INT"],
            "node 1 (Bad): returned nothing; expected 1 output: does its function end in a return?",
        ),
        (
            lambda: Outputs((1,)),
            ["INT", "INT"],
            "node 1 (Bad): returned 1 value, but declares 2 outputs; make the two agree",
        ),
        (
            lambda: Expand(Graph(), ()),
            [],
            "node 1 (Bad): returned an Expand, but is not declared with expands=True; add that to its @node",
        ),
        (_raise(InputError("too wide", input="image")), [], "node 1 (Bad), input image: too wide"),
        (
            _raise(SystemExit(3)),
            [],
            "node 1 (Bad): called sys.exit(3); a node ends by returning, or by raising an error that says what is wrong",
        ),
        (_raise(StopIteration()), [], "node 1 (Bad): StopIteration"),
        (_raise(RecursionError("deep")), [], "node 1 (Bad): RecursionError: deep"),
    ],
)
def test_whatever_a_node_does_is_one_line_about_that_node(
    body: Any, outputs: list[str], message: str, tmp_path: Path
) -> None:
    """Wrong counts, wrong results and every kind of exception fail the node and nothing else."""
    assert _fails_with(body, [Output(type_) for type_ in outputs], tmp_path) == message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (graph(a=("Nope", {}), s=("Show", {"value": "a/0"})), "node a (Nope): no such node type is loaded"),
        (
            graph(s=("Show", {"value": "x/0"})),
            "node s (Show), input value: linked to node x, which is not in the workflow",
        ),
        (
            graph(a=("Const", {}), s=("Show", {"value": "a/4"})),
            "input value: linked to output 4 of node a (Const), which has 1",
        ),
        (graph(s=("Show", {})), "node s (Show): TypeError"),
        (
            graph(r=("Read", {"file": "gone.txt"}), s=("Show", {"value": "r/0"})),
            "node r (Read), input file: no file gone.txt",
        ),
        (
            graph(a=("Add", {"a": "b/0"}), b=("Add", {"a": "a/0"}), s=("Show", {"value": "a/0"})),
            "waits for its own result",
        ),
    ],
)
def test_a_graph_that_was_not_validated_fails_in_one_line_too(wrong: Graph, message: str, tmp_path: Path) -> None:
    """Unknown types, dangling links, missing inputs, missing files and cycles neither hang nor raise."""
    result = make_executor(Calls().registry(), tmp_path).run_sync(Run(wrong))
    assert result.status == "failed"
    assert message in str(result.failures[0])


def test_a_missing_file_fails_before_anything_is_computed(tmp_path: Path) -> None:
    """What needs the broken node is given up first, so nothing runs in vain."""
    calls = Calls()
    mixed = graph(
        a=("Const", {}), r=("Read", {"file": "gone"}), x=("Add", {"a": "a/0", "b": "r/0"}), s=("Show", {"value": "x/0"})
    )
    assert make_executor(calls.registry(), tmp_path).run_sync(Run(mixed)).status == "failed"
    assert calls.log == []


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    """The same content under another name is known; another content under the same name is not."""
    calls = Calls()
    executor = make_executor(calls.registry(), tmp_path)
    for name, content in [("a.txt", "1"), ("b.txt", "1")]:
        (tmp_path / "input" / name).write_text(content)
    executor.run_sync(Run(graph(r=("Read", {"file": "a.txt"})), targets=ids("r")))
    executor.run_sync(Run(graph(r=("Read", {"file": "b.txt"})), targets=ids("r")))
    assert calls.log == [("Read", "a.txt")]
    (tmp_path / "input/a.txt").write_text("2")
    assert executor.run_sync(Run(graph(r=("Read", {"file": "a.txt"})), targets=(), keep=ids("r"))).values == {
        "r": (("2",),)
    }


def test_lists_are_spread_over_calls_and_shorter_ones_repeat_their_last(tmp_path: Path) -> None:
    """A node is called once for each element of its longest input."""
    spread = graph(
        a=("Spread", {"count": 3}),
        b=("Spread", {"count": 2}),
        c=("Add", {"a": "a/0", "b": "b/0"}),
        s=("Show", {"value": "c/0"}),
    )
    assert make_executor(Calls().registry(), tmp_path).run_sync(Run(spread)).ui == {"s": {"text": ["0", "2", "3"]}}


def test_lazy_inputs_are_computed_only_when_demanded(tmp_path: Path) -> None:
    """The branch that is not asked for never runs, so it may even be broken."""
    calls = Calls()
    lazy = graph(
        a=("Const", {"value": 5}),
        b=("Fail", {}),
        p=("Pick", {"first": True, "a": "a/0", "b": "b/0"}),
        s=("Show", {"value": "p/0"}),
    )
    assert make_executor(calls.registry(), tmp_path).run_sync(Run(lazy)).ui == {"s": {"text": ["5"]}}
    assert [name for name, _ in calls.log] == ["Pick", "Const", "Pick", "Show"]


@node("Repeat", category="test", outputs=[Output("INT")], expands=True)
def repeat(value: int, times: int = 3) -> Any:
    """value + times, one Add a time."""
    inner = {
        str(index): Call("Add", {"a": value if index == 0 else Link(NodeId(str(index - 1)), 0), "b": 1})
        for index in range(times)
    }
    return Expand(Graph(inner), (Link(NodeId(str(times - 1)), 0),))


def test_a_node_may_become_a_subgraph_whose_nodes_are_cached_by_themselves(tmp_path: Path) -> None:
    """Inner nodes run under the outer one's name, and hit when another expansion has the same ones."""
    calls = Calls()
    executor = make_executor(calls.registry(repeat), tmp_path)
    looped = graph(a=("Const", {"value": 10}), r=("Repeat", {"value": "a/0", "times": 2}), s=("Show", {"value": "r/0"}))
    result = executor.run_sync(Run(looped))
    assert (result.status, result.ui) == ("succeeded", {"s": {"text": ["12"]}})
    assert result.ran == ids("a", "r.0", "r.1", "r", "s")
    calls.log.clear()
    assert executor.run_sync(Run(looped.with_call("r", looped["r"].with_inputs(times=3)))).ui == {"s": {"text": ["13"]}}
    assert calls.log == [("Add", (12, 1)), ("Show", 13)]


@node("Grow", category="test", outputs=[Output("INT")], expands=True)
def grow(value: int) -> Any:
    """A node that becomes itself, for ever."""
    return Expand(Graph({"g": Call("Grow", {"value": value})}), (Link(NodeId("g"), 0),))


def test_a_node_that_becomes_itself_fails_instead_of_hanging(tmp_path: Path) -> None:
    """Its inner twin is the node itself, which waits for its own result."""
    result = make_executor(Calls().registry(grow), tmp_path).run_sync(
        Run(graph(g=("Grow", {"value": 1}), s=("Show", {"value": "g/0"})))
    )
    assert result.status == "failed"
    assert "waits for its own result" in str(result.failures[0])


@node("Gate", category="test", outputs=[Output("INT"), Output("INT")])
def gate(value: int) -> Any:
    """Even numbers by the first door, odd ones by the second."""
    closed = Blocked(f"{value} does not go here")
    return (value, closed) if value % 2 == 0 else (closed, value)


def test_a_blocked_value_stops_what_depends_on_it_alone(tmp_path: Path) -> None:
    """Down the open door the run goes on; down the closed one nothing runs, and the reason is told once."""
    calls, listener = Calls(), Listener()
    doors = graph(
        g=("Gate", {"value": 4}),
        even=("Show", {"value": "g/0"}),
        odd=("Add", {"a": "g/1"}),
        shown=("Show", {"value": "odd/0"}),
    )
    result = make_executor(calls.registry(gate), tmp_path).run_sync(Run(doors), listener)
    assert (result.status, result.ui, calls.log) == ("succeeded", {"even": {"text": ["4"]}}, [("Show", 4)])
    assert [(w.node, w.message) for w in listener.of(events.NodeBlocked)] == [("odd", "4 does not go here")]


def test_in_a_list_only_the_blocked_elements_are_left_out(tmp_path: Path) -> None:
    """Each element goes its own way."""
    doors = graph(a=("Spread", {"count": 4}), g=("Gate", {"value": "a/0"}), even=("Show", {"value": "g/0"}))
    assert make_executor(Calls().registry(gate), tmp_path).run_sync(Run(doors)).ui == {"even": {"text": ["0", "2"]}}


async def test_async_nodes_run_beside_each_other_and_beside_the_device(tmp_path: Path) -> None:
    """Two async nodes and a sync one meet at a barrier that none passes alone."""
    meeting = threading.Barrier(3)

    @node("MeetAsync", category="test", outputs=[Output("INT")])
    async def meet_async(value: int) -> int:
        await asyncio.to_thread(meeting.wait, 30)
        return value

    @node("MeetSync", category="test", outputs=[Output("INT")])
    def meet_sync(value: int) -> int:
        meeting.wait(30)
        return value

    met = graph(
        a=("MeetAsync", {"value": 1}),
        b=("MeetAsync", {"value": 2}),
        c=("MeetSync", {"value": 3}),
        x=("Add", {"a": "a/0", "b": "b/0"}),
        y=("Add", {"a": "x/0", "b": "c/0"}),
        s=("Show", {"value": "y/0"}),
    )
    result = await make_executor(Calls().registry(meet_async, meet_sync), tmp_path).run(Run(met))
    assert (result.status, result.ui) == ("succeeded", {"s": {"text": ["6"]}})


async def test_two_runs_of_one_cache_compute_a_key_once(tmp_path: Path) -> None:
    """The second run waits for the first one's node instead of computing the same."""
    begun, go_on = threading.Event(), asyncio.Event()
    count: list[int] = []

    @node("Slow", category="test", outputs=[Output("INT")])
    async def slow(value: int) -> int:
        count.append(value)
        begun.set()
        await go_on.wait()
        return value

    executor = make_executor(Calls().registry(slow), tmp_path)
    shared = graph(a=("Slow", {"value": 1}), s=("Show", {"value": "a/0"}))
    listener = Listener()
    first = asyncio.create_task(executor.run(Run(shared)))
    await asyncio.to_thread(begun.wait, 30)
    second = asyncio.create_task(executor.run(Run(shared), listener))
    while not listener.of(events.JobStarted):
        await asyncio.sleep(0)
    go_on.set()
    assert [(await first).status, (await second).status] == ["succeeded", "succeeded"]
    assert count == [1]
    assert ("a", "run") in [(e.node, e.tier) for e in listener.of(events.NodeCached)]


def _endless(reached: threading.Event, left: list[int]) -> Any:
    @node("Endless", category="test", outputs=[Output("INT")])
    def endless(ctx: NodeContext, value: int) -> int:
        done = 0
        while True:
            left.append(done)
            ctx.progress(done, 100)
            reached.set()
            done += 1

    return endless


async def test_cancelling_stops_inside_a_node_and_ends_the_run(tmp_path: Path) -> None:
    """The node stops at its next progress report, what follows never runs, and nothing of it is kept."""
    reached, steps, cancel, calls = threading.Event(), list[int](), CancelToken(), Calls()
    executor = make_executor(calls.registry(_endless(reached, steps)), tmp_path)
    listener = Listener()
    task = asyncio.create_task(
        executor.run(Run(graph(e=("Endless", {"value": 1}), s=("Show", {"value": "e/0"}))), listener, cancel)
    )
    await asyncio.to_thread(reached.wait, 30)
    cancel.cancel()
    result = await task
    assert (result.status, result.ran, result.failures, calls.log) == ("cancelled", (), (), [])
    assert listener.events[-1] == events.JobFinished(result.job, "cancelled")
    after = len(steps)
    await asyncio.sleep(0.05)
    assert len(steps) == after


async def test_a_run_that_was_cancelled_before_it_began_runs_nothing(tmp_path: Path) -> None:
    """The token is read, never cleared."""
    cancel, calls = CancelToken(), Calls()
    cancel.cancel()
    assert (await make_executor(calls.registry(), tmp_path).run(Run(DOUBLE), cancel=cancel)).status == "cancelled"
    assert calls.log == []


async def test_cancelling_the_task_waits_for_the_node_to_stop(tmp_path: Path) -> None:
    """When the coroutine is cancelled the node is told, and has stopped by the time ``CancelledError`` comes out."""
    reached, steps = threading.Event(), list[int]()
    executor = make_executor(Calls().registry(_endless(reached, steps)), tmp_path)
    task = asyncio.create_task(executor.run(Run(graph(e=("Endless", {"value": 1})), targets=ids("e"))))
    await asyncio.to_thread(reached.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = len(steps)
    await asyncio.sleep(0.05)
    assert len(steps) == after


async def test_cancelling_ends_an_async_node_at_once(tmp_path: Path) -> None:
    """An async node that waits for ever is cancelled where it waits."""
    reached = asyncio.Event()

    @node("Forever", category="test", outputs=[Output("INT")])
    async def forever(value: int) -> int:
        reached.set()
        await asyncio.Event().wait()
        return value

    cancel = CancelToken()
    task = asyncio.create_task(
        make_executor(Calls().registry(forever), tmp_path).run(
            Run(graph(f=("Forever", {"value": 1})), targets=ids("f")), cancel=cancel
        )
    )
    await reached.wait()
    cancel.cancel()
    assert (await task).status == "cancelled"


def test_values_are_freed_as_soon_as_nobody_needs_them(tmp_path: Path) -> None:
    """With no memory tier, a value is gone when its last consumer has run: at most two of a chain live at a time."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most: list[int] = []

    class Thing:
        pass

    @node("Make", category="test", outputs=[Output("THING")])
    def make(thing: Annotated[Any, Socket("THING")] = None, step: int = 0) -> Any:
        made = Thing()
        alive.add(made)
        most.append(len(alive))
        return made

    chain = Graph(
        {str(i): Call("Make", {"step": i, **({"thing": Link(NodeId(str(i - 1)), 0)} if i else {})}) for i in range(30)}
    )
    executor = make_executor(Calls().registry(make), tmp_path, OutputCache(memory=0))
    assert executor.run_sync(Run(chain, targets=ids("29"))).status == "succeeded"
    assert max(most) <= 2


def test_impure_nodes_run_every_time_and_so_does_what_follows(tmp_path: Path) -> None:
    """Their keys hold for one run only, and two of them are never taken for one."""
    drawn: list[int] = []

    @node("Draw", category="test", outputs=[Output("INT")], pure=False)
    def draw() -> int:
        drawn.append(len(drawn))
        return len(drawn)

    executor = make_executor(Calls().registry(draw), tmp_path)
    random = graph(a=("Draw", {}), b=("Draw", {}), c=("Add", {"a": "a/0", "b": "b/0"}), s=("Show", {"value": "c/0"}))
    assert executor.run_sync(Run(random)).ui == {"s": {"text": ["3"]}}
    assert executor.run_sync(Run(random)).ui == {"s": {"text": ["7"]}}


def test_progress_previews_and_warnings_reach_the_listener_in_order(tmp_path: Path) -> None:
    """They come on the caller's thread, between the node's start and its end; a preview only where somebody looks."""

    @node("Work", category="test", outputs=[Output("INT")], output_node=True)
    def work(ctx: NodeContext) -> int:
        ctx.progress(1, 2, lambda: b"jpeg")
        ctx.warn("careful")
        ctx.progress(2, 2, lambda: b"jpeg")
        return 1

    threads: set[int] = set()
    listener = Listener()

    def listen(event: events.Event) -> None:
        threads.add(threading.get_ident())
        listener(event)

    executor = make_executor(Calls().registry(work), tmp_path)
    executor.run_sync(Run(Graph({"w": Call("Work")}), use_cache=False), listen)
    kinds = [type(event).__name__ for event in listener.events]
    assert kinds == [
        "JobStarted",
        "NodeStarted",
        "NodeProgress",
        "NodeWarning",
        "NodeProgress",
        "NodeFinished",
        "JobFinished",
    ]
    assert threads == {threading.get_ident()}
    executor.run_sync(Run(Graph({"w": Call("Work")}), use_cache=False, previews=True), listener)
    # the second comes so soon after the first that nobody would see that one
    assert [event.image for event in listener.of(events.NodePreview)] == [b"jpeg"]


@pytest.mark.filterwarnings("error")
def test_a_listener_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    """Who watches cannot break what is watched."""

    def listen(event: events.Event) -> None:
        raise RuntimeError("not today")

    assert make_executor(Calls().registry(), tmp_path).run_sync(Run(DOUBLE), listen).status == "succeeded"


def test_a_checkpoint_outlives_a_cancelled_run_and_is_gone_after_a_finished_one(tmp_path: Path) -> None:
    """A long node goes on where it stopped; once it has finished nothing is left behind."""
    cancel = CancelToken()
    seen: list[bytes | None] = []

    @node("Long", category="test", outputs=[Output("INT")])
    def long(ctx: NodeContext, value: int) -> int:
        seen.append(ctx.checkpoint.load())
        if seen[-1] is None:
            ctx.checkpoint.save(b"half")
            cancel.cancel()
            ctx.check_cancelled()
        return value

    folder = tmp_path / "checkpoints"
    executor = make_executor(Calls().registry(long), tmp_path, checkpoints=CheckpointStore(folder))
    run = Run(graph(n=("Long", {"value": 1})), targets=ids("n"))
    assert executor.run_sync(run, cancel=cancel).status == "cancelled"
    assert len(list(folder.iterdir())) == 1
    assert executor.run_sync(run).status == "succeeded"
    assert (seen, list(folder.iterdir())) == ([None, b"half"], [])


def test_a_chain_of_thousands_needs_no_recursion(tmp_path: Path) -> None:
    """Three times as many nodes as Python's recursion limit."""
    count = 3 * sys.getrecursionlimit()
    calls = {str(i): Call("Add", {"a": Link(NodeId(str(i - 1)), 0) if i else 0, "b": 1}) for i in range(count)}
    executor = make_executor(Calls().registry(), tmp_path)
    result = executor.run_sync(Run(Graph(calls), targets=(), keep=(NodeId(str(count - 1)),)))
    assert result.values == {str(count - 1): ((count,),)}
