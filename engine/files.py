"""Names to files: where models, inputs and outputs are, and which names may reach them.

A workflow names files relative to folders it does not choose: a checkpoint below ``models/checkpoints``, a picture below the
input folder. What is here turns such a name into a path, and never into one outside of the configured folders, whatever
the name or a symbolic link says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from engine.digests import DigestIndex
from engine.errors import MissingFile, PathOutsideRoots
from engine.fileref import PICTURE_SUFFIXES, PIXEL_SPACE, FileRef, tree_files
from engine.model_folders import TINY_VAES, ModelFolders, default_hub, read_extra_folders
from engine.models import Digest
from engine.paths import checked_name, folders_below, is_inside, nearest, walk
from engine.spec import FileChoice
from engine.styles import StyleBook, read_book

FileKind = Literal["input", "output", "temp"]
FILE_KINDS: Final[tuple[FileKind, ...]] = get_args(FileKind)

_ANNOTATED: Final = re.compile(r"(?P<name>.*?) ?\[(?P<kind>input|output|temp)\]")


def split_annotation(name: str) -> tuple[str, FileKind | None]:
    """``("x.png", "output")`` of ``"x.png [output]"``; a name without a mark comes back as it is, with None."""
    found = _ANNOTATED.fullmatch(name)
    if found is None:
        return name, None
    kind: FileKind = next(known for known in FILE_KINDS if known == found["kind"])
    return found["name"], kind


@dataclass(frozen=True, slots=True)
class FileRoots:
    """The folders a workflow reads pictures from and writes results to."""

    input: Path
    output: Path
    temp: Path

    def folder(self, kind: FileKind) -> Path:
        return {"input": self.input, "output": self.output, "temp": self.temp}[kind]

    def find(self, name: str, default: FileKind = "input") -> Path:
        """The existing file called ``name``, which may end with `` [input]``, `` [output]`` or `` [temp]``.

        Raises PathOutsideRoots when the name leaves the folder, MissingFile when the file is not there.
        """
        bare, kind = split_annotation(name)
        folder = self.folder(kind or default)
        path = self.place(kind or default, bare)
        if not path.is_file():
            raise MissingFile(f"expected {bare!r} in {folder}, found none; {nearest(bare, self.list(kind or default))}")
        return path

    def find_folder(self, name: str, default: FileKind = "input") -> Path:
        """The existing folder called ``name``, marked as a file's name may be; ``.`` is the input folder itself.

        Raises PathOutsideRoots when the name leaves the folder, MissingFile when it is no folder.
        """
        bare, mark = split_annotation(name)
        kind = mark or default
        path = self.folder(kind) if bare == "." else self.place(kind, bare)
        if not path.is_dir():
            there = nearest(bare, self.list_folders(kind))
            raise MissingFile(f"expected a folder {bare!r} in {self.folder(kind)}, found none; {there}")
        return path

    def list_folders(self, kind: FileKind) -> list[str]:
        """Names of all folders below a folder, sorted, relative to it; the folder itself is ``.`` and comes first."""
        folder = self.folder(kind)
        return [".", *sorted(path.relative_to(folder).as_posix() for path in folders_below(folder, (folder,)))]

    def place(self, kind: FileKind, name: str) -> Path:
        """Where a file called ``name`` is or would be; nothing need be there. Raises PathOutsideRoots."""
        folder = self.folder(kind)
        path = folder / checked_name(name)
        if not is_inside(path, (folder,)):
            raise PathOutsideRoots(f"expected {name!r} to lie in {folder}, found a link to {path.resolve()}")
        return path

    def list(self, kind: FileKind) -> list[str]:
        """Names of all files of a folder, sorted, relative to it."""
        folder = self.folder(kind)
        return sorted(str(path.relative_to(folder)) for path in walk(folder, (folder,)))


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files on this machine; ``engine.fileref.Files``."""

    models: ModelFolders
    roots: FileRoots
    digests: DigestIndex

    def choices(self, choice: FileChoice) -> Sequence[str]:
        """The names an editor may offer, sorted."""
        if choice.tree:
            return self.roots.list_folders(_kind(choice.folder))
        if choice.entries:
            return list(self._styles(choice).entries)
        if choice.folder not in FILE_KINDS:
            names = [name for name in self.models.list(choice.folder) if _ends_with(name, choice.suffixes)]
            return [*names, *self.models.tiny_vaes(), PIXEL_SPACE] if choice.folder == "vae" else names
        suffixes = choice.suffixes or PICTURE_SUFFIXES
        return [name for name in self.roots.list(_kind(choice.folder)) if _ends_with(name, suffixes)]

    def resolve(self, choice: FileChoice, name: str) -> Path:
        """Where ``name`` is, what a pickle of that name was converted to, or where it would be if it were a file.

        Raises ``MissingFile`` or ``PathOutsideRoots``.
        """
        if _has_no_file(choice, name):
            return Path(name)
        if choice.tree:
            return self.roots.find_folder(name, _kind(choice.folder))
        if choice.entries:
            return self._styles(choice).find(name)[0]
        if choice.folder in FILE_KINDS:
            return self.roots.find(name, _kind(choice.folder))
        if (halves := self._halves(choice, name)) is not None:
            return halves[0]
        return self.models.readable(choice.folder, name)

    def _styles(self, choice: FileChoice) -> StyleBook:
        return read_book(self.models.find(choice.folder, name) for name in self.models.list(choice.folder))

    def _halves(self, choice: FileChoice, name: str) -> tuple[Path, Path] | None:
        """The two files that the name of a tiny VAE stands for."""
        return self.models.tiny_vaes().get(name) if choice.folder == "vae" and name in TINY_VAES else None

    def ref(self, choice: FileChoice, name: str) -> FileRef:
        """The file or folder with its content's digest, which may take the time to read it once."""
        if choice.entries:
            path, style = self._styles(choice).find(name)
            return FileRef(style.digest, path, name)
        path = self.resolve(choice, name)
        if _has_no_file(choice, name):
            return FileRef(Digest(name), path, name)
        if choice.tree:
            return FileRef(self.digests.digest_tree(tree_files(path, choice.suffixes)), path, name)
        if (halves := self._halves(choice, name)) is not None:
            return FileRef(Digest(f"{name}:" + "+".join(map(self.digests.digest, halves))), path, name, halves[1:])
        return FileRef(self.digests.digest(path), path, name)


def _has_no_file(choice: FileChoice, name: str) -> bool:
    return choice.folder == "vae" and name == PIXEL_SPACE


def _ends_with(name: str, suffixes: Sequence[str]) -> bool:
    return not suffixes or name.lower().endswith(tuple(suffixes))


def _kind(folder: str) -> FileKind:
    return next(kind for kind in FILE_KINDS if kind == folder)


def open_files(
    *,
    models: Sequence[Path],
    input: Path,
    output: Path,
    temp: Path,
    state: Path,
    extra_model_paths: Path | None = None,
) -> LocalFiles:
    """The files of one process: models roots in the order of search, the three folders of files, the state folder.

    Raises UsageError when the configuration file of extra model folders cannot be read.
    """
    folders = ModelFolders.under(models, hub=default_hub(os.environ))
    if extra_model_paths is not None:
        folders = folders.with_extra(read_extra_folders(extra_model_paths))
    return LocalFiles(folders, FileRoots(input, output, temp), DigestIndex(state))
