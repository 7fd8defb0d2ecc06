"""Runs graphs: the event loop around plan, cache and nodes.

    executor = Executor(registry, files=files, cache=OutputCache(), outputs=OutputFolder(output, temp), numerics=tag)
    result = executor.run_sync(Run(graph))

An executor belongs to a process and a device; it may have several runs under way at once, whose nodes share one device thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, Self

from engine.fileref import Files
from engine.models import ModelStore
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.cancel import CancelToken
from engine.run.checkpoint import CheckpointStore
from engine.run.events import Event, OnEvent
from engine.run.gates import Gates
from engine.run.last_runs import LastRuns
from engine.run.outputs import OutputFolder
from engine.run.request import Run, RunResult, Tools
from engine.run.session import Session
from engine.run.settings import DeviceSettings
from engine.run.work_thread import WorkThread

__all__ = ["Executor", "Run", "RunResult", "ignore"]


def ignore(event: Event) -> None:
    """An ``OnEvent`` for callers that only want the result."""


def run_in_loop(run: Callable[[], Coroutine[Any, Any, RunResult]]) -> RunResult:
    """Run to the end, on another thread where this one's loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(lambda: asyncio.run(run())).result()


class Runner(Protocol):
    """Whatever runs graphs: in this process, or in another."""

    async def run(self, run: Run, on_event: OnEvent = ignore, cancel: CancelToken | None = None) -> RunResult:
        """Run a graph to its end; what fails is in the result."""
        ...


class Executor:
    """Runs graphs in this process."""

    def __init__(
        self,
        registry: Registry,
        *,
        files: Files,
        cache: OutputCache,
        outputs: OutputFolder,
        numerics: str,
        settings: DeviceSettings | None = None,
        checkpoints: CheckpointStore | None = None,
        last_runs: LastRuns | None = None,
    ) -> None:
        """``numerics`` names what the last bits of results depend on (``engine.numerics``); it enters every key."""
        settings = settings or DeviceSettings()
        self._store: ModelStore | None = None
        self._store_lock = threading.Lock()
        self._make_store: Callable[[], ModelStore] = partial(registry.make_store, settings)
        self._tools = Tools(
            registry=registry,
            files=files,
            cache=cache,
            outputs=outputs,
            settings=settings,
            numerics=numerics,
            checkpoints=checkpoints,
            last_runs=last_runs,
            device=WorkThread("mezzotint-device"),
            io=WorkThread("mezzotint-io"),
            models=self._models,
            gates=Gates(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the threads go. What they are doing they finish first."""
        self._tools.device.close()
        self._tools.io.close()

    async def run(self, run: Run, on_event: OnEvent = ignore, cancel: CancelToken | None = None) -> RunResult:
        """Run a graph to its end, whatever its nodes do: what fails is in the result.

        ``on_event`` is called on the event loop's thread, in order. Raises ``UsageError`` for a target that is not in the graph. If the
        task of this coroutine is cancelled it waits for the node that is running to notice, then raises ``CancelledError``.
        """
        return await Session(self._tools, run, on_event, cancel or CancelToken()).run()

    def run_sync(self, run: Run, on_event: OnEvent = ignore, cancel: CancelToken | None = None) -> RunResult:
        """The same for callers without an event loop, or in a notebook whose loop is running already."""
        return run_in_loop(lambda: self.run(run, on_event, cancel))

    def free(self, *, unload_models: bool, free_memory: bool) -> None:
        """Take models off the device that no node is at, and forget the results in memory. From any thread; waits while weights move."""
        with self._store_lock:
            store = self._store
        if unload_models and store is not None:
            store.evict_all()
        if free_memory:
            self._tools.cache.forget()

    def _models(self) -> ModelStore:
        with self._store_lock:
            if self._store is None:
                self._store = self._make_store()
            return self._store
