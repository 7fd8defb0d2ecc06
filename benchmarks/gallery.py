"""Every workflow of ``workflows/``, run: a page with what it shows, its pictures and how long it took.

    python -m benchmarks.gallery [NAME ...] [--out FOLDER]

Writes ``docs/gallery.md`` with its pictures below ``docs/images/gallery``; with ``--out`` a folder of its own. What a workflow shows is
said in the table of ``workflows/README.md``. Everything is computed, nothing comes from a cache; the first of them also loads the
libraries.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from engine.files import LocalFiles
from engine.graph.read import read_workflow
from engine.graph.validate import coerced, validate
from engine.places import Places
from engine.registry import Registry
from engine.run.executor import Executor, Run
from engine.run.opening import open_executor
from engine.run.settings import DeviceSettings

ROOT: Final = Path(__file__).parents[1]
WORKFLOWS: Final = ROOT / "workflows"
MOST_PICTURES: Final = 4
"""Shown of one workflow."""
SIDE: Final = 192
"""Pixels of a picture on the page."""
_ROW: Final = re.compile(r"^\| \[(?P<name>\w+)\]\((?P=name)\.json\) \| (?P<shows>.+?) \|$", re.MULTILINE)


def index() -> dict[str, str]:
    """Name -> what the workflow shows, in the order of ``workflows/README.md``."""
    return {row["name"]: row["shows"] for row in _ROW.finditer((WORKFLOWS / "README.md").read_text())}


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A workflow that was run: its pictures, and the seconds it took."""

    name: str
    shows: str
    pictures: tuple[Path, ...]
    seconds: float


def exhibits(names: Sequence[str], out: Path) -> Iterator[Exhibit]:
    """Runs the workflows ``names`` and puts their pictures below ``out``. Raises RuntimeError for one that does not succeed."""
    registry = Registry()
    registry.load()
    shown = index()
    with tempfile.TemporaryDirectory() as folder:
        places = Places(
            input=ROOT / "input",
            models=(ROOT / "models",),
            output=Path(folder) / "output",
            state=Path(folder) / "state",
        )
        files = places.open_files()
        executor = open_executor(places, registry, files, DeviceSettings(device="cpu"))
        for name in names:
            made, seconds = _run(name, executor, registry, files, places.output)
            yield Exhibit(name, shown[name], tuple(_hung(made, name, out)), seconds)


def _run(
    name: str, executor: Executor, registry: Registry, files: LocalFiles, output: Path
) -> tuple[list[Path], float]:
    graph = read_workflow(WORKFLOWS / f"{name}.json", registry).graph
    if problems := validate(graph, registry, files):
        raise RuntimeError(f"{name}: {'; '.join(str(problem) for problem in problems)}")
    start = time.perf_counter()
    result = executor.run_sync(Run(coerced(graph, registry), use_cache=False))
    seconds = time.perf_counter() - start
    if result.status != "succeeded":
        raise RuntimeError(f"{name}: {'; '.join(failure.reason for failure in result.failures)}")
    items: list[dict[str, Any]] = [item for ui in result.ui.values() for item in ui.get("images", [])]
    return [output / item["subfolder"] / item["filename"] for item in items if item["type"] == "output"], seconds


def _hung(made: Sequence[Path], name: str, out: Path) -> Iterator[Path]:
    """Copies of the pictures, enlarged to whole multiples where they are small."""
    for number, path in enumerate(made[:MOST_PICTURES], 1):
        with Image.open(path) as picture:
            times = max(1, SIDE // max(picture.size))
            enlarged = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
        target = out / f"{name}_{number}.png"
        enlarged.save(target, optimize=True)
        yield target


def page(shown: Sequence[Exhibit], folder: Path, workflows: str) -> str:
    """The page in Markdown; ``folder`` is where it lies, ``workflows`` the way from there to the workflow files."""
    lines = [
        "# Gallery",
        "",
        f"The {len(shown)} workflows of this repository, run on the CPU with the models that come with it. Written by `make gallery`.",
        "",
        "| workflow | picture | seconds |",
        "| --- | --- | --- |",
    ]
    for one in shown:
        pictures = " ".join(f"![{one.name}]({path.relative_to(folder).as_posix()})" for path in one.pictures)
        lines.append(f"| [{one.name}]({workflows}/{one.name}.json): {one.shows} | {pictures} | {one.seconds:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="workflows; all of them without")
    parser.add_argument("--out", type=Path, help="a folder for the page and its pictures")
    arguments = parser.parse_args()
    folder: Path = arguments.out or ROOT / "docs"
    pictures = folder / "images" / "gallery"
    if not arguments.names:
        shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True, exist_ok=True)
    shown = []
    for one in exhibits(arguments.names or tuple(index()), pictures):
        sys.stderr.write(f"{one.name}: {len(one.pictures)} pictures, {one.seconds:.1f} s\n")
        shown.append(one)
    workflows = "../workflows" if arguments.out is None else WORKFLOWS.as_posix()
    (folder / "gallery.md").write_text(page(shown, folder, workflows))


if __name__ == "__main__":
    main()
