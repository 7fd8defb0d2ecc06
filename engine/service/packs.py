"""Third-party packs as the service sees them: their node types, their routes, their scripts, all in the worker that has imported them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import MezzotintError
from engine.fileref import Files
from engine.graph.object_info import object_info
from engine.jobs.loaded import Loaded
from engine.jobs.remote import RemoteExecutor
from engine.jobs.web_address import WebAddress
from engine.packs.pack_info import PackInfo
from engine.packs.report import NotedRoute
from engine.packs.sources import PackSource, find_packs, installed_packs
from engine.packs.spec_cache import CachedPacks, SpecCache
from engine.places import Places
from engine.registry import Registry
from engine.service.plain import storable
from engine.service.served import Folder
from engine.spec import NodeSpec

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Packs:
    """Belongs to the service. ``workers``: the first is asked; the others have imported the same."""

    workers: Sequence[RemoteExecutor]
    registry: Registry
    web_directories: dict[str, Folder]
    sources: Sequence[PackSource] = ()
    loaded: Loaded | None = None
    info: PackInfo | None = None
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def routes(self) -> Sequence[NotedRoute]:
        return self.loaded.routes if self.loaded is not None else ()

    @property
    def address(self) -> WebAddress | None:
        """Where the first worker answers requests for packs' routes."""
        return self.workers[0].web

    def recall(self, cache: SpecCache, key: str) -> bool:
        """Take what is remembered of these very packs: the service knows their nodes before a worker does."""
        cached = cache.load(key)
        if cached is None:
            return False
        self._take(self.workers[0].recall(cached), cached)
        return True

    def start(self, cache: SpecCache, key: str, *, is_known: bool) -> None:
        """Start the workers; what they have loaded is taken, and remembered, unless that was known."""
        worker = self.workers[0]
        loaded = worker.loaded
        for failure in loaded.failures:
            what = f"node {failure.node} of pack {failure.pack}" if failure.node else f"pack {failure.pack}"
            _log.warning("%s did not load: %s", what, failure.reason)
        if not is_known:
            self._take(loaded, None)
        self.loaded = loaded
        if self.sources and self.info is not None:
            infos = self.info.refresh([spec.type for spec in loaded.specs])
            try:
                cache.save(key, loaded.to_cached(infos))
            except OSError as error:
                _log.warning("what packs brought was not written down: %s", error)
        for other in self.workers[1:]:
            _ = other.loaded

    def _take(self, loaded: Loaded, cached: CachedPacks | None) -> None:
        self.registry.add(*loaded.specs)
        self.loaded = loaded
        self.info = PackInfo(self.workers[0].gently, cached.infos if cached is not None else None)
        folders = {pack.name: Path(pack.web_directory) for pack in loaded.packs if pack.web_directory}
        self.web_directories |= {name: Folder(path, self._is_installed(path)) for name, path in folders.items()}

    def _is_installed(self, web: Path) -> bool:
        return any(source.is_installed and web.is_relative_to(source.path) for source in self.sources)

    async def on_prompt(self, posted: Mapping[str, Any]) -> dict[str, Any]:
        """A posted workflow after the packs' handlers, if there are any. Raises ``TooDeep`` for what they made of it."""
        if self.loaded is None or not self.loaded.prompt_handlers:
            return dict(posted)
        changed: dict[str, Any] = storable(await asyncio.to_thread(self.workers[0].on_prompt, posted))
        return changed

    def free(self, *, unload_models: bool, free_memory: bool) -> None:
        """Have the workers give memory back, after what they are at; nobody waits for it."""
        if not (unload_models or free_memory):
            return
        for worker in self.workers:
            task = asyncio.ensure_future(worker.free(unload_models=unload_models, free_memory=free_memory))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # object_info

    def object_info(self, spec: NodeSpec, files: Files) -> dict[str, Any]:
        """Raises ``MezzotintError`` for a class that cannot say what it takes."""
        if not spec.pack or self.info is None:
            return object_info(spec, files)
        found = self.info.refresh([spec.type]).get(spec.type)
        if found is None:
            raise MezzotintError(f"{spec.type} cannot say what it takes")
        return found

    def object_info_text(self, registry: Registry, files: Files) -> str:
        """All of it, as JSON. Packs' classes are asked, since their choices change with the files there are."""
        specs = list(registry.values())
        told = {spec.type: object_info(spec, files) for spec in specs if not spec.pack}
        theirs = [spec.type for spec in specs if spec.pack]
        if theirs and self.info is not None:
            told |= self.info.refresh(theirs)
        return json.dumps(told, allow_nan=False, separators=(",", ":"))


def pack_sources(places: Places) -> list[PackSource]:
    """The packs that are to be loaded. Raises ``UsageError`` for a folder that is not there."""
    from engine.packs.sources import check_folders

    folders = places.pack_folders()
    check_folders(folders)
    return [*find_packs(folders), *(installed_packs() if places.installed_packs else [])]
