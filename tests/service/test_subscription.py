"""What a client watches, over whatever connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.errors import MezzotintError
from engine.jobs.records import StoredEvent
from engine.service.wire import event_from_wire
from engine.subscription import Preview, Subscription


def frame(*numbers: int) -> dict[str, Any]:
    """Events with these numbers, as they come over the wire."""
    return {"op": "events", "events": [[number, "j", 1.5, "job_queued", {}] for number in numbers]}


async def fetched(subscription: Subscription, count: int) -> list[int | bytes]:
    found = [await asyncio.wait_for(subscription.fetch(), 10) for _ in range(count)]
    return [
        event.seq if isinstance(event, StoredEvent) else event.image if isinstance(event, Preview) else -event.until
        for event in found
    ]


async def test_each_event_is_fetched_once() -> None:
    """In the order of arrival, previews among them; what a second connection brings again is passed over."""
    subscription = Subscription(None, 0, True)
    subscription.take(frame(1, 2))
    subscription.take({"op": "preview", "job": "j", "node": "1", "shown": "1", "image": b"jpeg"})
    subscription.take(frame(1, 2, 5))
    subscription.take(frame(5))
    assert await fetched(subscription, 4) == [1, 2, b"jpeg", 5]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(subscription.fetch(), 0.01)


async def test_one_who_waits_is_woken() -> None:
    """By an event and by a preview, whole, as often as it waits again."""
    subscription = Subscription("j", 0, True)
    for number in (1, 2):
        waiting = asyncio.create_task(subscription.fetch())
        await asyncio.sleep(0)
        subscription.take(frame(number))
        assert await asyncio.wait_for(waiting, 10) == event_from_wire(frame(number)["events"][0])
    waiting = asyncio.create_task(subscription.fetch())
    await asyncio.sleep(0)
    subscription.take({"op": "preview", "job": "j", "node": "1", "shown": "2", "image": b"jpeg"})
    assert await asyncio.wait_for(waiting, 10) == Preview("j", "1", "2", b"jpeg")


async def test_the_next_connection_goes_on_after_what_arrived() -> None:
    """Whether or not it was fetched."""
    subscription = Subscription("j", 3, False)
    asked = {"op": "subscribe", "id": 7, "job": "j", "previews": False}
    assert subscription.request(7) == {**asked, "after": 3}
    subscription.take(frame(4, 6))
    assert subscription.request(7) == {**asked, "after": 6}
    assert await fetched(subscription, 2) == [4, 6]
    assert subscription.request(7) == {**asked, "after": 6}


async def test_from_now_on_is_decided_once() -> None:
    """By the first connection: what happens between two of them is not left out."""
    subscription = Subscription(None, None, False)
    assert "after" not in subscription.request(1)
    subscription.take({"op": "subscribed", "after": 9})
    assert subscription.request(1)["after"] == 9
    subscription.take({"op": "subscribed", "after": 12})
    subscription.take(frame(9, 10))
    assert await fetched(subscription, 1) == [10]


async def test_one_who_is_behind_is_shown_no_pictures() -> None:
    """They would take up what events need, and are old by then."""
    subscription = Subscription(None, 0, True)
    picture = {"op": "preview", "job": "j", "node": "1", "shown": "1", "image": b"jpeg"}
    subscription.take(frame(*range(1, 100)))
    subscription.take(picture)
    subscription.take(picture)
    assert await fetched(subscription, 100) == [*range(1, 100), b"jpeg"]
    subscription.take(picture)
    assert await fetched(subscription, 1) == [b"jpeg"]


async def test_a_gap_is_told_once_and_in_its_place() -> None:
    """Another connection tells of it again."""
    subscription = Subscription(None, 5, False)
    for _ in range(2):
        subscription.take({"op": "gap", "after": 5, "until": 8})
        subscription.take(frame(9))
    assert await fetched(subscription, 2) == [-8, 9]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(subscription.fetch(), 0.01)


async def test_what_arrived_is_fetched_before_the_end_is_told() -> None:
    """And then the end, again and again."""
    subscription = Subscription(None, 0, False)
    subscription.take(frame(1, 2))
    subscription.end(MezzotintError("it is over"))
    assert await fetched(subscription, 2) == [1, 2]
    for _ in range(2):
        with pytest.raises(MezzotintError, match="it is over"):
            await subscription.fetch()
