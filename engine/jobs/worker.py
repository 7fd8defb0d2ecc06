"""A process that executes runs: it holds the models, the cache in memory, and the third-party packs.

It belongs to the process that started it, and ends with it. Whatever code of a pack does to this process (ends it, blocks it, fills its
memory) is done to this process alone.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Client, Connection
from typing import TYPE_CHECKING, Any, Final

from engine.compat.host import Host
from engine.errors import MezzotintError
from engine.jobs.left_over import signed_in
from engine.jobs.messages import (
    WorkerSettings,
    event_to_plain,
    receive,
    result_to_plain,
    run_from_plain,
    send,
)
from engine.packs.describe import to_plain
from engine.packs.load import Loader
from engine.packs.prompt_handlers import handled
from engine.packs.report import PackFailure, Report
from engine.packs.sources import find_packs, installed_packs
from engine.registry import Registry
from engine.run.cancel import CancelToken
from engine.run.context import NodeContext
from engine.run.events import Event
from engine.run.executor import Executor
from engine.run.failures import one_line
from engine.run.keys import Opaque, canonical
from engine.run.opening import open_executor

if TYPE_CHECKING:
    from engine.jobs.pack_server import PackServer

_BEAT: Final = 1.0

_log = logging.getLogger(__name__)


def main() -> None:
    """The whole life of a worker. Its first line of standard input says where its connection and its settings are.

    Ends the process by ``os._exit``: threads that a pack left running do not keep it.
    """
    started = json.loads(sys.stdin.readline())
    connection = Client(started["address"], authkey=bytes.fromhex(started["key"]))
    settings = WorkerSettings.from_json(started["settings"])
    # Ctrl-C is for the process that started this one: it says what to cancel
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = 1
    try:
        with signed_in(settings.shared):
            asyncio.run(Worker(connection, settings).serve())
        code = 0
    except BaseException:
        _log.exception("the worker ends")
    finally:
        os._exit(code)


class Outbox:
    """Events of one run: what happens in one turn of the loop is sent together."""

    def __init__(self, send: Callable[[list[Any]], None]) -> None:
        self._send = send
        self._waiting: list[Any] = []
        self._loop = asyncio.get_running_loop()

    def put(self, event: Event) -> None:
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(event_to_plain(event))

    def flush(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._send(waiting)


class Worker:
    """Answers what comes over one connection."""

    def __init__(self, connection: Connection, settings: WorkerSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._sending = threading.Lock()
        self._registry = Registry()
        self._cancels: dict[int, CancelToken] = {}
        self._jobs: dict[str, int] = {}
        """The number of each run under way, by its job."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs: set[asyncio.Task[None]] = set()
        """Those of them that are runs."""
        self._closed = asyncio.Event()
        self._executor: Executor | None = None
        # of their own: one that does not answer must not keep the threads that runs need
        self._asks = ThreadPoolExecutor(4, thread_name_prefix="mezzotint-ask")

    async def serve(self) -> None:
        """Load the packs, say what there is, and work until told to close, or left alone."""
        loop = asyncio.get_running_loop()
        # before any pack is imported: whatever it does, this process ends with the other
        threading.Thread(target=self._read, args=(loop,), name="mezzotint-reader", daemon=True).start()
        beating = asyncio.create_task(self._beat())
        report = await asyncio.to_thread(self._load, loop)
        gc.freeze()  # what is loaded stays: it need not be looked through again and again
        with open_executor(self._settings, self._registry, self._files, self._settings.device) as executor:
            self._executor = executor
            web = await self._serve_routes()
            self._send(self._ready(report, web))
            await self._closed.wait()
            if web is not None:
                await web.close()
            for cancel in self._cancels.values():
                cancel.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
        beating.cancel()

    async def _beat(self) -> None:
        """Say now and then that this process is alive and its loop turns."""
        while True:
            self._send({"op": "beat"})
            await asyncio.sleep(_BEAT)

    # before

    def _load(self, loop: asyncio.AbstractEventLoop) -> Report:
        settings = self._settings
        self._registry.load()
        self._files = self._settings.open_files()
        self._host = host = Host(
            files=self._files,
            registry=self._registry,
            settings=settings.device,
            broadcast=self._broadcast,
            loop=loop,
            cancel=self._cancel_job,
            at_work=self._tell_at_work,
            asking=lambda hook: self._send({"op": "asking", "thread": threading.get_ident(), "hook": hook}),
        )
        self._loader = loader = Loader(self._registry, host, lambda name: self._send({"op": "loading", "pack": name}))
        sources = find_packs(settings.pack_folders()) + (installed_packs() if settings.installed_packs else [])
        loader.load([source for source in sources if source.name not in settings.skip])
        loader.report.failures += [PackFailure(name, reason) for name, reason in settings.skip.items()]
        return loader.report

    async def _serve_routes(self) -> PackServer | None:
        """Answer the packs' HTTP routes, if there are any. Without them the packs' nodes work all the same."""
        if not self._host.routes:
            return None
        try:
            from engine.jobs.pack_server import serve_routes

            return await serve_routes(self._host.routes)
        except ImportError:
            _log.warning('the HTTP routes of packs need aiohttp, which is not there; pip install "mezzotint[packs]"')
        except OSError as error:
            _log.warning("the HTTP routes of packs cannot be served: %s", error)
        return None

    def _ready(self, report: Report, web: PackServer | None) -> dict[str, Any]:
        return {
            "op": "ready",
            "specs": [to_plain(spec) for spec in self._registry.values() if spec.pack],
            "packs": [[pack.name, pack.digest, pack.nodes, pack.web_directory] for pack in report.packs],
            "failures": [[failure.pack, failure.reason, failure.node] for failure in report.failures],
            "web": web.address.to_plain() if web else None,
            "routes": [[route.method, route.path, route.pack] for route in web.routes] if web else [],
            "prompt_handlers": len(self._host.prompt_handlers),
        }

    # at work

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """On a thread: waits for messages. When the other end is gone there is nothing to work for, whatever is running."""
        while True:
            try:
                message = receive(self._connection)
            except Exception:
                os._exit(0)
            loop.call_soon_threadsafe(self._handle, message)

    def _handle(self, message: Mapping[str, Any]) -> None:
        match message["op"]:
            case "run" if self._executor is not None:
                self._cancels[message["id"]] = CancelToken()
                self._runs.add(self._spawn(self._run(message, self._executor)))
            case "ask":
                self._spawn(self._answer(message))
            case "free" if self._executor is not None:
                self._spawn(self._free(message, self._executor))
            case "cancel" if message["id"] in self._cancels:
                self._cancels[message["id"]].cancel()
            case "close":
                self._closed.set()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._runs.discard)
        return task

    async def _run(self, message: Mapping[str, Any], executor: Executor) -> None:
        number = message["id"]
        cancel = self._cancels[number]
        job = message["run"]["job"]
        self._jobs[job] = number
        try:
            run = run_from_plain(message["run"])
            outbox = Outbox(lambda events: self._send({"op": "events", "id": number, "events": events}))
            try:
                result = await executor.run(run, outbox.put, cancel)
            finally:
                outbox.flush()
            self._send({"op": "result", "id": number, "result": result_to_plain(result)})
        except Exception as error:
            self._send({"op": "answer", "id": number, "error": one_line(error)})
        finally:
            del self._cancels[number]
            self._jobs.pop(job, None)

    async def _free(self, message: Mapping[str, Any], executor: Executor) -> None:
        """Give memory back, when the runs that were under way when it was asked for have ended."""
        if self._runs:
            await asyncio.wait(set(self._runs))
        try:
            wanted = {name: message[name] for name in ("unload_models", "free_memory")}
            await asyncio.to_thread(executor.free, **wanted)
            if message["free_memory"]:
                self._loader.instances.clear()
                await asyncio.to_thread(gc.collect)
            self._send({"op": "answer", "id": message["id"], "value": None})
        except Exception as error:
            self._send({"op": "answer", "id": message["id"], "error": one_line(error)})

    def _cancel_job(self, job: str | None) -> None:
        """A pack asks for it; without a name whatever runs is meant."""
        for name, number in list(self._jobs.items()):
            if job in (None, name):
                self._cancels[number].cancel()

    def _broadcast(self, name: str | int, data: Any, client: str | None) -> None:
        self._send({"op": "broadcast", "name": name, "data": data, "client": client})

    def _tell_at_work(self, context: NodeContext, is_over: bool) -> None:
        """At once, and not with the events, which go out every few milliseconds: there may be none any more."""
        if is_over:
            self._send({"op": "rested", "id": self._jobs.get(context.job, 0), "node": context.node})
            return
        shown = context.graph.shown(context.node)
        call = [context.node, context.class_type, shown]
        self._send({"op": "at_work", "id": self._jobs.get(context.job, 0), "call": call})

    async def _answer(self, message: Mapping[str, Any]) -> None:
        """Ask a node class something, on a thread: it is the pack's code that answers."""
        try:
            ask = partial(self._ask, message["what"], message["type"], message["arguments"])
            value = await asyncio.get_running_loop().run_in_executor(self._asks, ask)
            self._send({"op": "answer", "id": message["id"], "value": value})
        except (Exception, SystemExit) as error:
            text = str(error) if isinstance(error, MezzotintError) else one_line(error)
            self._send({"op": "answer", "id": message["id"], "error": text})

    def _ask(self, what: str, type_: str, arguments: Mapping[str, Any]) -> Any:
        if what == "on_prompt":
            return handled(self._host.prompt_handlers, arguments["posted"])
        spec = self._registry[type_]
        if what == "choices":
            entry = spec.input(arguments["name"])
            return list((entry.options if entry else None) or ())
        if what == "check":
            return spec.check(**arguments) if spec.check else None
        if what == "fingerprint":
            return _repeatable(spec.fingerprint(**arguments) if spec.fingerprint else None)
        return spec.describe() if spec.describe else {}

    def _send(self, message: Mapping[str, Any]) -> None:
        with self._sending:
            send(self._connection, message)


def _repeatable(fingerprint: Any) -> Any:
    """A fingerprint that can be sent; one that cannot is equal to no other."""
    try:
        canonical(fingerprint)
    except Opaque:
        return float("nan")
    return fingerprint
