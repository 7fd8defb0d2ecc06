"""Runs one small graph in every way there is: in this process with results in memory, on disk and not kept, and by the command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

import nodes
from engine.cli.app import app
from engine.compat.host import Host, install
from engine.errors import InvalidGraph
from engine.files import open_files
from engine.graph.api_format import read_api
from engine.graph.graph import NodeId
from engine.graph.validate import coerced, validate
from engine.packs.load import Loader
from engine.packs.sources import find_packs
from engine.registry import Registry
from engine.run import events
from engine.run.cache import OutputCache
from engine.run.disk_tier import DiskTier
from engine.run.executor import Executor, Run
from engine.run.outputs import OutputFolder
from engine.run.settings import DeviceSettings

PACKS = Path(__file__).parents[1] / "packs"
MODELS = Path(__file__).parents[2] / "models"
MODES = ("memory", "disk", "not kept", "command line")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, however it was run."""

    status: str
    ui: dict[str, Mapping[str, list[Any]]]
    errors: Mapping[str, str]
    """Messages by the node the user sees; under ``""`` what is wrong with the graph."""
    warnings: Mapping[str, str]
    ran: tuple[str, ...]
    cached: tuple[str, ...]
    pictures: tuple[NDArray[np.uint8], ...]

    def text(self, node: str) -> list[str]:
        """What an output node shows."""
        return self.ui[node]["text"]


@dataclass
class Stage:
    """Where graphs run: folders of one test, and one way to run."""

    mode: str
    root: Path
    registry: Registry
    host: Host
    stop_on_failure: bool = False
    _executor: Executor | None = field(default=None, repr=False)

    @property
    def keeps_in_memory(self) -> bool:
        """Whether a second run in this way finds what only memory holds."""
        return self.mode == "memory"

    @property
    def keeps(self) -> bool:
        """Whether a second run in this way finds what may be kept on disk, and took long enough to be worth it."""
        return self.mode != "not kept"

    def run(self, *targets: str, **calls: Any) -> Outcome:
        """Run a graph by short names: ``run(a=("LT_Range", {"count": 3}), b=("LT_Show", {"value": "a/0"}))``; ``"a/0"`` is a link."""
        prompt = {
            name: {"class_type": type_, "inputs": {key: _value(value) for key, value in inputs.items()}}
            for name, (type_, inputs) in calls.items()
        }
        if self.mode == "command line":
            return self._by_command(prompt, targets)
        return self._in_process(prompt, targets)

    def _in_process(self, prompt: dict[str, Any], targets: tuple[str, ...]) -> Outcome:
        graph, wanted = read_api(prompt), tuple(map(NodeId, targets)) or None
        problems = validate(graph, self.registry, self.host.files, wanted)
        if problems:
            return _refused([problem.message for problem in problems])
        heard: list[events.Event] = []
        result = self._an_executor().run_sync(
            Run(
                coerced(graph, self.registry),
                targets=wanted,
                metadata={"prompt": prompt},
                use_cache=self.keeps,
                stop_on_failure=self.stop_on_failure,
            ),
            heard.append,
        )
        told = [event for event in heard if isinstance(event, events.NodeWarning | events.NodeBlocked)]
        return Outcome(
            status=result.status,
            ui={str(node): shown for node, shown in result.ui.items()},
            errors={failure.shown: str(failure) for failure in result.failures},
            warnings={event.shown: event.message for event in told},
            ran=result.ran,
            cached=result.cached,
            pictures=self._pictures(result.ui),
        )

    def _an_executor(self) -> Executor:
        """One for the whole test where memory is what keeps; a new one for each run where the disk is."""
        if self._executor is not None and self.mode == "disk":
            self.close()
        if self._executor is None:
            disk = DiskTier(self.root / "state" / "cache", self.registry.codecs) if self.mode == "disk" else None
            self._executor = Executor(
                self.registry,
                files=self.host.files,
                cache=OutputCache(disk=disk),
                outputs=OutputFolder(self.root / "output", self.root / "temp"),
                numerics="test",
                settings=DeviceSettings(device="cpu"),
            )
        return self._executor

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def _by_command(self, prompt: dict[str, Any], targets: tuple[str, ...]) -> Outcome:
        file = self.root / "workflow.json"
        file.write_text(json.dumps(prompt))
        options = [item for target in targets for item in ("--target", target)]
        result = CliRunner().invoke(
            app,
            [
                "run",
                str(file),
                "--json",
                "--custom-nodes",
                str(self._packs(prompt)),
                "--device",
                "cpu",
                "--models",
                str(MODELS),
                *options,
            ]
            + (["--stop-on-failure"] if self.stop_on_failure else []),
        )
        if result.exit_code == 2:
            return _refused(result.stderr.splitlines())
        report = json.loads(result.stdout)
        return Outcome(
            status=report["status"],
            ui=report["outputs"],
            errors={error["shown"]: error["message"] for error in report["errors"]},
            warnings={warning["shown"]: warning["message"] for warning in report["warnings"]},
            ran=tuple(report["ran"]),
            cached=tuple(report["cached"]),
            pictures=self._pictures(report["outputs"]),
        )

    def _packs(self, prompt: dict[str, Any]) -> Path:
        """A folder with the packs that a graph uses: those it does not use need not be imported."""
        folder = self.root / "packs"
        folder.mkdir(exist_ok=True)
        used = {
            self.registry[entry["class_type"]].pack for entry in prompt.values() if entry["class_type"] in self.registry
        }
        for name in used - {None}:
            link = folder / str(name)
            if not link.exists():
                link.symlink_to(PACKS / str(name))
        return folder

    def _pictures(self, ui: Mapping[Any, Mapping[str, list[Any]]]) -> tuple[NDArray[np.uint8], ...]:
        items = [item for shown in ui.values() for item in shown.get("images", [])]
        return tuple(_pixels(self.root / item["type"] / item["subfolder"] / item["filename"]) for item in items)


def _value(given: Any) -> Any:
    match = re.fullmatch(r"(\w+)/(\d+)", given) if isinstance(given, str) else None
    return [match[1], int(match[2])] if match else given


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _refused(messages: list[str]) -> Outcome:
    told = "\n".join(line for line in messages if not line.startswith(("pack ", "warning: ")))
    return Outcome(InvalidGraph.__name__, {}, {"": told}, {}, (), (), ())


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, Host, Loader]:
    """Our node types and those of the packs below ``tests/packs``, which are imported into this process once."""
    registry = Registry()
    nodes.register(registry)
    root = tmp_path_factory.mktemp("packed")
    host = Host(files=_files(root), registry=registry, settings=DeviceSettings(device="cpu"))
    loader = Loader(registry, host, lambda name: None)
    loader.load(find_packs([PACKS]))
    assert loader.report.failures == []
    return registry, host, loader


def _files(root: Path) -> Any:
    for name in ("input", "output", "temp"):
        (root / name).mkdir(exist_ok=True)
    return open_files(
        models=[MODELS],
        input=root / "input",
        output=root / "output",
        temp=root / "temp",
        state=root / "state",
    )


@pytest.fixture(params=MODES)
def stage(
    request: pytest.FixtureRequest,
    packed: tuple[Registry, Host, Loader],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    """Each test that uses it is run in every mode."""
    registry, host, loader = packed
    loader.instances.clear()
    monkeypatch.chdir(tmp_path)
    host.files = _files(tmp_path)
    install(host)
    made = Stage(request.param, tmp_path, registry, host)
    yield made
    made.close()


@pytest.fixture
def draw(tmp_path: Path) -> Callable[[str, int], Path]:
    """Puts a grey picture of 8 x 8 pixels into the input folder."""

    def put(name: str, grey: int) -> Path:
        path = tmp_path / "input" / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (grey, grey, grey)).save(path)
        return path

    return put
