"""An executor whose runs happen in a worker process, which is replaced when it dies.

with RemoteExecutor(settings) as executor:
    registry.add(*executor.loaded.specs)
    result = await executor.run(Run(graph))
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from engine.errors import MezzotintError, ResourceError, UsageError
from engine.jobs.gentle import Gentle
from engine.jobs.messages import WorkerSettings, run_to_plain
from engine.jobs.process import WorkerDied, WorkerProcess
from engine.jobs.underway import Patience, Underway
from engine.jobs.web_address import WebAddress
from engine.packs.describe import from_plain, to_plain
from engine.packs.report import LoadedPack, NotedRoute, PackFailure
from engine.packs.spec_cache import CachedPacks
from engine.run.cancel import CancelToken
from engine.run.events import OnEvent
from engine.run.executor import ignore, run_in_loop
from engine.run.request import Run, RunResult
from engine.spec import NodeSpec

NODE_TIMEOUT: Final = 3600.0
"""Seconds without any sign of life after which a pack's node counts as hung."""

_GRACE: Final = 10.0
"""Seconds a run has to stop when it is told to while a pack's node is at work; then its process is killed."""
_START: Final = 600.0
"""Seconds each pack has to load."""
_POLL: Final = 0.2
_ANSWER: Final = 60.0
"""Seconds a class has to say what its choices are, and the like."""

_HANDLING: Final = 10.0
"""Seconds that packs have to look at a workflow that is posted."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker has loaded."""

    specs: tuple[NodeSpec, ...]
    packs: tuple[LoadedPack, ...]
    failures: tuple[PackFailure, ...]
    routes: tuple[NotedRoute, ...] = ()
    """HTTP routes of packs."""
    prompt_handlers: int = 0
    """How many functions of packs want to see each workflow that is posted."""
    web: WebAddress | None = None
    """Where the routes are answered."""

    def to_cached(self, infos: Mapping[str, Mapping[str, Any]]) -> CachedPacks:
        """As it can be kept on disk, with the ``object_info`` of each type."""
        return CachedPacks(
            specs=tuple(map(to_plain, self.specs)),
            packs=self.packs,
            failures=self.failures,
            routes=self.routes,
            prompt_handlers=self.prompt_handlers,
            infos=infos,
        )


class RemoteExecutor:
    """``engine.run.executor.Executor`` over a process of its own."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        node_timeout: float = NODE_TIMEOUT,
        grace: float = _GRACE,
        lease: float | None = None,
        ends_ours: bool = False,
        on_broadcast: Callable[[str, Any], None] = lambda name, data: None,
    ) -> None:
        """``lease``: seconds without a sign of life after which the process is ended. ``ends_ours``: ``grace`` is for our own nodes too."""
        self._settings = settings
        self._patience = Patience(node=node_timeout, grace=grace, lease=lease, own=grace if ends_ours else None)
        self._on_broadcast = on_broadcast
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None
        self._loaded: Loaded | None = None
        self._is_closed = False
        self.gently = Gentle(self._at_hand)
        """Asks without starting a process, and without ending one that is at a run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def loaded(self) -> Loaded:
        """What the worker has; starts it if it is not there."""
        return self._living()[1]

    @property
    def pid(self) -> int:
        """Of the worker; starts it if it is not there."""
        return self._living()[0].pid

    @property
    def web(self) -> WebAddress | None:
        """Where the worker that is there answers the HTTP routes of packs; None where there is none. Starts nothing."""
        loaded, process = self._loaded, self._at_hand()
        return None if loaded is None or process is None else loaded.web

    def recall(self, cached: CachedPacks) -> Loaded:
        """What was loaded by an earlier process, before this one's worker is ready."""
        hooks = _Hooks(self)
        specs = tuple(from_plain(plain, hooks) for plain in cached.specs)
        return Loaded(specs, cached.packs, cached.failures, cached.routes, cached.prompt_handlers)

    def ask_gently(self, what: str, type_: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        """Ask a node class something, and wait for up to ``timeout`` seconds; the worker is not started, nor a run of it disturbed.

        Raises ``NoAnswer`` where there is none in time, ``MezzotintError`` for what goes wrong there.
        """
        return self.gently.ask(what, type_, arguments, timeout)

    def on_prompt(self, posted: Mapping[str, Any], timeout: float = _HANDLING) -> dict[str, Any]:
        """A posted workflow after the packs' prompt handlers, if there are any. One that fails or takes too long leaves it as it was."""
        if self._loaded is None or not self._loaded.prompt_handlers:
            return dict(posted)
        try:
            returned = self.gently.ask("on_prompt", "", {"posted": json.dumps(posted)}, timeout)
        except MezzotintError as error:
            _log.warning("the workflow is taken as it was posted, without what packs would have changed: %s", error)
            return dict(posted)
        changed: dict[str, Any] = json.loads(returned)
        return changed

    async def free(self, *, unload_models: bool, free_memory: bool) -> None:
        """Have the worker give memory back: models that it holds on the device; results and what packs' nodes keep.

        Waits for the runs under way. A worker that is not there, or that ends meanwhile, holds nothing.
        """
        process = self._at_hand()
        if process is None:
            return
        with contextlib.suppress(WorkerDied):
            await asyncio.wrap_future(process.free(unload_models=unload_models, free_memory=free_memory))

    def _at_hand(self) -> WorkerProcess | None:
        """The worker, if there is one that lives and has loaded its packs."""
        process = self._process
        return process if process is not None and process.is_alive else None

    @property
    def living_pid(self) -> int | None:
        """Of the worker, if there is one; starts nothing."""
        process = self._process
        return process.pid if process is not None and process.is_alive else None

    def end(self) -> None:
        """As ``close``, but a worker that is at something is not waited for."""
        process = self._process
        if process is not None and process.is_busy:
            process.kill("the service ended")
        self.close()

    def close(self) -> None:
        """Let the worker end."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.close()
                self._process = None

    async def run(self, run: Run, on_event: OnEvent = ignore, cancel: CancelToken | None = None) -> RunResult:
        """As ``Executor.run``. A worker that dies fails the run, naming the node that was at work; the next run has a new worker.

        Raises ``UsageError`` for a run that wants values back: they stay where they are made.
        """
        if run.keep:
            raise UsageError("a worker cannot hand values back; save them, or run the graph in this process")
        return await self._run(run_to_plain(run), on_event, cancel, reports_loss=True)

    async def attempt(
        self, plain: Mapping[str, Any], on_event: OnEvent = ignore, cancel: CancelToken | None = None
    ) -> RunResult:
        """The same for a run that is a message already, but raises ``WorkerLost`` for a worker that dies on the way: the caller may
        try again."""
        return await self._run(plain, on_event, cancel, reports_loss=False)

    async def _run(
        self, plain: Mapping[str, Any], on_event: OnEvent, cancel: CancelToken | None, *, reports_loss: bool
    ) -> RunResult:
        try:
            return await self._attempt(plain, on_event, cancel, is_last=False, reports_loss=reports_loss)
        except WorkerDied:  # somebody ended it while it had nothing to do, and that was not known yet
            return await self._attempt(plain, on_event, cancel, is_last=True, reports_loss=reports_loss)

    def run_sync(self, run: Run, on_event: OnEvent = ignore, cancel: CancelToken | None = None) -> RunResult:
        """The same for callers without an event loop, or in a notebook whose loop is running already."""
        return run_in_loop(lambda: self.run(run, on_event, cancel))

    async def _attempt(
        self,
        plain: Mapping[str, Any],
        on_event: OnEvent,
        cancel: CancelToken | None,
        *,
        is_last: bool,
        reports_loss: bool,
    ) -> RunResult:
        process, loaded = await asyncio.to_thread(self._living)
        packs = {spec.type: spec.pack for spec in loaded.specs if spec.pack}
        underway = Underway(process, plain, on_event, cancel or CancelToken(), packs)
        return await underway.end(self._patience, is_last=is_last, reports_loss=reports_loss)

    # the process

    def _living(self) -> tuple[WorkerProcess, Loaded]:
        """The worker, started anew if there is none. A pack that ends the process while it is imported is left out from then on."""
        with self._lock:
            if self._is_closed:
                raise UsageError("the executor is closed")
            while self._process is None or self._loaded is None or not self._process.is_alive:
                self._process = None
                process = WorkerProcess(self._settings, self._on_broadcast)
                try:
                    self._loaded = self._understand(_when_ready(process))
                    self._process = process
                except TimeoutError:
                    process.kill("its packs took too long to load")
                    self._leave_out(process.loading, f"its import did not come to an end within {_START:g} s")
                except WorkerDied as error:
                    self._leave_out(process.loading, f"its import failed: {error}")
                except BaseException:
                    process.kill("nobody waits for it any more")
                    raise
            return self._process, self._loaded

    def _leave_out(self, pack: str | None, reason: str) -> None:
        if pack is None or pack in self._settings.skip:
            raise ResourceError(f"the worker did not start: {reason}")
        _log.warning("pack %s is left out: %s", pack, reason)
        self._settings = replace(self._settings, skip={**self._settings.skip, pack: reason})

    def _understand(self, ready: Mapping[str, Any]) -> Loaded:
        hooks = _Hooks(self)
        return Loaded(
            specs=tuple(from_plain(plain, hooks) for plain in ready["specs"]),
            packs=tuple(LoadedPack(name, digest, tuple(nodes), web) for name, digest, nodes, web in ready["packs"]),
            failures=tuple(PackFailure(pack, reason, node) for pack, reason, node in ready["failures"]),
            routes=tuple(NotedRoute(*route) for route in ready["routes"]),
            prompt_handlers=ready["prompt_handlers"],
            web=None if ready["web"] is None else WebAddress.from_plain(ready["web"]),
        )

    def ask(self, what: str, type_: str, arguments: Mapping[str, Any]) -> Any:
        """Ask a node class something, and wait. Raises ``MezzotintError`` for whatever goes wrong there."""
        try:
            return self._ask_once(what, type_, arguments)
        except WorkerDied:  # as for a run; who ends the process by answering does it again
            return self._ask_once(what, type_, arguments)

    def _ask_once(self, what: str, type_: str, arguments: Mapping[str, Any]) -> Any:
        process = self._living()[0]
        try:
            return process.ask(what, type_, arguments).result(_ANSWER)
        except TimeoutError:
            why = f"{type_} did not say its {what} within {_ANSWER:g} s"
            process.kill(f"{why}, so its process was ended")
            raise MezzotintError(why) from None


def _when_ready(process: WorkerProcess) -> dict[str, Any]:
    """What it says when everything is loaded. Raises ``TimeoutError`` when one pack takes too long, ``WorkerDied``."""
    while True:
        try:
            return process.ready.result(_POLL)
        except TimeoutError:
            if time.monotonic() - process.loading_since > _START:
                raise


@dataclass(frozen=True, slots=True)
class _Hooks:
    """``engine.packs.describe.PackHooks`` over the worker."""

    executor: RemoteExecutor

    def choices(self, type_: str, name: str) -> Sequence[str]:
        found: Sequence[str] = self.executor.ask("choices", type_, {"name": name})
        return found

    def check(self, type_: str, arguments: Mapping[str, Any]) -> str | None:
        wrong: str | None = self.executor.ask("check", type_, arguments)
        return wrong

    def fingerprint(self, type_: str, arguments: Mapping[str, Any]) -> Any:
        return self.executor.ask("fingerprint", type_, arguments)

    def describe(self, type_: str) -> dict[str, Any]:
        found: dict[str, Any] = self.executor.ask("describe", type_, {})
        return found
