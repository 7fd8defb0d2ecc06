"""A file a node was given: found, inside the folders it may name, and known by its content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from engine.models import Digest
from engine.paths import walk
from engine.spec import FileChoice

PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
"""What is offered from an input folder when a node does not say which files it reads."""

PIXEL_SPACE: Final = "pixel_space"
"""The name of a VAE that is chosen as files are and has none: its latents are the pictures themselves."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """Two refs are equal when their contents are."""

    digest: Digest
    path: Path = field(compare=False)
    name: str = field(compare=False)
    """As the workflow names it, relative to its folder."""
    more: tuple[Path, ...] = field(default=(), compare=False)
    """Further files, where one name stands for several; the digest is of all."""


def tree_files(folder: Path, suffixes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The files of a folder that has been chosen: names relative to it, ``/`` between their parts, and where they are.

    Nothing hidden is among them, and no link that leads out of the folder. Without ``suffixes`` it is the pictures.
    """
    wanted = tuple(suffixes or PICTURE_SUFFIXES)
    for path in walk(folder, (folder,)):
        if path.name.lower().endswith(wanted):
            yield path.relative_to(folder).as_posix(), path


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
