"""Content digests of model files, remembered.

A key counts a model by its content, and hashing gigabytes takes seconds. So a digest is kept with the path, size and
modification time it was made from, in a small database that several processes may use at once.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import blake3

from engine.errors import InputError, MissingFile, ResourceError
from engine.models import Digest

FOLDER_SUFFIXES: Final = frozenset({".json", ".safetensors", ".sft", ".txt"})
"""Files of a model folder that its digest counts: the others (pictures, notes) make no difference to the model."""

_ATTEMPTS: Final = 3
_BUSY_SECONDS: Final = 30.0
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS digests"
    " (path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest TEXT NOT NULL)"
)


class DigestIndex:
    """Digests of files and folders; ``hashed`` counts the files that really were read.

    The database is ``digests.sqlite`` in ``state``, which is made when it is missing.
    """

    def __init__(self, state: Path) -> None:
        self.hashed = 0
        self._lock = threading.Lock()
        self._path = state / "digests.sqlite"
        state.mkdir(parents=True, exist_ok=True)

    def digest(self, path: Path) -> Digest:
        """The blake3 digest of a file's content, or of a model folder's names and contents.

        Raises MissingFile when nothing is there, InputError when it cannot be read or changes all the time.
        """
        try:
            return self._of_folder(path) if path.is_dir() else self._of_file(path)
        except FileNotFoundError as error:
            raise MissingFile(f"expected a file at {path}, found nothing; check the name") from error
        except OSError as error:
            raise InputError(f"expected a readable file at {path}, found: {error.strerror or error}") from error

    def known(self, path: Path) -> Digest | None:
        """The digest of a file or a model folder as ``digest`` gives it, if it can be said without reading any file."""
        files = list(_folder_files(path)) if path.is_dir() else [path]
        try:
            found = {file: self._remembered(file.resolve(), _stamp(file.resolve())) for file in files}
        except OSError:
            return None
        if None in found.values():
            return None
        return self._of_folder(path) if path.is_dir() else found[path]

    def digest_tree(self, files: Iterable[tuple[str, Path]]) -> Digest:
        """The blake3 digest of names and contents, in the order given.

        Raises MissingFile when one of them is gone, InputError when it cannot be read or changes all the time.
        """
        total = blake3.blake3()
        for name, path in files:
            encoded = name.encode("utf-8", "surrogateescape")  # a name may be any bytes
            total.update(len(encoded).to_bytes(8, "little") + encoded + bytes.fromhex(self.digest(path)))
        return Digest(total.hexdigest())

    def _of_folder(self, folder: Path) -> Digest:
        return self.digest_tree((path.relative_to(folder).as_posix(), path) for path in _folder_files(folder))

    def _of_file(self, path: Path) -> Digest:
        path = path.resolve()
        for _ in range(_ATTEMPTS):
            before = _stamp(path)
            known = self._remembered(path, before)
            if known is not None:
                return known
            digest = Digest(blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(path).hexdigest())
            self.hashed += 1
            if _stamp(path) == before:
                self._remember(path, before, digest)
                return digest
        raise InputError(f"expected {path} to stay as it is while it is read, found it changing; wait for its download")

    def _remembered(self, path: Path, stamp: tuple[int, int]) -> Digest | None:
        rows = self._execute(
            "SELECT digest FROM digests WHERE path = ? AND size = ? AND mtime_ns = ?", (str(path), *stamp)
        )
        return Digest(rows[0][0]) if rows else None

    def _remember(self, path: Path, stamp: tuple[int, int], digest: Digest) -> None:
        self._execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", (str(path), *stamp, digest))

    def _execute(self, statement: str, values: tuple[object, ...]) -> list[tuple[str, ...]]:
        """Run one statement; a database that is none is thrown away, since everything in it can be found anew."""
        with self._lock:
            try:
                return self._run(statement, values)
            except sqlite3.OperationalError as error:
                raise ResourceError(
                    f"expected to keep digests in {self._path}, found: {error}; make it writable, with room to grow"
                ) from error
            except sqlite3.DatabaseError:
                self._path.unlink()
                return self._run(statement, values)

    def _run(self, statement: str, values: tuple[object, ...]) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as connection, connection:
            # no waiting for the disk: what a power cut takes or breaks is found anew
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(_SCHEMA)
            return connection.execute(statement, values).fetchall()


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _folder_files(folder: Path) -> Iterator[Path]:
    """The files of a folder that count, in order of name, nothing hidden among them."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in FOLDER_SUFFIXES and not hidden and path.is_file():
            yield path
