"""What packs do wrong, as a user of the command sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

BAD = Path(__file__).parents[1] / "bad_packs"

MESSAGES = {
    "BP_Raise": "ValueError: value 3 is no good",
    "BP_Exit": "called sys.exit(3); a node ends by returning, or by raising an error that says what is wrong",
    "BP_TooFew": "returned 1 value, but declares 2 outputs; make the two agree",
    "BP_Nothing": "returned nothing; expected 1 output: does its function end in a return?",
    "BP_WrongType": "output INT is declared INT; expected a whole number, found a str",
    "BP_HugeUi": "returned 40 MiB of ui data, at most 32 are taken; save a file and name it instead",
    "BP_Endless": "expanded 5000 times within itself; the condition that ends its loop is never met",
    "BP_Cycle": "waits for its own result",
    "BP_UnknownInside": "no such node type is loaded; install the pack that brings it or replace the node",
}


def _mezzotint(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from engine.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=120)


def _run(folder: Path, prompt: Mapping[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "workflow.json").write_text(json.dumps(prompt))
    packs = folder / "packs"
    packs.mkdir(exist_ok=True)
    if not (packs / "misbehaving").exists():
        (packs / "misbehaving").symlink_to(BAD / "misbehaving")
    return _mezzotint(folder, "run", "workflow.json", "--custom-nodes", "packs", *options)


def _bad(type_: str, source: str = "value", value: object = 3) -> dict[str, Any]:
    """A node that misbehaves and the output that wants its value."""
    bad = {"class_type": type_, "inputs": {source: value}}
    wanted = 1 if type_ == "BP_TooFew" else 0
    return {type_: bad, f"after {type_}": {"class_type": "PreviewAny", "inputs": {"source": [type_, wanted]}}}


FINE = {"fine": {"class_type": "BP_Fine", "inputs": {"value": 1}}}


def test_everything_they_do_wrong_is_told_and_the_rest_runs(tmp_path: Path) -> None:
    """One workflow of nodes that each fail in their own way: each is told with its message and its pack, and the good one shows."""
    prompt = {**FINE}
    for type_ in MESSAGES:
        prompt |= _bad(type_)
    done = _run(tmp_path, prompt, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["outputs"] == {"fine": {"text": ["1"]}}
    told = {error["shown"]: error for error in report["errors"]}
    assert set(told) == set(MESSAGES)
    for type_, message in MESSAGES.items():
        assert message in told[type_]["message"]
        assert told[type_]["pack"] == (None if type_ == "BP_UnknownInside" else "misbehaving")


@pytest.mark.parametrize(
    ("type_", "message"),
    [
        ("BP_Die", "it ended its process (exit code 7)"),
        ("BP_Crash", "its process was ended by SIGSEGV: a library it uses crashed"),
        ("BP_Hang", "there was no sign of life for 1 s, so its process was ended"),
    ],
)
def test_what_ends_its_process_is_named(tmp_path: Path, type_: str, message: str) -> None:
    """The command itself lives, says which node of which pack it was, and what happened."""
    done = _run(tmp_path, {**FINE, **_bad(type_)}, "--json", "--node-timeout", "1")
    assert done.returncode == 1
    (error,) = json.loads(done.stdout)["errors"]
    assert (error["node"], error["pack"]) == (type_, "misbehaving")
    assert message in error["message"]


def test_what_they_print_does_not_spoil_the_result(tmp_path: Path) -> None:
    """Standard output is the report alone, whatever way the pack writes to it; threads it leaves behind keep nobody."""
    done = _run(tmp_path, {**FINE, **_bad("BP_Prints"), **_bad("BP_Threads")}, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"]["BP_Prints"] == {"text": ["printed"]}
    assert "nor is this" in done.stderr


def test_a_value_too_much_is_told_and_left_out(tmp_path: Path) -> None:
    """As in ComfyUI the run goes on; unlike there it says so."""
    done = _run(tmp_path, _bad("BP_TooMany"), "--json")
    report = json.loads(done.stdout)
    assert report["outputs"]["after BP_TooMany"] == {"text": ["3"]}
    (warning,) = report["warnings"]
    assert warning["message"] == "returned 3 values, but declares 1 output; make the two agree"


def test_a_picture_that_is_none_and_one_that_is_too_large(tmp_path: Path) -> None:
    """The shape is told; so is that there is not enough memory for it."""
    done = _run(tmp_path, {**_bad("BP_FlatImage"), **_bad("BP_Huge")}, "--json")
    messages = {error["shown"]: error["message"] for error in json.loads(done.stdout)["errors"]}
    assert "expected float32 [B,H,W,C] in 0..1, found float32 of shape [8, 8, 3]" in messages["BP_FlatImage"]
    assert messages["BP_Huge"].startswith("needs more memory than there is")


def test_a_node_that_changes_what_it_is_given_is_found_if_one_looks(tmp_path: Path) -> None:
    """It paints the picture white that another node saves. With --watch-inputs that is its failure; without, nobody notices."""
    prompt = {
        "grey": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0x404040}},
        "bad": {"class_type": "BP_Mutate", "inputs": {"image": ["grey", 0]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["bad", 0], "filename_prefix": "x"}},
    }
    assert _run(tmp_path, prompt, "--json").returncode == 0
    done = _run(tmp_path, prompt, "--json", "--no-cache", "--watch-inputs")
    (error,) = json.loads(done.stdout)["errors"]
    assert error["node"] == "bad"
    assert error["message"] == "changed its input image, which other nodes are given too; it must copy before it writes"


def test_checks_that_fail_are_told_before_anything_runs(tmp_path: Path) -> None:
    """A check that raises and one that asks for what is not there; exit code 2 for what is wrong before the run."""
    done = _run(tmp_path, _bad("BP_CheckRaises"))
    assert done.returncode == 2
    assert "node BP_CheckRaises (BP_CheckRaises of pack misbehaving): the node's own check failed with" in done.stderr
    asking = {"n": {"class_type": "BP_Fine", "inputs": {"value": 1}}, **_bad("BP_Asks", value=["n", 0])}
    done = _run(tmp_path, asking, "--json")
    (error,) = json.loads(done.stdout)["errors"]
    assert error["message"] == "asked for input not_there, which it does not have; its lazy inputs are value"


def test_packs_that_cannot_be_loaded_are_listed_and_the_others_load(tmp_path: Path) -> None:
    """Wrong syntax, missing modules, an exit, the end of the process, no nodes, a core id: each has its reason."""
    done = _mezzotint(tmp_path, "nodes", "BP_Fine", "--custom-nodes", str(BAD))
    assert done.returncode == 0, done.stderr
    assert "BP_Fine" in done.stdout
    for reason in (
        "pack wrong_syntax did not load: its import failed: SyntaxError",
        "pack missing_module did not load: its import failed: ModuleNotFoundError: No module named 'a_module_nobody_has'",
        "pack exits_on_import did not load: its import failed: it called sys.exit(2) while it was imported",
        "pack dies_on_import did not load: its import failed: it ended its process (exit code 3)",
        "pack no_nodes did not load: its import failed: it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint",
        "node SaveImage of pack takes_core_ids did not load: node type SaveImage",
        "node TakesCoreIds_BrokenTypes of pack takes_core_ids did not load: FileNotFoundError",
    ):
        assert reason in done.stderr


def test_a_folder_of_packs_may_stand_in_the_file_of_model_folders(tmp_path: Path) -> None:
    """The key custom_nodes of an extra-model-paths file; without either, no pack is loaded."""
    (tmp_path / "extra.yaml").write_text(f"here:\n    base_path: {BAD}\n    custom_nodes: .\n")
    done = _mezzotint(tmp_path, "nodes", "BP_Fine", "--extra-model-paths", "extra.yaml")
    assert done.returncode == 0, done.stderr
    assert "pack misbehaving" in done.stderr
    without = _mezzotint(tmp_path, "nodes", "BP_Fine")
    assert without.returncode == 2
    assert "there is no node type 'BP_Fine'" in without.stderr


def test_a_folder_of_packs_that_is_not_there_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    """Exit code 2, and the folder's name."""
    done = _mezzotint(tmp_path, "nodes", "--custom-nodes", "nowhere")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: expected a folder of node packs at nowhere, found none; check --custom-nodes"
