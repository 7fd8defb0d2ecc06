"""Which files a job has put where, so that a job which runs again after a crash puts none of them there twice.

A file's bytes are written as a claim first, then the name it is to have is written beside it, then the claim is given that name too: both
are the same file from then on. Whoever finds the claim of a process that died sees from these whether the last step was taken.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from blake3 import blake3

from engine.run.atomic import replace_file, take_name

_FOLDER: Final = ".mezzotint.claims"


def take(root: Path, job: str, place: str, folder: Path, names: Iterator[str], data: bytes) -> Path:
    """Put ``data`` into ``folder``, below ``root``, under the first of ``names`` that is free; or find where that was done before.

    ``place`` tells the files of a job apart. Raises ``OSError``.
    """
    real = Path(os.path.realpath(root))
    claim = _claims(real, job) / _short(place)
    intent = claim.with_suffix(".name")
    done = _placed(real, claim, intent, data)
    if done is not None:
        return done
    replace_file(claim, [data])
    for name in names:
        path = folder / name
        replace_file(intent, [path.relative_to(real).as_posix().encode("utf-8", "surrogateescape")])
        if take_name(claim, path):
            return path
    raise AssertionError("names do not end")


def settle(root: Path, job: str) -> None:
    """Drop the claims of a job."""
    shutil.rmtree(_claims(Path(os.path.realpath(root)), job), ignore_errors=True)


def settle_all_but(root: Path, jobs: Collection[str]) -> None:
    """Drop the claims of all jobs but these."""
    kept = {_short(job) for job in jobs}
    try:
        entries = list(os.scandir(Path(os.path.realpath(root)) / _FOLDER))
    except OSError:  # there are none
        return
    for entry in entries:
        if entry.name not in kept:
            shutil.rmtree(entry.path, ignore_errors=True)


def _placed(root: Path, claim: Path, intent: Path, data: bytes) -> Path | None:
    """Where the file of this claim is, if it is there."""
    try:
        path = root / intent.read_bytes().decode("utf-8", "surrogateescape")
        if claim.exists():
            return path if path.samefile(claim) else None
        return path if path.read_bytes() == data else None  # where there are no hard links the claim was moved
    except OSError:
        return None


def _claims(root: Path, job: str) -> Path:
    return root / _FOLDER / _short(job)


def _short(name: str) -> str:
    return blake3(name.encode("utf-8", "surrogatepass")).hexdigest(length=16)
