"""Jobs brought to their ends over a real store, by workers that do as they are told: nothing is stuck, nothing is lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from engine.files import FileRoots
from engine.graph.graph import NodeId
from engine.jobs.dispatcher import Dispatcher
from engine.jobs.feed import Feed
from engine.jobs.lane import Lane
from engine.jobs.process import NotStarted
from engine.jobs.records import Job, Submission
from engine.jobs.store import Store
from engine.jobs.underway import WorkerLost
from engine.run.cancel import CancelToken
from engine.run.events import NodeFinished, NodeMessage, OnEvent
from engine.run.outputs import OutputFolder
from engine.run.request import RunResult

ASKED = Submission(job="j", prompt={"1": {"class_type": "X", "inputs": {}}}, targets=("1",), client="c")

Attempt = Callable[[str, OnEvent, CancelToken], Awaitable[RunResult]]


def result(job: str, status: Literal["succeeded", "failed", "cancelled"] = "succeeded", ui: Any = None) -> RunResult:
    return RunResult(job, status, ui or {}, failures=(), ran=(), cached=(), values={})


async def succeed(job: str, on_event: OnEvent, cancel: CancelToken) -> RunResult:
    return result(job)


async def stop_when_told(job: str, on_event: OnEvent, cancel: CancelToken) -> RunResult:
    while not cancel():
        await asyncio.sleep(0.005)
    return result(job, "cancelled")


@dataclass
class Scripted:
    """A worker: each attempt does what is next, and when there is nothing more, succeeds."""

    next: list[Attempt] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    is_ended: bool = False
    living_pid: int | None = 1
    refusals: int = 0
    """How often its process does not come up."""

    async def prepare(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise NotStarted("no memory")
        self.living_pid = 1

    async def attempt(self, plain: Mapping[str, Any], on_event: OnEvent, cancel: CancelToken) -> RunResult:
        self.begun.append(plain["job"])
        return await (self.next.pop(0) if self.next else succeed)(plain["job"], on_event, cancel)

    def end(self) -> None:
        self.is_ended = True


@dataclass
class Bench:
    """A dispatcher at work."""

    store: Store
    dispatcher: Dispatcher
    path: Path

    async def ended(self, job: str) -> Job:
        async with asyncio.timeout(20):
            while True:
                found = self.store.get(job)
                if found is not None and found.finished is not None:
                    return found
                await asyncio.sleep(0.005)

    @contextmanager
    def unwritable(self, *, refused_at_once: bool) -> Any:
        """Another process has the file: writing waits, or is refused."""
        self.store._writer._connection.execute(f"PRAGMA busy_timeout = {0 if refused_at_once else 10000}")
        with closing(sqlite3.connect(self.path)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    async def cut_off(self, asked: Coroutine[Any, Any, object]) -> None:
        """Ask, and be gone while it is on its way to the disk."""
        with self.unwritable(refused_at_once=False):
            asking = asyncio.create_task(asked)
            await asyncio.sleep(0.05)
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking


@asynccontextmanager
async def bench(tmp_path: Path, *workers: Scripted) -> AsyncIterator[Bench]:
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
    roots = FileRoots(*(tmp_path / name for name in ("input", "output", "temp")))
    path = tmp_path / "jobs.sqlite"
    feed: Feed
    store = Store(path, lambda news: feed.publish(news))
    feed = Feed(store.replay, 0)
    lanes = [Lane(f"lane {index}", worker) for index, worker in enumerate(workers)]
    dispatcher = Dispatcher(store, feed, lanes, roots, OutputFolder(roots.output, roots.temp))
    await dispatcher.start()
    try:
        yield Bench(store, dispatcher, path)
    finally:
        await dispatcher.close(5.0)
        store.close()


def test_a_client_that_is_cut_off_has_its_job_run(tmp_path: Path) -> None:
    """What was on its way to the disk is queued when it is there, though nobody waits for the answer."""

    async def main() -> None:
        async with bench(tmp_path, Scripted()) as at:
            await at.cut_off(at.dispatcher.submit(replace(ASKED, idempotency_key="k")))
            assert (await at.ended("j")).state == "succeeded"
            again = await at.dispatcher.submit(replace(ASKED, job="other", idempotency_key="k"))
            assert (again.is_new, again.job.id) == (False, "j")

    asyncio.run(main())


def test_a_resume_whose_caller_is_gone_is_done(tmp_path: Path) -> None:
    """The job is not left in the store as queued with no place in the queue."""

    async def main() -> None:
        worker = Scripted([stop_when_told])
        async with bench(tmp_path, worker) as at:
            await at.dispatcher.submit(ASKED)
            assert await at.dispatcher.pause("j")
            while at.dispatcher.running():
                await asyncio.sleep(0.005)
            await at.cut_off(at.dispatcher.resume("j"))
            assert (await at.ended("j")).state == "succeeded"
            assert worker.begun == ["j", "j"]

    asyncio.run(main())


def test_a_store_that_cannot_be_written_for_a_while_loses_nothing(tmp_path: Path) -> None:
    """Neither the lease of what is next nor the end of what ran, nor what it said on the way; and nothing runs twice for it."""
    go = asyncio.Event()

    async def tell(job: str, on_event: OnEvent, cancel: CancelToken) -> RunResult:
        await go.wait()
        on_event(NodeFinished(job, NodeId("1"), NodeId("1"), 0.1, {}))
        return result(job)

    async def main() -> None:
        worker = Scripted([tell])
        async with bench(tmp_path, worker) as at:
            await at.dispatcher.submit(ASKED)
            await at.dispatcher.submit(replace(ASKED, job="k"))
            while not worker.begun:
                await asyncio.sleep(0.005)
            with at.unwritable(refused_at_once=True):
                go.set()
                await asyncio.sleep(0.3)
            assert (await at.ended("j")).state == "succeeded"
            assert (await at.ended("k")).state == "succeeded"
            assert worker.begun == ["j", "k"]
            names = [event.name for chunk in at.store.events(0, "j") for event in chunk.events]
            assert names == ["job_queued", "job_leased", "node_finished", "job_finished"]

    asyncio.run(main())


def test_what_nodes_say_can_be_told_again(tmp_path: Path) -> None:
    """Whatever packs use for keys and names; the job that said it has succeeded, and those who watch are told of it."""
    files = [{"filename": "a\0b", "type": "output"}, {"filename": "\udcff", "type": "temp"}]
    said: Any = {(1, 2): ["a"], 3: [{None: 1.5}, *files]}
    told = {"(1, 2)": ["a"], "3": [{"None": 1.5}, *files]}

    async def say(job: str, on_event: OnEvent, cancel: CancelToken) -> RunResult:
        on_event(NodeMessage(job, NodeId("1"), NodeId("1"), "odd", said))
        on_event(NodeFinished(job, NodeId("1"), NodeId("1"), 0.1, said))
        return result(job, ui={NodeId("1"): said})

    async def main() -> None:
        async with bench(tmp_path, Scripted([say])) as at:
            await at.dispatcher.submit(ASKED)
            job = await at.ended("j")
            assert (job.state, job.outputs) == ("succeeded", {"1": told})
            data = {event.name: event.data for chunk in at.store.events(0, "j") for event in chunk.events}
            assert data["node_message"]["data"] == data["node_finished"]["ui"] == told

    asyncio.run(main())


async def cannot_start(job: str, on_event: OnEvent, cancel: CancelToken) -> RunResult:
    raise OSError("no more processes")


async def unstorable(job: str, on_event: OnEvent, cancel: CancelToken) -> RunResult:
    endless: list[Any] = []
    endless.append(endless)
    return result(job, ui={NodeId("1"): {"x": endless}})


async def lost_again(job: str, on_event: OnEvent, cancel: CancelToken) -> RunResult:
    on_event(NodeFinished(job, NodeId("1"), NodeId("1"), 0.1, {}))
    raise WorkerLost("signal 9", None)


@pytest.mark.parametrize(
    ("attempt", "says"),
    [(cannot_start, "no more processes"), (unstorable, "cannot be stored"), (lost_again, "signal 9")],
)
def test_what_fails_again_and_again_ends(tmp_path: Path, attempt: Attempt, says: str) -> None:
    """After three attempts, saying why; a node that each of them finishes is no progress but the first time. The next job runs."""

    async def main() -> None:
        worker = Scripted([attempt] * 4)
        async with bench(tmp_path, worker) as at:
            await at.dispatcher.submit(ASKED)
            job = await at.ended("j")
            assert job.state == "failed"
            assert says in job.errors[0]["reason"]
            assert len(worker.begun) == 3
            worker.next.clear()
            await at.dispatcher.submit(replace(ASKED, job="k"))
            assert (await at.ended("k")).state == "succeeded"
            assert not await at.dispatcher.cancel("j")

    asyncio.run(main())


def test_a_worker_that_does_not_come_up_fails_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait, can be cancelled meanwhile, and run when it is there; what was wrong is told until then."""
    monkeypatch.setattr("engine.jobs.dispatcher._FIRST_REST", 0.2)

    async def main() -> None:
        worker = Scripted(living_pid=None, refusals=2)
        async with bench(tmp_path, worker) as at:
            for name in ("j", "k", "l"):
                await at.dispatcher.submit(replace(ASKED, job=name))
            lane = at.dispatcher.lanes[0]
            while lane.trouble is None:
                await asyncio.sleep(0.005)
            assert str(lane.trouble) == "no memory"
            assert await at.dispatcher.cancel("k")
            assert (await at.ended("k")).state == "cancelled"
            assert [(await at.ended(name)).state for name in ("j", "l")] == ["succeeded"] * 2
            assert (worker.refusals, worker.begun) == (0, ["j", "l"])
            assert at.dispatcher.lanes[0].trouble is None

    asyncio.run(main())


def test_a_worker_that_is_not_there_when_the_job_begins_costs_it_no_attempt(tmp_path: Path) -> None:
    """It died while it had nothing to do, and no new one came up: more often than a job may lose workers."""

    async def main() -> None:
        worker = Scripted()

        async def gone(job: str, on_event: OnEvent, cancel: CancelToken) -> RunResult:
            worker.living_pid = None
            raise NotStarted("no memory")

        worker.next = [gone] * 5
        async with bench(tmp_path, worker) as at:
            await at.dispatcher.submit(ASKED)
            job = await at.ended("j")
            assert (job.state, job.attempts, len(worker.begun)) == ("succeeded", 0, 6)

    asyncio.run(main())


def test_a_job_that_is_cancelled_while_it_is_given_back(tmp_path: Path) -> None:
    """Is cancelled: the answer holds, though the worker had stopped for another reason before."""

    async def main() -> None:
        worker = Scripted([stop_when_told])
        async with bench(tmp_path, worker) as at:
            await at.dispatcher.submit(ASKED)
            while not worker.begun:
                await asyncio.sleep(0.005)
            with at.unwritable(refused_at_once=False):
                pausing = asyncio.create_task(at.dispatcher.pause("j"))
                while not (task := at.dispatcher.lanes[0].task) or not task.is_settled:
                    await asyncio.sleep(0.005)
                cancelling = asyncio.create_task(at.dispatcher.cancel("j"))
                await asyncio.sleep(0.05)
            assert await pausing
            assert await cancelling
            assert (await at.ended("j")).state == "cancelled"

    asyncio.run(main())


def test_no_more_are_stopped_than_have_to_be(tmp_path: Path) -> None:
    """For one urgent job one worker makes room, that of the least urgent job, which goes on when a worker is free."""

    async def main() -> None:
        workers = [Scripted([stop_when_told, stop_when_told]) for _ in range(3)]
        async with bench(tmp_path, *workers) as at:
            for index, priority in enumerate((1, 0, 1)):
                await at.dispatcher.submit(replace(ASKED, job=f"j{index}", priority=priority))
            while sum(len(worker.begun) for worker in workers) < 3:
                await asyncio.sleep(0.005)
            await at.dispatcher.submit(replace(ASKED, job="urgent", priority=9))
            await at.dispatcher.submit(replace(ASKED, job="waits", priority=0))
            while "urgent" not in workers[1].begun:
                await asyncio.sleep(0.005)
            assert {job.id for job in at.dispatcher.running()} == {"j0", "j2", "urgent"}
            assert [len(worker.begun) for worker in workers] == [1, 2, 1]
            assert {job.id for job in at.dispatcher.queue} == {"j1", "waits"}

    asyncio.run(main())


def test_a_job_goes_where_its_models_are(tmp_path: Path) -> None:
    """Among workers that have nothing to do."""

    async def main() -> None:
        workers = [Scripted(), Scripted()]
        async with bench(tmp_path, *workers) as at:
            at.dispatcher.lanes[1].models = frozenset({"checkpoints/a"})
            for name, model in (("j", "checkpoints/a"), ("k", "checkpoints/b"), ("l", "checkpoints/a")):
                await at.dispatcher.submit(replace(ASKED, job=name, models=(model,)))
                await at.ended(name)
                while at.dispatcher.running():
                    await asyncio.sleep(0.005)
            assert [worker.begun for worker in workers] == [["k"], ["j", "l"]]

    asyncio.run(main())


def test_each_worker_is_ended(tmp_path: Path) -> None:
    """Also when another cannot be."""

    class Stuck(Scripted):
        def end(self) -> None:
            raise OSError("it is stuck")

    async def main() -> None:
        workers = [Stuck(), Scripted()]
        async with bench(tmp_path, *workers):
            pass
        assert workers[1].is_ended

    asyncio.run(main())
