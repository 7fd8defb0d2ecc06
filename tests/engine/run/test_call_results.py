"""Results kept call by call, and found by what the arguments are."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.graph import Call, Graph, Link, NodeId
from engine.registry import Registry
from engine.run import events
from engine.run.cache import OutputCache
from engine.run.cancel import CancelToken
from engine.run.checkpoint import CheckpointStore
from engine.run.contents import Contents, content_digest
from engine.run.context import NodeContext
from engine.run.disk_tier import DiskTier
from engine.run.executor import Executor, Run
from engine.run.request import RunResult
from engine.run.results import OutputFile, Outputs
from engine.spec import NodeSpec, Output, Socket, node
from tests.engine.run.toolbox import ArrayCodec, Calls, Listener, graph, ids, make_executor

PAUSE = 0.06
"""Seconds that make a small result worth keeping on disk."""

Thing = Annotated[Any, Socket("THING")]


@node("Three", category="test", outputs=[Output("INT", is_list=True)])
def three(a: int = 1, b: int = 2, c: int = 3) -> list[int]:
    """A list of three."""
    return [a, b, c]


def _square(log: list[int]) -> NodeSpec:
    @node("Square", category="test", outputs=[Output("INT")])
    def square(value: int) -> int:
        log.append(value)
        return value * value

    return square


def _slow(log: list[int]) -> NodeSpec:
    """A node whose results are worth keeping on disk."""

    @node("Slow", category="test", outputs=[Output("INT")])
    def slow(value: int) -> int:
        log.append(value)
        time.sleep(PAUSE)
        return value + 100

    return slow


def _on_disk(registry: Registry, root: Path) -> tuple[Executor, OutputCache]:
    """An executor of a fresh memory over a folder of results, as a new process would have."""
    cache = OutputCache(disk=DiskTier(root / "cache", registry.codecs))
    return make_executor(registry, root, cache), cache


def _values(executor: Executor, run: Graph, node_id: str, **options: Any) -> tuple[RunResult, Any]:
    result = executor.run_sync(Run(run, targets=(), keep=ids(node_id), **options))
    return result, result.values[NodeId(node_id)][0]


SQUARES = graph(a=("Three", {"a": 1, "b": 2, "c": 3}), s=("Square", {"value": "a/0"}), o=("Show", {"value": "s/0"}))


def _with_list(a: int, b: int, c: int) -> Graph:
    return SQUARES.with_call("a", SQUARES["a"].with_inputs(a=a, b=b, c=c))


def test_of_a_list_only_the_element_that_changed_is_computed(tmp_path: Path) -> None:
    """The others come out of the results of their calls, in their places."""
    log: list[int] = []
    executor = make_executor(Calls().registry(three, _square(log)), tmp_path)
    executor.run_sync(Run(SQUARES))
    log.clear()
    result, values = _values(executor, _with_list(1, 5, 3), "s")
    assert (log, values) == ([5], (1, 25, 9))
    assert NodeId("s") in result.ran


def test_a_list_in_another_order_is_known_element_by_element(tmp_path: Path) -> None:
    """No call takes place, and the node is told as cached, not as having run."""
    log: list[int] = []
    executor, listener = make_executor(Calls().registry(three, _square(log)), tmp_path), Listener()
    executor.run_sync(Run(SQUARES))
    log.clear()
    result = executor.run_sync(Run(_with_list(3, 1, 2)), listener)
    assert (log, result.ui) == ([], {"o": {"text": ["9", "1", "4"]}})
    assert ("s", "memory") in [(event.node, event.tier) for event in listener.of(events.NodeCached)]
    assert NodeId("s") not in {*result.ran, *(event.node for event in listener.of(events.NodeStarted))}


def test_equal_elements_of_one_list_are_computed_once(tmp_path: Path) -> None:
    """The second is known by the time its turn comes."""
    log: list[int] = []
    executor = make_executor(Calls().registry(three, _square(log)), tmp_path)
    assert _values(executor, _with_list(7, 7, 7), "s")[1] == (49, 49, 49)
    assert log == [7]


def test_without_the_cache_every_call_takes_place(tmp_path: Path) -> None:
    """``use_cache=False`` neither looks up nor keeps the results of calls."""
    log: list[int] = []
    executor = make_executor(Calls().registry(three, _square(log)), tmp_path)
    for _ in range(2):
        _values(executor, _with_list(7, 7, 8), "s", use_cache=False)
    assert log == [7, 7, 8] * 2
    _values(executor, _with_list(7, 8, 8), "s")
    assert log == [7, 7, 8] * 2 + [7, 8]


@given(lists=st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=5))
@settings(max_examples=25)
def test_whatever_lists_came_before_each_element_is_computed_once(
    lists: list[tuple[int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The values are those of a plain loop, and only what never occurred before is computed."""
    log: list[int] = []
    executor = make_executor(Calls().registry(three, _square(log)), tmp_path_factory.mktemp("lists"))
    for items in lists:
        assert _values(executor, _with_list(*items), "s")[1] == tuple(value * value for value in items)
    assert log == list(dict.fromkeys(itertools.chain(*lists)))


def test_files_and_ui_of_known_calls_stand_in_their_places(tmp_path: Path) -> None:
    """A call that is made anew between two that are known leaves the order as it is, and all files are written."""

    @node("Note", category="test", output_node=True)
    def note(value: int) -> Outputs:
        return Outputs(files=(OutputFile(str(value).encode(), "note", ".txt", ui="notes"),), ui={"text": [str(value)]})

    def notes(b: int) -> Graph:
        return graph(a=("Three", {"a": 1, "b": b, "c": 3}), n=("Note", {"value": "a/0"}))

    executor = make_executor(Calls().registry(three, note), tmp_path)
    executor.run_sync(Run(notes(2)))
    shown = executor.run_sync(Run(notes(9))).ui[NodeId("n")]
    assert shown["text"] == ["1", "9", "3"]
    names = [item["filename"] for item in shown["notes"]]
    assert names == ["note_00004_.txt", "note_00005_.txt", "note_00006_.txt"]
    assert [(tmp_path / "output" / name).read_text() for name in names] == ["1", "9", "3"]


async def test_async_calls_are_known_one_by_one_too(tmp_path: Path) -> None:
    """Of a list given to an async node only the new element is computed."""
    calls = Calls()
    executor = make_executor(calls.registry(three), tmp_path)

    def later(b: int) -> Graph:
        return graph(a=("Three", {"a": 1, "b": b, "c": 3}), s=("Later", {"value": "a/0"}), o=("Show", {"value": "s/0"}))

    await executor.run(Run(later(2)))
    calls.log.clear()
    assert (await executor.run(Run(later(9)))).ui == {"o": {"text": ["1", "9", "3"]}}
    assert [given for name, given in calls.log if name == "Later"] == [9]


# sources that give something else each time, or are kept for a while only


def _drawing(numbers: Iterator[int]) -> NodeSpec:
    @node("Draw", category="test", outputs=[Output("INT")], pure=False)
    def draw() -> int:
        return next(numbers)

    return draw


DRAWN = graph(d=("Draw", {}), s=("Slow", {"value": "d/0"}), o=("Show", {"value": "s/0"}))


def test_what_an_impure_source_gives_again_is_known_again(tmp_path: Path) -> None:
    """Its consumer runs when the value is a new one, and not when it was there before."""
    log: list[int] = []
    executor = make_executor(Calls().registry(_drawing(iter([4, 4, 5, 4])), _slow(log)), tmp_path)
    shown = [executor.run_sync(Run(DRAWN)).ui[NodeId("o")]["text"] for _ in range(4)]
    assert (log, shown) == ([4, 5], [["104"], ["104"], ["105"], ["104"]])


def test_what_an_impure_source_gives_again_is_known_in_a_new_process(tmp_path: Path) -> None:
    """The consumer's result is found on disk by the value it is made of, and told of as such."""
    log: list[int] = []
    listener = Listener()
    for numbers in ([4], [4], [5]):
        executor, _ = _on_disk(Calls().registry(_drawing(iter(numbers)), _slow(log)), tmp_path)
        executor.run_sync(Run(DRAWN), listener)
    assert log == [4, 5]
    assert [(event.node, event.tier) for event in listener.of(events.NodeCached) if event.node == "s"] == [
        ("s", "disk")
    ]


def test_what_is_not_to_last_is_in_memory_and_not_on_disk(tmp_path: Path) -> None:
    """A new process runs it again, but finds what was made of the same value by that value."""
    fleeting_log, log = list[int](), list[int]()

    @node("Fleeting", category="test", outputs=[Output("INT")])
    def fleeting(value: int) -> int:
        fleeting_log.append(value)
        time.sleep(PAUSE)
        return value % 2

    def registry() -> Registry:
        return Calls().registry(replace(fleeting, lasting=False), _slow(log))

    def run(value: int) -> Run:
        return Run(graph(f=("Fleeting", {"value": value}), s=("Slow", {"value": "f/0"}), o=("Show", {"value": "s/0"})))

    executor, cache = _on_disk(registry(), tmp_path)
    executor.run_sync(run(1))
    assert executor.run_sync(run(1)).cached == ids("o")
    assert cache.info().objects == 1  # of Slow, by content
    again, _ = _on_disk(registry(), tmp_path)
    assert again.run_sync(run(1)).ui == {"o": {"text": ["101"]}}
    other, _ = _on_disk(registry(), tmp_path)
    other.run_sync(run(3))
    assert (fleeting_log, log) == ([1, 1, 3], [1])


def test_what_lasts_is_on_disk_under_its_own_key(tmp_path: Path) -> None:
    """The counterpart: a node over lasting ones is found by key, before its sources are even looked for."""
    log: list[int] = []
    run = Run(graph(a=("Const", {"value": 1}), s=("Slow", {"value": "a/0"})), targets=ids("s"))
    first = Calls()
    _on_disk(first.registry(_slow(log)), tmp_path)[0].run_sync(run)
    second = Calls()
    assert _on_disk(second.registry(_slow(log)), tmp_path)[0].run_sync(run).cached == ids("s")
    assert (first.log, second.log, log) == ([("Const", 1)], [], [1])


def test_calls_of_a_list_are_found_on_disk_one_by_one(tmp_path: Path) -> None:
    """A new process computes the one element that changed since the last one."""
    log: list[int] = []
    run = graph(a=("Three", {"a": 1, "b": 2, "c": 3}), s=("Slow", {"value": "a/0"}))
    _values(_on_disk(Calls().registry(three, _slow(log)), tmp_path)[0], run, "s")
    log.clear()
    changed = run.with_call("a", run["a"].with_inputs(b=9))
    assert _values(_on_disk(Calls().registry(three, _slow(log)), tmp_path)[0], changed, "s")[1] == (101, 109, 103)
    assert log == [9]


# what cannot be told by content


class _Opaque:
    """A value nobody encodes."""


def test_arguments_without_a_codec_simply_run(tmp_path: Path) -> None:
    """All calls take place when the list has changed; none when it has not."""
    log: list[str] = []

    @node("Things", category="test", outputs=[Output("THING", is_list=True)])
    def things(count: int) -> list[Any]:
        return [_Opaque() for _ in range(count)]

    @node("Name", category="test", outputs=[Output("STRING")])
    def name(thing: Thing) -> str:
        log.append(type(thing).__name__)
        return type(thing).__name__

    def named(count: int) -> Graph:
        return graph(a=("Things", {"count": count}), n=("Name", {"thing": "a/0"}))

    executor = make_executor(Calls().registry(things, name), tmp_path)
    for count in (2, 2, 3):
        assert _values(executor, named(count), "n")[1] == ("_Opaque",) * count
    assert log == ["_Opaque"] * 5


def _printed(log: list[int], fingerprint: Callable[..., Any]) -> NodeSpec:
    @node("Printed", category="test", outputs=[Output("INT")], fingerprint=fingerprint)
    def printed(value: int) -> int:
        log.append(value)
        return value

    return printed


PRINTED = graph(a=("Three", {}), p=("Printed", {"value": "a/0"}))


def test_a_fingerprint_that_is_nan_finds_nothing(tmp_path: Path) -> None:
    """Who cannot say whether it changed is called for every element of every run."""
    log: list[int] = []
    executor = make_executor(Calls().registry(three, _printed(log, lambda value: math.nan)), tmp_path)
    for _ in range(2):
        _values(executor, PRINTED, "p")
    assert log == [1, 2, 3, 1, 2, 3]


def test_a_fingerprint_counts_in_the_results_of_calls(tmp_path: Path) -> None:
    """Another one recomputes all elements; the one from before finds them."""
    log: list[int] = []
    prints = iter(["x", "y", "x"])
    executor = make_executor(Calls().registry(three, _printed(log, lambda value: next(prints))), tmp_path)
    for b in (2, 2, 9):
        _values(executor, PRINTED.with_call("a", Call("Three", {"b": b})), "p")
    assert log == [1, 2, 3, 1, 2, 3, 9]


def test_nodes_that_are_told_their_id_share_nothing(tmp_path: Path) -> None:
    """Two equal ones both run, each is known by its id alone, and its calls are not kept one by one."""
    log: list[tuple[str, int]] = []

    @node("Named", category="test", outputs=[Output("INT")])
    def named(ctx: NodeContext, value: int) -> int:
        log.append((ctx.node, value))
        return value

    def run(b: int, *names: str) -> Graph:
        return Graph(
            {
                "a": Call("Three", {"b": b}),
                **{name: Call("Named", {"value": Link(NodeId("a"), 0)}) for name in names},
            }
        )

    executor = make_executor(Calls().registry(three, replace(named, by_id=True)), tmp_path)
    executor.run_sync(Run(run(2, "x", "y"), targets=ids("x", "y")))
    assert sorted(log) == [(name, value) for name in "xy" for value in (1, 2, 3)]
    log.clear()
    assert executor.run_sync(Run(run(2, "x", "y"), targets=ids("x", "y"))).cached == ids("x", "y")
    assert log == []
    executor.run_sync(Run(run(2, "z"), targets=ids("z")))
    executor.run_sync(Run(run(9, "x"), targets=ids("x")))
    assert log == [("z", 1), ("z", 2), ("z", 3), ("x", 1), ("x", 9), ("x", 3)]


def test_twins_that_are_told_no_id_are_one(tmp_path: Path) -> None:
    """The counterpart: of two equal nodes over a list the second is told as cached by this run."""
    log: list[int] = []
    listener = Listener()
    twins = graph(a=("Three", {}), x=("Square", {"value": "a/0"}), y=("Square", {"value": "a/0"}))
    executor = make_executor(Calls().registry(three, _square(log)), tmp_path)
    executor.run_sync(Run(twins, targets=ids("x", "y")), listener)
    assert log == [1, 2, 3]
    assert [(event.node, event.tier) for event in listener.of(events.NodeCached)] == [("y", "run")]


# calls that come to no end


def test_what_was_computed_before_an_element_failed_is_known_next_time(tmp_path: Path) -> None:
    """The failure is the node's; the calls before it are kept, those after it never took place."""
    log: list[int] = []

    @node("Root", category="test", outputs=[Output("FLOAT")])
    def root(value: int) -> float:
        log.append(value)
        return math.sqrt(value)

    def roots(b: int) -> Graph:
        return graph(a=("Three", {"a": 1, "b": b, "c": 9}), r=("Root", {"value": "a/0"}))

    executor = make_executor(Calls().registry(three, root), tmp_path)
    result = executor.run_sync(Run(roots(-4), targets=ids("r")))
    assert (result.status, result.ran) == ("failed", ids("a"))
    assert [(failure.node, failure.reason.split(":")[0]) for failure in result.failures] == [("r", "ValueError")]
    assert log == [1, -4]
    assert _values(executor, roots(4), "r")[1] == (1.0, 2.0, 3.0)
    assert log == [1, -4, 4, 9]


def test_each_element_of_a_list_has_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    """A run cut off in the second element goes on there, wherever in the list it is by then; at the end nothing is left."""
    cancel = CancelToken()
    seen: list[tuple[int, bytes | None]] = []

    @node("Long", category="test", outputs=[Output("INT")])
    def long(ctx: NodeContext, value: int) -> int:
        state = ctx.checkpoint.load()
        seen.append((value, state))
        ctx.checkpoint.save(b"half of %d" % value)
        if value == 2 and state is None:
            cancel.cancel()
            ctx.check_cancelled()
        return value

    folder = tmp_path / "checkpoints"
    executor = make_executor(Calls().registry(three, long), tmp_path, checkpoints=CheckpointStore(folder))
    run = graph(a=("Three", {}), n=("Long", {"value": "a/0"}))
    assert executor.run_sync(Run(run, targets=ids("n")), cancel=cancel).status == "cancelled"
    moved = run.with_call("a", Call("Three", {"a": 2, "b": 3, "c": 1}))
    assert _values(executor, moved, "n")[1] == (2, 3, 1)
    assert seen == [(1, None), (2, None), (2, b"half of 2"), (3, None)]
    assert list(folder.iterdir()) == []


def test_runs_at_the_same_time_may_keep_the_same_calls(tmp_path: Path) -> None:
    """Two threads over one cache come to the same values, whoever computes them."""
    log: list[int] = []
    registry = Calls().registry(three, _square(log))
    cache = OutputCache()
    results: list[Any] = []

    def work(number: int) -> None:
        with make_executor(registry, tmp_path, cache) as executor:
            for b in range(10):
                results.append((b, _values(executor, _with_list(number, b, 3), "s")[1]))

    (tmp_path / "input").mkdir()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted((b, (number * number, b * b, 9)) for number in range(2) for b in range(10))


# the digest itself


DIFFERENT: list[Any] = [
    0, 0.0, -0.0, False, "0", "", b"", None, [], {}, [0], [[0]], {"a": 0}, {"a": None}, {"b": 0},
    2**64, 2**64 + 1, math.nan, math.inf, "\ud800", "\ud801", [0, 1], [1, 0],
    np.zeros(2, np.float32), np.zeros(2, np.float64), np.zeros((2, 1), np.float32), np.ones(2, np.float32),
    {"x": np.zeros(2, np.float32)}, [np.zeros(2, np.float32)], (np.zeros(2, np.float32),),
]  # fmt: skip


def test_values_that_a_node_can_tell_apart_have_different_digests() -> None:
    """Types, signs, order, nesting and dtypes count."""
    digests = [content_digest(value, {"numpy.ndarray": ArrayCodec()}) for value in DIFFERENT]
    assert None not in digests
    same = [
        (DIFFERENT[one], DIFFERENT[other])
        for one, other in itertools.combinations(range(len(digests)), 2)
        if digests[one] == digests[other]
    ]
    assert same == []


def test_equal_values_have_equal_digests_whoever_made_them() -> None:
    """Another object of the same content, in another order of its names, in other memory."""
    codecs = {"numpy.ndarray": ArrayCodec()}
    one = {"samples": np.arange(6.0).reshape(2, 3), "names": ["a", "b"]}
    strided = np.arange(12.0).reshape(2, 6)[:, ::2] * 0 + np.arange(6.0).reshape(2, 3)
    assert content_digest(one, codecs) == content_digest({**one, "samples": strided}, codecs)
    assert content_digest({"a": 1, "b": 2}, {}) == content_digest({"b": 2, "a": 1}, {})


def test_the_key_of_a_call_counts_all_that_makes_its_result() -> None:
    """Type, version, numerics, fingerprint and the names of the arguments; the order they come in does not."""
    spec = _square([])
    contents = Contents({})
    base = contents.key(spec, {"a": 1, "b": 2}, "cpu", None)
    assert base == Contents({}).key(spec, {"b": 2, "a": 1}, "cpu", None)
    others = [
        contents.key(replace(spec, type="Other"), {"a": 1, "b": 2}, "cpu", None),
        contents.key(replace(spec, version=2), {"a": 1, "b": 2}, "cpu", None),
        contents.key(spec, {"a": 2, "b": 1}, "cpu", None),
        contents.key(spec, {"a": 1, "c": 2}, "cpu", None),
        contents.key(spec, {"a": 1}, "cpu", None),
        contents.key(spec, {"a": 1, "b": 2}, "cuda", None),
        contents.key(spec, {"a": 1, "b": 2}, "cpu", "print"),
    ]
    assert None not in others
    assert len({base, *others}) == 1 + len(others)


@pytest.mark.parametrize("unknown", [math.nan, object(), {1, 2}])
def test_there_is_no_key_for_what_equals_nothing(unknown: Any) -> None:
    """A fingerprint that is NaN or has no canonical form, an argument without a codec."""
    spec = _square([])
    assert Contents({}).key(spec, {"a": 1}, "cpu", unknown) is None
    if not isinstance(unknown, float):
        assert Contents({}).key(spec, {"a": unknown}, "cpu", None) is None
