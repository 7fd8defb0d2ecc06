"""Nodes that come with other installed packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACK = """
class Twice:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 1})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "twice"

    def twice(self, value):
        return (2 * value,)


NODE_CLASS_MAPPINGS = {"Installed_Twice": Twice}
"""

NATIVE = '''
from engine.spec import Output, node


@node("Native_Half", category="test", outputs=[Output("INT")])
def half(value: int = 8) -> int:
    """Half of it."""
    return value // 2


def register(registry):
    registry.add(half)


def broken(registry):
    raise RuntimeError("not today")
'''


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages: one pack, one package of native nodes, one that fails."""
    folder = tmp_path / "site"
    info = folder / "things-1.0.dist-info"
    (folder / "things_pack").mkdir(parents=True)
    (folder / "things_pack" / "__init__.py").write_text(PACK)
    (folder / "things_nodes.py").write_text(NATIVE)
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: things\nVersion: 1.0\n")
    points = {
        "mezzotint.packs": "twice = things_pack",
        "mezzotint.nodes": "half = things_nodes:register\nbroken = things_nodes:broken",
    }
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{lines}\n" for group, lines in points.items()))
    return folder


def _mezzotint(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-c", "from engine.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=site.parent, env=environment, check=False, timeout=120
    )


def test_native_nodes_and_installed_packs_work_together(site: Path) -> None:
    """Half of 8, twice: 8. The package that fails is named; without the option the pack is not there."""
    prompt = {
        "half": {"class_type": "Native_Half", "inputs": {"value": 8}},
        "twice": {"class_type": "Installed_Twice", "inputs": {"value": ["half", 0]}},
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["twice", 0]}},
    }
    (site.parent / "workflow.json").write_text(json.dumps(prompt))
    done = _mezzotint(site, "run", "workflow.json", "--json", "--installed-packs")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"] == {"show": {"text": ["8"]}}
    without = _mezzotint(site, "run", "workflow.json")
    assert without.returncode == 2
    assert 'there is no node type "Installed_Twice"' in without.stderr


def test_a_package_that_fails_is_named_and_the_others_load(site: Path) -> None:
    """The list has the native node, and a warning for the broken package."""
    done = _mezzotint(site, "nodes", "Native_Half")
    assert done.returncode == 0, done.stderr
    assert "Half of it." in done.stdout
    assert "warning: node package broken did not load: RuntimeError: not today" in done.stderr
