"""What a worker has loaded of its packs, and what it says of those that failed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from engine.errors import UsageError
from engine.graph.api_format import read_api
from engine.graph.graph import NodeId
from engine.jobs.messages import WorkerSettings
from engine.jobs.remote import RemoteExecutor
from engine.run.request import Run
from tests.engine.jobs.test_remote import PATIENCE, TESTS, settings_of, wait_until_gone
from tests.engine.run.toolbox import graph


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteExecutor]:
    """A worker over all the bad packs, and more that were written for this."""
    root = tmp_path_factory.mktemp("everything")
    bad_packs = sorted(path for path in (TESTS / "bad_packs").iterdir() if not path.name.startswith("__"))
    settings = settings_of(root, *bad_packs)
    _write_packs(root / "packs")
    with RemoteExecutor(settings) as executor:
        yield executor


_NODE = """
class Node:
    INPUT_TYPES = classmethod(lambda cls: {{"required": {{}}}})
    RETURN_TYPES = ()
    FUNCTION = "go"
    OUTPUT_NODE = True
    def go(self):
        return {{"ui": {{"text": [{text}]}}}}
NODE_CLASS_MAPPINGS = {{"{type}": Node}}
"""

PACKS: Mapping[str, str] = {
    "first_script/prestartup_script.py": "import os; os.environ['FIRST_SCRIPT'] = __name__",
    "first_script/__init__.py": "import os\n" + _NODE.format(type="FirstScript", text="os.environ['FIRST_SCRIPT']"),
    "bad_script/prestartup_script.py": "1 / 0",
    "bad_script/__init__.py": _NODE.format(type="BadScript", text="1"),
    "a_user/__init__.py": "from custom_nodes.b_used.values import VALUE\n"
    + _NODE.format(type="User", text="str(VALUE)"),
    "b_used/__init__.py": "NODE_CLASS_MAPPINGS = {}",
    "b_used/values.py": "VALUE = 42",
    "twice.py": _NODE.format(type="FirstScript", text="2"),
    "sets_web/__init__.py": "WEB_DIRECTORY = './js'\nNODE_CLASS_MAPPINGS = {}",
    "sets_web/js/x.js": "",
    "leaves_web/__init__.py": "WEB_DIRECTORY = '..'\nNODE_CLASS_MAPPINGS = {}",
    "half.py": "import sys\nfrom custom_nodes import gone_after_this",
}


def _write_packs(folder: Path) -> None:
    for name, text in PACKS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


REASONS = {
    ("dies_on_import", None): "its import failed: it ended its process (exit code 3)",
    ("exits_on_import", None): "its import failed: it called sys.exit(2) while it was imported (exits_on_import.py, line 4)",
    ("missing_module", None): "its import failed: ModuleNotFoundError: No module named 'a_module_nobody_has' "
    "(__init__.py, line 1); install what its requirements.txt asks for",
    ("no_nodes", None): "its import failed: it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint, so it brings no nodes",
    ("wrong_syntax", None): "its import failed: SyntaxError: ",
    ("takes_core_ids", "SaveImage"): "node type SaveImage of custom_nodes.takes_core_ids is already defined by nodes.image",
    ("takes_core_ids", "TakesCoreIds_NoFunction"): "FUNCTION is 'is_not_there', which is no method of the class",
    ("takes_core_ids", "TakesCoreIds_BrokenTypes"): "FileNotFoundError: /models/of/somebody",
    ("bad_script", None): "its prestartup_script.py failed: ZeroDivisionError: division by zero (prestartup_script.py, line 1)",
    ("twice", "FirstScript"): "node type FirstScript of custom_nodes.twice is already defined by custom_nodes.first_script",
    ("half", None): "its import failed: ImportError: cannot import name 'gone_after_this' from 'custom_nodes'",
}  # fmt: skip


def test_each_pack_that_fails_has_its_reason(everything: RemoteExecutor) -> None:
    """One line each, with the line of the pack where there is one; a node that fails leaves the others of its pack."""
    found = {(failure.pack, failure.node): failure.reason for failure in everything.loaded.failures}
    assert set(found) == set(REASONS)
    assert {key: found[key][: len(reason)] for key, reason in REASONS.items()} == REASONS
    assert all("\n" not in reason for reason in found.values())


def test_the_others_load(everything: RemoteExecutor) -> None:
    """With the nodes that are theirs and could be read; folders of browser scripts if they lie within the pack."""
    loaded = {pack.name: pack for pack in everything.loaded.packs}
    assert set(loaded) == {
        "a_user", "b_used", "first_script", "leaves_web", "misbehaving", "sets_web", "takes_core_ids", "twice"
    }  # fmt: skip
    assert {name: pack.nodes for name, pack in loaded.items() if name not in ("misbehaving",)} == {
        "a_user": ("User",),
        "b_used": (),
        "first_script": ("FirstScript",),
        "leaves_web": (),
        "sets_web": (),
        "takes_core_ids": ("TakesCoreIds_Fine",),
        "twice": (),
    }
    webs = {name: pack.web_directory and Path(pack.web_directory).name for name, pack in loaded.items()}
    assert {name: web for name, web in webs.items() if web} == {"sets_web": "js"}
    assert {spec.pack for spec in everything.loaded.specs} == {
        "a_user",
        "first_script",
        "misbehaving",
        "takes_core_ids",
    }


def test_core_nodes_are_still_core_nodes(everything: RemoteExecutor, tmp_path: Path) -> None:
    """A pack that takes the name of one does not get it."""
    run = read_api(
        {
            "i": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
            "s": {"class_type": "SaveImage", "inputs": {"images": ["i", 0], "filename_prefix": "core"}},
        }
    )
    assert [item["filename"] for item in everything.run_sync(Run(run)).ui[NodeId("s")]["images"]] == ["core_00001_.png"]


def test_packs_run_with_what_their_scripts_and_neighbours_gave_them(everything: RemoteExecutor) -> None:
    """Scripts ran before any import; packs import one another by name, whatever the order."""
    run = graph(f=("FirstScript", {}), u=("User", {}), t=("TakesCoreIds_Fine", {}))
    assert everything.run_sync(Run(run)).ui == {
        "f": {"text": ["custom_nodes.first_script.prestartup_script"]},
        "u": {"text": ["42"]},
    }


def test_loading_packs_leaves_this_process_as_it_was(everything: RemoteExecutor) -> None:
    """Neither modules of packs nor aliases come in."""
    assert everything.loaded.packs
    script = (
        "import json, sys; from engine.jobs.messages import WorkerSettings; from engine.jobs.remote import RemoteExecutor\n"
        "with RemoteExecutor(WorkerSettings.from_json(sys.argv[1])) as executor:\n"
        "    count = len(executor.loaded.specs)\n"
        "print(json.dumps([count, [m for m in ('custom_nodes', 'comfy', 'folder_paths', 'torch') if m in sys.modules]]))"
    )
    settings = everything.settings.to_json()
    done = subprocess.run([sys.executable, "-c", script, settings], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [len(everything.loaded.specs), []]


def _one_pack(root: Path, text: str) -> WorkerSettings:
    """A pack of one file, with one node, that does ``text`` when it is imported."""
    settings = settings_of(root)
    (root / "packs/one.py").write_text(text + _NODE.format(type="One", text="1"))
    return settings


DIES_ONCE = """
import os, pathlib, signal
mark = pathlib.Path({mark!r})
if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_pack_whose_import_was_killed_once_is_loaded(tmp_path: Path) -> None:
    """The machine may have been short of memory; only who dies again and again is left out."""
    settings = _one_pack(tmp_path, DIES_ONCE.format(mark=str(tmp_path / "mark")))
    with RemoteExecutor(settings) as executor:
        assert [pack.name for pack in executor.loaded.packs] == ["one"]
        assert executor.loaded.failures == ()


HANGS = """
import pathlib, time
pathlib.Path({mark!r}).touch()
time.sleep(600)
"""


def test_closing_does_not_wait_for_a_worker_that_starts(tmp_path: Path) -> None:
    """Its import would take ten minutes: whoever waits for it is told, and no process is left."""
    mark = tmp_path / "mark"
    executor = RemoteExecutor(_one_pack(tmp_path, HANGS.format(mark=str(mark))))
    told: list[BaseException] = []

    def start() -> None:
        try:
            _ = executor.loaded
        except UsageError as error:
            told.append(error)

    before = set(psutil.Process().children())
    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    while not mark.exists():
        time.sleep(0.01)
    (process,) = set(psutil.Process().children()) - before
    executor.end()
    thread.join(PATIENCE)
    assert "closed" in str(told[0])
    assert wait_until_gone(process.pid)
    with pytest.raises(UsageError, match="closed"):
        _ = executor.loaded
