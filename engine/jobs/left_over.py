"""Workers of a service that is gone. They end with it; one that hangs does not, and the next service ends it by its number."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from engine.errors import ResourceError
from engine.jobs.locks import hold, seize

_PATIENCE: Final = 2.0
"""Seconds in which workers of a service that died have to be gone by themselves."""
_LAST: Final = 15.0
"""Seconds in which they have to be gone when they were killed."""

_LOCK: Final = "workers.lock"
_NUMBERS: Final = "workers"


@contextlib.contextmanager
def signed_in(state: Path | None) -> Iterator[None]:
    """In a worker: it is known to be at work on ``state`` for as long as this lasts, or until it dies. None: on nothing that is shared."""
    if state is None:
        yield
        return
    with hold(state / _LOCK):
        number = _number(state, os.getpid())
        number.parent.mkdir(exist_ok=True)
        number.write_text(_started(os.getpid()) or "")
        try:
            yield
        finally:
            number.unlink(missing_ok=True)


def sign_out(state: Path | None, pid: int) -> None:
    """For a worker that was killed, and had no time to."""
    if state is not None:
        _number(state, pid).unlink(missing_ok=True)


def end_workers(state: Path) -> None:
    """No worker of an earlier service may be at work beside ours. Raises ``ResourceError`` where one cannot be ended."""
    lock: IO[bytes]
    try:
        lock = seize(state / _LOCK, wait=_PATIENCE, otherwise="")
    except ResourceError:
        pids = list(_living(state))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # with all that it has started
        numbers = ", ".join(map(str, pids)) or "unknown to this system"
        lock = seize(
            state / _LOCK,
            wait=_LAST,
            otherwise=f"workers of an earlier service (processes {numbers}) do not end; end them, then start again",
        )
    for number in (state / _NUMBERS).glob("*"):
        number.unlink(missing_ok=True)
    lock.close()


def _number(state: Path, pid: int) -> Path:
    return state / _NUMBERS / str(pid)


def _living(state: Path) -> Iterator[int]:
    """Those who signed in and are the same processes still: numbers are given again."""
    for number in (state / _NUMBERS).glob("*"):
        with contextlib.suppress(ValueError, OSError):
            pid = int(number.name)
            if (started := number.read_text()) and started == _started(pid):
                yield pid


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; None where there is none, or where the system does not tell."""
    try:
        # its name comes before, in brackets, and may hold anything
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
