"""What is remembered of packs, and what is asked anew."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import MezzotintError
from engine.jobs.gentle import Gentle
from engine.jobs.messages import WorkerSettings
from engine.jobs.remote import RemoteExecutor
from engine.packs.describe import to_plain
from engine.packs.pack_info import NoAnswer, PackInfo
from engine.packs.report import LoadedPack, NotedRoute, PackFailure
from engine.packs.sources import find_packs
from engine.packs.spec_cache import CachedPacks, SpecCache, cache_key
from engine.run.request import Run
from engine.run.settings import DeviceSettings
from tests.engine.jobs.test_remote import settings_of
from tests.engine.run.toolbox import graph

PACKED = CachedPacks(
    specs=({"type": "A", "inputs": [], "default": 1.5},),
    packs=(LoadedPack("a", "digest", ("A",), "/web"), LoadedPack("b", "digest", ())),
    failures=(PackFailure("c", "its import failed", None), PackFailure("a", "no", "B")),
    routes=(NotedRoute("GET", "/a/{x}", "a"),),
    prompt_handlers=2,
    infos={"A": {"input": {"required": {"seed": ["INT", {"max": 2**80, "min": -(2**70)}]}}, "name": "\ud800"}},
)


# on disk


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """All of it, integers of any size and odd text too, and under its own key alone."""
    cache = SpecCache(tmp_path)
    assert cache.load("k") is None
    cache.save("k", PACKED)
    assert cache.load("k") == PACKED
    assert cache.load("other") is None
    cache.save("other", replace(PACKED, prompt_handlers=0))
    assert (cache.load("k"), [path.name for path in cache.path.parent.iterdir()]) == (None, ["specs.msgpack"])


def test_a_damaged_file_counts_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cut off, or with one bit turned: it is named in the log, and written anew."""
    cache = SpecCache(tmp_path)
    cache.save("k", PACKED)
    whole = cache.path.read_bytes()
    turned = bytearray(whole)
    turned[len(whole) // 2] ^= 1
    for content in (b"", whole[:-1], whole[:20], bytes(turned), b"\xc1" * 100):
        cache.path.write_bytes(content)
        caplog.clear()
        assert cache.load("k") is None
        assert "is damaged" in caplog.text
    cache.save("k", PACKED)
    assert cache.load("k") == PACKED


def test_the_key_says_what_it_depends_on(tmp_path: Path) -> None:
    """A changed source, another pack, other settings change it; the same ones do not."""
    folder = tmp_path / "packs"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1")
    settings = WorkerSettings(custom_nodes=(folder,))

    def key(settings: WorkerSettings = settings) -> str:
        return cache_key(find_packs([folder]), settings)

    first = key()
    assert key() == first
    assert key(replace(settings, device=DeviceSettings(device="cpu"))) != first
    assert key(replace(settings, models=(tmp_path,))) != first
    (folder / "a.py").write_text("x = 2")
    second = key()
    (folder / "b.py").write_text("")
    assert len({first, second, key()}) == 3
    (folder / "b.py").unlink()
    (folder / "a.py").write_text("x = 1")
    assert key() == first


# asked anew


class Answers:
    """Whoever is asked, with answers made up beforehand."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def ask_all(self, what: str, types: Sequence[str], each: float, total: float) -> Mapping[str, Any]:
        assert what == "describe"
        return {type_: self.answers[type_] for type_ in types if type_ in self.answers}


def test_what_was_known_is_served_where_there_is_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    """New answers count, old ones stay, a class that raises is left out, and the log says all that."""
    answers = Answers(A={"n": 2}, B=NoAnswer("too slow"), C=MezzotintError("INPUT_TYPES: no"), D=NoAnswer("too slow"))
    info = PackInfo(answers, {"A": {"n": 1}, "B": {"n": 1}, "C": {"n": 1}, "E": {"n": 1}})
    assert info.refresh(["A", "B", "C", "D"]) == {"A": {"n": 2}, "B": {"n": 1}}
    assert info.known() == {"A": {"n": 2}, "B": {"n": 1}, "E": {"n": 1}}
    assert (info.of("E"), info.of("C")) == ({"n": 1}, None)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "no answer about B and 1 more; what was last known is served: too slow",
        "node type C cannot say what it takes, and is left out: INPUT_TYPES: no",
    ]
    answers.answers["C"] = {"n": 3}
    assert info.refresh(["C"]) == {"C": {"n": 3}}


# with a worker

PACK = """
import os, time
HERE = os.environ["ASKED_FOLDER"]

class Files:
    WAIT = None
    @classmethod
    def INPUT_TYPES(cls):
        while cls.WAIT and os.path.exists(os.path.join(HERE, cls.WAIT)):
            time.sleep(0.01)
        if os.path.exists(os.path.join(HERE, "broken_" + cls.__name__)):
            raise RuntimeError("the folder is broken")
        return {"required": {"file": (sorted(os.listdir(HERE)),), "top": ("INT", {"max": 2**70})}}
    RETURN_TYPES = ()
    FUNCTION = "go"
    OUTPUT_NODE = True
    def go(self, file, top):
        open(os.path.join(HERE, "at_work"), "w").close()
        while os.path.exists(os.path.join(HERE, "hold")):
            time.sleep(0.01)
        return {"ui": {"text": [file]}}

class Slow(Files):
    WAIT = "slow"

NODE_CLASS_MAPPINGS = {"Asked_Files": Files, "Asked_Slow": Slow}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "one").touch()
    monkeypatch.setenv("ASKED_FOLDER", str(folder))
    return folder


@pytest.fixture
def settings(tmp_path: Path, folder: Path) -> WorkerSettings:
    settings = settings_of(tmp_path)
    (tmp_path / "packs/asked.py").write_text(PACK)
    return settings


@pytest.fixture
def worker(settings: WorkerSettings) -> Iterator[RemoteExecutor]:
    with RemoteExecutor(settings) as worker:
        yield worker


def files_of(info: Mapping[str, Any]) -> list[str]:
    found: list[str] = info["input"]["required"]["file"][0]
    return found


def test_a_process_that_has_no_worker_yet_knows_the_types(worker: RemoteExecutor, settings: WorkerSettings) -> None:
    """From the file of the one before: specs, ``object_info`` and failures are the same; and no process was started."""
    info = PackInfo(worker.gently)
    infos = info.refresh([spec.type for spec in worker.loaded.specs])
    assert files_of(infos["Asked_Files"]) == ["one"]
    key = cache_key(find_packs(settings.pack_folders()), settings)
    SpecCache(settings.state).save(key, worker.loaded.to_cached(info.known()))

    with RemoteExecutor(settings) as other:
        cached = SpecCache(settings.state).load(key)
        assert cached is not None
        recalled = other.recall(cached)
        assert list(map(to_plain, recalled.specs)) == list(map(to_plain, worker.loaded.specs)) != []
        assert (recalled.packs, recalled.failures) == (worker.loaded.packs, worker.loaded.failures)
        early = PackInfo(other.gently, cached.infos)
        assert early.refresh(["Asked_Files"]) == {"Asked_Files": infos["Asked_Files"]}
        assert other.web is None
        with pytest.raises(NoAnswer, match="is not there"):
            other.gently.ask("describe", "Asked_Files", {}, 1.0)


def test_choices_change_with_the_files(worker: RemoteExecutor, folder: Path) -> None:
    """What is there now is what is told, and a class that raises is left out until it does not."""
    info = PackInfo(worker.gently)
    _ = worker.loaded
    info.refresh(["Asked_Files"])
    (folder / "two").touch()
    assert files_of(info.refresh(["Asked_Files", "Asked_Slow"])["Asked_Files"]) == ["one", "two"]
    (folder / "broken_Files").touch()
    assert list(info.refresh(["Asked_Files", "Asked_Slow"])) == ["Asked_Slow"]
    (folder / "broken_Files").unlink()
    assert list(info.refresh(["Asked_Files", "Asked_Slow"])) == ["Asked_Files", "Asked_Slow"]


async def test_a_run_goes_on_while_a_class_does_not_answer(
    worker: RemoteExecutor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others answer, the silent one is served as last known, the run comes to its end, and the late answer is used.

    It goes on too when somebody waited for the answer for as long as one waits, and whoever checks a workflow does.
    """
    import asyncio

    info = PackInfo(worker.gently)
    pid = await asyncio.to_thread(lambda: worker.pid)
    await asyncio.to_thread(info.refresh, ["Asked_Slow"])
    (folder / "hold").touch()
    running = asyncio.create_task(worker.run(Run(graph(n=("Asked_Files", {"file": "one", "top": 1})))))
    until = time.monotonic() + 30
    while not (folder / "at_work").exists() and time.monotonic() < until:
        await asyncio.sleep(0.01)
    (folder / "slow").touch()
    began = time.monotonic()
    infos = await asyncio.to_thread(info.refresh, ["Asked_Files", "Asked_Slow"], each=0.5)
    assert 0.4 < time.monotonic() - began < 5
    assert files_of(infos["Asked_Slow"]) == ["one"]
    assert files_of(infos["Asked_Files"]) == ["at_work", "hold", "one", "slow"]
    with pytest.raises(NoAnswer, match=r"Asked_Slow did not answer describe within 0\.1 s"):
        await asyncio.to_thread(worker.gently.ask, "describe", "Asked_Slow", {}, 0.1)
    monkeypatch.setattr("engine.jobs.gentle._HUNG", 0.1)
    monkeypatch.setattr("engine.jobs.remote._ANSWER", 0.2)
    with pytest.raises(NoAnswer, match=r"Asked_Slow did not answer describe within 0\.2 s"):
        await asyncio.to_thread(worker.ask, "describe", "Asked_Slow", {})
    (folder / "slow").unlink()
    (folder / "hold").unlink()
    assert (await running).status == "succeeded"
    late = await asyncio.to_thread(worker.gently.ask, "describe", "Asked_Slow", {}, 30.0)
    assert "one" in files_of(late)
    assert worker.pid == pid


def test_one_that_never_answers_costs_an_idle_worker(
    worker: RemoteExecutor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When that is sure, and nothing runs: the threads that answer are few. The next worker answers."""
    monkeypatch.setattr("engine.jobs.gentle._HUNG", 0.3)
    pid = worker.pid
    (folder / "slow").touch()
    with pytest.raises(NoAnswer):
        worker.gently.ask("describe", "Asked_Slow", {}, 0.1)
    assert worker.pid == pid
    time.sleep(0.4)
    with pytest.raises(NoAnswer):
        worker.gently.ask("describe", "Asked_Slow", {}, 0.1)
    (folder / "slow").unlink()
    until = time.monotonic() + 30
    while worker.web is None and worker.pid == pid and time.monotonic() < until:
        time.sleep(0.05)
    assert worker.pid != pid
    assert files_of(worker.gently.ask("describe", "Asked_Slow", {}, 30.0)) == ["one"]


def test_a_worker_that_dies_answers_nothing(worker: RemoteExecutor, folder: Path) -> None:
    """Whoever waits is told at once."""
    pid = worker.pid
    (folder / "slow").touch()
    gently = worker.gently

    class Killing(Gentle):
        def _question(self, *arguments: Any) -> Any:
            question = super()._question(*arguments)
            os.kill(pid, 9)
            return question

    killing = Killing(gently._process)
    found = killing.ask_all("describe", ["Asked_Slow"], 30.0, 30.0)
    assert isinstance(found["Asked_Slow"], NoAnswer)
    assert "SIGKILL" in str(found["Asked_Slow"])


def test_nothing_is_imported_to_remember() -> None:
    """What a service reads at its start needs neither torch nor what packs import."""
    import subprocess

    code = (
        "import sys, engine.packs.spec_cache, engine.packs.pack_info, engine.jobs.remote\n"
        "print([name for name in ('torch', 'aiohttp', 'engine.compat.folder_paths') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
