"""Every node is in a workflow that can be looked at."""

from __future__ import annotations

from pathlib import Path

from benchmarks.node_examples import examples, written
from benchmarks.node_inputs import OTHER_FILES, WITHOUT
from benchmarks.nodes_table import EXAMPLES
from benchmarks.nodes_table import examples as uses
from engine.files import open_files
from engine.graph.validate import validate
from engine.registry import Registry
from tests.nodes.studio import MODELS


def test_every_node_has_an_example(core: Registry) -> None:
    """But those that only other packs' nodes, or the engine itself, can give something."""
    assert set(core) - uses().keys() == WITHOUT


def test_the_examples_are_up_to_date_and_valid(core: Registry, tmp_path: Path) -> None:
    """What is wrong with them is at most that other people's models are missing. ``python -m benchmarks.node_examples`` writes them."""
    places = {kind: tmp_path / kind for kind in ("output", "temp")}
    files = open_files(models=[MODELS], state=tmp_path, input=MODELS.parent / "input", **places)
    found = examples(core)
    assert {path.name for path in EXAMPLES.glob("*.json")} == found.keys()
    for name, graph in found.items():
        assert (EXAMPLES / name).read_text(encoding="utf-8") == written(graph), name
        problems = validate(graph, core, files)
        assert {problem.type for problem in problems} <= {"missing_file"}, name
        assert {problem.found for problem in problems} <= set(OTHER_FILES.values()), name
