"""Nodes, files and folders to run small graphs with."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from blake3 import blake3

from engine.errors import MissingFile
from engine.fileref import FileRef
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.models import Digest
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.codecs import Buffer
from engine.run.events import Event
from engine.run.executor import Executor
from engine.run.outputs import OutputFolder
from engine.run.results import OutputFile, Outputs
from engine.spec import FileChoice, Lazy, NodeSpec, Output, Socket, node

Array = Annotated[Any, Socket("ARRAY")]


class ArrayCodec:
    """numpy arrays, to the last bit."""

    type_name: str = "numpy.ndarray"
    version: int = 1

    def encode(self, value: Any) -> tuple[Any, Sequence[Buffer]]:
        flat = np.ascontiguousarray(value).reshape(-1)
        return {"dtype": value.dtype.str, "shape": list(value.shape)}, [flat.view(np.uint8).data] if flat.size else []

    def decode(self, header: Any, buffers: Sequence[memoryview]) -> Any:
        data: Buffer = buffers[0] if buffers else b""
        return np.frombuffer(data, dtype=np.dtype(header["dtype"])).reshape(header["shape"])


@dataclass
class FolderFiles:
    """Files of one folder, whatever kind is asked for."""

    root: Path

    def choices(self, choice: FileChoice) -> Sequence[str]:
        return sorted(path.name for path in self.root.iterdir())

    def resolve(self, choice: FileChoice, name: str) -> Path:
        path = self.root / name
        if not path.exists():
            raise MissingFile(f"no file {name} in {self.root}; put it there")
        return path

    def ref(self, choice: FileChoice, name: str) -> FileRef:
        path = self.resolve(choice, name)
        return FileRef(Digest(blake3(path.read_bytes()).hexdigest()), path, name)


@dataclass
class Calls:
    """A registry of arithmetic nodes that remembers which of them were called with what."""

    log: list[tuple[str, Any]] = field(default_factory=list)

    def registry(self, *more: NodeSpec) -> Registry:
        log = self.log

        @node("Const", category="test", outputs=[Output("INT")])
        def const(value: int = 0) -> int:
            log.append(("Const", value))
            return value

        @node("Add", category="test", outputs=[Output("INT")])
        def add(a: int, b: int = 1) -> int:
            log.append(("Add", (a, b)))
            return a + b

        @node("Show", category="test", output_node=True)
        def show(value: int) -> Outputs:
            log.append(("Show", value))
            return Outputs(ui={"text": [str(value)]})

        @node("Save", category="test", output_node=True)
        def save(value: int, prefix: str = "out") -> Outputs:
            log.append(("Save", value))
            return Outputs(files=(OutputFile(str(value).encode(), prefix, ".txt", ui="texts"),))

        @node("Ramp", category="test", outputs=[Output("ARRAY")])
        def ramp(size: int = 4) -> Any:
            log.append(("Ramp", size))
            return np.arange(size, dtype=np.float32)

        @node("Sum", category="test", outputs=[Output("INT")])
        def total(array: Array) -> int:
            log.append(("Sum", array.shape))
            return int(array.sum())

        @node("Read", category="test", outputs=[Output("STRING")])
        def read(file: Annotated[FileRef, FileChoice("input")]) -> Any:
            log.append(("Read", file.name))
            return file.path.read_text()

        @node("Pick", category="test", outputs=[Output("INT")])
        def pick(first: bool, a: Annotated[int | None, Lazy()] = None, b: Annotated[int | None, Lazy()] = None) -> Any:
            from engine.run.results import Demand

            log.append(("Pick", (a, b)))
            wanted = a if first else b
            return Demand(frozenset({"a" if first else "b"})) if wanted is None else wanted

        @node("Fail", category="test", outputs=[Output("INT")])
        def fail(value: int = 0) -> int:
            log.append(("Fail", value))
            raise ValueError(f"no good:\n{value}")

        @node("Spread", category="test", outputs=[Output("INT", is_list=True)])
        def spread(count: int = 3) -> list[int]:
            log.append(("Spread", count))
            return list(range(count))

        @node("Later", category="test", outputs=[Output("INT")])
        async def later(value: int = 0) -> int:
            log.append(("Later", value))
            await asyncio.sleep(0)
            return value

        made = Registry([const, add, show, save, ramp, total, read, pick, fail, spread, later, *more])
        made.add_codecs(ArrayCodec())
        return made


def graph(**calls: tuple[str, Mapping[str, Any]]) -> Graph:
    """A graph by short names: ``graph(a=("Const", {"value": 1}), b=("Add", {"a": "a/0"}))``; ``"x/0"`` is a link."""

    def value(given: Any) -> Any:
        match = re.fullmatch(r"(\w+)/(\d+)", given) if isinstance(given, str) else None
        return Link(NodeId(match[1]), int(match[2])) if match else given

    return Graph(
        {name: Call(type_, {key: value(v) for key, v in inputs.items()}) for name, (type_, inputs) in calls.items()}
    )


def ids(*names: str) -> tuple[NodeId, ...]:
    return tuple(map(NodeId, names))


def make_executor(registry: Registry, root: Path, cache: OutputCache | None = None, **options: Any) -> Executor:
    """An executor whose folders are below ``root``."""
    (root / "input").mkdir(exist_ok=True)
    return Executor(
        registry,
        files=FolderFiles(root / "input"),
        cache=cache or OutputCache(),
        outputs=OutputFolder(root / "output", root / "temp"),
        numerics="test",
        **options,
    )


@dataclass
class Listener:
    """Remembers events."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]
