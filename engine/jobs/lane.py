"""One worker as the dispatcher sees it: what it is at, why that is to stop, and which models it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from engine.jobs.records import Job
from engine.jobs.remote import RemoteExecutor
from engine.run.cancel import CancelToken

StopReason = Literal["preempt", "shutdown", "pause", "cancel"]

_WEIGHT: Final[dict[StopReason | None, int]] = {None: 0, "preempt": 1, "shutdown": 2, "pause": 3, "cancel": 4}


@dataclass(slots=True)
class Task:
    """A job that a worker is at."""

    job: Job
    cancel: CancelToken = field(default_factory=CancelToken)
    token: int | None = None
    """The lease; None before it is taken."""
    reason: StopReason | None = None
    """Why it is to stop."""

    def stop(self, reason: StopReason) -> bool:
        """Tell it to stop at its next step; only a cancelled one is ended if it does not. Whether that says more than was said before."""
        if _WEIGHT[reason] <= _WEIGHT[self.reason]:
            return False
        self.reason = reason
        self.cancel.cancel(patient=reason != "cancel")
        return True


@dataclass(slots=True)
class Lane:
    """A worker and its place in the dispatcher."""

    name: str
    """The device."""
    worker: RemoteExecutor
    task: Task | None = None
    models: frozenset[str] = frozenset()
    """What the last job named: most likely its weights are still there."""
