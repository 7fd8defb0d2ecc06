"""Imports packs: the one place where code that is not ours or an installed package's comes in. Only in a process of its own."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import logging
import runpy
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os.path import normpath
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from engine.compat.aliases import install_aliases, place_modules
from engine.compat.folder_paths import get_base_path
from engine.compat.host import Host, install
from engine.errors import DefinitionError
from engine.packs.contract import Instances, Pack, read_class
from engine.packs.report import LoadedPack, PackFailure, Report
from engine.packs.sources import PackSource
from engine.registry import Registry
from engine.run.failures import one_line

PARENT: Final = "custom_nodes"
"""Packs are imported as ``custom_nodes.NAME``, which is also what editors are told."""

_log = logging.getLogger(__name__)


class Loader:
    """Loads packs into a registry, one after the other; what one does wrong does not keep the others out."""

    def __init__(self, registry: Registry, host: Host, announce: Callable[[str], None]) -> None:
        """``announce`` is told the name of each pack before any of its code runs: the code may end the process."""
        self._registry = registry
        self._host = host
        self._announce = announce
        self.instances = Instances()
        self.report = Report()

    def load(self, sources: Sequence[PackSource]) -> None:
        """Import ``sources`` and add their node types to the registry."""
        install_aliases()
        install(self._host)
        place_modules(get_base_path())
        _namespace(source.path.parent for source in sources)
        ready = [source for source in sources if self._prestart(source)]
        for source in ready:
            with self._guarded(source, "its import failed"):
                self._load_one(source)

    def _prestart(self, source: PackSource) -> bool:
        if source.prestartup is None:
            return True
        with self._guarded(source, "its prestartup_script.py failed"):
            runpy.run_path(str(source.prestartup), run_name=f"{PARENT}.{source.name}.prestartup_script")
        return not any(failure.pack == source.name for failure in self.report.failures)

    @contextmanager
    def _guarded(self, source: PackSource, what: str) -> Iterator[None]:
        """Whatever a pack raises, ``SystemExit`` too, is written down as its failure."""
        self._announce(source.name)
        self._host.loading = source.name
        try:
            yield
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            _log.debug("pack %s failed", source.name, exc_info=error)
            self.report.failures.append(PackFailure(source.name, f"{what}: {_explained(error, source.path)}"))
        finally:
            self._host.loading = None

    def _load_one(self, source: PackSource) -> None:
        module = _import(source)
        pack = Pack(source.name, source.digest)
        titles = getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {}
        found = {**(getattr(module, "NODE_CLASS_MAPPINGS", None) or {})}
        for cls in _schema_classes(module):
            schema = self._schema(cls, source)
            if schema is None:
                continue
            found[schema.node_id] = cls
            titles = {**titles, **({schema.node_id: schema.display_name} if schema.display_name else {})}
        if not found and not hasattr(module, "NODE_CLASS_MAPPINGS") and not hasattr(module, "comfy_entrypoint"):
            raise DefinitionError("it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint, so it brings no nodes")
        added = tuple(type_ for type_, cls in found.items() if self._add(str(type_), cls, titles, pack))
        web = _web_directory(module, source)
        if web is not None:
            self._host.web_directories[source.name] = web
        self.report.packs.append(LoadedPack(source.name, source.digest, tuple(map(str, added)), web))

    def _schema(self, cls: Any, source: PackSource) -> Any:
        """The schema of a class; None, and the class alone is left out, where it has none that can be read."""
        try:
            return cls.GET_SCHEMA()
        except Exception as error:
            name = str(getattr(cls, "__name__", cls))
            _log.debug("the schema of %s of pack %s failed", name, source.name, exc_info=error)
            self.report.failures.append(PackFailure(source.name, _explained(error, source.path), name))
            return None

    def _add(self, type_: str, cls: Any, titles: Mapping[str, str], pack: Pack) -> bool:
        try:
            spec = read_class(type_, cls, titles.get(type_), pack, self.instances)
            self._registry.add(spec)
        except Exception as error:
            _log.debug("node %s of pack %s failed", type_, pack.name, exc_info=error)
            self.report.failures.append(PackFailure(pack.name, one_line(error), type_))
            return False
        self._host.classes[type_] = cls
        return True


def _namespace(folders: Iterable[Path]) -> None:
    """``custom_nodes`` itself, so that packs may import one another."""
    module = ModuleType(PARENT)
    module.__path__ = list(dict.fromkeys(map(str, folders)))
    sys.modules[PARENT] = module


def _import(source: PackSource) -> ModuleType:
    if source.module is not None:
        return importlib.import_module(source.module)
    name = f"{PARENT}.{source.name}"
    locations = [str(source.path)] if source.path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, source.entry, submodule_search_locations=locations)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source.entry} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
            del sys.modules[known]
        raise
    return module


def _schema_classes(module: ModuleType) -> list[Any]:
    """The classes of a pack that brings an extension instead of a mapping."""
    entry = getattr(module, "comfy_entrypoint", None)
    return [] if entry is None else asyncio.run(_extension_classes(entry))


async def _extension_classes(entry: Callable[[], Any]) -> list[Any]:
    extension = entry()
    if inspect.isawaitable(extension):
        extension = await extension
    loaded = extension.on_load() if hasattr(extension, "on_load") else None
    if inspect.isawaitable(loaded):
        await loaded
    classes = extension.get_node_list()
    return list(await classes if inspect.isawaitable(classes) else classes)


def _web_directory(module: ModuleType, source: PackSource) -> str | None:
    named = getattr(module, "WEB_DIRECTORY", None)
    if not isinstance(named, str) or not source.path.is_dir():
        return None
    # of an installed pack, a folder or a file may be a link to where the installer keeps it
    folder = Path(normpath(source.path / named)) if source.is_installed else (source.path / named).resolve()
    return str(folder) if folder.is_dir() and folder.is_relative_to(source.path) else None


def _explained(error: BaseException, path: Path) -> str:
    """The error on one line, and the last line of the pack's own code that led to it."""
    called_exit = f"it called sys.exit({error.code}) while it was imported" if isinstance(error, SystemExit) else None
    text = called_exit or one_line(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(path)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{text}{where}{_remedy(error, text)}"


def _remedy(error: BaseException, text: str) -> str:
    """What to install where a module is missing that is not ComfyUI's."""
    if not isinstance(error, ModuleNotFoundError) or "Mezzotint" in text:
        return ""
    if error.name == "aiohttp":
        return '; pip install "mezzotint[packs]" brings it'
    return "; install what its requirements.txt asks for"
