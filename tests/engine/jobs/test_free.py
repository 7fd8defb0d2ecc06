"""Memory given back on request, and workflows that packs change when they are posted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.graph.graph import Graph
from engine.jobs.messages import WorkerSettings
from engine.jobs.remote import RemoteExecutor
from engine.run.request import Run
from tests.conftest import ROOT
from tests.engine.jobs.test_remote import TESTS, settings_of
from tests.engine.run.toolbox import graph

PACK = """
import os, sys, time
HERE = os.environ["FREE_FOLDER"]

class Base:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("INT", {})}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "go"
    OUTPUT_NODE = True

class Counter(Base):
    count = 0
    IS_CHANGED = classmethod(lambda cls, value: float("nan"))
    def go(self, value):
        self.count += 1
        return {"ui": {"text": [str(self.count)]}, "result": (self.count,)}

class Holds(Base):
    def go(self, value):
        open(os.path.join(HERE, f"at_work_{value}"), "w").close()
        while os.path.exists(os.path.join(HERE, f"hold_{value}")):
            time.sleep(0.01)
        return {"ui": {"text": [str(value)]}, "result": (value,)}

class Resident(Base):
    IS_CHANGED = classmethod(lambda cls, value: float("nan"))
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {}), "after": ("*", {})}}
    def go(self, value, after):
        import gc
        from nodes.diffusion.store import LocalModelStore
        stores = [it for it in gc.get_objects() if isinstance(it, LocalModelStore)]
        return {"ui": {"text": [str(sum(len(store.resident()) for store in stores))]}, "result": (value,)}

NODE_CLASS_MAPPINGS = {"Free_Counter": Counter, "Free_Holds": Holds, "Free_Resident": Resident}
"""

COUNTER = graph(n=("Free_Counter", {"value": 1}))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setenv("FREE_FOLDER", str(folder))
    return folder


@pytest.fixture
def worker(tmp_path: Path, folder: Path) -> Iterator[RemoteExecutor]:
    plain = settings_of(tmp_path)
    (tmp_path / "packs/free_pack.py").write_text(PACK)
    settings = WorkerSettings(
        models=(ROOT / "models",),
        **{name: getattr(plain, name) for name in ("input", "output", "temp", "state", "custom_nodes")},
    )
    with RemoteExecutor(settings) as worker:
        yield worker


def text(worker: RemoteExecutor, run: Graph, node: str = "n") -> Any:
    result = worker.run_sync(Run(run))
    assert result.failures == ()
    return {str(name): ui for name, ui in result.ui.items()}[node]["text"]


async def wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists() and time.monotonic() < until:
        await asyncio.sleep(0.01)
    assert path.exists()


def free(worker: RemoteExecutor, *, unload_models: bool = False, free_memory: bool = False) -> None:
    asyncio.run(worker.free(unload_models=unload_models, free_memory=free_memory))


def test_results_and_what_nodes_keep_are_forgotten(worker: RemoteExecutor) -> None:
    """A node counts from the beginning, and what was in memory is computed anew; without being asked for, neither."""
    held = Run(graph(n=("Free_Holds", {"value": 3})))
    assert [text(worker, COUNTER), text(worker, COUNTER)] == [["1"], ["2"]]
    assert [worker.run_sync(held).cached, worker.run_sync(held).cached] == [(), ("n",)]
    pid = worker.pid
    free(worker, unload_models=True)
    assert text(worker, COUNTER) == ["3"]
    assert worker.run_sync(held).cached == ("n",)
    free(worker, free_memory=True)
    assert text(worker, COUNTER) == ["1"]
    assert (worker.run_sync(held).cached, worker.pid) == ((), pid)


async def test_it_waits_for_the_runs_under_way(worker: RemoteExecutor, folder: Path) -> None:
    """And for no others: one that began later does not keep it."""
    for name in ("hold_1", "hold_2"):
        (folder / name).touch()
    first = asyncio.create_task(worker.run(Run(graph(n=("Free_Holds", {"value": 1})))))
    await wait_for(folder / "at_work_1")
    freeing = asyncio.create_task(worker.free(unload_models=True, free_memory=True))
    await asyncio.sleep(0.3)
    assert not freeing.done()
    second = asyncio.create_task(worker.run(Run(graph(n=("Free_Holds", {"value": 2})))))
    (folder / "hold_1").unlink()
    assert (await first).status == "succeeded"
    await asyncio.wait_for(freeing, 30)
    await wait_for(folder / "at_work_2")
    assert not second.done()
    (folder / "hold_2").unlink()
    assert (await second).status == "succeeded"


@pytest.mark.slow
def test_models_leave_the_device(worker: RemoteExecutor) -> None:
    """After a text was encoded its encoder is there; after the request none is, until it is needed again."""
    loader = ("CheckpointLoaderSimple", {"ckpt_name": "demo.safetensors"})
    for words, before in (("a", "1"), ("b", "1")):
        encode = graph(
            c=loader,
            t=("CLIPTextEncode", {"text": words, "clip": "c/1"}),
            n=("Free_Resident", {"value": 1, "after": "t/0"}),
        )
        assert text(worker, encode) == [before]
        free(worker, unload_models=True)
        assert text(worker, graph(c=loader, n=("Free_Resident", {"value": 2, "after": "c/1"}))) == ["0"]


def test_a_worker_that_is_not_there_holds_nothing(worker: RemoteExecutor) -> None:
    """None is started for it."""
    free(worker, unload_models=True, free_memory=True)
    assert worker.living_pid is None


async def test_a_worker_that_dies_has_given_all_back(worker: RemoteExecutor, folder: Path) -> None:
    """Whoever waits for it goes on."""
    import os
    import signal

    (folder / "hold_1").touch()
    run = asyncio.create_task(worker.run(Run(graph(n=("Free_Holds", {"value": 1})))))
    await wait_for(folder / "at_work_1")
    freeing = asyncio.create_task(worker.free(unload_models=True, free_memory=True))
    await asyncio.sleep(0.2)
    os.kill(worker.pid, signal.SIGKILL)
    await asyncio.wait_for(freeing, 30)
    assert (await run).status == "failed"


# workflows as they are posted


@pytest.fixture(scope="module")
def handling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteExecutor]:
    root = tmp_path_factory.mktemp("handling")
    settings = settings_of(root, TESTS / "packs/route_tools")
    (root / "packs/more.py").write_text(
        "import time\n"
        "from server import PromptServer\n"
        "def wait(posted):\n"
        "    time.sleep(posted.get('wait', 0))\n"
        "    return None if 'odd' in posted else posted\n"
        "PromptServer.instance.add_on_prompt_handler(wait)\n"
        "NODE_CLASS_MAPPINGS = {}\n"
    )
    with RemoteExecutor(settings) as worker:
        yield worker


def test_packs_change_what_is_posted(handling: RemoteExecutor) -> None:
    """All of it may be changed, integers keep all their digits."""
    assert handling.on_prompt({"prompt": {}}) == {"prompt": {}}  # nobody is there yet, and it waits for nobody
    assert handling.loaded.prompt_handlers == 2
    assert handling.on_prompt({"prompt": {"1": 2**70}}) == {"prompt": {"1": 2**70}, "seen": True}


def test_a_handler_that_fails_changes_nothing(handling: RemoteExecutor) -> None:
    """Neither by what it did before it raised, nor by returning something else; the other handlers are heard."""
    _ = handling.loaded
    assert handling.on_prompt({"fail": 1, "prompt": {"1": 1}}) == {"fail": 1, "prompt": {"1": 1}}
    assert handling.on_prompt({"odd": 1}) == {"odd": 1, "seen": True}


def test_a_handler_that_takes_too_long_changes_nothing(
    handling: RemoteExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """The workflow goes on as it was posted, and the log says so."""
    _ = handling.loaded
    assert handling.on_prompt({"wait": 1.0}, timeout=0.2) == {"wait": 1.0}
    assert "is taken as it was posted" in caplog.text
