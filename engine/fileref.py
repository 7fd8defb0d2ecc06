"""A file a node was given: found, inside the folders it may name, and known by its content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from engine.models import Digest
from engine.spec import FileChoice


@dataclass(frozen=True, slots=True)
class FileRef:
    """Two refs are equal when their contents are."""

    digest: Digest
    path: Path = field(compare=False)
    name: str = field(compare=False)
    """As the workflow names it, relative to its folder."""


class Files(Protocol):
    """Finds the files that workflows name. Implemented by ``engine.files``."""

    def choices(self, choice: FileChoice) -> Sequence[str]:
        """The names an editor may offer, sorted."""
        ...

    def resolve(self, choice: FileChoice, name: str) -> Path:
        """Where ``name`` is. Raises ``MissingFile`` or ``PathOutsideRoots``."""
        ...

    def ref(self, choice: FileChoice, name: str) -> FileRef:
        """The same with the content's digest, which may take the time to read the file once."""
        ...
