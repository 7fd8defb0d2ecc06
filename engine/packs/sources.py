"""Which packs a folder holds, and what their source is."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from blake3 import blake3

from engine.errors import UsageError

_CODE: Final = frozenset({".py", ".pyd", ".so", ".dll"})
SOURCE_SUFFIXES: Final = _CODE | {".json", ".yaml", ".yml", ".toml", ".txt", ".ini", ".csv", ".cfg"}
"""Files that a pack's digest counts: code, and what code reads beside it."""

ENTRY_POINT_GROUP: Final = "mezzotint.packs"

_SKIPPED: Final = frozenset({"__pycache__", ".git", ".venv", "venv", "node_modules"})
_DATA: Final = frozenset({"example_workflows", "locales"})
"""Folders of which code alone counts."""

_LARGEST: Final = 16 << 20
"""Bytes. A larger file is data that the pack downloaded or made."""


@dataclass(frozen=True, slots=True)
class PackSource:
    """A pack on disk."""

    name: str
    path: Path
    """Its folder, or its one file."""
    digest: str
    """Of its source."""
    module: str | None = None
    """The name to import it by, if it is installed like any other package."""

    @property
    def is_installed(self) -> bool:
        """Whether it came as a package, and not as what somebody put into a folder of packs."""
        return self.module is not None

    @property
    def entry(self) -> Path:
        """The file that is imported."""
        return self.path / "__init__.py" if self.path.is_dir() else self.path

    @property
    def prestartup(self) -> Path | None:
        """A script that is run before any pack is imported, if it brings one."""
        script = self.path / "prestartup_script.py"
        return script if self.path.is_dir() and script.is_file() else None


def check_folders(folders: Iterable[Path]) -> None:
    """Raises ``UsageError`` for a folder of packs that is not there."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"expected a folder of node packs at {folder}, found none; check --custom-nodes")


def find_packs(folders: Iterable[Path]) -> list[PackSource]:
    """The packs of some folders in order of name: every ``.py`` file, and every folder with an ``__init__.py``.

    Of two packs of one name the first counts. Raises ``UsageError`` for a folder that is not there.
    """
    found: dict[str, PackSource] = {}
    for folder in folders:
        check_folders([folder])
        for path in sorted(folder.iterdir()):
            if _is_pack(path):
                found.setdefault(path.stem if path.is_file() else path.name, _source(path))
    return list(found.values())


def installed_packs(points: Iterable[EntryPoint] | None = None) -> list[PackSource]:
    """The packs among the installed packages: those with an entry point in the group ``mezzotint.packs`` that names their module.

    One whose module is not there is left out.
    """
    found = []
    for point in entry_points(group=ENTRY_POINT_GROUP) if points is None else points:
        spec = importlib.util.find_spec(point.module)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            path = origin.parent if origin.name == "__init__.py" else origin
            found.append(PackSource(point.name, path, source_digest(path), point.module))
    return found


def _is_pack(path: Path) -> bool:
    if path.name.startswith(".") or path.name in _SKIPPED or path.name.endswith(".disabled"):
        return False
    return (path / "__init__.py").is_file() if path.is_dir() else path.suffix == ".py" and path.stem != "__init__"


def _source(path: Path) -> PackSource:
    name = path.stem if path.is_file() else path.name
    return PackSource(name, path.resolve(), source_digest(path))


def source_digest(path: Path) -> str:
    """The digest of a pack's names and contents, in hex. Compiled caches, pictures and weights do not count.

    What cannot be read counts by its name; the import will say what is wrong with it.
    """
    total = blake3()
    for file in [path] if path.is_file() else _files(path, frozenset()):
        name = file.relative_to(path.parent).as_posix().encode(errors="surrogateescape")
        total.update(len(name).to_bytes(8, "little") + name + _content_digest(file))
    return total.hexdigest()


def _content_digest(file: Path) -> bytes:
    try:
        return blake3(file.read_bytes()).digest()
    except OSError:
        return bytes(32)


def _files(folder: Path, within: frozenset[Path]) -> Iterator[Path]:
    """The files below ``folder`` that count. Links are followed, but not into the folders they lie within."""
    real = folder.resolve()
    if real in within:
        return
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    for path in found:
        if path.name in _SKIPPED or path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path, within | {real})
        elif (
            path.suffix in (_CODE if folder.name in _DATA else SOURCE_SUFFIXES)
            and path.is_file()
            and path.stat().st_size <= _LARGEST
        ):
            yield path
