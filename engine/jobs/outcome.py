"""What becomes of a job after an attempt at it: it ends, or it waits again. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from engine.errors import MezzotintError
from engine.jobs.happenings import failure_of_all, failures_of, text_keys
from engine.jobs.process import NotStarted
from engine.jobs.store import Ending
from engine.jobs.underway import WorkerLost
from engine.run.request import RunResult

ATTEMPTS: Final = 3
"""Workers that a job may lose in a row without any progress."""

StopReason = Literal["preempt", "shutdown", "pause", "cancel"]

_GIVEN_BACK: Final[dict[StopReason, str]] = {
    "preempt": "something more urgent came",
    "shutdown": "the service ended",
    "pause": "",
}


@dataclass(frozen=True, slots=True)
class Return:
    """It has not ended."""

    state: Literal["queued", "paused"]
    reason: str
    counts: bool = False
    """Whether a worker was lost."""


def outcome_of(came: RunResult | MezzotintError, reason: StopReason | None, losses: int) -> Ending | Return:
    """``came``: the result of the attempt, or what it was broken off by. ``reason``: why it had been told to stop, if it had.
    ``losses``: how many workers in a row the job had lost before, without any progress."""
    if isinstance(came, RunResult):
        if came.status == "cancelled" and reason in _GIVEN_BACK:
            return _return(reason)
        return Ending(came.status, text_keys(came.ui), failures_of(came))
    if reason == "cancel":
        return Ending("cancelled", {})
    if reason is not None:  # it was to wait again anyhow
        return _return(reason)
    if isinstance(came, NotStarted):
        return Return("queued", str(came))
    if not isinstance(came, WorkerLost):
        return Ending("failed", {}, [failure_of_all(str(came))])
    if losses + 1 < ATTEMPTS:
        return Return("queued", f"its worker was lost: {came.why}", counts=True)
    return Ending("failed", {}, [_given_up(came)])


def _return(reason: StopReason | None) -> Return:
    assert reason is not None
    return Return("paused" if reason == "pause" else "queued", _GIVEN_BACK[reason])


def _given_up(loss: WorkerLost) -> dict[str, Any]:
    error = failure_of_all(
        f"{loss.why}; that was the worker number {ATTEMPTS} in a row that was lost without any progress"
    )
    node = loss.suspect
    if node is not None:
        error |= {"node": node.node, "shown": node.shown, "class_type": node.class_type, "pack": node.pack}
    return error
