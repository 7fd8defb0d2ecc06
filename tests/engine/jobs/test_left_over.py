"""Workers that outlive their service, and locks that belong to the living alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import ResourceError
from engine.jobs import left_over, locks

_WORKER = """
import os, sys, time
from pathlib import Path
from engine.jobs.left_over import signed_in
with signed_in(Path(sys.argv[1])):
    if sys.argv[2] == "forks" and os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    if sys.argv[2] == "hangs":
        print("at work", flush=True)
        time.sleep(60)
    os._exit(9)
"""


@contextlib.contextmanager
def _worker(state: Path, how: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that is signed in, and what it said first."""
    command = [sys.executable, "-c", _WORKER, str(state), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_worker_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by its number, and nothing is left of it."""
    monkeypatch.setattr(left_over, "_PATIENCE", 0.1)
    with _worker(tmp_path, "hangs") as (process, _):
        left_over.end_workers(tmp_path)
        assert process.wait(10) < 0
    assert list((tmp_path / "workers").iterdir()) == []


def test_a_number_that_was_given_again_is_let_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a dead worker may be anybody's by now; whoever holds the lock is then to be ended by a person."""
    monkeypatch.setattr(left_over, "_PATIENCE", 0.1)
    monkeypatch.setattr(left_over, "_LAST", 0.1)
    with _worker(tmp_path, "hangs") as (process, _):
        number = tmp_path / "workers" / str(process.pid)
        number.write_text(str(int(number.read_text()) - 1))
        with pytest.raises(ResourceError, match="do not end; end them, then start again"):
            left_over.end_workers(tmp_path)
        assert process.poll() is None


def test_children_of_a_dead_worker_hold_nothing(tmp_path: Path) -> None:
    """A pack's pool of processes that lives on keeps no service from starting."""
    with _worker(tmp_path, "forks") as (process, child):
        assert process.wait(10) == 9
        assert Path(f"/proc/{child}").exists()
        locks.seize(tmp_path / "workers.lock", wait=5.0, otherwise="it is held").close()
