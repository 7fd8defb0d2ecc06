"""All that a node may touch while it runs.

A node cannot reach the server, the cache or another node: it gets plain values and this. Helpers below the nodes get plain
callables, not the context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import Cancelled
from engine.graph.graph import NodeId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.fileref import FileRef
    from engine.models import ModelStore
    from engine.run.live_graph import LiveGraph
    from engine.run.settings import DeviceSettings


class Checkpoint(Protocol):
    """Where a long node keeps its half-finished state, under its own key. Gone when the node has finished."""

    def load(self) -> bytes | None:
        """What was last saved for this very node with these very inputs, if anything."""
        ...

    def save(self, state: bytes) -> None:
        """Keep ``state`` in place of what was there; whole or not at all."""
        ...


class FindFile(Protocol):
    """Finds a file a node names while it runs (``embedding:name`` in a prompt)."""

    def __call__(self, folder: str, name: str) -> FileRef | None: ...


Preview = Callable[[], bytes]
"""Makes a JPEG; called only if somebody is looking."""


@dataclass(frozen=True, slots=True)
class NodeContext:
    """One node's view of one run."""

    job: str
    node: NodeId
    class_type: str
    settings: DeviceSettings
    checkpoint: Checkpoint
    find_file: FindFile
    """Looks a name up in a model folder; None where there is no such file."""
    model_store: Callable[[], ModelStore]
    report: Callable[[int, int, Preview | None], None]
    is_cancelled: Callable[[], bool]
    warn: Callable[[str], None]
    """Tell the user something that is no error."""
    graph: LiveGraph
    """The workflow as it stands, for nodes that become others. What a node makes of it must follow from its inputs all the same."""
    missing: frozenset[str]
    """Lazy inputs that are linked and were not asked for so far: the function is passed None in their place."""
    index: int
    """Which of the node's calls this is, where it is called for each element of a list."""
    metadata: Mapping[str, Any]
    """What this run's files carry: ``prompt`` (API JSON) and perhaps ``workflow``. It is no part of any key."""
    client: str | None
    """Who watches the run, if somebody said so."""
    send: Callable[[str | int, Any, str | None], None]
    """Send a message by name to one client; to everybody for None. With a number for a name it is bytes."""
    show: Callable[[bytes], None]
    """Show whoever watches the run a picture, JPEG or PNG, that is a result and so is not missed, as one on the way may be."""
    list_files: Callable[[str], Sequence[str]] = lambda folder: ()
    """The names that ``find_file`` knows in a model folder, sorted. What a node makes of them it must say by ``reads``."""

    @property
    def models(self) -> ModelStore:
        """The weights of this process. Made on first use."""
        return self.model_store()

    def check_cancelled(self) -> None:
        """Raise ``Cancelled`` if the run was told to stop."""
        if self.is_cancelled():
            raise Cancelled

    def progress(self, done: int, total: int, preview: Preview | None = None) -> None:
        """Say that ``done`` of ``total`` steps are done, and stop here if the run was told to."""
        self.check_cancelled()
        self.report(done, total, preview)
