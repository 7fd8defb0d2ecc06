"""What came of loading packs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PackFailure:
    """A pack, or one node of it, that could not be loaded, and why."""

    pack: str
    reason: str
    node: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedPack:
    """A pack that was imported."""

    name: str
    digest: str
    nodes: tuple[str, ...]
    web_directory: str | None = None
    """The folder of its browser scripts."""


@dataclass(frozen=True, slots=True)
class NotedRoute:
    """An HTTP route of a pack that its worker answers."""

    method: str
    """``"GET"``, ``"POST"``..., ``"*"`` for all of them, ``"STATIC"`` for what lies below ``path``."""
    path: str
    """As aiohttp has it: ``/x/{name}``, ``/x/{name:regular expression}``."""
    pack: str | None


@dataclass(slots=True)
class Report:
    """What came of loading."""

    packs: list[LoadedPack] = field(default_factory=list)
    failures: list[PackFailure] = field(default_factory=list)
