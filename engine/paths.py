"""Relative names and the folders they must stay in."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from engine.errors import PathOutsideRoots

_NEAREST: Final = 3


def checked_name(name: str) -> PurePosixPath:
    """``name`` as a relative path; backslashes separate as slashes do, since workflows come from Windows too.

    Raises PathOutsideRoots for an empty or absolute name, one with a drive, ``..`` or a NUL character.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    hostile = "\0" in name or path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts
    if hostile or not path.parts:
        raise PathOutsideRoots(f"expected a file name relative to its folder, found {name!r}; use a name from the list")
    return path


def is_inside(path: Path, folders: Iterable[Path]) -> bool:
    """Whether ``path``, every symbolic link followed, lies in one of ``folders``. Links in a circle lead nowhere."""
    try:
        real = path.resolve()
    except RuntimeError:  # a circle, to Python before 3.13
        return False
    return any(real.is_relative_to(folder.resolve()) for folder in folders)


def nearest(name: str, names: Sequence[str]) -> str:
    """A phrase with the names most like ``name``, or with how many there are."""
    stems = {PurePosixPath(known).name: known for known in names}
    close = difflib.get_close_matches(PurePosixPath(name).name, stems, n=_NEAREST, cutoff=0.5)
    if close:
        return "nearest: " + ", ".join(stems[match] for match in close)
    return f"{len(names)} other files are there" if names else "nothing is there"


def folders_below(folder: Path, roots: Sequence[Path]) -> Iterator[Path]:
    """All folders below ``folder``, whether or not there is anything in them; links as in ``walk``."""
    waiting = [(folder, frozenset({folder.resolve()}))]
    while waiting:
        at, above = waiting.pop()
        try:
            entries = [Path(entry.path) for entry in os.scandir(at) if _leads_on(entry) and entry.is_dir()]
        except OSError:
            continue
        for path in entries:
            real = path.resolve()
            if real not in above and is_inside(path, roots):
                yield path
                waiting.append((path, above | {real}))


def walk(folder: Path, roots: Sequence[Path] | None, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files below ``folder``; links are followed as far as they stay in ``roots``, where there are any, and do not lead upwards."""
    real = folder.resolve()
    if real in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # a folder that is not there, or may not be read, holds no models
    for entry in entries:
        path = Path(entry.path)
        if not _leads_on(entry) or (roots is not None and entry.is_symlink() and not is_inside(path, roots)):
            continue
        if entry.is_dir():
            yield from walk(path, roots, above | {real})
        elif entry.is_file():
            yield path


def _leads_on(entry: os.DirEntry[str]) -> bool:
    """Whether it is to be looked at: not hidden, nor a link that the system cannot follow. Of what is no link the disk is not asked."""
    return not entry.name.startswith(".") and (not entry.is_symlink() or os.path.exists(entry.path))
