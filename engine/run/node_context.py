"""Makes the context of each node call: the bridge from a computing node to the events of its run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from engine.errors import MissingFile
from engine.fileref import FileRef, Files
from engine.graph.graph import NodeId
from engine.run import events
from engine.run.checkpoint import NoCheckpoint, StoredCheckpoint
from engine.run.context import Checkpoint, FindFile, NodeContext, Preview
from engine.run.failures import one_line
from engine.run.keys import Key
from engine.run.live_graph import LiveGraph
from engine.run.request import Run, Tools
from engine.spec import FileChoice

_PREVIEW_EVERY: Final = 0.1
"""Seconds between two previews of a node at least: a fast device is not to spend its time on them."""


@dataclass(frozen=True, slots=True)
class ContextMaker:
    """What the contexts of one run have in common."""

    run: Run
    tools: Tools
    graph: LiveGraph
    post: events.OnEvent
    """Takes an event from any thread."""
    is_cancelled: Callable[[], bool]
    _checkpoints: dict[NodeId, list[StoredCheckpoint]] = field(default_factory=dict)

    def make(
        self, node: NodeId, class_type: str, call: int, missing: frozenset[str], kept: tuple[Key | None, int]
    ) -> NodeContext:
        """The context of the ``call``-th call of ``node``.

        ``kept`` says where its checkpoint is: a key, and which call under it. Without a key there is none.
        """

        shown = self.graph.shown(node)

        def warn(message: str) -> None:
            self.post(events.NodeWarning(self.run.job, node, shown, message))

        def send(name: str | int, data: Any, client: str | None) -> None:
            if isinstance(name, int):
                self.post(events.NodeBytes(self.run.job, node, shown, name, data, client))
            else:
                self.post(events.NodeMessage(self.run.job, node, shown, name, data, client))

        def show(image: bytes) -> None:
            if self.run.previews:
                self.post(events.NodePreview(self.run.job, node, shown, image, is_result=True))

        return NodeContext(
            job=self.run.job,
            node=node,
            class_type=class_type,
            settings=self.tools.settings,
            checkpoint=self._checkpoint(node, *kept, warn),
            find_file=_finder(self.tools.files),
            model_store=self.tools.models,
            report=_reporter(self.run, node, shown, self.post, warn),
            is_cancelled=self.is_cancelled,
            warn=warn,
            graph=self.graph,
            missing=missing,
            index=call,
            metadata=self.run.metadata,
            client=self.run.client,
            send=send,
            show=show,
            list_files=lambda folder: self.tools.files.choices(FileChoice(folder)),
        )

    def discard_checkpoints(self, node: NodeId) -> None:
        """``node`` has its value, and that is where it will be found: its half-finished states are of no use."""
        for checkpoint in self._checkpoints.pop(node, ()):
            if checkpoint.used:
                checkpoint.discard()

    def call_known(self, key: Key) -> None:
        """What the call of this key comes to is known: a state that a run before this one left half-finished is of no use."""
        if self.tools.checkpoints is not None:
            self.tools.checkpoints.open(key, 0, lambda message: None).discard()

    def _checkpoint(self, node: NodeId, key: Key | None, call: int, warn: Callable[[str], None]) -> Checkpoint:
        if key is None or self.tools.checkpoints is None:
            return NoCheckpoint()

        def saved(path: Path) -> None:
            self.post(events.NodeCheckpointed(self.run.job, node, self.graph.shown(node), path.name))

        checkpoint = self.tools.checkpoints.open(key, call, warn, resume=self.run.resume, saved=saved)
        self._checkpoints.setdefault(node, []).append(checkpoint)
        return checkpoint


def _finder(files: Files) -> FindFile:
    def find(folder: str, name: str) -> FileRef | None:
        try:
            return files.ref(FileChoice(folder), name)
        except MissingFile:
            return None

    return find


def _reporter(
    run: Run, node: NodeId, shown: NodeId, post: events.OnEvent, warn: Callable[[str], None]
) -> Callable[[int, int, Preview | None], None]:
    due = 0.0

    def report(done: int, total: int, preview: Preview | None) -> None:
        nonlocal due
        post(events.NodeProgress(run.job, node, shown, done, total))
        now = time.monotonic()
        if preview is None or not run.previews or now < due:
            return
        due = now + _PREVIEW_EVERY
        try:
            image = preview()
        except Exception as error:  # a picture on the way is not worth the node's work
            warn(f"no preview ({one_line(error)})")
            return
        post(events.NodePreview(run.job, node, shown, image))

    return report
