"""What a worker process has loaded of third-party packs, as its parent knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from engine.jobs.web_address import WebAddress
from engine.packs.describe import PackHooks, from_plain, to_plain
from engine.packs.report import LoadedPack, NotedRoute, PackFailure
from engine.packs.spec_cache import CachedPacks
from engine.spec import NodeSpec


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker has loaded."""

    specs: tuple[NodeSpec, ...]
    packs: tuple[LoadedPack, ...]
    failures: tuple[PackFailure, ...]
    routes: tuple[NotedRoute, ...] = ()
    """HTTP routes of packs."""
    prompt_handlers: int = 0
    """How many functions of packs want to see each workflow that is posted."""
    web: WebAddress | None = None
    """Where the routes are answered."""

    @classmethod
    def from_ready(cls, ready: Mapping[str, Any], hooks: PackHooks) -> Self:
        """From the ``ready`` message; ``hooks`` answers for classes that are in the worker."""
        return cls(
            specs=tuple(from_plain(plain, hooks) for plain in ready["specs"]),
            packs=tuple(LoadedPack(name, digest, tuple(nodes), web) for name, digest, nodes, web in ready["packs"]),
            failures=tuple(PackFailure(pack, reason, node) for pack, reason, node in ready["failures"]),
            routes=tuple(NotedRoute(*route) for route in ready["routes"]),
            prompt_handlers=ready["prompt_handlers"],
            web=None if ready["web"] is None else WebAddress.from_plain(ready["web"]),
        )

    @classmethod
    def from_cached(cls, cached: CachedPacks, hooks: PackHooks) -> Self:
        """From what was kept on disk."""
        specs = tuple(from_plain(plain, hooks) for plain in cached.specs)
        return cls(specs, cached.packs, cached.failures, cached.routes, cached.prompt_handlers)

    def to_cached(self, infos: Mapping[str, Mapping[str, Any]]) -> CachedPacks:
        """As it can be kept on disk, with the ``object_info`` of each type."""
        return CachedPacks(
            specs=tuple(map(to_plain, self.specs)),
            packs=self.packs,
            failures=self.failures,
            routes=self.routes,
            prompt_handlers=self.prompt_handlers,
            infos=infos,
        )
