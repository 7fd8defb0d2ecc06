"""Gives jobs to workers and sees to it that each comes to an end: queue, leases, retries, pause, cancel, pre-emption.

What it decides is in the store before anybody is told. It holds no state that the store does not: killed at any moment and started again,
it goes on where the store says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from engine.errors import MezzotintError
from engine.files import FileRoots
from engine.jobs.feed import Feed, JobPreview
from engine.jobs.happenings import failure_of_all, failures_of, happening
from engine.jobs.harvest import harvest
from engine.jobs.lane import Lane, StopReason, Task
from engine.jobs.messages import job_to_plain
from engine.jobs.queue import Queue
from engine.jobs.records import Job, JobState
from engine.jobs.store import Ending, Store
from engine.jobs.underway import WorkerLost
from engine.run.events import Event, NodePreview
from engine.run.outputs import OutputFolder
from engine.run.request import RunResult

ATTEMPTS: Final = 3
"""Workers that a job may lose in a row without any progress."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Dispatcher:
    """Belongs to the event loop it is started on."""

    store: Store
    feed: Feed
    lanes: Sequence[Lane]
    roots: FileRoots
    outputs: OutputFolder
    lease_seconds: float = 60.0
    queue: Queue = field(default_factory=Queue)
    _is_ending: bool = False
    _renewing: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Take up what an earlier service left. No worker of it may be alive any more."""
        lost = await asyncio.wrap_future(self.store.recover(time.time()))
        for job in lost:
            _log.info("job %s waits again: the service was started anew", job, extra={"job": job})
        for waiting in await asyncio.to_thread(self.store.waiting):
            self.queue.add(waiting)
        paused = await asyncio.to_thread(lambda: self.store.find(states=["paused"], limit=1_000_000))
        await asyncio.to_thread(self.outputs.settle_all_but, [job.id for job in (*self.queue, *paused)])
        self._renewing = self._spawn(self._renew())
        self._fill()

    async def close(self, patience: float) -> None:
        """Put what is running back into the queue, at its next step; what does not get there in time is ended and waits again too."""
        self._is_ending = True
        working = [lane for lane in self.lanes if lane.task is not None]
        for lane in working:
            assert lane.task is not None
            lane.task.stop("shutdown")
        deadline = time.monotonic() + patience
        while any(lane.task is not None for lane in working) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await asyncio.gather(*(asyncio.to_thread(lane.worker.end) for lane in self.lanes))
        if self._renewing is not None:
            self._renewing.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # what is asked for

    def submitted(self, job: Job) -> None:
        """A job is in the store."""
        self.queue.add(job)
        self._fill()

    async def cancel(self, job: str) -> bool:
        """End a job: at once if it waits, at its next step if it runs. False if it had ended, or there is none."""
        return await self._stop(job, "cancel", "job_cancelling", self.store.cancel)

    async def pause(self, job: str) -> bool:
        """Hold a job: one that runs is stopped at its next step, and goes on from there when it is resumed."""
        return await self._stop(job, "pause", "job_pausing", self.store.pause)

    async def resume(self, job: str) -> bool:
        """Let a paused job wait again. False if it was not paused."""
        before = await asyncio.wrap_future(self.store.resume(job, time.time()))
        if before == "paused":
            await self._requeue(job)
        return before == "paused"

    def running(self) -> list[Job]:
        """What the workers are at."""
        return [lane.task.job for lane in self.lanes if lane.task is not None]

    async def _stop(
        self, job: str, reason: StopReason, name: str, change: Callable[[str, float], Future[JobState | None]]
    ) -> bool:
        while True:
            task = next((lane.task for lane in self.lanes if lane.task is not None and lane.task.job.id == job), None)
            if task is not None:
                if task.stop(reason):
                    await asyncio.wrap_future(self.store.note(job, name, time.time()))
                return True
            before = await asyncio.wrap_future(change(job, time.time()))
            if before in ("queued", "paused"):
                self.queue.remove(job)
                return reason == "cancel" or before == "queued"
            if before != "running":
                return False
            await asyncio.sleep(0.01)  # it was given back in this moment, or is about to be

    # at work

    def _fill(self) -> None:
        """Give every idle worker what is next, or make room for what is more urgent."""
        if self._is_ending:
            return
        for lane in self.lanes:
            if lane.task is None:
                running = Counter(job.client for job in self.running())
                job = self.queue.take(lane.models, running)
                if job is None:
                    return
                lane.task = Task(job)
                self._spawn(self._work(lane, lane.task))
        self._preempt()

    def _preempt(self) -> None:
        highest = self.queue.highest
        tasks = [lane.task for lane in self.lanes if lane.task is not None and lane.task.reason is None]
        lowest = min(tasks, key=lambda task: task.job.priority, default=None)
        if highest is not None and lowest is not None and lowest.job.priority < highest:
            lowest.stop("preempt")

    async def _work(self, lane: Lane, task: Task) -> None:
        job = task.job.id
        try:
            expires = time.time() + self.lease_seconds
            task.token = await asyncio.wrap_future(
                self.store.lease(job, lane.name, lane.worker.living_pid or 0, time.time(), expires)
            )
            if task.token is not None:
                await self._run(lane, task, task.token)
        except Exception:
            _log.exception("job %s could not be brought to an end", job, extra={"job": job})
        finally:
            lane.models = frozenset(task.job.models)
            lane.task = None
            self._fill()

    async def _run(self, lane: Lane, task: Task, token: int) -> None:
        job = task.job.id
        report = Report(self.store, self.feed, job, token)
        try:
            plain = await asyncio.to_thread(self._plain, job)
            result = await lane.worker.attempt(plain, report.hear, task.cancel)
        except WorkerLost as loss:
            await report.settle()
            await self._after_loss(task, token, loss)
        except MezzotintError as error:
            await report.settle()
            if task.reason in ("shutdown", "preempt", "pause"):  # the worker was ended before it had begun
                await self._give_back(task, token)
            else:
                await self._end(task, token, Ending("failed", {}, [failure_of_all(str(error))]))
        else:
            await report.settle()
            await self._conclude(task, token, result)

    def _plain(self, job: str) -> dict[str, Any]:
        """What a worker is sent."""
        payload = self.store.payload(job)
        if payload is None:
            raise MezzotintError("the job has no workflow any more")
        return job_to_plain(job, payload)

    async def _conclude(self, task: Task, token: int, result: RunResult) -> None:
        if result.status == "cancelled" and task.reason in ("preempt", "shutdown", "pause"):
            await self._give_back(task, token)
            return
        outputs = {str(node): ui for node, ui in result.ui.items()}
        await self._end(task, token, Ending(result.status, outputs, failures_of(result)))

    async def _after_loss(self, task: Task, token: int, loss: WorkerLost) -> None:
        """Let it wait again, unless that happened too often."""
        known = await asyncio.to_thread(self.store.get, task.job.id)
        attempts = (known.attempts if known else 0) + 1
        _log.warning("job %s lost its worker: %s", task.job.id, loss, extra={"job": task.job.id})
        if task.reason in ("shutdown", "pause"):
            await self._give_back(task, token)
        elif attempts < ATTEMPTS:
            await self._give_back(task, token, f"its worker was lost: {loss.why}", counts=True)
        else:
            reason = f"{loss.why}; that was the worker number {ATTEMPTS} in a row that was lost without any progress"
            node = loss.suspect
            error = failure_of_all(reason)
            if node is not None:
                error |= {"node": node.node, "shown": node.shown, "class_type": node.class_type, "pack": node.pack}
            await self._end(task, token, Ending("failed", {}, [error]))

    async def _give_back(self, task: Task, token: int, why: str | None = None, *, counts: bool = False) -> None:
        state: JobState = "paused" if task.reason == "pause" else "queued"
        reason = why or {"preempt": "something more urgent came", "shutdown": "the service ended"}.get(
            task.reason or "", ""
        )
        given = self.store.give_back(task.job.id, token, state, reason, time.time(), counts=counts)
        if await asyncio.wrap_future(given) is not None and state == "queued":
            await self._requeue(task.job.id)

    async def _end(self, task: Task, token: int, ending: Ending) -> None:
        job = task.job.id
        files = await asyncio.to_thread(harvest, job, ending.outputs, self.roots) if ending.outputs else []
        ending = Ending(ending.state, ending.outputs, ending.errors, files)
        if await asyncio.wrap_future(self.store.finish(job, token, ending, time.time())):
            _log.info("job %s %s", job, ending.state, extra={"job": job})
            if files:
                await asyncio.to_thread(self.outputs.settle, job)

    async def _requeue(self, job: str) -> None:
        known = await asyncio.to_thread(self.store.get, job)
        if known is not None and known.state == "queued":
            self.queue.add(known)
            self._fill()

    async def _renew(self) -> None:
        """Keep the leases of those who are at work."""
        while not self._is_ending:
            await asyncio.sleep(self.lease_seconds / 3)
            for lane in self.lanes:
                if lane.task is not None and lane.task.token is not None:
                    self.store.renew(lane.task.token, time.time() + self.lease_seconds)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class Report:
    """What one attempt says, on its way into the store: what comes in one turn of the loop is stored together."""

    def __init__(self, store: Store, feed: Feed, job: str, token: int) -> None:
        self._store = store
        self._feed = feed
        self._job = job
        self._token = token
        self._waiting: list[Any] = []
        self._last: Future[bool] | None = None

    def hear(self, event: Event) -> None:
        if isinstance(event, NodePreview):
            self._feed.show(JobPreview(event.job, event.node, event.shown, event.image))
            return
        stored = happening(event, time.time())
        if stored is None:
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(stored)

    def _flush(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._last = self._store.append(self._job, self._token, waiting)

    async def settle(self) -> None:
        """Everything is in the store."""
        self._flush()
        if self._last is not None:
            await asyncio.wrap_future(self._last)
