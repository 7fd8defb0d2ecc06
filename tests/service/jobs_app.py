"""A service of the routes that concern jobs, over a real store, in which nothing ever runs: a test says what came of each job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

from engine.jobs.changes import Happening
from engine.jobs.dispatcher import Dispatcher
from engine.jobs.feed import Feed
from engine.jobs.records import JobState, Submission
from engine.jobs.store import Ending, Store
from engine.run.outputs import OutputFolder
from engine.service import native, operations
from engine.service.bodies import unfit
from engine.service.comfy import past, prompts, users
from engine.service.comfy.hub import Hub
from engine.service.desk import Desk, Work
from engine.service.operations import Metrics
from engine.service.packs import Packs
from tests.service.files_app import make_desk
from tests.service.prompting import REGISTRY


@dataclass(frozen=True, slots=True)
class Jobs:
    """The service, and a client of it."""

    client: httpx.AsyncClient
    work: Work
    desk: Desk

    async def submit(self, job: str, **more: Any) -> None:
        """A job that waits, as it is: nobody has checked it."""
        usual: dict[str, Any] = {"prompt": {"1": {"class_type": "X", "inputs": {}}}, "targets": ("1",)}
        await self.work.submit(Submission(job=job, **(usual | more)))

    async def run(
        self, job: str, state: JobState = "succeeded", outputs: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        """A job that has ended."""
        await self.submit(job, **more)
        store, now = self.work.store, time.time()
        token = await asyncio.wrap_future(store.lease(job, "cpu", 1, now, now + 60))
        assert token is not None
        self.work.dispatcher.queue.remove(job)
        started: Happening = (now, "job_started", {"nodes": ["1"]})
        await asyncio.wrap_future(store.append(job, token, [started]))
        assert await asyncio.wrap_future(store.finish(job, token, Ending(state, outputs or {}), now))
        await asyncio.sleep(0)  # the feed is told on the loop

    async def history(self, query: str = "") -> dict[str, Any]:
        answer = await self.client.get(f"/history{query}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@asynccontextmanager
async def jobs_at(folder: Path) -> AsyncIterator[Jobs]:
    """The service over a folder of a test."""
    desk = make_desk(folder)
    desk.registry = REGISTRY
    places = desk.places
    feed: Feed
    store = Store(places.state / "jobs.sqlite", publish=lambda news: feed.publish(news))
    feed = Feed(store.replay, store.last_event())
    dispatcher = Dispatcher(store, feed, [], desk.files.roots, OutputFolder(places.output, places.temp))
    hub = Hub(store, feed, set())
    packs = Packs([], desk.registry, desk.web_directories)
    desk.work = Work(store, feed, dispatcher, hub, packs, Metrics(), desk.settings.limits.queue)
    app = FastAPI()
    app.state.desk = desk
    app.add_exception_handler(RequestValidationError, unfit)
    app.include_router(native.router())
    for module in (operations, prompts, past, users):
        app.router.routes.extend(module.routes())
    # as a server does it, which tells a client of a fault instead of raising it here
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield Jobs(client, desk.work, desk)
    finally:
        store.close()
