"""One worker as the dispatcher sees it: what it is at, why that is to stop, and which models it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from engine.jobs.outcome import StopReason
from engine.jobs.records import Job
from engine.run.cancel import CancelToken
from engine.run.events import OnEvent
from engine.run.request import RunResult

_WEIGHT: Final[dict[StopReason | None, int]] = {None: 0, "preempt": 1, "shutdown": 2, "pause": 3, "cancel": 4}


class Worker(Protocol):
    """Who runs jobs, one at a time: ``engine.jobs.remote.RemoteExecutor``."""

    @property
    def living_pid(self) -> int | None:
        """Of its process, if there is one."""

    async def prepare(self) -> None:
        """Have the process up. Raises ``MezzotintError`` where it does not come up."""

    async def attempt(self, plain: Mapping[str, Any], on_event: OnEvent, cancel: CancelToken) -> RunResult:
        """Run a job that is a message. Raises ``WorkerLost`` where the process dies on the way."""

    def end(self) -> None:
        """Let the process end, at once if it is at something."""


@dataclass(slots=True)
class Task:
    """A job that a worker is at."""

    job: Job
    cancel: CancelToken = field(default_factory=CancelToken)
    token: int | None = None
    """The lease; None before it is taken."""
    reason: StopReason | None = None
    """Why it is to stop."""
    is_settled: bool = False
    """Whether it is decided what becomes of the job: telling it to stop has no more effect."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the store has that too, and the worker is free."""

    def stop(self, reason: StopReason) -> bool:
        """Tell it to stop at its next step; only a cancelled one is ended if it does not. Whether that says more than was said before."""
        if _WEIGHT[reason] <= _WEIGHT[self.reason]:
            return False
        self.reason = reason
        self.cancel.cancel(patient=reason != "cancel")
        return True


@dataclass(slots=True)
class Lane:
    """A worker and its place in the dispatcher. A job waits in the queue, where it can be cancelled, until the process is up."""

    name: str
    """The device."""
    worker: Worker
    task: Task | None = None
    is_preparing: bool = False
    """Whether its process is being started, or is to be tried again in a while: it gets no job."""
    trouble: str | None = None
    """Why the process did not come up, the last time."""
    models: frozenset[str] = frozenset()
    """What the last job named: most likely its weights are still there."""

    @property
    def is_idle(self) -> bool:
        """Whether it could begin a job now."""
        return self.task is None and not self.is_preparing and self.worker.living_pid is not None

    @property
    def needs_process(self) -> bool:
        return self.task is None and not self.is_preparing and self.worker.living_pid is None


def best_for(job: Job, idle: Sequence[Lane]) -> Lane:
    """The one of ``idle`` that holds most of what the job names; the first of equals."""
    return max(idle, key=lambda lane: len(lane.models.intersection(job.models)))
