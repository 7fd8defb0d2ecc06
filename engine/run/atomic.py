"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Final

TEMPORARY: Final = ".mezzotint-"
"""What the names of files begin with that are still being written, or were when their writer died."""

STALE_SECONDS: Final = 3600.0
"""A temporary file not written to for this long belongs to nobody any more."""

_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def write_temporary(folder: Path, parts: Iterable[bytes | memoryview]) -> Path:
    """Write ``parts`` one after the other into a new file of ``folder``, which is made if it is not there.

    Raises ``OSError`` and leaves nothing behind if it cannot. Not forced to the disk: what is written here either has a checksum or can
    be made again, and a process that dies takes nothing from the system's page cache.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
    except BaseException:
        remove(path)
        raise
    return path


def replace_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Put a file of ``parts`` at ``path``, whole or not at all, in place of what was there. Raises ``OSError``."""
    temporary = write_temporary(path.parent, parts)
    try:
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def take_name(temporary: Path, path: Path) -> bool:
    """Give ``temporary`` the name ``path`` too; False if that is taken. Raises ``OSError``."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _take_without_links(temporary, path)
    return True


def _take_without_links(temporary: Path, path: Path) -> bool:
    # the file is empty for a moment here: such file systems (exFAT, some network shares) know no way to take a name with content
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    os.replace(temporary, path)
    return True


def remove(path: Path) -> None:
    """Remove a file if it is there and may be removed."""
    with contextlib.suppress(OSError):
        path.unlink()
