"""The files of a pack that may be sent."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def file_below(root: Path, name: str) -> Path | None:
    """The regular file ``name`` below ``root``; None if there is none, or if its name or a link in it leads out, or to what is hidden."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        return None
    if os.name == "nt" and any(":" in part for part in parts):
        return None
    try:
        real, path = root.resolve(strict=True), root.joinpath(*parts).resolve(strict=True)
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (OSError, RuntimeError, ValueError):  # not there, a link in a circle, a name that is none
        return None
    return path if is_file and path.is_relative_to(real) else None
