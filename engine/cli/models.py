"""``mezzotint models list``, ``info`` and ``pull``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.cli.screen import say
from engine.cli.workspace import Workspace, open_workspace
from engine.errors import UsageError
from engine.paths import nearest

if TYPE_CHECKING:
    from engine.model_folders import ModelFolders
    from engine.model_info import ModelInfo
    from engine.models import Digest
    from engine.places import Places

_NO_MODELS: Final = frozenset({"configs", "custom_nodes", "styles"})
"""Folder keys whose files are something else."""

_SHOWN_DIGEST: Final = 12


@dataclass(frozen=True, slots=True)
class Found:
    """A model file or folder, where it is and what it is."""

    folder: str
    name: str
    path: Path
    info: ModelInfo
    digest: Digest | None

    @property
    def size(self) -> int:
        files = self.path.rglob("*") if self.path.is_dir() else (self.path,)
        return sum(file.stat().st_size for file in files if file.is_file())

    def to_json(self) -> dict[str, Any]:
        place = {"folder": self.folder, "name": self.name, "path": str(self.path)}
        return {**place, **self.info.to_json(), "size": self.size, "digest": self.digest}


def list_command(places: Places, folder: str | None, *, digests: bool, as_json: bool) -> None:
    """Print every model of the folders. With ``digests`` those that are not known yet are worked out, which reads all files."""
    with open_workspace(places) as workspace:
        folders = workspace.files.models
        keys = [folder] if folder else [key for key in folders.keys() if key not in _NO_MODELS]  # noqa: SIM118
        found = [
            _found(workspace, key, name, folders.find(key, name), digests=digests)
            for key in keys
            for name in folders.list(key)
        ]
    if as_json:
        say(json.dumps([model.to_json() for model in found], indent=2), to=sys.stdout)
        return
    for key in keys:
        _print_folder(key, [model for model in found if model.folder == key])
    if not found:
        say(f"no models in {', '.join(keys)}; mezzotint models pull lists what can be had")


def _found(workspace: Workspace, key: str, name: str, path: Path, *, digests: bool) -> Found:
    index = workspace.files.digests
    digest = index.digest(path) if digests else index.known(path)
    return Found(key, name, path, workspace.registry.inspect_model(path), digest)


def _print_folder(key: str, models: list[Found]) -> None:
    if not models:
        return
    say(key, to=sys.stdout)
    width = max(len(model.name) for model in models)
    for model in models:
        digest = f"  {model.digest[:_SHOWN_DIGEST]}" if model.digest else ""
        say(f"  {model.name:<{width}}  {sized(model.size):>9}  {model.info.what}{digest}", to=sys.stdout)


def info_command(name: str, places: Places, *, as_json: bool) -> None:
    """Print what one model is. Its digest is worked out where it is not known, which reads the file."""
    with open_workspace(places) as workspace:
        key, known, path = _located(name, workspace.files.models)
        model = _found(workspace, key, known, path, digests=True)
    if as_json:
        say(json.dumps(model.to_json(), indent=2), to=sys.stdout)
        return
    for line in _described(model):
        say(line, to=sys.stdout)


def _described(model: Found) -> Iterator[str]:
    info = model.info
    yield f"{model.path}: {info.what}"
    for part in info.parts:
        yield f"  {part.name}: {part.parameters / 1e6:,.1f} million numbers, {part.summary}"
    if info.prediction:
        yield f"  predicts {info.prediction}"
    if info.tensors:
        counts = ", ".join(f"{count} {dtype}" for dtype, count in info.dtypes.items())
        yield f"  {info.tensors} tensors: {counts}"
    yield f"  {sized(model.size)}, digest {model.digest}"


def _located(name: str, folders: ModelFolders) -> tuple[str, str, Path]:
    """The folder's key (empty for a path of one's own), the name and the path of the one model that ``name`` means.

    It is a path, a name in a model folder, or that behind the folder's key: ``loras/detail.safetensors``.
    Raises UsageError where nothing or more than one thing is called so.
    """
    names = [(key, known) for key in folders.keys() if key not in _NO_MODELS for known in folders.list(key)]  # noqa: SIM118
    found = [(key, known) for key, known in names if name in (known, f"{key}/{known}")]
    if len(found) == 1:
        key, known = found[0]
        return key, known, folders.find(key, known)
    if found:
        choices = ", ".join(f"{key}/{known}" for key, known in found)
        raise UsageError(f"expected the name of one model, found {name!r} in several folders; name one of {choices}")
    if Path(name).exists():
        return "", name, Path(name)
    near = nearest(name, [f"{key}/{known}" for key, known in names])
    raise UsageError(f"expected a path or a name in the model folders, found {name!r}, which is neither; {near}")


def pull_command(names: Sequence[str], to: Path | None, places: Places) -> None:
    """Download models and print where they are; without a name, print what has a short one."""
    from engine.catalogue import CATALOGUE_NOTE, find_entry, read_catalogue
    from engine.hub import Puller

    catalogue = read_catalogue()
    if not names:
        width = max(map(len, catalogue))
        for short, entry in catalogue.items():
            say(f"{short:<{width}}  {entry.title}{', gated' if entry.is_gated else ''}: {entry.source}", to=sys.stdout)
        say(CATALOGUE_NOTE)
        return
    for name in names:
        find_entry(name, catalogue)  # a wrong one is told before the first gigabyte
    with open_workspace(places) as workspace:
        registry = workspace.registry
        puller = Puller(workspace.files.models, registry.inspect_model, registry.convert_model)
        for name in names:
            path, info = puller.pull(name, catalogue, to)
            say(info.what)
            say(str(path), to=sys.stdout)


def sized(size: int) -> str:
    """A number of bytes for people."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"
