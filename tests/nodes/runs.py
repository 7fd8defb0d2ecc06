"""Runs of small graphs of the real nodes, and nodes that tell when they run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import nodes
from engine.files import LocalFiles, open_files
from engine.graph.graph import Graph, NodeId
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.disk_tier import DiskTier
from engine.run.executor import Executor, Run, RunResult
from engine.run.outputs import OutputFolder
from engine.spec import Optional, Output, Socket, node


@dataclass
class Bench:
    """The real nodes, and some for tests; each run begins without anything known, unless it is given the executor of another."""

    folder: Path
    log: list[Any] = field(default_factory=list)

    def registry(self) -> Registry:
        log = self.log

        @node("Fail", category="test", outputs=[Output("*")])
        def fail(value: Annotated[Any, Optional()] = None) -> Any:
            raise ValueError("this must not run")

        @node("Log", category="test", outputs=[Output("*")])
        def logged(value: Any) -> Any:
            log.append(value)
            return (value,)

        @node("Sum", category="test", outputs=[Output("INT")], takes_lists=True)
        def total(values: Any) -> int:
            log.append(values)
            return int(sum(values))

        @node("Brighten", category="test", outputs=[Output("IMAGE")])
        def brighten(image: Annotated[Any, Socket("IMAGE")]) -> Any:
            time.sleep(0.06)  # what takes less is not worth a file
            log.append("brighten")
            return image / 2 + 0.5

        registry = Registry()
        nodes.register(registry)
        registry.add(fail, logged, total, brighten)
        return registry

    def files(self) -> LocalFiles:
        """Those of the folders ``input``, ``output`` and ``temp``."""
        folders = {kind: self.folder / kind for kind in ("input", "output", "temp")}
        return open_files(models=[], state=self.folder / "state", **folders)

    def executor(self, *, disk: bool = False) -> Executor:
        """Keeps results in memory, and on disk as well if it is told to."""
        registry = self.registry()
        cache = OutputCache(disk=DiskTier(self.folder / "cache", registry.codecs)) if disk else OutputCache()
        outputs = OutputFolder(self.folder / "output", self.folder / "temp")
        return Executor(registry, files=self.files(), cache=cache, outputs=outputs, numerics="test")

    def run(self, graph: Graph, keep: str = "r", executor: Executor | None = None) -> RunResult:
        return (executor or self.executor()).run_sync(Run(graph, targets=(), keep=(NodeId(keep),)))

    def values(self, graph: Graph, output: int = 0, keep: str = "r") -> list[Any]:
        """What came out of the node ``keep``, element by element."""
        result = self.run(graph, keep)
        assert result.status == "succeeded", result.failures
        return list(result.values[NodeId(keep)][output])

    def failure(self, graph: Graph, keep: str = "r") -> str:
        result = self.run(graph, keep)
        assert result.status == "failed"
        return str(result.failures[0])
