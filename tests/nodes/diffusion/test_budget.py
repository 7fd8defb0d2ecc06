"""Decisions about memory, under memory that is only pretended."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from nodes.diffusion.budget import Budget, Resident


def models(*sizes: int, leased: str = "") -> list[Resident[str]]:
    """Models a, b, c, ... of the given sizes, the first longest unused."""
    return [
        Resident(name, size, age, name in leased) for age, (name, size) in enumerate(zip("abcdef", sizes, strict=False))
    ]


def test_nobody_goes_when_there_is_room() -> None:
    """A need that fits beside all residents evicts none."""
    assert Budget(100).to_evict(models(30, 30), 40) == []


def test_longest_unused_goes_first() -> None:
    """Of models that would each make room, the one longest unused goes."""
    assert Budget(100).to_evict(models(40, 40), 30) == ["a"]


def test_leased_never_goes() -> None:
    """A leased model stays, however long it is since its lease began."""
    assert Budget(100).to_evict(models(40, 40, leased="a"), 30) == ["b"]
    assert Budget(100).to_evict(models(40, 40, leased="ab"), 30) == []


def test_nobody_goes_in_vain() -> None:
    """When a later, larger model makes the room alone, the small ones chosen before it stay."""
    assert Budget(100).to_evict(models(5, 5, 80), 60) == ["c"]


def test_model_that_fits_is_resident() -> None:
    """Weights and work that fit once others are gone are placed whole."""
    placed = Budget(100).place(models(60, 30), weights=50, working=10, largest_block=5)
    assert (placed.mode, placed.evict) == ("resident", ("a",))


def test_model_that_fits_nowhere_is_streamed() -> None:
    """Weights beyond the budget are streamed, and only as much is evicted as streaming needs."""
    placed = Budget(100).place(models(60, 30), weights=120, working=10, largest_block=5)
    assert (placed.mode, placed.evict) == ("streamed", ("a",))


def test_working_memory_counts() -> None:
    """A model whose weights fit but whose work does not is streamed."""
    assert Budget(100).place([], weights=80, working=10, largest_block=5).mode == "resident"
    assert Budget(100).place([], weights=80, working=30, largest_block=5).mode == "streamed"


def test_leased_models_take_their_room() -> None:
    """What is leased cannot make room, so a model is streamed beside it that would fit alone."""
    assert Budget(100).place(models(60, leased="a"), weights=50, working=0, largest_block=5).mode == "streamed"


@given(
    total=st.integers(0, 50),
    sizes=st.lists(st.integers(0, 20), max_size=6),
    leases=st.lists(st.booleans(), min_size=6, max_size=6),
    need=st.integers(0, 60),
)
def test_eviction_reaches_the_need_whenever_it_can(total: int, sizes: list[int], leases: list[bool], need: int) -> None:
    """The chosen evictions make the room if any do, none of them could be spared, and no leased model is among them."""
    budget = Budget(total)
    resident = models(*sizes, leased="".join(itertools.compress("abcdef", leases)))
    chosen = budget.to_evict(resident, need)
    size = {model.key: model.nbytes for model in resident}
    freed = sum(size[key] for key in chosen)
    evictable = [model for model in resident if not model.leased]
    assert set(chosen) <= {model.key for model in evictable}
    reachable = budget.free(resident) + sum(model.nbytes for model in evictable) >= need
    if reachable:
        assert budget.free(resident) + freed >= need
        assert all(budget.free(resident) + freed - size[key] < need for key in chosen)
    else:
        assert len(chosen) == len(evictable)
