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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from engine.errors import MezzotintError, UsageError
from engine.jobs.gentle import Gentle
from engine.jobs.keeper import Keeper
from engine.jobs.loaded import Loaded
from engine.jobs.messages import OnBroadcast, WorkerSettings, run_to_plain
from engine.jobs.process import WorkerDied
from engine.jobs.underway import RunPatience, Underway
from engine.jobs.web_address import WebAddress
from engine.packs.pack_info import NoAnswer
from engine.packs.spec_cache import CachedPacks
from engine.run.cancel import CancelToken
from engine.run.events import OnEvent
from engine.run.executor import ignore, run_in_loop
from engine.run.request import Run, RunResult

NODE_TIMEOUT: Final = 3600.0
"""Seconds without any sign of life after which a pack's node counts as hung."""

_GRACE: Final = 10.0
"""Seconds a run has to stop when it is told to while a pack's node is at work; then its process is killed."""
_ANSWER: Final = 60.0
"""Seconds a class has to say what its choices are, and the like."""

_HANDLING: Final = 10.0
"""Seconds that packs have to look at a workflow that is posted."""

_log = logging.getLogger(__name__)


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
        on_broadcast: OnBroadcast = lambda name, data, client: None,
    ) -> None:
        """``lease``: seconds without a sign of life after which the process is ended. ``ends_ours``: ``grace`` is for our own nodes too."""
        self._patience = RunPatience(node=node_timeout, grace=grace, lease=lease, own=grace if ends_ours else None)
        self._hooks = _Hooks(self)
        self._keeper = Keeper(settings, on_broadcast, self._hooks)
        self.gently = Gentle(lambda: self._keeper.at_hand)
        """Asks without starting a process, and without ending one that is at a run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def settings(self) -> WorkerSettings:
        """What its process is started with, and which packs are left out by now."""
        return self._keeper.settings

    @property
    def loaded(self) -> Loaded:
        """What the worker has; starts it if it is not there. Raises as ``prepare``."""
        return self._keeper.living()[1]

    @property
    def pid(self) -> int:
        """Of the worker; starts it if it is not there. Raises as ``prepare``."""
        return self._keeper.living()[0].pid

    @property
    def living_pid(self) -> int | None:
        """Of the worker, if there is one; starts nothing."""
        process = self._keeper.at_hand
        return None if process is None else process.pid

    @property
    def web(self) -> WebAddress | None:
        """Where the worker that is there answers the HTTP routes of packs; None where there is none. Starts nothing."""
        loaded = self._keeper.last_loaded
        return None if loaded is None or self._keeper.at_hand is None else loaded.web

    async def prepare(self) -> None:
        """Have the worker ready for a run. Raises ``NotStarted`` where no process comes up, ``UsageError`` when this was closed."""
        await asyncio.to_thread(self._keeper.living)

    def recall(self, cached: CachedPacks) -> Loaded:
        """What was loaded by an earlier process, before this one's worker is ready."""
        return Loaded.from_cached(cached, self._hooks)

    def on_prompt(self, posted: Mapping[str, Any], timeout: float = _HANDLING) -> dict[str, Any]:
        """A posted workflow after the packs' prompt handlers, if there are any. One that fails or takes too long leaves it as it was."""
        loaded = self._keeper.last_loaded
        if loaded is None or not loaded.prompt_handlers:
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
        process = self._keeper.at_hand
        if process is None:
            return
        with contextlib.suppress(WorkerDied):
            await asyncio.wrap_future(process.free(unload_models=unload_models, free_memory=free_memory))

    def end(self) -> None:
        """As ``close``, but a worker that is at something is not waited for."""
        self._keeper.close(at_once=True)

    def close(self) -> None:
        """Let the worker end."""
        self._keeper.close()

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
        process, loaded = await asyncio.to_thread(self._keeper.living)
        packs = {spec.type: spec.pack for spec in loaded.specs if spec.pack}
        underway = Underway(process, plain, on_event, cancel or CancelToken(), packs)
        return await underway.end(self._patience, is_last=is_last, reports_loss=reports_loss)

    def ask(self, what: str, type_: str, arguments: Mapping[str, Any]) -> Any:
        """Ask a node class something, and wait; the worker is started if it is not there. It is ended for want of an answer only when it
        is at no run.

        Raises ``NoAnswer`` where there is none in a minute, ``MezzotintError`` for whatever else goes wrong there.
        """
        was_busy = self._keeper.living()[0].is_busy
        try:
            return self.gently.ask(what, type_, arguments, _ANSWER)
        except NoAnswer as error:
            # as for a run: it may have been gone before it was asked. Whoever ends the process by answering ends no run a second time
            if was_busy or not isinstance(error.__cause__, WorkerDied):
                raise
        self._keeper.living()
        return self.gently.ask(what, type_, arguments, _ANSWER)


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
