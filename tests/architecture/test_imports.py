"""Who may know whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "torchvision", "controlnet_aux", "spandrel"}

RULES = {
    "engine": HEAVY | {"nodes", "server", "training", "tests"},
    "engine/graph": {"engine.run", "engine.cli"},
    "engine/run": {"engine.cli", "engine.jobs", "engine.service"},
    "engine/jobs": {"engine.cli", "engine.service"},
    "engine/service": {"engine.cli"},
    "nodes": {
        "server",
        "training",
        "tests",
        "engine.registry",
        "engine.cli",
        "engine.graph",
        "engine.compat",
        "engine.packs",
    },
    "nodes/diffusion": {
        "engine.graph",
        "engine.registry",
        "engine.spec",
        "engine.run.executor",
        "engine.run.results",
        "engine.cli",
        "engine.compat",
        "engine.packs",
    },
    "engine/compat": {"server", "training", "tests", "engine.cli", "engine.packs"},
}
"""What the files below a folder may not import."""

EXCEPT = {"nodes": "engine.graph.graph"}
"""What they may import of it all the same: a node that becomes others says so with calls and links."""

FOR_PACKS = {"engine/compat"}
"""Folders below a room that have rules of their own instead: what packs import may import torch and the nodes."""

ALLOWED = {
    "nodes/__init__.py imports engine.registry.Registry",
    "nodes/__init__.py imports engine.registry",
    # what packs look for in ``nodes``, brought in when one does
    "nodes/__init__.py imports engine.compat",
    "nodes/__init__.py imports engine.compat.core_nodes",
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _forbidden(folder: str) -> list[str]:
    banned, granted = RULES[folder], EXCEPT.get(folder, "")
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not any(path.is_relative_to(ROOT / other) for other in FOR_PACKS - {folder})
        for name in _imports(path)
        if any(name == ban or name.startswith(ban + ".") for ban in banned)
        and not (granted and f"{name}.".startswith(f"{granted}."))
    ]


@pytest.mark.parametrize("folder", RULES)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    """No file of a room reaches into a room it must not know."""
    assert set(_forbidden(folder)) - ALLOWED == set()


def test_only_what_loads_packs_imports_what_packs_import() -> None:
    """The rest of the engine works the same where no pack is."""
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / "engine").rglob("*.py"))
        if not any(
            path.is_relative_to(ROOT / folder)
            for folder in ("engine/compat", "engine/packs", "engine/jobs/worker.py", "engine/jobs/pack_server.py")
        )
        for name in _imports(path)
        if name == "engine.compat" or name.startswith("engine.compat.")
    ]
    assert found == []


def test_the_machine_and_the_declarations_import_no_torch() -> None:
    """Graphs, their execution, the command line and the node declarations are there long before torch is."""
    modules = "engine, engine.cli.app, engine.cli.run, engine.run.executor, engine.graph.validate, nodes"
    modules += (
        ", engine.compat.host, engine.compat.aliases, engine.compat.interrupts, engine.jobs.remote, engine.jobs.worker"
        ", engine.service.serve, engine.client, server"
    )
    code = (
        f"import sys, {modules}\n"
        "from engine.registry import Registry\n"
        "registry = Registry(); nodes.register(registry)\n"
        f"print([name for name in sys.modules if name.split('.')[0] in {sorted(HEAVY)!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


def test_files_stay_small() -> None:
    """No file is longer than 600 lines, no function longer than 80."""
    too_long = []
    for folder in ("engine", "nodes"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if text.count("\n") > 600:
                too_long.append(str(path.relative_to(ROOT)))
            for node in ast.walk(ast.parse(text)):
                if (
                    isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                    and (node.end_lineno or 0) - node.lineno >= 80
                ):
                    too_long.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert too_long == []
