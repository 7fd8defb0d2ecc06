"""What an editor keeps with the service: its settings, and the workflows people saved. Plain files, written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, Final

from engine.errors import MissingFile, PathOutsideRoots, ResourceError, UsageError
from engine.run.atomic import remove, replace_file, take_name, write_temporary
from engine.service.plain import is_too_deep
from engine.service.served import inside, regular_file, safe_name

SETTINGS_FILE: Final = "comfy.settings.json"
_DOTTED: Final = frozenset({".index.json"})
"""The one name with a leading dot that an editor uses: its bookmarks."""
_HERE: Final = frozenset({".", "./"})

_log = logging.getLogger(__name__)


class Taken(UsageError):
    """A file of that name is there, and was not to be replaced."""


class UserFiles:
    """The files of the one user below ``folder``. ``lock`` is held while one is read and written back."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self._lock = lock

    def settings(self) -> dict[str, Any]:
        """The editor's settings; empty if there are none.

        A file that cannot be read as settings is put aside under another name, and that is said in the log.
        """
        with self._lock:
            return self._read_settings()

    def merge_settings(self, changes: Mapping[str, Any]) -> None:
        """Add ``changes`` to the settings. Raises ``ResourceError`` when they cannot be written."""
        with self._lock:
            merged = self._read_settings() | dict(changes)
            self._write(self.folder / SETTINGS_FILE, json.dumps(merged, indent=4).encode())

    def _read_settings(self) -> dict[str, Any]:
        path = self.folder / SETTINGS_FILE
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict):
            return _tellable(content, path)
        aside = path.with_name(f"comfy.settings.broken-{time.time_ns()}.json")
        os.replace(path, aside)
        _log.error(
            "expected a JSON object in %s, found something else; it is kept as %s, the settings begin anew", path, aside
        )
        return {}

    def place(self, name: str) -> Path:
        """Where a file called ``name`` is or would be. Raises ``PathOutsideRoots``."""
        return inside(self.folder, safe_name(name, dotted=_DOTTED))

    def directory(self, name: str) -> Path:
        """The folder called ``name``. Raises ``PathOutsideRoots``, or ``MissingFile`` when it is none."""
        path = self.folder if name in _HERE else self.place(name)
        if not path.is_dir():
            raise MissingFile(f"expected a folder {name!r} in the user's files, found none")
        return path

    def relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def store(self, name: str, data: bytes, overwrite: bool) -> Path:
        """Write a file. Raises ``Taken`` when it is there and not to be replaced, ``PathOutsideRoots`` or ``ResourceError``."""
        path = self.place(name)
        with self._lock:
            self._write(path, data, overwrite)
        return path

    def _write(self, path: Path, data: bytes, overwrite: bool = True) -> None:
        try:
            if overwrite:
                replace_file(path, [data])
                return
            temporary = write_temporary(path.parent, [data])
            try:
                taken = not take_name(temporary, path)
            finally:
                remove(temporary)
        except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
            raise PathOutsideRoots(
                f"expected a place for a file at {path.name!r}, found a folder or a file in its way"
            ) from error
        except OSError as error:
            raise ResourceError(f"cannot write {path.name!r} ({error.strerror or error}); make room for it") from error
        if taken:
            raise Taken(f"expected no file at {path.name!r}, found one; choose another name, or say overwrite=true")

    def delete(self, name: str) -> None:
        """Remove a file. Raises ``MissingFile`` or ``PathOutsideRoots``."""
        path = self.place(name)
        with self._lock:
            self._existing(path).unlink()

    def move(self, name: str, to: str, overwrite: bool) -> Path:
        """Give a file another name. Raises as ``store`` and ``delete`` do."""
        source, target = self.place(name), self.place(to)
        with self._lock:
            self._existing(source)
            if source == target:
                return target
            if target.is_dir() or (not overwrite and os.path.lexists(target)):
                raise Taken(f"expected no file at {to!r}, found one; choose another name, or say overwrite=true")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
            except (NotADirectoryError, FileExistsError) as error:
                raise PathOutsideRoots(f"expected a place for a file at {to!r}, found a file in its way") from error
        return target

    def _existing(self, path: Path) -> Path:
        if regular_file(path) is None:
            raise MissingFile(f"expected a file {path.name!r} among the user's files, found none")
        return path


def _tellable(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Those that can be told; of the others the log says so."""
    odd = [name for name, value in settings.items() if is_too_deep(value)]
    if odd:
        _log.error("%s of %s are nested too deeply to be told, and are left out", ", ".join(odd)[:200], path)
    return {name: value for name, value in settings.items() if name not in odd}


def info(path: Path, name: str) -> dict[str, Any]:
    """``{"path", "size", "modified", "created"}``, times in seconds."""
    found = path.stat()
    return {"path": name, "size": found.st_size, "modified": found.st_mtime, "created": found.st_ctime}


def split(name: str) -> list[str]:
    """The name, then its parts."""
    return [name, *PurePosixPath(name).parts]


def files_of(folder: Path) -> Iterator[Path]:
    """The plain files right in ``folder``, sorted, without hidden ones and links."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
            yield Path(entry.path)
