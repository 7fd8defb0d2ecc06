"""A host over folders of the test's own, and calls of nodes that run nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from engine.compat import host as hosts
from engine.compat.aliases import install_aliases
from engine.compat.host import Host
from engine.files import open_files
from engine.graph.graph import Graph, NodeId
from engine.registry import Registry
from engine.run.checkpoint import NoCheckpoint
from engine.run.context import NodeContext, Preview
from engine.run.live_graph import LiveGraph
from engine.run.settings import DeviceSettings
from tests.conftest import ROOT


@dataclass
class Watched:
    """What one call said, and whether it is to stop."""

    reports: list[tuple[int, int, Preview | None]] = field(default_factory=list)
    messages: list[tuple[str | int, Any, str | None]] = field(default_factory=list)
    shown: list[bytes] = field(default_factory=list)
    cancelled: bool = False

    def context(self, node: str = "7", index: int = 0, metadata: dict[str, Any] | None = None) -> NodeContext:
        def no_models() -> Any:
            raise AssertionError("this call has no models")

        return NodeContext(
            job="job-1",
            node=NodeId(node),
            class_type="Test",
            settings=DeviceSettings(device="cpu"),
            checkpoint=NoCheckpoint(),
            find_file=lambda folder, name: None,
            model_store=no_models,
            report=lambda done, total, preview: self.reports.append((done, total, preview)),
            is_cancelled=lambda: self.cancelled,
            warn=lambda text: None,
            graph=LiveGraph(Graph({})),
            missing=frozenset(),
            index=index,
            metadata=MappingProxyType(metadata or {}),
            client="editor-1",
            send=lambda name, data, client: self.messages.append((name, data, client)),
            show=self.shown.append,
        )


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def call(watched: Watched) -> Iterator[NodeContext]:
    """A node call under way."""
    context = watched.context()
    with hosts.calling(context):
        yield context


@pytest.fixture(autouse=True)
def host(tmp_path: Path, core: Registry) -> Iterator[Host]:
    """The host of the test; models are the repository's and those below ``tmp_path / "models"``."""
    install_aliases()
    files = open_files(
        models=[tmp_path / "models", ROOT / "models"],
        input=tmp_path / "input",
        output=tmp_path / "output",
        temp=tmp_path / "temp",
        state=tmp_path / "state",
    )
    made = Host(files=files, registry=core, settings=DeviceSettings(device="cpu"))
    hosts.install(made)
    yield made
    hosts._hosts.clear()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a file, by its name below the test's folder."""

    def make(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        return path

    return make
