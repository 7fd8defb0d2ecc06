"""What the modules that packs import stand on: the files, node types and settings of this process, and the call that is under way.

The modules a pack imports are global by nature (``folder_paths.get_full_path(...)``), so a process that loads packs installs one host
before it loads the first. Nothing else in the engine keeps such state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from pathlib import Path

    from engine.files import LocalFiles
    from engine.registry import Registry
    from engine.run.context import NodeContext
    from engine.run.settings import DeviceSettings


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP route a pack asked for, as it wrote it: for aiohttp."""

    method: str
    """``"GET"``, ``"POST"``..., ``"*"`` for a class with a method for each, ``"STATIC"`` for a folder of files."""
    path: str
    handler: Callable[..., Any] | None
    """None for a folder of files."""
    pack: str | None
    directory: str | None = None
    """The folder of files."""


@dataclass(slots=True)
class Host:
    """What packs reach through the modules they import."""

    files: LocalFiles
    registry: Registry
    """Core node types, and those of the packs loaded so far."""
    settings: DeviceSettings
    broadcast: Callable[[str | int, Any, str | None], None] = lambda name, data, client: None
    """Takes a message that a pack sends while none of its nodes runs, as ``NodeContext.send`` does otherwise."""
    client: str | None = None
    """Who watches the run that the last call of a node belonged to."""
    routes: list[Route] = field(default_factory=list)
    loading: str | None = None
    """The pack that is being imported."""
    web_directories: dict[str, str] = field(default_factory=dict)
    """Folders of browser scripts by pack."""
    folders: dict[str, tuple[list[str], set[str]]] = field(default_factory=dict)
    """Model folders and their suffixes by key as packs see and change them; filled by ``folder_paths`` when first asked for."""
    user: Path | None = None
    """The folder of users' settings; by default beside the output folder."""
    classes: dict[str, Any] = field(default_factory=dict)
    """Node classes by id that packs brought with them, or made of core node types and may have changed."""
    display_names: dict[str, str] = field(default_factory=dict)
    prompt_handlers: list[Callable[[dict[str, Any]], dict[str, Any]]] = field(default_factory=list)
    """What packs want to be called with, and to return, when a workflow is posted."""
    loop: AbstractEventLoop | None = None
    """The loop that serves requests."""
    interrupted: set[str] = field(default_factory=set)
    """Jobs that one of their own nodes told to stop."""
    cancel: Callable[[str | None], None] = lambda job: None
    """Stops a job; for None, whatever runs."""
    at_work: Callable[[NodeContext, bool], None] = lambda context, is_over: None
    """Told of each call before a pack's code runs, which may end the process, and when it is over."""
    asking: Callable[[str | None], None] = lambda hook: None
    """Told of each question to a class before the pack's code runs, in words, and with None when there is an answer."""


@dataclass(slots=True)
class CallState:
    """What the modules remember during one call of a node."""

    context: NodeContext
    builders: int = 0
    """Graph builders made so far."""
    progress: tuple[int, int] = (0, 1)
    """What was last reported."""


current: ContextVar[NodeContext | None] = ContextVar("current", default=None)
"""The node call under way in this thread or task, if any."""

_state: ContextVar[CallState | None] = ContextVar("call_state", default=None)

_hosts: list[Host] = []


def install(host: Host) -> None:
    """Make ``host`` what packs find; in place of the one before it."""
    _hosts[:] = [host]


def host() -> Host:
    """Raises ``RuntimeError`` where none was installed: no pack is loaded there."""
    if not _hosts:
        raise RuntimeError("no host: this process does not load node packs")
    return _hosts[0]


@contextlib.contextmanager
def asking(hook: str) -> Iterator[None]:
    """A question to a pack's class, for as long as the block lasts; told where there is a host to tell."""
    tell = _hosts[0].asking if _hosts else lambda hook: None
    tell(hook)
    try:
        yield
    finally:
        tell(None)


@contextlib.contextmanager
def calling(context: NodeContext) -> Iterator[None]:
    """A call of a node, for as long as the block lasts: in this thread or task and in tasks it starts."""
    before, state = current.set(context), _state.set(CallState(context))
    for here in _hosts:
        here.client = context.client
    try:
        yield
    finally:
        _state.reset(state)
        current.reset(before)


def call_state() -> CallState | None:
    """What is remembered of the call under way; None where there is none."""
    context = current.get()
    if context is None:
        return None
    state = _state.get()
    if state is None or state.context is not context:
        state = CallState(context)
        _state.set(state)
    return state
