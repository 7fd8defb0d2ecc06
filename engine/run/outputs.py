"""Putting files where people look for them: ``<prefix>_00001_.png``, or ``<prefix>.png``, in the output folder or in the temp folder.

A name is taken by whoever links it first, and a file appears with all its bytes, so that any number of processes may write into one
folder and be killed at any moment.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from engine.errors import InputError, PathOutsideRoots, ResourceError
from engine.run import claims
from engine.run.atomic import STALE_SECONDS, TEMPORARY, remove, take_name, write_temporary
from engine.run.results import OutputFile

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BAD_NAME: Final = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ})


@dataclass(slots=True)
class _Counter:
    """The next number for one prefix in one folder, as long as the folder has not changed since."""

    folder_time: int
    next: int


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """Where a run's files go."""

    output_dir: Path
    temp_dir: Path
    _counters: dict[tuple[Path, str], _Counter] = field(default_factory=dict, repr=False)

    def place(
        self, file: OutputFile, metadata: Mapping[str, Any], claim: tuple[str, str] | None = None
    ) -> dict[str, str]:
        """Write ``file`` under the first free name of its prefix, carrying ``metadata`` if it is of a kind that can and is to.

        ``claim`` names the job and the place in it that the file is for: the file of an equal claim before, by this process or by one
        that has died, is the file. Claims count until the job is settled.
        Returns ``{"filename", "subfolder", "type"}``. Raises ``PathOutsideRoots`` for a prefix that leaves the folder, ``InputError``
        for one that is no file name, and ``ResourceError`` when the file cannot be written.
        """
        root = self.output_dir if file.kind == "output" else self.temp_dir
        subfolder, stem = split_prefix(expand(file.prefix, file, datetime.now()))
        folder = inside(root, subfolder, file.prefix)
        if not file.numbered and (not stem or stem.startswith(".")):
            raise InputError(
                f"the file name {file.prefix!r} ends in no name, or in one that begins with a dot; add one"
            )
        data = with_metadata(file, metadata)
        names = self._numbered(folder, stem, file) if file.numbered else _bare(stem, file)
        try:
            if claim is not None:
                claimed = claims.take(root, *claim, folder, names, data)
                name, subfolder = claimed.name, claimed.parent.relative_to(os.path.realpath(root)).as_posix()
                subfolder = "" if subfolder == "." else subfolder
            else:
                name = _write(folder, names, data)
            if file.numbered:
                self._remember(folder, stem, name)
        except OSError as error:
            raise _explained(error, folder, file, len(data)) from error
        except ValueError as error:
            raise InputError(
                f"the file name prefix {file.prefix!r} cannot be a file name ({error}); choose another"
            ) from error
        return {"filename": name, "subfolder": subfolder, "type": file.kind}

    def settle(self, job: str) -> None:
        """What came of ``job`` is known for good: it will not run again, and its claims are of no use."""
        for root in {self.output_dir, self.temp_dir}:
            claims.settle(root, job)

    def settle_all_but(self, jobs: Iterable[str]) -> None:
        """Drop the claims of all other jobs."""
        kept = frozenset(jobs)
        for root in {self.output_dir, self.temp_dir}:
            claims.settle_all_but(root, kept)

    def _numbered(self, folder: Path, stem: str, file: OutputFile) -> Iterator[str]:
        """``<stem>_00001_.png`` and so on, from the first number that was never taken."""
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(self._next_number(folder, stem)):
            yield f"{stem}_{number:05}_.{file.extension.lstrip('.')}"

    def _remember(self, folder: Path, stem: str, name: str) -> None:
        digits = re.match(r"\d+", name[len(stem) + 1 :], re.ASCII)
        if digits is not None:
            self._counters[folder, stem] = _Counter(folder.stat().st_mtime_ns, int(digits[0]) + 1)

    def _next_number(self, folder: Path, stem: str) -> int:
        counter = self._counters.get((folder, stem))
        if counter is not None and counter.folder_time == folder.stat().st_mtime_ns:
            return counter.next
        return highest_number(folder, stem) + 1


def _bare(stem: str, file: OutputFile) -> Iterator[str]:
    """``<stem>.png``, then ``<stem>_2.png`` and so on."""
    extension = file.extension.lstrip(".")
    yield f"{stem}.{extension}"
    for number in itertools.count(2):
        yield f"{stem}_{number}.{extension}"


def _write(folder: Path, names: Iterator[str], data: bytes) -> str:
    """Write ``data`` under the first of ``names`` that is free."""
    temporary = write_temporary(folder, [data])
    try:
        return next(name for name in names if take_name(temporary, folder / name))
    finally:
        remove(temporary)


def expand(prefix: str, file: OutputFile, now: datetime) -> str:
    """``prefix`` with its ``%width%``-like tokens replaced: size, batch index, and parts of local time with leading zeros."""
    tokens = {
        "width": str(file.width),
        "height": str(file.height),
        "batch_num": str(file.batch_index),
        "year": f"{now.year:04}",
        "month": f"{now.month:02}",
        "day": f"{now.day:02}",
        "hour": f"{now.hour:02}",
        "minute": f"{now.minute:02}",
        "second": f"{now.second:02}",
    }
    return re.sub(r"%(\w+)%", lambda match: tokens.get(match[1], match[0]), prefix)


def split_prefix(prefix: str) -> tuple[str, str]:
    """The folder and the name in a prefix; a backslash separates too, so that workflows written on Windows do the same elsewhere."""
    folder, _, stem = prefix.replace("\\", "/").rpartition("/")
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    if folder.startswith("/") or (prefix.startswith(("/", "\\")) and not folder):
        parts.insert(0, "/")
    return "/".join(parts), stem


def inside(root: Path, subfolder: str, prefix: str) -> Path:
    """The folder below ``root``. Raises ``PathOutsideRoots`` if it is not, links followed."""
    real_root = os.path.realpath(root)
    try:
        folder = os.path.realpath(os.path.join(real_root, subfolder))
    except ValueError as error:
        raise InputError(f"the file name prefix {prefix!r} cannot be a file name ({error}); choose another") from error
    if folder != real_root and not folder.startswith(real_root.rstrip(os.sep) + os.sep):
        raise PathOutsideRoots(f"the file name prefix {prefix!r} leaves the folder {root}; use a name inside it")
    return Path(folder)


def with_metadata(file: OutputFile, metadata: Mapping[str, Any]) -> bytes:
    """The bytes of ``file`` with ``metadata`` in them, where the format has a place for it and the file is not to be bare."""
    if not metadata or file.bare:
        return file.data
    match file.extension.lstrip("."):
        case "png":
            from engine.graph.png import with_text

            return with_text(file.data, metadata)
        case "jpg" | "jpeg":
            from engine.graph import jpeg

            return jpeg.with_text(file.data, metadata)
        case "webp":
            from engine.graph import webp

            return webp.with_text(file.data, metadata)
        case "avif":
            from engine.graph import avif

            return avif.with_text(file.data, metadata)
        case "svg":
            from engine.graph import svg

            return svg.with_text(file.data, metadata)
        case "latent" | "safetensors":
            from engine.graph.safetensors_header import with_safetensors_metadata

            return with_safetensors_metadata(file.data, metadata)
    return file.data


def highest_number(folder: Path, stem: str) -> int:
    """The highest counter among the files of ``folder`` called ``<stem>_<number>...``; 0 if there is none."""
    wanted = os.path.normcase(f"{stem}_")
    highest = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY):
                _remove_if_stale(entry)
            elif os.path.normcase(entry.name).startswith(wanted):
                digits = re.match(r"\d+", entry.name[len(wanted) :], re.ASCII)
                highest = max(highest, int(digits[0]) if digits and len(digits[0]) < 16 else 0)
    return highest


def _remove_if_stale(entry: os.DirEntry[str]) -> None:
    try:
        age = time.time() - entry.stat().st_mtime
    except FileNotFoundError:  # its writer has just finished
        return
    if age > STALE_SECONDS:
        remove(Path(entry.path))


def _explained(error: OSError, folder: Path, file: OutputFile, size: int) -> Exception:
    reason = (error.strerror or str(error)).lower()
    if error.errno in _FULL:
        return ResourceError(
            f"no room for {size / 1e6:.1f} MB in {folder} ({reason}); free some space or choose another output folder"
        )
    if error.errno in _BAD_NAME:
        return InputError(f"the file name prefix {file.prefix!r} cannot be a file name ({reason}); choose another")
    return ResourceError(f"cannot write into {folder} ({reason}); make it writable or choose another output folder")
