"""What posts to ComfyUI's routes are answered with, where no job comes of them or one is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from engine.jobs.lane import Lane, Task
from engine.jobs.loaded import Loaded
from engine.jobs.remote import RemoteExecutor
from engine.service.comfy.refusals import NO_PROMPT
from tests.service.jobs_app import Jobs, jobs_at
from tests.service.running import harmless


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with jobs_at(tmp_path) as found:
        yield found


@dataclass(frozen=True, slots=True)
class Handler:
    """A worker of which only a pack's handler of prompts is there."""

    handle: Callable[[dict[str, Any]], dict[str, Any]]

    def on_prompt(self, posted: Mapping[str, Any]) -> dict[str, Any]:
        return self.handle(dict(posted))


def handling(jobs: Jobs, handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    packs = jobs.work.packs
    packs.loaded = Loaded((), (), (), prompt_handlers=1)
    packs.workers = [cast(RemoteExecutor, Handler(handle))]


@pytest.mark.parametrize("body", [{}, {"client_id": "c"}, {"prompt": None}, [], "x", None])
async def test_no_prompt(jobs: Jobs, body: Any) -> None:
    """Said in ComfyUI's words, and no pack is asked what it makes of nothing."""

    def fail(posted: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError(posted["prompt"])

    handling(jobs, fail)
    answer = await jobs.client.post("/prompt", json=body)
    assert (answer.status_code, answer.json()) == (400, {"error": NO_PROMPT, "node_errors": {}})


@pytest.mark.parametrize(
    ("made", "type_"),
    [({}, "no_prompt"), ({"prompt": None}, "no_prompt"), ({"prompt": {}, "extra_data": "deep"}, "invalid_prompt")],
)
async def test_what_a_handler_makes_of_a_prompt_is_judged(jobs: Jobs, made: dict[str, Any], type_: str) -> None:
    """One that takes the prompt away, or makes it deeper than anybody could be told, is answered as such a prompt is."""
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    handling(jobs, lambda posted: {name: deep if value == "deep" else value for name, value in made.items()})
    answer = await jobs.client.post("/prompt", json={"prompt": harmless()})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, type_)


@pytest.mark.parametrize(
    ("more", "type_"),
    [
        ({"number": "x"}, "invalid_prompt"),
        ({"number": []}, "invalid_prompt"),
        ({"number": "inf"}, "invalid_prompt"),
        ({"prompt_id": "a\nb"}, "invalid_prompt_id"),
        ({"prompt_id": "taken"}, "invalid_prompt_id"),
    ],
)
async def test_errors_name_what_is_wrong(jobs: Jobs, more: dict[str, Any], type_: str) -> None:
    """A number that is none is not called a bad id."""
    await jobs.submit("taken")
    answer = await jobs.client.post("/prompt", json={"prompt": harmless(), **more})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, type_)


@pytest.mark.parametrize(
    ("body", "stopped"),
    [
        (b"", {"a", "b"}),
        (b"{}", {"a", "b"}),
        (b'{"prompt_id": ""}', {"a", "b"}),
        (b'{"prompt_id": null}', {"a", "b"}),
        (b'{"prompt_id": "a"}', {"a"}),
        (b'{"prompt_id": "none"}', set()),
    ],
)
async def test_an_interrupt_is_for_what_it_names(jobs: Jobs, body: bytes, stopped: set[str]) -> None:
    """An id stops that job alone; none, an empty one among them, whatever runs."""
    dispatcher, store = jobs.work.dispatcher, jobs.work.store
    for name in ("a", "b"):
        await jobs.submit(name)
        await asyncio.wrap_future(store.lease(name, "cpu", 1, 0.0, 1e12))
        job = store.get(name)
        assert job is not None
        dispatcher.lanes = [*dispatcher.lanes, Lane(name, cast(RemoteExecutor, None), Task(job))]
    assert (await jobs.client.post("/interrupt", content=body)).status_code == 200
    assert {lane.name for lane in dispatcher.lanes if lane.task and lane.task.reason == "cancel"} == stopped


async def test_the_queue_has_an_end_under_any_name(jobs: Jobs) -> None:
    """A client that calls itself something else each time fills the queue no further than all clients together may."""
    jobs.work.queue_limit = 1
    for number in range(10):
        await jobs.submit(str(number), client=str(number))
    for client in ("new", "0"):
        answer = await jobs.client.post("/prompt", json={"prompt": harmless(), "client_id": client})
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "queue_full")
    await jobs.client.post("/v1/jobs/0/pause")
    assert (await jobs.client.post("/prompt", json={"prompt": harmless()})).status_code == 429
    await jobs.client.post("/queue", json={"delete": ["1"]})
    answer = await jobs.client.post("/prompt", json={"prompt": harmless(), "client_id": "2"})
    assert answer.status_code == 429
    assert (await jobs.client.post("/prompt", json={"prompt": harmless(), "client_id": "1"})).status_code == 200
