"""Packs that a test writes, loaded into this process, and graphs of their nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from engine.compat import host as hosts
from engine.compat.host import Host
from engine.files import open_files
from engine.graph.api_format import read_api
from engine.graph.problems import Problem
from engine.graph.validate import coerced, validate
from engine.packs.load import Loader
from engine.packs.report import Report
from engine.packs.sources import find_packs
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.executor import Executor, Run, RunResult
from engine.run.outputs import OutputFolder
from engine.run.settings import DeviceSettings

Calls = dict[str, tuple[str, dict[str, Any]]]

SHOW = """
class Show:
    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "show", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*", {})}}

    def show(self, value):
        return {"ui": {"text": [repr(value)]}}
"""
"""A node for every pack of a test, which shows what it is given."""


@dataclass(frozen=True)
class Bench:
    """A loaded pack."""

    registry: Registry
    report: Report
    host: Host
    executor: Executor

    def problems(self, calls: Calls) -> list[Problem]:
        """What is wrong with a graph; a list ``["node", 0]`` is a link."""
        return validate(read_api(_prompt(calls)), self.registry, self.host.files)

    def run(self, calls: Calls) -> RunResult:
        """Run a graph that nothing is wrong with."""
        assert self.problems(calls) == []
        return self.executor.run_sync(Run(coerced(read_api(_prompt(calls)), self.registry)))

    def shown(self, calls: Calls, node: str = "show") -> str:
        """What a node that shows something shows, of a run without a failure."""
        result = self.run(calls)
        assert result.status == "succeeded", result.failures
        return str({str(name): ui for name, ui in result.ui.items()}[node]["text"][0])


def _prompt(calls: Calls) -> dict[str, Any]:
    return {name: {"class_type": type_, "inputs": inputs} for name, (type_, inputs) in calls.items()}


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[str], Bench]]:
    """Load a pack of one file, with ``Show`` beside its own classes."""
    made: list[Executor] = []
    before = list(hosts._hosts)

    def loaded(source: str) -> Bench:
        (tmp_path / "packs").mkdir()
        (tmp_path / "packs" / "tested.py").write_text(SHOW + dedent(source))
        registry = Registry()
        files = open_files(models=[tmp_path / "models"], input=tmp_path, output=tmp_path, temp=tmp_path, state=tmp_path)
        host = Host(files=files, registry=registry, settings=DeviceSettings(device="cpu"))
        loader = Loader(registry, host, lambda name: None)
        loader.load(find_packs([tmp_path / "packs"]))
        made.append(
            Executor(
                registry,
                files=files,
                cache=OutputCache(),
                outputs=OutputFolder(tmp_path, tmp_path),
                numerics="test",
                settings=host.settings,
            )
        )
        return Bench(registry, loader.report, host, made[-1])

    yield loaded
    for executor in made:
        executor.close()
    hosts._hosts[:] = before
