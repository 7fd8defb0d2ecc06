"""Node classes as packs write them, run in the process of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.compat import host as hosts
from engine.compat.host import Host
from engine.files import open_files
from engine.graph.graph import Call, Graph, NodeId
from engine.packs.contract import Instances, Pack, read_class
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.executor import Executor, Run
from engine.run.outputs import OutputFolder
from engine.run.request import RunResult
from engine.run.settings import DeviceSettings
from engine.spec import NodeSpec
from tests.engine.run.toolbox import Calls

PACK = Pack("some_pack", "d1")


class Base:
    """One INT to one INT."""

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"value": ("INT", {"default": 0})}}

    RETURN_TYPES: tuple[Any, ...] = ("INT",)
    FUNCTION = "go"
    CATEGORY = "test"

    def _go(self, value: Any) -> Any:
        return (value,)

    go: Any = _go  # of any signature in the classes over this one


def spec_of(cls: Any, instances: Instances | None = None, title: str | None = None) -> NodeSpec:
    return read_class(cls.__name__, cls, title, PACK, instances or Instances())


@contextmanager
def executor_of(root: Path, *classes: Any, cache: OutputCache | None = None) -> Iterator[Executor]:
    """An executor of some classes and the arithmetic nodes of the other tests, with what packs stand on around it."""
    registry: Registry = Calls().registry()
    instances = Instances()
    registry.add(*(spec_of(cls, instances) for cls in classes))
    files = open_files(
        models=[root / "models"], input=root / "input", output=root / "output", temp=root / "temp", state=root / "state"
    )
    before = list(hosts._hosts)
    hosts.install(Host(files=files, registry=registry, settings=DeviceSettings()))
    try:
        with Executor(
            registry,
            files=files,
            cache=cache or OutputCache(),
            outputs=OutputFolder(root / "output", root / "temp"),
            numerics="test",
        ) as executor:
            yield executor
    finally:
        hosts._hosts[:] = before


def run_of(executor: Executor, run: Graph, *keep: str, **options: Any) -> RunResult:
    return executor.run_sync(Run(run, targets=(), keep=tuple(map(NodeId, keep)), **options))


def value_of(root: Path, cls: Any, **inputs: Any) -> Any:
    """What the one node of a class yields; its first output, or the line of its failure."""
    with executor_of(root, cls) as executor:
        result = run_of(executor, Graph({"n": Call(cls.__name__, inputs)}), "n")
    return str(result.failures[0]) if result.failures else result.values[NodeId("n")][0]
