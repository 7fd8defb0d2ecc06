"""Results in memory, who computes what, and half-finished states."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.models import Digest, ModelRef
from engine.run.cache import Claim, Hit, Made, OutputCache, worth_keeping
from engine.run.checkpoint import CheckpointStore
from engine.run.keys import Key
from engine.run.memory_tier import MemoryTier, Resident, to_evict
from engine.run.values import NodeValue
from engine.run.writer import Writer


def key(number: int) -> Key:
    return Key(number.to_bytes(32, "big"))


def value(size: int) -> NodeValue:
    return NodeValue(((b"x" * size,),))


def test_the_least_worth_goes_first() -> None:
    """Seconds per byte decide: a cheap large result goes, a dear small one stays."""
    tier = MemoryTier(25_000)
    tier.put(key(1), value(10_000), seconds=100.0)
    tier.put(key(2), value(10_000), seconds=0.001)
    tier.put(key(3), value(10_000), seconds=1.0)
    assert [number for number in (1, 2, 3) if tier.get(key(number))] == [1, 3]
    assert tier.used <= 25_000


def test_what_is_used_outlives_what_is_not() -> None:
    """Of equal results the one that keeps being read stays."""
    tier = MemoryTier(50_000)
    tier.put(key(0), value(10_000), seconds=1.0)
    for number in range(1, 20):
        tier.put(key(number), value(10_000), seconds=1.0)
        assert tier.get(key(0)) is not None


def test_even_a_dear_result_goes_when_it_is_never_used_again() -> None:
    """Its credit does not grow, that of the others does."""
    tier = MemoryTier(50_000)
    tier.put(key(0), value(10_000), seconds=5.0)
    for number in range(1, 100):
        tier.put(key(number), value(10_000), seconds=1.0)
    assert tier.get(key(0)) is None


def test_a_value_larger_than_the_tier_is_not_kept() -> None:
    """And throws nothing out."""
    tier = MemoryTier(20_000)
    tier.put(key(1), value(10_000), seconds=1.0)
    tier.put(key(2), value(30_000), seconds=1000.0)
    assert tier.get(key(1)) is not None
    assert tier.get(key(2)) is None


def test_a_recipe_whose_file_has_gone_is_dropped(tmp_path: Path) -> None:
    """A file that was renamed is found under its new name only if the loader runs again."""
    weights = tmp_path / "a.safetensors"
    weights.write_bytes(b"w")
    tier = MemoryTier(10_000)
    tier.put(key(1), NodeValue(((ModelRef(Digest("d"), "unet", str(weights)),),)), seconds=1.0)
    assert tier.get(key(1)) is not None
    weights.rename(tmp_path / "b.safetensors")
    assert tier.get(key(1)) is None
    assert tier.used == 0


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 10)), max_size=20), st.integers(0, 500))
def test_eviction_takes_enough_and_no_more_than_it_must(sizes: list[tuple[int, float]], excess: int) -> None:
    """Least credit first; without the last one chosen it would not be enough."""
    residents = [Resident(key(i), value(0), size, 1.0, (), credit) for i, (size, credit) in enumerate(sizes)]
    chosen = to_evict(residents, excess)
    freed = sum(resident.nbytes for resident in chosen)
    assert freed >= excess or len(chosen) == len(residents)
    assert not chosen or freed - chosen[-1].nbytes < excess
    kept = [resident for resident in residents if resident not in chosen]
    assert all(gone.credit <= stays.credit for gone in chosen for stays in kept)


@pytest.mark.parametrize(
    ("seconds", "size", "kept"),
    [
        (0.0001, 8, False),
        (0.02, 8, False),
        (0.1, 1000, True),
        (1.0, 100 << 20, True),
        (0.1, 100 << 20, False),
        (60.0, 4 << 30, True),
    ],
)
def test_trivial_results_are_not_written(seconds: float, size: int, kept: bool) -> None:
    """What is as quickly made as read is not worth the disk."""
    assert worth_keeping(seconds, size) is kept


async def test_one_computes_and_the_others_wait() -> None:
    """Ten ask for one key: one runs, and all have its value."""
    cache = OutputCache()
    runs: list[int] = []

    async def run() -> Made:
        runs.append(1)
        await asyncio.sleep(0.01)
        return Made(value(3), 1.0)

    results = await asyncio.gather(*(cache.get_or_run(key(1), run) for _ in range(10)))
    assert len(runs) == 1
    assert sum(isinstance(result, Made) for result in results) == 1
    assert all(result is not None and result.value == value(3) for result in results)


async def test_when_the_one_fails_another_takes_over() -> None:
    """A failure is its own; who waited runs theirs."""
    cache = OutputCache()
    tries: list[int] = []

    async def run() -> Made:
        tries.append(1)
        await asyncio.sleep(0.01)
        if len(tries) == 1:
            raise ValueError("first")
        return Made(value(3), 1.0)

    results = await asyncio.gather(*(cache.get_or_run(key(1), run) for _ in range(3)), return_exceptions=True)
    assert [isinstance(result, ValueError) for result in results] == [True, False, False]
    assert len(tries) == 2


async def test_who_is_cancelled_while_waiting_cancels_nobody_else() -> None:
    """The flight goes on for those who still want it."""
    cache, go_on = OutputCache(), asyncio.Event()

    async def run() -> Made:
        await go_on.wait()
        return Made(value(3), 1.0)

    first, second, third = (asyncio.create_task(cache.get_or_run(key(1), run)) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    go_on.set()
    assert isinstance(await first, Made)
    assert isinstance(await third, Hit)
    assert second.cancelled()


def test_a_claim_that_is_left_frees_the_key() -> None:
    """Leaving without a result, as when the node raises, lets the next one claim it."""
    cache = OutputCache()
    claim = cache.claim(key(1))
    assert isinstance(claim, Claim)
    assert not isinstance(cache.claim(key(1)), Claim | Hit)
    with claim:
        pass
    assert isinstance(cache.claim(key(1)), Claim)


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    """The last saved state comes back, in another store too; a damaged one is nothing and is removed."""
    warnings: list[str] = []
    store = CheckpointStore(tmp_path / "c")
    first = store.open(key(1), 0, warnings.append)
    assert first.load() is None
    first.save(b"one")
    first.save(b"two")
    assert CheckpointStore(tmp_path / "c").open(key(1), 0, warnings.append).load() == b"two"
    assert store.open(key(1), 1, warnings.append).load() is None
    assert store.open(key(1), 0, warnings.append, resume=False).load() is None
    (path,) = (tmp_path / "c").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert store.open(key(1), 0, warnings.append).load() is None
    assert list((tmp_path / "c").iterdir()) == []
    assert warnings == []


def test_a_checkpoint_that_cannot_be_saved_is_a_warning(tmp_path: Path) -> None:
    """The node goes on; it only could not be resumed."""
    (tmp_path / "file").write_text("in the way")
    warnings: list[str] = []
    CheckpointStore(tmp_path / "file" / "c").open(key(1), 0, warnings.append).save(b"state")
    assert len(warnings) == 1
    assert "no checkpoint in" in warnings[0]


def test_the_writer_takes_no_more_than_its_backlog() -> None:
    """What would keep too much in memory is not taken; what was taken is done by the time of ``flush``."""
    go_on, done = threading.Event(), list[int]()

    def first() -> None:
        go_on.wait(30)
        done.append(1)

    writer = Writer(backlog=100)
    assert writer.put(first, 90)
    assert not writer.put(lambda: done.append(2), 20)
    assert writer.put(lambda: done.append(3), 10)
    go_on.set()
    writer.flush()
    assert done == [1, 3]
    assert not writer.is_busy
