"""Calls of async nodes beside each other: how many at once, and how they end together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from engine.graph.graph import NodeId
from engine.run.cancel import CancelToken
from engine.run.executor import Run
from engine.run.gates import Gates
from engine.spec import NodeSpec, Output, node
from tests.engine.run.toolbox import Calls, graph, ids, make_executor

LONG = 30
"""Seconds after which a meeting that never takes place fails."""


@dataclass
class Counter:
    """Calls under way, now and at most."""

    now: int = 0
    most: int = 0
    began: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    """Those that ended in whatever way."""

    def node(self, type_: str, meeting: asyncio.Barrier | asyncio.Event, limit: int | None = None) -> NodeSpec:
        """A node whose calls all wait for ``meeting``; negative values fail after it."""

        @node(type_, category="test", outputs=[Output("INT")], concurrency=limit)
        async def counted(value: int) -> int:
            self.now += 1
            self.most = max(self.most, self.now)
            self.began.append(value)
            try:
                await asyncio.wait_for(meeting.wait(), LONG)
            finally:
                self.now -= 1
                self.ended.append(value)
            return value

        return counted


def _spread(type_: str, count: int) -> Run:
    spread = graph(a=("Spread", {"count": count}), m=(type_, {"value": "a/0"}), s=("Show", {"value": "m/0"}))
    return Run(spread, use_cache=False)


def _texts(count: int) -> dict[str, dict[str, list[str]]]:
    return {"s": {"text": [str(value) for value in range(count)]}}


async def test_as_many_calls_as_the_limit_says_are_under_way(tmp_path: Path) -> None:
    """Six calls meet in pairs, so two are let in at once, and never three."""
    counter = Counter()
    executor = make_executor(Calls().registry(counter.node("Pair", asyncio.Barrier(2), 2)), tmp_path)
    assert (await executor.run(_spread("Pair", 6))).ui == _texts(6)
    assert (counter.most, counter.now, sorted(counter.began)) == (2, 0, [0, 1, 2, 3, 4, 5])


async def test_without_a_limit_all_calls_of_a_list_are_under_way(tmp_path: Path) -> None:
    """Five calls meet at a barrier that four would not pass; their values come in the order of the list."""
    counter = Counter()
    executor = make_executor(Calls().registry(counter.node("Five", asyncio.Barrier(5))), tmp_path)
    assert (await executor.run(_spread("Five", 5))).ui == _texts(5)
    assert counter.most == 5


async def test_the_limit_is_one_for_all_nodes_of_a_type_and_all_runs(tmp_path: Path) -> None:
    """Two nodes in each of two runs, and still two calls at once."""
    counter = Counter()
    executor = make_executor(Calls().registry(counter.node("Pair", asyncio.Barrier(2), 2)), tmp_path)
    two = graph(x=("Pair", {"value": 1}), y=("Pair", {"value": 2}))
    runs = [executor.run(Run(two, targets=ids("x", "y"), use_cache=False)) for _ in range(2)]
    assert [result.status for result in await asyncio.gather(*runs)] == ["succeeded"] * 2
    assert (counter.most, sorted(counter.began)) == (2, [1, 1, 2, 2])


async def test_types_do_not_share_a_limit(tmp_path: Path) -> None:
    """One call of each of two types meet, though each type is limited to one."""
    counter, meeting = Counter(), asyncio.Barrier(2)
    executor = make_executor(
        Calls().registry(counter.node("One", meeting, 1), counter.node("Other", meeting, 1)), tmp_path
    )
    both = graph(x=("One", {"value": 1}), y=("Other", {"value": 2}))
    assert (await executor.run(Run(both, targets=ids("x", "y")))).status == "succeeded"
    assert counter.most == 2


def test_each_event_loop_has_its_gate(tmp_path: Path) -> None:
    """An executor that is used from one loop after the other lets calls in on each."""
    seen: list[int] = []

    @node("Single", category="test", outputs=[Output("INT")], concurrency=1)
    async def single(value: int) -> int:
        await asyncio.sleep(0)
        seen.append(value)
        return value

    executor = make_executor(Calls().registry(single), tmp_path)
    for _ in range(2):
        assert executor.run_sync(_spread("Single", 3)).ui == _texts(3)
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]


async def test_a_gate_lets_in_the_next_when_a_call_fails() -> None:
    """An error inside leaves no place taken."""
    spec = Counter().node("One", asyncio.Event(), 1)
    gates = Gates()
    for _ in range(3):
        try:
            async with asyncio.timeout(LONG), gates.of(spec):
                raise KeyError
        except KeyError:
            continue


async def test_cancelling_reaches_every_call(tmp_path: Path) -> None:
    """All five are waiting; each ends where it waits, none comes to a value."""
    counter, cancel = Counter(), CancelToken()
    executor = make_executor(Calls().registry(counter.node("Wait", asyncio.Event())), tmp_path)
    task = asyncio.create_task(executor.run(_spread("Wait", 5), cancel=cancel))
    async with asyncio.timeout(LONG):
        while counter.now < 5:
            await asyncio.sleep(0)
        cancel.cancel()
        result = await task
    assert (result.status, result.ran, result.failures) == ("cancelled", ids("a"), ())
    assert sorted(counter.ended) == [0, 1, 2, 3, 4]


async def test_cancelling_reaches_those_who_wait_at_the_gate(tmp_path: Path) -> None:
    """They never begin, and the gate is as it was: the next run passes it."""
    counter, cancel, meeting = Counter(), CancelToken(), asyncio.Event()
    executor = make_executor(Calls().registry(counter.node("Wait", meeting, 2)), tmp_path)
    task = asyncio.create_task(executor.run(_spread("Wait", 5), cancel=cancel))
    async with asyncio.timeout(LONG):
        while counter.now < 2:
            await asyncio.sleep(0)
        cancel.cancel()
        assert (await task).status == "cancelled"
        assert len(counter.began) == 2
        meeting.set()
        assert (await executor.run(_spread("Wait", 5))).ui == _texts(5)


async def test_an_error_in_one_call_ends_the_others(tmp_path: Path) -> None:
    """The error is the node's failure; its other calls are cancelled where they wait, and what is beside it goes on."""
    began, cancelled = set[int](), set[int]()

    @node("Picky", category="test", outputs=[Output("INT")])
    async def picky(value: int) -> int:
        began.add(value)
        async with asyncio.timeout(LONG):
            while len(began) < 4:
                await asyncio.sleep(0)
            if value == 2:
                raise ValueError("not two")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.add(value)
                raise
        return value

    executor = make_executor(Calls().registry(picky), tmp_path)
    run = graph(
        a=("Spread", {"count": 4}),
        p=("Picky", {"value": "a/0"}),
        s=("Show", {"value": "p/0"}),
        o=("Show", {"value": "a/0"}),
    )
    result = await executor.run(Run(run))
    assert (result.status, result.ui) == ("failed", {NodeId("o"): {"text": ["0", "1", "2", "3"]}})
    assert [str(failure) for failure in result.failures] == ["node p (Picky): ValueError: not two"]
    assert cancelled == {0, 1, 3}
