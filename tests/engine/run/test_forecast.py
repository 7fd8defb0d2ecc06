"""What a run would do, told without running it; and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest

from engine.graph.graph import Graph
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.disk_tier import DiskTier
from engine.run.executor import Run
from engine.run.forecast import Forecast, forecast
from engine.run.last_runs import LastRuns
from engine.spec import Estimate, FileChoice, Output, node
from tests.engine.run.toolbox import Calls, FolderFiles, graph, ids, make_executor


def _weights(file: Any) -> Estimate:
    return Estimate(model_bytes=file.path.stat().st_size)


@node("Load", category="test", outputs=[Output("MODEL")], estimate=_weights)
def load(file: Annotated[str, FileChoice("models")]) -> Any:
    """As if it were a model."""
    return 1


@node("Sample", category="test", outputs=[Output("INT")], estimate=lambda steps, **more: Estimate(steps=steps))
def sample(model: int, steps: int = 20, extra: int = 0) -> int:
    """As if it sampled."""
    return steps


WORKFLOW = graph(
    m=("Load", {"file": "w.bin"}),
    a=("Sample", {"model": "m/0", "steps": 20}),
    b=("Sample", {"model": "m/0", "steps": 5}),
    x=("Show", {"value": "a/0"}),
    y=("Show", {"value": "b/0"}),
)


class House:
    """A registry, a cache and a state folder that outlive a run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls = Calls()
        self.registry: Registry = self.calls.registry(load, sample)
        self.cache = OutputCache(disk=DiskTier(root / "cache", self.registry.codecs))
        self.last = LastRuns(root / "runs")
        (root / "input").mkdir()
        (root / "input/w.bin").write_bytes(b"w" * 1000)

    def run(self, asked: Graph) -> None:
        executor = make_executor(self.registry, self.root, self.cache, last_runs=self.last)
        assert executor.run_sync(Run(asked)).status == "succeeded"

    def foresee(self, asked: Graph, **more: Any) -> Forecast:
        files = FolderFiles(self.root / "input")
        options = {"numerics": "test", "last_runs": self.last, **more}
        return forecast(asked, self.registry, files=files, cache=self.cache, **options)

    def why(self, asked: Graph, node: str, **more: Any) -> list[str]:
        found = next(entry for entry in self.foresee(asked, **more).nodes if entry.node == node)
        return [reason.message for reason in found.reasons]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def fates(found: Forecast) -> dict[str, str]:
    return {entry.node: entry.fate for entry in found.nodes}


def test_the_first_run_runs_everything(house: House) -> None:
    """Steps and weights are counted, nothing runs, and there is nothing to compare with."""
    found = house.foresee(WORKFLOW)
    assert set(fates(found).values()) == {"runs"}
    assert (found.steps, found.model_bytes, found.ran_before) == (25, 1000, False)
    assert house.calls.log == []


def test_a_forecast_is_what_happens(house: House) -> None:
    """The nodes said to run are those that run, in that order."""
    foreseen = [entry.node for entry in house.foresee(WORKFLOW).runs]
    ran = make_executor(house.registry, house.root).run_sync(Run(WORKFLOW)).ran
    assert tuple(foreseen) == ran


def test_after_a_run_the_outputs_are_known_and_the_rest_is_not_needed(house: House) -> None:
    """No steps, no weights."""
    house.run(WORKFLOW)
    found = house.foresee(WORKFLOW)
    assert fates(found) == {"m": "unneeded", "a": "unneeded", "b": "unneeded", "x": "memory", "y": "memory"}
    assert (found.steps, found.model_bytes, found.ran_before) == (0, 0, True)


def test_a_change_runs_its_way_down_and_says_why(house: House) -> None:
    """The changed literal, from what to what; below it, through which node the change comes."""
    house.run(WORKFLOW)
    changed = WORKFLOW.with_call("a", WORKFLOW["a"].with_inputs(steps=30))
    found = house.foresee(changed)
    assert fates(found) == {"m": "memory", "a": "runs", "x": "runs", "b": "unneeded", "y": "memory"}
    assert (found.steps, found.model_bytes) == (30, 1000)
    assert house.why(changed, "a") == ["steps: 20 -> 30"]
    assert house.why(changed, "x") == ["value: node a, where it comes from, changed"]


def test_files_links_numerics_and_extra_inputs_are_told_too(house: House) -> None:
    """Each in its own words."""
    house.run(WORKFLOW)
    assert house.why(WORKFLOW, "m", numerics="other") == ["computed with other now, and with test then"]
    added = WORKFLOW.with_call("a", WORKFLOW["a"].with_inputs(extra=1))
    assert house.why(added, "a") == ["extra: 0 -> 1"]
    (house.root / "input/w.bin").write_bytes(b"v" * 1000)
    assert house.why(WORKFLOW, "m") == ["file: the content of w.bin has changed"]


def test_equal_nodes_and_lazy_ones_and_broken_ones_are_told_apart(house: House) -> None:
    """One of two equal nodes runs; a lazy input perhaps; a missing file fails, with the reason."""
    mixed = graph(
        a=("Const", {"value": 1}),
        b=("Const", {"value": 1}),
        c=("Const", {"value": 2}),
        p=("Pick", {"first": True, "a": "c/0"}),
        q=("Add", {"a": "a/0", "b": "b/0"}),
        l=("Load", {"file": "gone"}),
        x=("Show", {"value": "p/0"}),
        y=("Show", {"value": "q/0"}),
        z=("Show", {"value": "l/0"}),
    )
    found = house.foresee(mixed)
    assert fates(found) == {
        "a": "runs",
        "b": "twin",
        "c": "lazy",
        "p": "runs",
        "q": "runs",
        "l": "fails",
        "x": "runs",
        "y": "runs",
        "z": "fails",
    }
    problem = next(entry.problem for entry in found.nodes if entry.node == "l")
    assert problem is not None
    assert problem.startswith("no file gone in")


def test_a_forecast_is_json(house: House) -> None:
    """All of it, for ``--json``."""
    house.run(WORKFLOW)
    plain = house.foresee(WORKFLOW.with_call("a", WORKFLOW["a"].with_inputs(steps=1))).to_json()
    assert (plain["runs"], plain["steps"], plain["model_bytes"]) == (2, 1, 1000)
    assert plain["nodes"][0]["reasons"] == [
        {"change": "input", "input": "steps", "node": None, "message": "steps: 20 -> 1"}
    ]


def test_targets_limit_what_is_foreseen(house: House) -> None:
    """As they limit a run."""
    assert house.foresee(WORKFLOW, targets=ids("y")).steps == 5


def test_a_record_that_cannot_be_read_is_as_none(house: House) -> None:
    """Cut short or of another version."""
    house.run(WORKFLOW)
    (record,) = house.last._directory.iterdir()
    record.write_bytes(record.read_bytes()[:30])
    assert not house.foresee(WORKFLOW).ran_before
