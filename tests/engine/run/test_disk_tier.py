"""Results on disk: whole or not there, whatever happens to the process, the disk or the files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.models import Digest, ModelRef
from engine.run.atomic import TEMPORARY
from engine.run.cache import Made, OutputCache
from engine.run.disk_tier import DiskTier
from engine.run.disk_usage import StoredFile, StoredRecord, to_remove
from engine.run.events import NodeCached, NodeWarning
from engine.run.executor import Run
from engine.run.results import OutputFile
from engine.run.values import NodeValue
from engine.spec import Output, node
from tests.engine.run.disk_writer import key, plain_value
from tests.engine.run.toolbox import ArrayCodec, Calls, Listener, graph, ids, make_executor

CODECS = {"numpy.ndarray": ArrayCodec()}
ROOT = Path(__file__).parents[3]


def value_of(number: int, size: int = 1000) -> NodeValue:
    """A value that says which it is."""
    return NodeValue(
        ((np.full(size, number, np.float32),), (number, "text")),
        (OutputFile(b"%05d" % number * 1000, "p", "bin"),),
        {"n": [number]},
    )


def check(found: Any, number: int, size: int = 1000) -> None:
    assert found is not None
    loaded = found.load()
    assert (loaded.slots[0][0] == np.full(size, number, np.float32)).all()
    assert (loaded.slots[1], loaded.files, loaded.ui) == ((number, "text"), value_of(number).files, {"n": [number]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_value_comes_back_in_another_process_image(folder: Path) -> None:
    """Written by one tier, read by another with nothing but the folder in common."""
    tier = DiskTier(folder, CODECS)
    tier.put(key(1), value_of(1), 2.5)
    assert tier.flush() == []
    found = DiskTier(folder, CODECS).get(key(1))
    check(found, 1)
    assert found is not None
    assert found.seconds == 2.5
    assert DiskTier(folder, CODECS).get(key(2)) is None


def test_arrays_are_mapped_writable_aligned_and_private(folder: Path) -> None:
    """A node that writes into what it was given changes no file."""
    tier = DiskTier(folder, CODECS)
    tier.put(key(1), value_of(1), 1.0)
    tier.flush()
    found = tier.get(key(1))
    assert found is not None
    array = found.load().slots[0][0]
    assert array.ctypes.data % 64 == 0
    array[:] = 9
    check(tier.get(key(1)), 1)


def test_equal_bytes_are_stored_once(folder: Path) -> None:
    """Ten results with the same array take little more room than one."""
    tier = DiskTier(folder, CODECS)
    for number in range(10):
        tier.put(key(number), NodeValue(((np.zeros(100_000, np.float32), number),)), 1.0)
    tier.flush()
    info = tier.info()
    assert info.results == 10
    assert info.bytes < 450_000
    assert info.by_type == {"numpy.ndarray": 4_000_000}


def test_nothing_is_decoded_until_it_is_loaded(folder: Path) -> None:
    """Files and ui data are at hand without the leaf's codec being asked; the tensor library need not be there."""
    tier = DiskTier(folder, CODECS)
    tier.put(key(1), value_of(1), 1.0)
    tier.flush()

    class Refusing(ArrayCodec):
        def decode(self, header: Any, buffers: Any) -> Any:
            raise AssertionError("nobody asked")

    found = DiskTier(folder, {"numpy.ndarray": Refusing()}).get(key(1))
    assert found is not None
    assert (found.files, found.ui) == (value_of(1).files, {"n": [1]})


def test_what_this_process_cannot_decode_is_a_miss_and_stays(folder: Path) -> None:
    """Another process, or another version, may well be able to."""
    tier = DiskTier(folder, CODECS)
    tier.put(key(1), value_of(1), 1.0)
    tier.flush()

    class Newer(ArrayCodec):
        version = 2

    assert DiskTier(folder, {}).get(key(1)) is None
    assert DiskTier(folder, {"numpy.ndarray": Newer()}).get(key(1)) is None
    check(tier.get(key(1)), 1)


def _truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


@pytest.mark.parametrize("kind", ["records", "blobs"])
@pytest.mark.parametrize(
    "damage", [_truncate, _flip, lambda content: b"", lambda content: content + b"x", lambda content: b"\x93" * 40]
)
def test_a_damaged_object_is_a_miss_and_is_removed(folder: Path, kind: str, damage: Any) -> None:
    """Whichever file it is and whatever happened to it; afterwards it can be stored again."""
    tier = DiskTier(folder, CODECS)
    tier.put(key(1), value_of(1), 1.0)
    tier.flush()
    victims = files_of(folder / kind)
    for victim in victims:
        victim.write_bytes(damage(victim.read_bytes()))
    assert tier.get(key(1)) is None
    assert not tier.has(key(1))
    tier.put(key(1), value_of(1), 1.0)
    tier.flush()
    check(DiskTier(folder, CODECS).get(key(1)), 1)


def test_a_missing_blob_is_a_miss(folder: Path) -> None:
    """As when another process made room between the record and the blob."""
    tier = DiskTier(folder, CODECS)
    tier.put(key(1), value_of(1), 1.0)
    tier.flush()
    files_of(folder / "blobs")[0].unlink()
    assert tier.get(key(1)) is None
    assert files_of(folder / "records") == []


def test_a_value_that_refers_to_a_file_that_has_gone_is_a_miss(folder: Path, tmp_path: Path) -> None:
    """A recipe is of no use without its weights."""
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"w")
    ref = ModelRef(Digest("d"), "unet", str(weights))
    tier = DiskTier(folder, {})
    tier.put(key(1), NodeValue(((ref,),)), 1.0)
    tier.flush()
    found = tier.get(key(1))
    assert found is not None
    assert found.load().slots == ((ref,),)
    weights.unlink()
    assert tier.get(key(1)) is None


def test_what_cannot_be_encoded_is_left_out_without_a_word(folder: Path) -> None:
    """It stays in memory alone; that is no problem to tell."""
    tier = DiskTier(folder, {})
    tier.put(key(1), NodeValue(((object(),),)), 1.0)
    assert tier.flush() == []
    assert tier.get(key(1)) is None


def test_the_folder_stays_within_its_limit_and_loses_what_was_not_used_for_longest(folder: Path) -> None:
    """Of thirty results of 40 kB, in 400 kB the newest and the one just read are left."""
    tier = DiskTier(folder, CODECS, limit=400_000)
    old = time.time() - 10_000
    for number in range(30):
        tier.put(key(number), NodeValue(((np.full(10_000, number, np.float32),),)), 1.0)
        tier.flush()
        for path in files_of(folder):
            if path.stat().st_mtime > old + 1000:
                os.utime(path, (old + number, old + number))
        if number:
            assert tier.get(key(0)) is not None  # a use
    assert sum(path.stat().st_size for path in files_of(folder)) <= 440_000
    assert tier.get(key(0)) is not None
    assert tier.get(key(29)) is not None
    assert tier.get(key(1)) is None


def _stored(name: str, size: int, used: float) -> StoredFile:
    return StoredFile(Path(name), size, used)


def test_making_room_is_a_decision_over_what_there_is() -> None:
    """Old orphans go first, then the oldest records with the blobs that nobody else needs; a shared blob stays."""
    records = [
        StoredRecord(_stored("new", 10, 90), ("shared",)),
        StoredRecord(_stored("old", 10, 10), ("shared", "own")),
    ]
    blobs = {
        name: _stored(name, 100, used)
        for name, used in [("shared", 10.0), ("own", 10.0), ("orphan", 0.0), ("coming", 9000.0)]
    }
    assert to_remove(records, blobs, 1000, 10_000) == [Path("orphan")]
    assert to_remove(records, blobs, 250, 10_000) == [Path("orphan"), Path("old"), Path("own")]


def test_the_cache_says_what_it_holds_and_can_be_emptied(folder: Path) -> None:
    """``info`` and ``clear``, for the command line."""
    cache = OutputCache(disk=DiskTier(folder, CODECS))
    cache.keep(key(1), Made(value_of(1), 5.0))
    cache.flush()
    before = cache.clear()
    assert (before.objects, before.memory_objects) == (1, 1)
    assert before.to_json()["by_type"] == {"numpy.ndarray": 4000, "bytes": 5000}
    assert (cache.info().objects, cache.info().bytes, cache.info().memory_objects) == (0, 0, 0)
    assert cache.lookup(key(1)) is None


def start_writer(folder: Path, count: int, size: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.engine.run.disk_writer", str(folder), str(count), str(size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def check_plain(found: Any, number: int, size: int) -> None:
    assert found is not None
    assert found.load() == plain_value(number, size)


def test_a_process_killed_while_writing_leaves_whole_results_only(folder: Path) -> None:
    """Whatever was told to be written is there; what was being written is not, or is whole."""
    size = 4_000_000
    writer = start_writer(folder, 100_000, size)
    assert writer.stdout is not None
    for _ in range(3):
        writer.stdout.readline()
    time.sleep(0.003)
    writer.send_signal(signal.SIGKILL)
    told = 2 + len(writer.stdout.read().split())
    writer.wait()
    writer.stdout.close()
    tier = DiskTier(folder, {})
    for number in range(told + 1):
        check_plain(tier.get(key(number)), number, size)
    later = tier.get(key(told + 1))
    if later is not None:
        check_plain(later, told + 1, size)
    assert all(path.name.startswith(TEMPORARY) or len(path.name) == 64 for path in files_of(folder))


def test_two_processes_may_write_the_same_results(folder: Path) -> None:
    """Both finish, every result is whole, and nothing is stored twice."""
    writers = [start_writer(folder, 20, 8000) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.read().split() == [str(number) for number in range(20)]
        assert writer.wait() == 0
        writer.stdout.close()
    tier = DiskTier(folder, {})
    for number in range(20):
        check_plain(tier.get(key(number)), number, 8000)
    assert len(files_of(folder / "records")) == 20
    assert len(files_of(folder / "blobs")) == 20
    assert not [path for path in files_of(folder) if path.name.startswith(TEMPORARY)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("may not mount a small file system here")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


@node("Big", category="test", outputs=[Output("ARRAY")])
def big(value: int) -> Any:
    """400 kB that take long enough to be worth keeping."""
    time.sleep(0.06)
    return np.full(100_000, value, np.float32)


def test_a_full_disk_is_one_warning_and_the_run_goes_on(small_disk: Path, tmp_path: Path) -> None:
    """What fits is kept, nothing half-written is left, and everything is computed."""
    calls, listener = Calls(), Listener()
    registry = calls.registry(big)
    cache = OutputCache(disk=DiskTier(small_disk / "cache", registry.codecs))
    nodes: dict[str, Any] = {f"b{i}": ("Big", {"value": i}) for i in range(5)}
    executor = make_executor(registry, tmp_path, cache)
    result = executor.run_sync(Run(graph(**nodes), targets=(), keep=ids(*nodes)), listener)
    assert result.status == "succeeded"
    assert len(result.values) == 5
    warnings = listener.of(NodeWarning)
    assert len(warnings) == 1
    assert "no space left on device" in warnings[0].message
    left = [path for path in files_of(small_disk) if path.name.startswith(TEMPORARY)]
    assert left == []
    fresh = DiskTier(small_disk / "cache", registry.codecs)
    assert fresh.info().results == 2


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    """Here its parent is a file."""
    (tmp_path / "file").write_text("in the way")
    calls, listener = Calls(), Listener()
    registry = calls.registry(big)
    executor = make_executor(
        registry, tmp_path, OutputCache(disk=DiskTier(tmp_path / "file" / "cache", registry.codecs))
    )
    result = executor.run_sync(
        Run(graph(b=("Big", {"value": 1}), c=("Big", {"value": 2})), targets=ids("b", "c")), listener
    )
    assert result.status == "succeeded"
    assert len(listener.of(NodeWarning)) == 1


def test_a_new_process_takes_results_from_disk_and_decodes_only_what_runs(tmp_path: Path) -> None:
    """The sum changes its consumer only: the array comes from disk, and is in memory for the next run."""
    calls = Calls()
    registry = calls.registry(big)
    base = graph(b=("Big", {"value": 1}), s=("Sum", {"array": "b/0"}), o=("Show", {"value": "s/0"}))
    folder = tmp_path / "cache"
    make_executor(registry, tmp_path, OutputCache(disk=DiskTier(folder, registry.codecs))).run_sync(Run(base))
    cache = OutputCache(disk=DiskTier(folder, registry.codecs))
    executor = make_executor(registry, tmp_path, cache)
    listener = Listener()
    assert executor.run_sync(Run(base), listener).ui == {"o": {"text": ["100000"]}}
    assert [(e.node, e.tier) for e in listener.of(NodeCached)] == [("b", "disk")]
    listener = Listener()
    executor.run_sync(Run(base, targets=(), keep=ids("b")), listener)
    assert [(e.node, e.tier) for e in listener.of(NodeCached)] == [("b", "memory")]


def test_threads_may_share_a_tier(folder: Path) -> None:
    """Readers and writers at once see whole results or none."""
    tier = DiskTier(folder, CODECS)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(20):
                tier.put(key(number), value_of(number), 1.0)
                found = tier.get(key(number))
                if found is not None:
                    check(found, number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert tier.flush() == []
    assert tier.info().results == 20
