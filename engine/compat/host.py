"""What the modules that packs import stand on: the files, node types and settings of this process, and the call that is under way.

The modules a pack imports are global by nature (``folder_paths.get_full_path(...)``), so a process that loads packs installs one host
before it loads the first. Nothing else in the engine keeps such state.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.files import LocalFiles
    from engine.registry import Registry
    from engine.run.context import NodeContext
    from engine.run.settings import DeviceSettings


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP route a pack asked for, as it wrote it: for aiohttp."""

    method: str
    path: str
    handler: Callable[..., Any]
    pack: str | None


@dataclass(slots=True)
class Host:
    """What packs reach through the modules they import."""

    files: LocalFiles
    registry: Registry
    """Core node types, and those of the packs loaded so far."""
    settings: DeviceSettings
    broadcast: Callable[[str, Any], None] = lambda name, data: None
    """Takes a message that a pack sends while none of its nodes runs."""
    routes: list[Route] = field(default_factory=list)
    loading: str | None = None
    """The pack that is being imported."""
    classes: dict[str, Any] = field(default_factory=dict)
    """The node classes of packs, by node type."""
    web_directories: dict[str, str] = field(default_factory=dict)
    """Folders of browser scripts by pack."""


current: ContextVar[NodeContext | None] = ContextVar("current", default=None)
"""The node call under way in this thread or task, if any."""

_hosts: list[Host] = []


def install(host: Host) -> None:
    """Make ``host`` what packs find; in place of the one before it."""
    _hosts[:] = [host]


def host() -> Host:
    """Raises ``RuntimeError`` where none was installed: no pack is loaded there."""
    if not _hosts:
        raise RuntimeError("no host: this process does not load node packs")
    return _hosts[0]
