"""What becomes of a job after an attempt."""

from __future__ import annotations

import pytest

from engine.errors import MezzotintError, NodeFailed
from engine.jobs.outcome import Return, StopReason, outcome_of
from engine.jobs.store import Ending
from engine.jobs.underway import WorkerLost
from engine.run.request import RunResult


def result(status: str) -> RunResult:
    return RunResult(job="j", status=status, ui={}, failures=(), ran=(), cached=(), values={}, inner={})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "state"), [("preempt", "queued"), ("shutdown", "queued"), ("pause", "paused"), ("cancel", "cancelled")]
)
def test_what_was_told_to_stop(reason: StopReason, state: str) -> None:
    """Goes where it was told to, whether it stopped by itself, lost its worker or never began; and that counts as nobody's failure."""
    for came in (result("cancelled"), WorkerLost("killed", None), MezzotintError("the executor is closed")):
        outcome = outcome_of(came, reason, 2)
        assert outcome.state == state
        assert isinstance(outcome, Ending) or not outcome.counts


def test_what_had_ended_before_it_heard() -> None:
    """Stays what it is."""
    for reason in ("preempt", "shutdown", "pause", "cancel"):
        assert outcome_of(result("succeeded"), reason, 0).state == "succeeded"
        assert outcome_of(result("failed"), reason, 0).state == "failed"


def test_workers_are_lost_three_times() -> None:
    """Then the job fails, and says at which node."""
    suspect = NodeFailed("7", "Sampler", "died", shown="3", pack="p")
    loss = WorkerLost("signal 9", suspect)
    for losses in (0, 1):
        back = outcome_of(loss, None, losses)
        assert isinstance(back, Return)
        assert (back.state, back.counts) == ("queued", True)
        assert "signal 9" in back.reason
    ending = outcome_of(loss, None, 2)
    assert isinstance(ending, Ending)
    assert ending.state == "failed"
    assert ending.errors[0]["node"] == "7"
    assert ending.errors[0]["pack"] == "p"
    assert "3 in a row" in ending.errors[0]["reason"]
