"""A node's context outside of a run, over the demo model on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from engine.graph.graph import NodeId
from engine.models import Digest, ModelRef, Part
from engine.run.context import NodeContext, Preview
from engine.run.settings import DeviceSettings
from nodes.diffusion.store import LocalModelStore, make_store
from tests.conftest import ROOT

DEMO = ROOT / "models" / "checkpoints" / "demo.safetensors"


def demo(part: Part) -> ModelRef:
    """The recipe of a part of the demo model."""
    return ModelRef(Digest("demo"), part, str(DEMO))


@cache
def demo_store() -> LocalModelStore:
    return make_store(DeviceSettings(device="cpu"))


@dataclass
class Heard:
    """What a node said while it ran."""

    warnings: list[str] = field(default_factory=list)
    progress: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    """Each with its preview, made."""
    sent: list[tuple[str, Any]] = field(default_factory=list)
    shown: list[bytes] = field(default_factory=list)
    """Pictures that are results."""

    def report(self, done: int, total: int, preview: Preview | None) -> None:
        self.progress.append((done, total, preview() if preview else None))


class _NoCheckpoint:
    def load(self) -> bytes | None:
        return None

    def save(self, state: bytes) -> None: ...


def context(heard: Heard | None = None) -> NodeContext:
    """For a node called directly."""
    heard = heard or Heard()
    return NodeContext(
        job="job",
        node=NodeId("7"),
        class_type="Test",
        settings=DeviceSettings(device="cpu"),
        checkpoint=_NoCheckpoint(),
        find_file=lambda folder, name: None,
        model_store=demo_store,
        report=heard.report,
        is_cancelled=lambda: False,
        warn=heard.warnings.append,
        graph=None,  # type: ignore[arg-type]  # no node here becomes others
        missing=frozenset(),
        index=0,
        metadata={},
        client=None,
        send=lambda name, data, sid: heard.sent.append((str(name), data)),
        show=heard.shown.append,
    )
