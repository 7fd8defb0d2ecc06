"""Packs run without gradients, and leave them as they were."""

from __future__ import annotations

import asyncio

import pytest
import torch

from engine.packs.gradients import without_gradients


async def _wait(event: asyncio.Event, seen: list[bool]) -> str:
    seen.append(torch.is_grad_enabled())
    await event.wait()
    seen.append(torch.is_grad_enabled())
    return "done"


async def test_interleaved_coroutines_have_none_and_everybody_else_has() -> None:
    """Three that end in another order than they began: none of them sees gradients, and what runs in between does."""
    seen: list[bool] = []
    events = [asyncio.Event() for _ in range(3)]

    async def one(event: asyncio.Event) -> str:
        result: str = await without_gradients(_wait(event, seen))
        return result

    tasks = [asyncio.create_task(one(event)) for event in events]
    for event in (events[1], events[0], events[2]):
        await asyncio.sleep(0)
        assert torch.is_grad_enabled()
        event.set()
    assert await asyncio.gather(*tasks) == ["done"] * 3
    assert seen == [False] * 6
    assert torch.is_grad_enabled()


async def test_one_that_is_cancelled_leaves_them_on() -> None:
    """The error goes into the coroutine and comes out of it."""
    seen: list[bool] = []

    async def never() -> None:
        await without_gradients(_wait(asyncio.Event(), seen))

    task = asyncio.create_task(never())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [False]
    assert torch.is_grad_enabled()
