"""Gives jobs to workers and sees to it that each comes to an end: queue, leases, retries, pause, cancel, pre-emption.

What it decides is in the store before anybody is told. It holds no state that the store does not: killed at any moment and started again,
it goes on where the store says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from engine.errors import MezzotintError, ResourceError
from engine.files import FileRoots
from engine.jobs.feed import Feed
from engine.jobs.harvest import harvest
from engine.jobs.lane import Lane, Task, best_for
from engine.jobs.messages import job_to_plain
from engine.jobs.outcome import ATTEMPTS, Return, StopReason, outcome_of
from engine.jobs.queue import Queue
from engine.jobs.records import Job, JobState, Submission
from engine.jobs.report import Report
from engine.jobs.store import Ending, Store, Submitted
from engine.jobs.underway import WorkerLost
from engine.run.outputs import OutputFolder
from engine.run.request import RunResult

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 15.0
"""Seconds until a store that could not be written is tried again: twice as long each time."""
_FIRST_REST: Final = 1.0
_LONGEST_REST: Final = 30.0
"""Seconds until a worker that did not come up is tried again: twice as long each time."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Dispatcher:
    """Belongs to the event loop it is started on.

    What clients ask for is done to its end even if the client is gone meanwhile: what is in the store is in the queue too.
    """

    store: Store
    feed: Feed
    lanes: Sequence[Lane]
    roots: FileRoots
    outputs: OutputFolder
    lease_seconds: float = 60.0
    queue: Queue = field(default_factory=Queue)
    _ending: asyncio.Event = field(default_factory=asyncio.Event)
    _renewing: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

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
        self._ending.set()
        working = [lane for lane in self.lanes if lane.task is not None]
        for lane in working:
            assert lane.task is not None
            lane.task.stop("shutdown")
        deadline = time.monotonic() + patience
        while any(lane.task is not None for lane in working) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        ended = await asyncio.gather(
            *(asyncio.to_thread(lane.worker.end) for lane in self.lanes), return_exceptions=True
        )
        for lane, error in zip(self.lanes, ended, strict=True):
            if error is not None:
                _log.error("the worker %s could not be ended: %s", lane.name, error)
        if self._renewing is not None:
            self._renewing.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # what is asked for

    async def submit(self, submission: Submission, *, queue_limit: int | None = None) -> Submitted:
        """Put a job on disk, then into the queue. Raises ``Conflict`` or ``QueueFull``."""
        return await asyncio.shield(self._spawn(self._submit(submission, queue_limit)))

    async def cancel(self, job: str) -> bool:
        """End a job: at once if it waits, at its next step if it runs. False if it had ended, or there is none."""
        return await asyncio.shield(self._spawn(self._stop(job, "cancel", "job_cancelling", self.store.cancel)))

    async def pause(self, job: str) -> bool:
        """Hold a job: one that runs is stopped at its next step, and goes on from there when it is resumed."""
        return await asyncio.shield(self._spawn(self._stop(job, "pause", "job_pausing", self.store.pause)))

    async def resume(self, job: str) -> bool:
        """Let a paused job wait again. False if it was not paused."""
        return await asyncio.shield(self._spawn(self._resume(job)))

    def running(self) -> list[Job]:
        """What the workers are at."""
        return [lane.task.job for lane in self.lanes if lane.task is not None]

    async def _submit(self, submission: Submission, queue_limit: int | None) -> Submitted:
        submitted = await asyncio.wrap_future(self.store.submit(submission, time.time(), queue_limit=queue_limit))
        # also one that was there: whoever asked for it first may have been cut off before this
        self._enqueue(submitted.job)
        return submitted

    async def _resume(self, job: str) -> bool:
        before = await asyncio.wrap_future(self.store.resume(job, time.time()))
        if before in ("paused", "queued"):
            known = await asyncio.to_thread(self.store.get, job)
            if known is not None:
                self._enqueue(known)
        return before == "paused"

    async def _stop(
        self, job: str, reason: StopReason, name: str, change: Callable[[str, float], Future[JobState | None]]
    ) -> bool:
        while True:
            task = self._task_of(job)
            if task is not None and not task.is_settled:
                if task.stop(reason):
                    await asyncio.wrap_future(self.store.note(job, name, time.time()))
                return True
            if task is not None:
                await task.over.wait()
            before = await asyncio.wrap_future(change(job, time.time()))
            if before in ("queued", "paused"):
                self.queue.remove(job)
                if reason == "cancel":
                    await asyncio.to_thread(self.outputs.settle, job)
                return reason == "cancel" or before == "queued"
            if before != "running" or self._ending.is_set():
                return False
            await asyncio.sleep(0.01)  # it was begun in this moment

    def _enqueue(self, job: Job) -> None:
        """A job is in one place only: in the queue, or with a worker."""
        if job.state == "queued" and self._task_of(job.id) is None:
            self.queue.add(job)
            self._fill()

    def _task_of(self, job: str) -> Task | None:
        return next((lane.task for lane in self.lanes if lane.task is not None and lane.task.job.id == job), None)

    # at work

    def _fill(self) -> None:
        """Give every idle worker what is next, or make room for what is more urgent."""
        if self._ending.is_set():
            return
        if self.queue:
            self._prepare_lanes()
        while idle := [lane for lane in self.lanes if lane.is_idle]:
            job = self.queue.take(idle[0].models, Counter(job.client for job in self.running()))
            if job is None:
                return
            lane = best_for(job, idle)
            lane.task = Task(job)
            self._spawn(self._work(lane, lane.task))
        self._preempt()

    def _preempt(self) -> None:
        """Stop what is less urgent than what waits: one for each that waits, and none for those that get a place without."""
        tasks = [lane.task for lane in self.lanes if lane.task is not None]
        freed = sum(task.reason is not None or task.is_settled for task in tasks)
        freed += sum(lane.is_preparing and lane.trouble is None for lane in self.lanes)
        for task in sorted(tasks, key=lambda task: task.job.priority):
            if task.reason is None and not task.is_settled and self.queue.above(task.job.priority) > freed:
                task.stop("preempt")
                freed += 1

    def _prepare_lanes(self) -> None:
        for lane in self.lanes:
            if lane.needs_process:
                lane.is_preparing = True
                self._spawn(self._prepare(lane))

    async def _prepare(self, lane: Lane) -> None:
        """Have a worker's process up. While that fails no job is given to it: none is to blame, and none would get further."""
        rest = _FIRST_REST
        while not self._ending.is_set():
            try:
                await lane.worker.prepare()
                lane.trouble = None
                break
            except Exception as error:
                if self._ending.is_set():
                    break
                lane.trouble = str(error)
                _log.error("the worker %s is tried again in %g s: %s", lane.name, rest, error)
            await self._unless_ending(rest)
            rest = min(2 * rest, _LONGEST_REST)
        lane.is_preparing = False
        self._fill()

    async def _work(self, lane: Lane, task: Task) -> None:
        job = task.job.id
        waits_again = False
        try:
            task.token = await self._insist(lambda: self._lease(lane, job))
            if task.token is not None:
                waits_again = await self._see_through(lane, task, task.token)
        except Exception:  # the store cannot be written and the service ends: the next one finds the job where it was
            _log.exception("what became of job %s is not in the store", job, extra={"job": job})
        finally:
            lane.models = frozenset(task.job.models)
            lane.task = None
            if waits_again:
                self.queue.add(task.job)
            task.over.set()
            self._fill()

    def _lease(self, lane: Lane, job: str) -> Future[int | None]:
        now = time.time()
        return self.store.lease(job, lane.name, lane.worker.living_pid or 0, now, now + self.lease_seconds)

    async def _see_through(self, lane: Lane, task: Task, token: int) -> bool:
        """Whether it waits again."""
        job = task.job.id
        report = Report(self.store, self.feed, job, token)
        came = await self._attempt(lane, task, report)
        await self._insist(report.settle)
        losses = await self._losses(job) if isinstance(came, WorkerLost) else 0
        task.is_settled = True
        try:
            return await self._record(job, token, outcome_of(came, task.reason, losses))
        except ResourceError:
            raise
        except Exception as error:  # a result of which the store can make nothing is as good as none
            _log.exception("what came of job %s cannot be stored", job, extra={"job": job})
            lost = WorkerLost(f"what came of it cannot be stored ({type(error).__name__}: {error})", None)
            return await self._record(job, token, outcome_of(lost, task.reason, await self._losses(job)))

    async def _attempt(self, lane: Lane, task: Task, report: Report) -> RunResult | MezzotintError:
        job = task.job.id
        try:
            plain = await asyncio.to_thread(self._plain, job)
            return await lane.worker.attempt(plain, report.hear, task.cancel)
        except WorkerLost as loss:
            _log.warning("job %s lost its worker: %s", job, loss, extra={"job": job})
            return loss
        except MezzotintError as error:
            return error
        except Exception as error:  # such as a process that the system does not start
            _log.exception("job %s could not be run", job, extra={"job": job})
            return WorkerLost(f"it could not be run ({type(error).__name__}: {error})", None)

    def _plain(self, job: str) -> dict[str, Any]:
        """What a worker is sent."""
        payload = self.store.payload(job)
        if payload is None:
            raise MezzotintError("the job has no workflow any more")
        return job_to_plain(job, payload)

    async def _losses(self, job: str) -> int:
        """How many workers it has lost in a row; of a job that cannot be read, enough."""
        try:
            known = await asyncio.to_thread(self.store.get, job)
        except Exception:
            _log.exception("job %s cannot be read", job, extra={"job": job})
            return ATTEMPTS
        return known.attempts if known is not None else 0

    async def _record(self, job: str, token: int, outcome: Ending | Return) -> bool:
        """Have the store say so. Whether it waits again."""
        if isinstance(outcome, Ending):
            await self._end(job, token, outcome)
            return False
        state, reason = outcome.state, outcome.reason
        given = await self._insist(
            lambda: self.store.give_back(job, token, state, reason, time.time(), counts=outcome.counts)
        )
        return given is not None and state == "queued"

    async def _end(self, job: str, token: int, ending: Ending) -> None:
        files = await asyncio.to_thread(harvest, job, ending.outputs, self.roots) if ending.outputs else []
        ending = Ending(ending.state, ending.outputs, ending.errors, files)
        if await self._insist(lambda: self.store.finish(job, token, ending, time.time())):
            _log.info("job %s %s", job, ending.state, extra={"job": job})
            if files or ending.state != "succeeded":
                await asyncio.to_thread(self.outputs.settle, job)

    async def _insist(self, write: Callable[[], Future[T] | Awaitable[T]]) -> T:
        """The outcome of ``write``, which is tried again for as long as the store cannot be written; but not when the service ends."""
        pause = _FIRST_PAUSE
        while True:
            try:
                making = write()
                return await (asyncio.wrap_future(making) if isinstance(making, Future) else making)
            except ResourceError as error:
                if self._ending.is_set():
                    raise
                _log.warning("the store is tried again in %g s: %s", pause, error)
            await self._unless_ending(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _unless_ending(self, pause: float) -> None:
        """Wait for ``pause`` seconds, or for the end of the service."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._ending.wait()

    async def _renew(self) -> None:
        """Keep the leases of those who are at work."""
        while True:
            await asyncio.sleep(self.lease_seconds / 3)
            for lane in self.lanes:
                if lane.task is not None and lane.task.token is not None:
                    self.store.renew(lane.task.token, time.time() + self.lease_seconds)

    def _spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone, and then nobody else looks
