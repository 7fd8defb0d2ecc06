"""Who is next."""

from __future__ import annotations

from typing import Any

from engine.jobs.queue import Queue
from engine.jobs.records import Job


def job(id_: str, client: str = "a", priority: int = 0, number: float = 1.0, **more: Any) -> Job:
    return Job(id_, "queued", client, priority, number, {}, 0.0, **more)


def taken(queue: Queue, held: frozenset[str] = frozenset(), running: dict[str, int] | None = None) -> list[str]:
    """The order in which one worker takes them."""
    found = []
    while (next_job := queue.take(held, running or {})) is not None:
        found.append(next_job.id)
    return found


def queue_of(*jobs: Job) -> Queue:
    queue = Queue()
    for each in jobs:
        queue.add(each)
    return queue


def test_priority_comes_before_everything() -> None:
    """Whoever came first and whatever is loaded."""
    queue = queue_of(
        job("low", number=1, models=("m",)), job("high", priority=2, number=2), job("mid", priority=1, number=3)
    )
    assert taken(queue, frozenset({"m"})) == ["high", "mid", "low"]


def test_clients_take_turns() -> None:
    """One that has asked for a hundred jobs does not keep out one that asks for one."""
    queue = queue_of(
        *(job(f"a{n}", "a", number=n) for n in range(3)), *(job(f"b{n}", "b", number=10 + n) for n in range(2))
    )
    assert taken(queue) == ["a0", "b0", "a1", "b1", "a2"]


def test_who_has_less_running_is_next() -> None:
    """With several workers too."""
    queue = queue_of(job("a", "a", number=1), job("b", "b", number=2))
    first = queue.take(frozenset(), {"a": 1})
    assert first is not None
    assert first.id == "b"


def test_models_that_are_there_go_first_but_not_for_ever() -> None:
    """Among a client's jobs; one that is overtaken again and again gets its turn."""
    queue = queue_of(
        job("other", number=0, models=("x",)), *(job(f"m{n}", number=1 + n, models=("m",)) for n in range(6))
    )
    assert taken(queue, frozenset({"m"})) == ["m0", "m1", "m2", "m3", "other", "m4", "m5"]


def test_in_order_means_in_order() -> None:
    """ComfyUI's clients see their prompts run by number, whatever is loaded."""
    queue = queue_of(
        job("second", number=2, models=("m",), in_order=True), job("first", number=1, models=("x",), in_order=True)
    )
    assert taken(queue, frozenset({"m"})) == ["first", "second"]


def test_front_goes_before_all_clients() -> None:
    """A number below zero is ComfyUI's "run first"; the latest of them is first."""
    queue = queue_of(
        job("a", "a", number=1), job("b", "b", number=2), job("f1", "b", number=-3), job("f2", "b", number=-4)
    )
    assert taken(queue)[:2] == ["f2", "f1"]


def test_what_is_removed_is_gone() -> None:
    """And what is added twice is there once."""
    queue = queue_of(job("a"), job("b", number=2))
    queue.add(job("b", number=2))
    queue.remove("a")
    queue.remove("a")
    assert len(queue) == 1
    assert [each.id for each in queue] == ["b"]
    assert "a" not in queue
    assert taken(queue) == ["b"]
    assert queue.above(-1) == 0


def test_how_many_are_more_urgent() -> None:
    """Of all clients, and none that are equally urgent."""
    queue = queue_of(job("a", "a"), job("b", "b", priority=1), job("c", "c", priority=2), job("d", "c", priority=2))
    assert [queue.above(priority) for priority in (-1, 0, 1, 2)] == [4, 3, 2, 0]
