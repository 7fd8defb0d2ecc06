"""The command line, as a person or a program uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from engine.cli.app import app
from engine.cli.options import parse_assignment
from engine.errors import UsageError
from engine.graph.png import read_text

ROOT = Path(__file__).parents[2]
TXT2IMG = ROOT / "workflows" / "txt2img.json"
Mezzotint = Callable[..., Result]


@pytest.fixture
def mezzotint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mezzotint:
    """Calls the command in an empty folder, with the repository's models."""
    monkeypatch.chdir(tmp_path)

    def call(command: str, *arguments: str | Path) -> Result:
        models = ["--models", str(ROOT / "models")] if command in ("run", "validate", "plan") else []
        return CliRunner().invoke(app, [*command.split(), *map(str, arguments), *models])

    return call


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _write(path: Path, workflow: dict[str, Any]) -> Path:
    path.write_text(json.dumps(workflow))
    return path


def _pictures(**changes: Any) -> dict[str, Any]:
    """A workflow without models: a grey picture, inverted and saved."""
    save = {"images": ["2", 0], "filename_prefix": "grey", **changes}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0x202020}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}, "_meta": {"title": "Negative"}},
        "3": {"class_type": "SaveImage", "inputs": save},
    }


def test_run_prints_the_paths_and_leaves_the_pictures(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """Exit code 0, the path on standard output, the picture behind it with its workflow inside."""
    result = mezzotint("run", _write(tmp_path / "w.json", _pictures()))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(Path("output") / "grey_00001_.png")]
    path = tmp_path / "output" / "grey_00001_.png"
    assert (_pixels(path) == 0xDF).all()
    assert json.loads(read_text(path.read_bytes())["prompt"])["2"]["class_type"] == "ImageInvert"


def test_set_takes_ids_and_titles_and_keeps_text_as_text(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """A number given for a text stays a text; a colour given as a number becomes one."""
    file = _write(tmp_path / "w.json", _pictures())
    result = mezzotint("run", file, "--set", "3.filename_prefix=42", "--set", "EmptyImage.color=16777215", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["files"] == [str(Path("output") / "42_00001_.png")]
    assert (_pixels(tmp_path / report["files"][0]) == 0).all()


def test_a_cached_run_still_puts_its_picture_where_it_was_asked_for(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """Nothing runs the second time, and the new folder has the picture."""
    file = _write(tmp_path / "w.json", _pictures())
    first = json.loads(mezzotint("run", file, "--json", "--output", "a").stdout)
    second = json.loads(mezzotint("run", file, "--json", "--output", "b").stdout)
    assert len(first["ran"]) == 3
    assert second["ran"] == []
    assert np.array_equal(_pixels(tmp_path / first["files"][0]), _pixels(tmp_path / second["files"][0]))


def test_five_planted_mistakes_are_five_problems(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """All at once, each with its type, node, input and one line; exit code 2."""
    workflow = json.loads(TXT2IMG.read_text())
    workflow["3"]["inputs"]["steps"] = 0
    workflow["3"]["inputs"]["sampler_name"] = "eulr"
    workflow["4"]["inputs"]["ckpt_name"] = "demmo.safetensors"
    workflow["6"]["class_type"] = "CLIPTextEncod"
    del workflow["9"]["inputs"]["filename_prefix"]
    result = mezzotint("validate", _write(tmp_path / "w.json", workflow), "--json")
    assert result.exit_code == 2
    found = {(problem["type"], problem["node"], problem["input"]) for problem in json.loads(result.stdout)["problems"]}
    assert found == {
        ("value_smaller_than_min", "3", "steps"),
        ("value_not_in_list", "3", "sampler_name"),
        ("missing_file", "4", "ckpt_name"),
        ("missing_node_type", "6", None),
        ("required_input_missing", "9", "filename_prefix"),
    }
    messages = {problem["type"]: problem["message"] for problem in json.loads(result.stdout)["problems"]}
    assert "euler" in messages["value_not_in_list"]
    assert "demo.safetensors" in messages["missing_file"]
    assert "CLIPTextEncode" in messages["missing_node_type"]


@pytest.mark.parametrize(
    ("content", "said"), [("{", "no JSON"), ('{"a": 1}', "no workflow"), ("[]", "no workflow"), ("", "empty")]
)
def test_what_is_no_workflow_is_said_so(mezzotint: Mezzotint, tmp_path: Path, content: str, said: str) -> None:
    """One line on standard error, exit code 2."""
    (tmp_path / "w.json").write_text(content)
    result = mezzotint("run", tmp_path / "w.json")
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("argument", "said"),
    [("3.stps=4", "steps"), ("33.steps=4", "no node"), ("steps=4", "NODE.INPUT=VALUE"), ("3.steps=many", "steps")],
)
def test_a_wrong_set_is_a_wrong_argument(mezzotint: Mezzotint, argument: str, said: str) -> None:
    """Exit code 2, with what there is instead."""
    result = mezzotint("validate", TXT2IMG, "--set", argument)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize(
    ("option", "value"), [("--vram-budget", "lots"), ("--device", "abacus"), ("--dtype", "float7"), ("--target", "99")]
)
def test_a_wrong_option_is_said_before_anything_runs(
    mezzotint: Mezzotint, tmp_path: Path, option: str, value: str
) -> None:
    """Exit code 2, one line that shows what was given, and nothing written."""
    result = mezzotint("run", _write(tmp_path / "w.json", _pictures()), option, value)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert value in result.stderr
    assert not (tmp_path / "output").exists()


def test_an_assignment_splits_at_the_last_dot_before_the_equals_sign() -> None:
    """Titles may hold dots and values may hold anything."""
    parsed = parse_assignment("Model v1.5.text=a=b.c")
    assert (parsed.node, parsed.input, parsed.text) == ("Model v1.5", "text", "a=b.c")
    with pytest.raises(UsageError):
        parse_assignment("nothing")


def test_a_prefix_that_leaves_the_output_folder_fails_the_run(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """Exit code 1, one line naming the node, and no file anywhere outside."""
    result = mezzotint("run", _write(tmp_path / "w.json", _pictures(filename_prefix="../../out")))
    assert result.exit_code == 1
    assert "SaveImage" in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.parent.glob("out*"))


def test_a_lora_given_as_a_checkpoint_names_itself(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """The loader's node fails with what the file is; exit code 1."""
    folder = tmp_path / "models" / "checkpoints"
    folder.mkdir(parents=True)
    down, up = torch.zeros(4, 320), torch.zeros(320, 4)
    save_file({"lora_unet_x.lora_down.weight": down, "lora_unet_x.lora_up.weight": up}, folder / "style.safetensors")
    workflow = json.loads(TXT2IMG.read_text())
    workflow["4"]["inputs"]["ckpt_name"] = "style.safetensors"
    file = _write(tmp_path / "w.json", workflow)
    result = CliRunner().invoke(app, ["run", str(file), "--models", str(tmp_path / "models")])
    assert result.exit_code == 1
    assert "CheckpointLoaderSimple" in result.stderr
    assert "LoRA" in result.stderr
    assert "Traceback" not in result.output


def test_nodes_describes_in_the_schema_of_object_info(mezzotint: Mezzotint) -> None:
    """What an editor would be told."""
    described = json.loads(mezzotint("nodes", "KSampler", "--json").stdout)["KSampler"]
    assert described["input"]["required"]["steps"] == ["INT", {"default": 20, "min": 1, "max": 10000}]
    assert described["output"] == ["LATENT"]
    assert "did you mean KSampler?" in mezzotint("nodes", "KSampeler").stderr


def test_plan_says_what_is_cached_and_what_changed(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """After a run everything is on disk; after a change the changed input is named."""
    file = _write(tmp_path / "w.json", _pictures())
    assert json.loads(mezzotint("plan", file, "--json").stdout)["runs"] == 3
    assert mezzotint("run", file).exit_code == 0
    again = json.loads(mezzotint("plan", file, "--json").stdout)
    assert again["runs"] == 0
    changed = json.loads(mezzotint("plan", file, "--json", "--set", "1.color=5").stdout)
    assert changed["runs"] == 3
    reasons = [reason["message"] for node in changed["nodes"] for reason in node["reasons"]]
    assert any("color" in reason for reason in reasons)


def test_cache_clear_forgets_and_info_counts(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """What was kept is counted, then gone; the picture stays."""
    mezzotint("run", _write(tmp_path / "w.json", _pictures()))
    assert json.loads(mezzotint("cache info", "--json").stdout)["results"] >= 1
    assert mezzotint("cache clear").exit_code == 0
    assert json.loads(mezzotint("cache info", "--json").stdout)["results"] == 0
    assert (tmp_path / "output" / "grey_00001_.png").exists()


def test_convert_makes_a_pickle_usable_and_touches_no_other_code(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """A checkpoint becomes safetensors with the same tensors; a pickle that would run code is refused."""
    torch.save({"state_dict": {"w": torch.arange(3.0)}}, tmp_path / "a.ckpt")
    result = mezzotint("models convert", tmp_path / "a.ckpt")
    assert result.exit_code == 0, result.output
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "a.safetensors")["w"], torch.arange(3.0))


def test_a_cached_run_never_imports_torch(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """The second run of a workflow is a new process that reads, places and is done."""
    file = _write(tmp_path / "w.json", _pictures())
    assert mezzotint("run", file).exit_code == 0
    code = "import sys; from engine.cli.app import app\ntry: app()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, "run", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert result.stderr.splitlines()[-1] == "False"
    assert (tmp_path / "output" / "grey_00002_.png").exists()


def _editor_file(tmp_path: Path, **widgets: list[Any]) -> Path:
    """The repository's text to image workflow as an editor saves it, some nodes' widgets changed; one step, 64 pixels."""
    workflow = json.loads((ROOT / "tests" / "engine" / "graph" / "files" / "txt2img.json").read_text())
    changed = {"EmptyLatentImage": [64, 64, 1], "KSampler": [7, "fixed", 1, 5, "euler", "normal", 1], **widgets}
    for entry in workflow["nodes"]:
        if entry.get("title") != "Positive" and entry["type"] in changed:
            entry["widgets_values"] = changed[entry["type"]]
    return _write(tmp_path / "editor.json", workflow)


def _prompt_of(path: Path) -> str:
    text: str = json.loads(read_text(path.read_bytes())["prompt"])["6"]["inputs"]["text"]
    return text


def test_an_editor_file_is_sent_as_its_editor_would_send_it(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """Choices are drawn, comments are gone, file names are filled in; the same seed draws the same."""
    file = _editor_file(tmp_path, SaveImage=["%KSampler.seed%_%Positive.text%"])
    paths = [Path(mezzotint("run", file).stdout.strip()) for _ in range(2)]
    prompts = [_prompt_of(tmp_path / path) for path in paths]
    assert prompts[0] in ("a red circle ", "a blue circle ")
    assert prompts[0] == prompts[1]
    assert paths[0].name == f"7_{prompts[0]}_00001_.png"
    assert "workflow" in read_text((tmp_path / paths[0]).read_bytes())


def test_new_seeds_draw_new_choices(mezzotint: Mezzotint, tmp_path: Path) -> None:
    """Among twenty-four randomized runs both colours come up, and no seed twice."""
    file = _editor_file(tmp_path, SaveImage=["x"])
    report = json.loads(mezzotint("run", file, "--count", "24", "--randomize", "--json").stdout)
    sent = [json.loads(read_text((tmp_path / run["files"][0]).read_bytes())["prompt"]) for run in report["runs"]]
    assert {api["6"]["inputs"]["text"].split()[1] for api in sent} == {"red", "blue"}
    assert len({api["3"]["inputs"]["seed"] for api in sent}) == 24
