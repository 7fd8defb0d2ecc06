"""Puts the service together: the jobs and their workers behind HTTP and websockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

from engine.errors import UsageError
from engine.jobs.dispatcher import Dispatcher
from engine.jobs.feed import Feed
from engine.jobs.lane import Lane
from engine.jobs.left_over import end_workers
from engine.jobs.messages import WorkerSettings
from engine.jobs.remote import RemoteExecutor
from engine.jobs.store import Store
from engine.packs.spec_cache import SpecCache, cache_key
from engine.registry import Registry
from engine.run.outputs import OutputFolder
from engine.service import api_page, editor, native, operations, stream
from engine.service.bodies import unfit
from engine.service.comfy import models, past, prompts, sockets, system, uploads, users, view
from engine.service.comfy.hub import Hub
from engine.service.comfy.narrator import Binary, Message, audience_of
from engine.service.desk import Desk, Work
from engine.service.logs import Entry, LogRing
from engine.service.operations import Metrics
from engine.service.pack_extras import extra_routes, pack_folders
from engine.service.pack_routes import PackRoutes
from engine.service.packs import Packs, pack_sources
from engine.service.settings import ServiceSettings

_PRUNE_EVERY: Final = 600.0
_THREADS: Final = 32
"""For what would keep the loop waiting."""
_DAY: Final = 86_400.0

_log = logging.getLogger(__name__)


def create_app(settings: ServiceSettings, ring: LogRing | None = None) -> FastAPI:
    """The app, without its locks (``engine.service.security``). Raises ``UsageError`` when the settings cannot be used."""
    registry = Registry()
    registry.load()
    if not registry and registry.failures:
        raise UsageError("; ".join(f"node package {failure.name}: {failure.reason}" for failure in registry.failures))
    places = settings.places
    for folder in (places.input, places.output, places.temp, places.state):
        folder.mkdir(parents=True, exist_ok=True)
    desk = Desk(settings, registry, places.open_files(), log_ring=ring)
    app = FastAPI(
        title="Mezzotint",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        lifespan=partial(_lifespan, desk),
    )
    app.state.desk = desk
    app.add_exception_handler(RequestValidationError, unfit)
    app.include_router(native.router())
    app.router.routes.extend(stream.routes())
    for module in (api_page, operations, prompts, past, sockets, view, uploads, users, models, system):
        app.router.routes.extend(module.routes())
    app.router.routes.extend(extra_routes(lambda: pack_folders(desk.work.packs.sources) if desk.work else {}))
    app.router.routes.append(_pack_routes(desk))
    app.router.routes.extend(editor.routes())
    return app


def _pack_routes(desk: Desk) -> PackRoutes:
    return PackRoutes(
        lambda: desk.work.packs.routes if desk.work else (),
        lambda: desk.work.packs.address if desk.work else None,
        limit=desk.settings.limits.body,
    )


@contextlib.asynccontextmanager
async def _lifespan(desk: Desk, app: FastAPI) -> AsyncIterator[None]:
    settings, state = desk.settings, desk.places.state
    # the usual pool has a few threads more than there are cores: some slow checks of workflows would stall all that asks the disk
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="mezzotint"))
    feed: Feed
    store = Store(state / "jobs.sqlite", publish=lambda news: feed.publish(news))
    feed = Feed(store.replay, store.last_event())
    await asyncio.to_thread(end_workers, state)
    _empty_temp(desk.places.temp)
    work = _open_work(desk, store, feed)
    desk.work = work
    starting = threading.Thread(target=_start_workers, args=(desk, work.packs), name="mezzotint-start", daemon=True)
    starting.start()
    await work.dispatcher.start()
    pruning = asyncio.create_task(_prune(store, settings))
    try:
        yield
    finally:
        pruning.cancel()
        await work.dispatcher.close(settings.patience.shutdown)
        store.close()


def _open_work(desk: Desk, store: Store, feed: Feed) -> Work:
    settings, places = desk.settings, desk.places
    loop = asyncio.get_running_loop()
    hub = Hub(store, feed, {job.id for job in (*store.waiting(), *store.find(states=["running"], limit=1_000))})

    def broadcast(name: str | int, data: Any, client: str | None) -> None:
        to = audience_of(client)
        message = Binary(name, data, to) if isinstance(name, int) else Message(name, data, to)
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(hub.pass_on, message)

    if desk.log_ring is not None:
        _pass_on_logs(desk.log_ring, hub, loop)
    workers, lanes = [], []
    for device in (settings.device.device, *settings.devices):
        worker = RemoteExecutor(
            WorkerSettings.of(places, replace(settings.device, device=device), places.state),
            node_timeout=settings.patience.node,
            grace=settings.patience.grace,
            lease=settings.patience.lease,
            ends_ours=True,
            on_broadcast=broadcast,
        )
        workers.append(worker)
        lanes.append(Lane(device or "default", worker))
    outputs = OutputFolder(places.output, places.temp)
    dispatcher = Dispatcher(store, feed, lanes, desk.files.roots, outputs, settings.patience.lease)
    packs = Packs(workers, desk.registry, desk.web_directories)
    metrics = Metrics()
    feed.listen(metrics)
    return Work(store, feed, dispatcher, hub, packs, metrics, settings.limits.queue)


def _pass_on_logs(ring: LogRing, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
    """Send each line of the log to the clients that asked for it."""

    def send(entry: Entry) -> None:
        for sid in ring.followers:
            hub.send_to(sid, "logs", {"entries": [entry]})

    def pass_on(entry: Entry) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(send, entry)

    ring.subscribe(pass_on)


def _start_workers(desk: Desk, packs: Packs) -> None:
    """On a thread: the service answers meanwhile."""
    try:
        packs.sources = pack_sources(desk.places) if desk.places.has_packs else []
        key = cache_key(packs.sources, desk.places)
        cache = SpecCache(desk.places.state)
        is_known = bool(packs.sources) and packs.recall(cache, key)
        packs.start(cache, key, is_known=is_known)
    except Exception:  # the next job tries again, and fails saying so
        _log.exception("the worker did not start")


def _empty_temp(folder: Path) -> None:
    """What is in the temp folder is for one life of the service."""
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


async def _prune(store: Store, settings: ServiceSettings) -> None:
    while True:
        before = time.time() - settings.retention.days * _DAY
        try:
            await asyncio.wrap_future(store.prune(count=settings.retention.count, before=before))
        except Exception as error:  # whatever it is, they are still there the next time
            _log.warning("old jobs could not be deleted: %s", error)
        await asyncio.sleep(_PRUNE_EVERY)
