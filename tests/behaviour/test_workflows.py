"""The workflows of the repository make the pictures they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.gallery import index
from engine.files import LocalFiles
from engine.graph.graph import NodeId
from engine.graph.read import read_workflow
from engine.graph.validate import coerced, validate
from engine.registry import Registry
from engine.run.events import Event, NodeProgress
from engine.run.executor import Executor, Run, RunResult
from engine.run.settings import DeviceSettings
from nodes.diffusion.store import make_store
from training.judge import Picture, look
from training.world import COLOURS, SHAPES

ROOT = Path(__file__).parents[2]
Execute = Callable[[str], tuple[RunResult, list[Path]]]


@pytest.fixture
def execute(core: Registry, local_files: LocalFiles, make_executor: Callable[[], Executor], tmp_path: Path) -> Execute:
    """Runs a workflow file of the repository and gives its pictures."""

    def run(name: str) -> tuple[RunResult, list[Path]]:
        graph = read_workflow(ROOT / "workflows" / f"{name}.json", core).graph
        assert validate(graph, core, local_files) == []
        result = make_executor().run_sync(Run(coerced(graph, core)))
        items: list[dict[str, Any]] = [item for ui in result.ui.values() for item in ui.get("images", [])]
        return result, [tmp_path / "output" / item["subfolder"] / item["filename"] for item in items]

    return run


def pixels(path: Path) -> Picture:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def seen(path: Path) -> tuple[str | None, str | None, str | None]:
    """Colour, shape and ground of a picture, as the judge names them."""
    finding = look(pixels(path))
    return (
        None if finding.colour is None else COLOURS[finding.colour],
        None if finding.shape is None else SHAPES[finding.shape],
        None if finding.ground is None else COLOURS[finding.ground],
    )


@pytest.mark.parametrize(
    ("name", "expected", "count", "size"),
    [
        ("txt2img", ("red", "circle", "blue"), 1, (128, 128)),
        ("batch", ("yellow", "star", "purple"), 4, (128, 128)),
        ("prompt_weights", ("green", "heart", "white"), 1, (128, 128)),
        ("img2img", ("yellow", "square", "green"), 1, (128, 128)),
        ("custom_sampling", ("green", "heart", "white"), 1, (128, 128)),
        ("styles", ("red", "circle", "blue"), 1, (128, 128)),
        ("prompt_schedule", ("purple", "ring", "green"), 1, (128, 128)),
        ("textual_inversion", ("orange", "star", "black"), 1, (128, 128)),
        ("inpaint", ("green", "heart", "purple"), 1, (128, 128)),
        ("inpaint_model", ("blue", "star", "red"), 1, (128, 128)),
        ("differential_diffusion", ("blue", "ring", "white"), 1, (128, 128)),
        ("controlnet_depth", ("yellow", "ring", "black"), 1, (128, 128)),
        ("controlnets_together", ("red", "ring", "white"), 1, (128, 128)),
        ("ip_adapter", ("yellow", "star", "purple"), 1, (128, 128)),
        ("ip_adapter_controlnet", ("white", "star", "red"), 1, (128, 128)),
        ("two_samplers", ("black", "star", "orange"), 1, (128, 128)),
        ("model_options", ("green", "triangle", "white"), 1, (128, 128)),
        ("step_cache", ("blue", "ring", "yellow"), 1, (128, 128)),
        ("upscale", ("white", "heart", "red"), 1, (512, 512)),
        ("tiled_upscale", ("white", "heart", "red"), 1, (384, 384)),
        ("tiled_diffusion", ("white", "heart", "red"), 1, (384, 384)),
    ],
)
def test_a_workflow_makes_the_picture_it_describes(
    execute: Execute, name: str, expected: tuple[str, str, str], count: int, size: tuple[int, int]
) -> None:
    """Shape, its colour and the ground's are those of the prompt."""
    result, pictures = execute(name)
    assert result.status == "succeeded", result.failures
    assert len(pictures) == count
    assert [pixels(path).shape[:2] for path in pictures] == [size] * count
    assert [seen(path) for path in pictures] == [expected] * count


def test_hires_fix_keeps_the_first_pass_and_refines_it(execute: Execute) -> None:
    """The second picture is twice as large, shows what the first one does in the same place, and is well drawn where that is soft."""
    result, (first, second) = execute("hires_fix")
    assert result.status == "succeeded", result.failures
    small, large = pixels(first), pixels(second)
    assert (small.shape, large.shape) == ((64, 64, 3), (128, 128, 3))
    assert seen(first) == seen(second) == ("red", "heart", "white")
    halved = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.corrcoef(small.ravel(), halved.ravel())[0, 1] > 0.9
    assert look(large).clean()
    assert look(large).overlap > 0.93
    assert look(large).softness < 2 * look(small).softness


def test_folder_batch_saves_every_picture_of_the_input_folder_at_half_its_size(execute: Execute) -> None:
    """Under its old name and its new size, as WebP; each shows what the original does."""
    result, made = execute("folder_batch")
    assert result.status == "succeeded", result.failures
    originals = {path.stem: pixels(path) for path in (ROOT / "input").iterdir() if path.suffix == ".png"}
    small = {path.name: pixels(path) for path in made if path.parent.name == "small"}
    assert originals
    for name, original in originals.items():
        height, width = (side // 2 for side in original.shape[:2])
        halved = original.reshape(height, 2, width, 2, 3).mean((1, 3))
        difference = small[f"{name}_{width}x{height}.webp"] - halved
        assert abs(difference).mean() < 4


def test_picture_tools_show_what_they_changed(execute: Execute, core: Registry) -> None:
    """The grid has the original, the corrected picture, one that was matched back to it, and the mask of what differs; and the workflow."""
    result, (path,) = execute("picture_tools")
    assert result.status == "succeeded", result.failures
    shown = result.ui[NodeId("10")]
    assert (len(shown["a_images"]), len(shown["b_images"])) == (1, 1)
    assert path.name == "264x312_00001_.webp"
    original = pixels(ROOT / "input" / "square.png").astype(float)
    grid = pixels(path).astype(float)
    cells = [grid[top : top + 128, left : left + 128] for top in (0, 160) for left in (0, 136)]
    assert abs(cells[0] - original).mean() < 2
    assert original.mean() - cells[1].mean() > 10
    assert abs(cells[2] - original).mean() < 2
    assert np.array_equal(cells[3].mean(-1) > 128, original.mean(-1) > 128)


def test_a_picture_carries_its_workflow_and_makes_itself_again(
    execute: Execute, core: Registry, make_executor: Callable[[], Executor], tmp_path: Path
) -> None:
    """A saved picture, read as a workflow and computed anew without the cache, is the same picture to the last pixel."""
    graph = coerced(read_workflow(ROOT / "workflows" / "txt2img.json", core).graph, core)
    prompt = json.loads((ROOT / "workflows" / "txt2img.json").read_text())
    first = make_executor().run_sync(Run(graph, metadata={"prompt": prompt}))
    path = tmp_path / "output" / first.ui[next(iter(first.ui))]["images"][0]["filename"]
    again = make_executor().run_sync(Run(coerced(read_workflow(path, core).graph, core), use_cache=False))
    copy = tmp_path / "output" / again.ui[next(iter(again.ui))]["images"][0]["filename"]
    assert copy != path
    assert np.array_equal(pixels(path), pixels(copy))


def test_a_new_prompt_reads_no_weights_again(
    core: Registry, make_executor: Callable[[], Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With only the prompt changed, its text is encoded, sampled and decoded; the models are those that are loaded."""
    store = make_store(DeviceSettings(device="cpu"))
    monkeypatch.setattr(core, "make_store", lambda settings: store)
    executor = make_executor()
    graph = coerced(read_workflow(ROOT / "workflows" / "txt2img.json", core).graph, core)
    assert executor.run_sync(Run(graph)).status == "succeeded"
    before = replace(store.counters)
    prompt = NodeId("6")
    changed = graph.with_call(prompt, graph[prompt].with_inputs(text="a blue square on a yellow background"))
    result = executor.run_sync(Run(changed))
    assert set(result.ran) == {"6", "3", "8", "9"}
    assert store.counters == before


def test_a_changed_line_of_a_list_of_prompts_samples_one_picture(
    core: Registry, make_executor: Callable[[], Executor], tmp_path: Path
) -> None:
    """Three prompts are three pictures under their own names; with one line changed, another process samples that one alone."""

    def run(text: str) -> tuple[dict[str, Picture], int]:
        graph = read_workflow(ROOT / "workflows" / "prompt_list.json", core).graph
        lines = NodeId("1")
        graph = coerced(graph.with_call(lines, graph[lines].with_inputs(text=text)), core)
        heard: list[Event] = []
        result = make_executor().run_sync(Run(graph), heard.append)
        assert result.status == "succeeded", result.failures
        names = [item["filename"] for item in result.ui[NodeId("9")]["images"]]
        steps = sum(isinstance(event, NodeProgress) and event.node == "3" for event in heard)
        return {name: pixels(tmp_path / "output" / "prompts" / name) for name in names}, steps

    grammar = "a {} on a {} background"
    first, steps = run("\n".join([grammar.format("red circle", "blue"), grammar.format("green heart", "white")]))
    assert list(first) == ["01 a red circle on a blue background.png", "02 a green heart on a white background.png"]
    assert steps == 40
    again, steps = run("\n".join([grammar.format("red circle", "blue"), grammar.format("yellow star", "white")]))
    assert steps == 20
    same, other = (
        again["01 a red circle on a blue background_2.png"],
        again["02 a yellow star on a white background.png"],
    )
    assert np.array_equal(same, first["01 a red circle on a blue background.png"])
    assert look(other).shape == SHAPES.index("star")


def test_every_workflow_is_shown() -> None:
    """In the table of the folder, from which the gallery is made."""
    assert sorted(index()) == sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


def test_two_latents_stand_beside_each_other(execute: Execute) -> None:
    """Each half shows what was sampled for it."""
    _, (drawn,) = execute("latent_composite")
    picture = pixels(drawn)
    assert look(np.ascontiguousarray(picture[8:-8, :112])).colour == COLOURS.index("red")
    assert look(np.ascontiguousarray(picture[8:-8, 112:])).colour == COLOURS.index("green")


def test_hires_fix_by_a_model_is_sharper_than_what_it_began_with(execute: Execute) -> None:
    """From 64 to 128 pixels, the same star in the same place."""
    result, made = execute("hires_fix_model")
    assert result.status == "succeeded", result.failures
    first, second = sorted((pixels(path) for path in made), key=len)
    assert (first.shape, second.shape) == ((64, 64, 3), (128, 128, 3))
    halved = second.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.corrcoef(first.ravel(), halved.ravel())[0, 1] > 0.8
