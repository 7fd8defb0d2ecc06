"""Locks between processes: they are held by whoever is alive, and by nobody else."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import IO, Final

from engine.errors import ResourceError

try:
    import fcntl
except ImportError:  # Windows has its own kind, which Python does not offer for whole files
    fcntl = None  # type: ignore[assignment]

_POLL: Final = 0.05


def hold(path: Path) -> IO[bytes]:
    """A shared lock on ``path``, for as long as the file that is returned is open. Processes that this one forks do not hold it."""
    file = path.open("ab")
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_SH)
        os.register_at_fork(after_in_child=file.close)
    return file


def seize(path: Path, *, wait: float, otherwise: str) -> IO[bytes]:
    """The lock alone, for as long as the file that is returned is open. Raises ``ResourceError(otherwise)`` when it is held by others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    deadline = time.monotonic() + wait
    while fcntl is not None:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        if time.monotonic() > deadline:
            file.close()
            raise ResourceError(otherwise)
        time.sleep(_POLL)
    os.set_inheritable(file.fileno(), False)
    return file
