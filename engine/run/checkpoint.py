"""Where a long node's half-finished state survives the process: one file per key, whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from blake3 import blake3

from engine.run.atomic import remove, replace_file
from engine.run.keys import Key

_MAGIC: Final = b"mezzotint checkpoint 1\n"
_DIGEST: Final = 32


class NoCheckpoint:
    """For nodes whose key holds for one run only, and runs that keep nothing."""

    def load(self) -> bytes | None:
        return None

    def save(self, state: bytes) -> None:
        pass


class StoredCheckpoint:
    """The state of one call of one node. Two processes that compute the same may both save: either state is a right one."""

    def __init__(
        self,
        path: Path,
        warn: Callable[[str], None],
        *,
        resume: bool = True,
        saved: Callable[[Path], None] = lambda path: None,
    ) -> None:
        """``warn`` is told when a state cannot be saved, ``saved`` when one was.

        Without ``resume`` only what this object saved is loaded.
        """
        self._path = path
        self._warn = warn
        self._saved = saved
        self._resume = resume
        self.used = False
        """Whether there may be a file to discard."""

    def load(self) -> bytes | None:
        """What was saved last; None if there is nothing, or nothing whole."""
        if not self._resume:
            return None
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        self.used = True
        digest, state = content[len(_MAGIC) :][:_DIGEST], content[len(_MAGIC) + _DIGEST :]
        if not content.startswith(_MAGIC) or blake3(state).digest() != digest:
            remove(self._path)
            return None
        return state

    def save(self, state: bytes) -> None:
        """Replace what was there. Where that cannot be done what was there stays, a warning is given, and the node goes on."""
        try:
            replace_file(self._path, [_MAGIC, blake3(state).digest(), state])
        except OSError as error:
            self._warn(
                f"no checkpoint in {self._path.parent} ({error.strerror}); if this run is cut off the node starts again from the beginning"
            )
            return
        self.used = self._resume = True
        self._saved(self._path)

    def discard(self) -> None:
        """The node has finished: its half-finished state is of no use."""
        remove(self._path)


class CheckpointStore:
    """Checkpoints in a folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(
        self,
        key: Key,
        call: int,
        warn: Callable[[str], None],
        *,
        resume: bool = True,
        saved: Callable[[Path], None] = lambda path: None,
    ) -> StoredCheckpoint:
        """The checkpoint of the ``call``-th call of the node with this key; see ``StoredCheckpoint``."""
        return StoredCheckpoint(self._directory / f"{key.hex()}-{call}", warn, resume=resume, saved=saved)
