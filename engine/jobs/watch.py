"""What is known of a run from its events alone: who is at work, what was done, and when it was last heard of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from engine.errors import NodeFailed
from engine.graph.graph import NodeId
from engine.run import events

GAP: Final = 2.0
"""Seconds between two looks after which who looks was not there itself."""


@dataclass(slots=True)
class Attention:
    """Since when somebody looks without a gap: nobody's silence is held against them for when nobody listened.

    A process that was stopped, or kept from the processor, finds all that it has to read only after it has found what time it is.
    """

    since: float
    _looked: float = field(init=False)

    def __post_init__(self) -> None:
        self._looked = self.since

    def look(self, now: float) -> None:
        if now - self._looked > GAP:
            self.since = now
        self._looked = now


@dataclass(frozen=True, slots=True)
class _AtWork:
    class_type: str
    shown: NodeId


@dataclass(slots=True)
class Watch:
    """Follows one run."""

    packs: Mapping[str, str]
    """The pack of each node type that comes from one."""
    since: float = 0.0
    """When it was asked for, by the clock of all other times here."""
    ran: list[NodeId] = field(default_factory=list)
    cached: list[NodeId] = field(default_factory=list)
    ui: dict[NodeId, dict[str, list[Any]]] = field(default_factory=dict)
    inner: dict[NodeId, NodeId] = field(default_factory=dict)
    _at_work: dict[NodeId, _AtWork] = field(default_factory=dict)
    """In the order in which they began. Of a pack's nodes it is known to the call; ours are in it until they have a value."""
    _last: float | None = None

    def begin(self, node: NodeId, class_type: str, shown: NodeId, now: float) -> None:
        """A pack's node is about to be called."""
        self._last = now
        self._start(node, class_type, shown)

    def rest(self, node: NodeId, now: float) -> None:
        """The call of a pack's node is over, though there may be another."""
        self._last = now
        self._at_work.pop(node, None)

    def _start(self, node: NodeId, class_type: str, shown: NodeId) -> None:
        self._at_work.pop(node, None)
        self._at_work[node] = _AtWork(class_type, shown)

    def hear(self, event: events.Event, now: float) -> None:
        """``now`` is in seconds of any clock, the same for all calls."""
        self._last = now
        match event:
            case events.NodeStarted(node=node, class_type=class_type, shown=shown) if class_type not in self.packs:
                self._start(node, class_type, shown)
            case events.NodeFinished(node=node, ui=ui):
                self._over(node, ui)
                self.ran.append(node)
            case events.NodeCached(node=node, ui=ui):
                self._over(node, ui)
                self.cached.append(node)
            case events.NodeFailed(node=node):
                self._at_work.pop(node, None)
            case events.NodeExpanded(node=node, shown=shown, inner=inner):
                self._at_work.pop(node, None)
                self.inner |= dict.fromkeys(inner, shown)

    def _over(self, node: NodeId, ui: Mapping[str, Any]) -> None:
        self._at_work.pop(node, None)
        if ui:
            self.ui[node] = {name: list(items) for name, items in ui.items()}

    @property
    def has_begun(self) -> bool:
        """Whether anything was heard."""
        return self._last is not None

    def is_silent(self, now: float, timeout: float, listened: float = 0.0) -> bool:
        """Whether nothing was heard of the run for ``timeout`` seconds, and it is not our own nodes that take their time.

        ``listened``: since when anybody did.
        """
        late = now - max(self.since if self._last is None else self._last, listened) > timeout
        return late and (self.is_pack_at_work or not self._at_work)

    @property
    def is_pack_at_work(self) -> bool:
        """Whether one of the nodes at work is a pack's. Our own look often enough whether they are to stop."""
        return any(work.class_type in self.packs for work in self._at_work.values())

    @property
    def is_idle(self) -> bool:
        """Whether no node is known to be at work: files are read, or classes asked for what they say of their inputs."""
        return not self._at_work

    def verdict(self, why: str) -> NodeFailed | None:
        """The failure of whoever was at work when the process died: of several the one that began last, a pack's before our own."""
        suspects = sorted(self._at_work.items(), key=lambda item: item[1].class_type in self.packs)
        if not suspects:
            return None
        node, work = suspects[-1]
        return NodeFailed(node, work.class_type, why, shown=work.shown, pack=self.packs.get(work.class_type))
