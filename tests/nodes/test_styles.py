"""The style nodes in runs, with files on a real disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import nodes
from engine.files import open_files
from engine.graph.graph import NodeId
from engine.graph.object_info import object_info
from engine.graph.validate import validate
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.executor import Executor, Run
from engine.run.outputs import OutputFolder
from tests.engine.run.toolbox import graph

ENTRIES = [
    {"name": "night", "prompt": "{prompt} at night", "negative_prompt": "daylight"},
    {"name": "day", "prompt": "bright"},
]


class Desk:
    """An executor over a models folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.styles = folder / "models" / "styles"
        self.styles.mkdir(parents=True)
        self.write(ENTRIES)
        self.registry = Registry()
        nodes.register(self.registry)
        places = {kind: folder / kind for kind in ("input", "output", "temp", "state")}
        self.files = open_files(models=[folder / "models"], **places)
        outputs = OutputFolder(folder / "output", folder / "temp")
        self.executor = Executor(self.registry, files=self.files, cache=OutputCache(), outputs=outputs, numerics="test")

    def write(self, entries: Any) -> None:
        (self.styles / "a.json").write_text(json.dumps(entries))

    def run(self, type_: str, **inputs: Any) -> tuple[list[Any], bool]:
        """Both texts, and whether the node ran."""
        result = self.executor.run_sync(Run(graph(r=(type_, inputs)), targets=(), keep=(NodeId("r"),)))
        assert result.status == "succeeded", result.failures
        return [slot[0] for slot in result.values[NodeId("r")]], bool(result.ran)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_style_is_applied(desk: Desk) -> None:
    """And again without running; another style of the same file runs, and so does a style that was changed."""
    texts = {"text_positive": "a cat", "text_negative": "blurry"}
    assert desk.run("ApplyStyle", style="night", **texts) == (["a cat at night", "daylight, blurry"], True)
    assert desk.run("ApplyStyle", style="night", **texts) == (["a cat at night", "daylight, blurry"], False)
    assert desk.run("ApplyStyle", style="day", **texts) == (["a cat, bright", "blurry"], True)
    desk.write([{"name": "night", "prompt": "dark {prompt}"}, ENTRIES[1]])
    assert desk.run("ApplyStyle", style="night", **texts) == (["dark a cat", "blurry"], True)
    assert desk.run("ApplyStyle", style="day", **texts)[1] is False


def test_styles_follow_one_another(desk: Desk) -> None:
    chained = graph(
        a=("ApplyStyle", {"style": "night", "text_positive": "a cat", "text_negative": ""}),
        r=("ApplyStyle", {"style": "day", "text_positive": "a/0", "text_negative": "a/1"}),
    )
    result = desk.executor.run_sync(Run(chained, targets=(), keep=(NodeId("r"),)))
    assert [slot[0] for slot in result.values[NodeId("r")]] == ["a cat at night, bright", "daylight"]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, ["a cat at night", "daylight, blurry"]),
        ({"style_positive": False}, ["a cat", "daylight, blurry"]),
        ({"style_negative": False, "log_prompt": "No"}, ["a cat at night", "blurry"]),
    ],
)
def test_files_of_the_styler_run(desk: Desk, inputs: dict[str, Any], expected: list[str]) -> None:
    """Those made before it could be told what to style too."""
    given = {"text_positive": "a cat", "text_negative": "blurry", "style": "night", "log_prompt": True} | inputs
    assert desk.run("SDXLPromptStyler", **given)[0] == expected


def test_a_style_that_is_not_there_is_a_problem_of_the_graph(desk: Desk) -> None:
    """Found before the run, with the nearest; an editor is offered the others, whatever else lies in the folder."""
    (desk.styles / "broken.csv").write_text("nothing")
    wrong = graph(
        r=("ApplyStyle", {"style": "nigth", "text_positive": "", "text_negative": ""}),
        s=("PreviewAny", {"source": "r/0"}),
    )
    (problem,) = validate(wrong, desk.registry, desk.files)
    assert (problem.type, problem.input, problem.nearest) == ("missing_file", "style", "night")
    assert 'an entry of the files of the folder "styles"' in problem.message
    assert "broken.csv cannot be read as styles: expected columns name, prompt" in problem.message
    info = object_info(desk.registry["ApplyStyle"], desk.files)
    assert info["input"]["required"]["style"][0] == ["night", "day"]
