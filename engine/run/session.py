"""One run, from the graph to its result: what ``Executor.run`` makes, uses once and drops."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.errors import Cancelled, DefinitionError, NodeFailed
from engine.graph.graph import NodeId
from engine.run import events
from engine.run.cache import Flight, Hit, Unshared
from engine.run.calling import Caller
from engine.run.cancel import CancelToken
from engine.run.explain import describe
from engine.run.failures import one_line
from engine.run.last_runs import LastRuns
from engine.run.ledger import ASYNC_LANE, DEVICE_LANE, Ledger
from engine.run.node_context import ContextMaker
from engine.run.reporter import Reporter
from engine.run.request import Run, RunResult, Tools

_log = logging.getLogger(__name__)


class Session:
    """One run under way.

    Sync nodes are called and what they return is settled on the device thread, one step posting the next, so that a chain of nodes
    costs no change of threads. Async nodes are called on the loop and settled on the io thread.
    """

    def __init__(self, tools: Tools, run: Run, on_event: events.OnEvent, cancel: CancelToken) -> None:
        self._tools = tools
        self._run = run
        self._cancel = cancel
        self._abandoned = False
        self._context = contextvars.copy_context()
        self._reporter = Reporter(on_event)
        self._ledger = Ledger(tools, run, self._reporter.post, self._check_cancelled)
        self._contexts = ContextMaker(run, tools, self._ledger.live, self._reporter.post, self._is_cancelled)
        self._caller = Caller(self._ledger, self._contexts)
        self._active = 0
        """Nodes that somebody is busy with."""
        self._is_step_posted = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    async def run(self) -> RunResult:
        """Run to the end. Raises ``UsageError`` and ``CancelledError`` as ``Executor.run`` says."""
        unsubscribe = self._cancel.subscribe(self._wake_up)
        try:
            await self._run_until_stopped()
            return await self._conclude()
        finally:
            unsubscribe()

    async def _run_until_stopped(self) -> None:
        try:
            # what reads no file takes less time than a change of threads
            await (self._tools.io.run(self._ledger.prepare) if self._reads_files() else _now(self._ledger.prepare))
            await self._drive()
        except Cancelled:
            pass
        finally:
            self._abandoned = True
            await self._let_nodes_end()

    # before

    def _reads_files(self) -> bool:
        if self._tools.cache.has_disk:
            return True
        specs = map(self._tools.registry.get, {call.type for call in self._run.graph.values()})
        return any(spec.fingerprint or any(entry.files for entry in spec.inputs) for spec in specs if spec)

    # the loop

    async def _drive(self) -> None:
        while self._launch():
            await self._wake.wait()
            self._wake.clear()
            self._check_cancelled()
        while stuck := self._ledger.plan.stuck():
            around = " -> ".join([*stuck[:10], *(["..."] if len(stuck) > 10 else []), stuck[0]])
            message = f"waits for its own result ({around}), so it can never run; remove one of these links"
            self._ledger.fail(stuck[0], NodeFailed(stuck[0], self._ledger.book.calls[stuck[0]].type, message))

    def _launch(self) -> bool:
        """Start what can run: every async node, and the device if it has nothing to do. Returns whether anything is going on."""
        self._check_cancelled()
        with self._ledger.lock:
            while (node := self._take(ASYNC_LANE)) is not None:
                self._spawn(self._run_async(node))
            self._post_step()
            return self._active > 0 or self._is_step_posted

    def _take(self, lane: str) -> NodeId | None:
        node = None if self._is_cancelled() else self._ledger.plan.first_ready(lane)
        if node is not None:
            self._ledger.plan.start(node)
            self._active += 1
        return node

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _post_step(self) -> None:
        if (
            not (self._is_step_posted or self._is_cancelled())
            and self._ledger.plan.first_ready(DEVICE_LANE) is not None
        ):
            self._is_step_posted = True
            self._tools.device.post(partial(self._context.run, self._step))

    def _step(self) -> None:
        """Run the next node of the device, then post the next step: another run's may come in between."""
        with self._ledger.lock:
            self._is_step_posted = False
            node = self._take(DEVICE_LANE)
        if node is not None:
            self._run_sync(node)
        else:
            self._wake_up()

    async def _let_nodes_end(self) -> None:
        """Tell what is still running to stop, and wait until it has: a node of a run that is over must not go on computing."""
        was_cancelled = False
        told: set[asyncio.Task[None]] = set()
        while self._active:
            try:
                await asyncio.sleep(0)  # a task that is cancelled before it has begun could not say that it has ended
                for task in self._tasks - told:
                    task.cancel()
                    told.add(task)
                await self._wake.wait()
                self._wake.clear()
            except asyncio.CancelledError:
                was_cancelled = True
        if was_cancelled:
            raise asyncio.CancelledError

    # one node

    async def _run_async(self, node: NodeId) -> None:
        """From nothing to a value, on the loop."""
        with self._attempt(node):
            key = self._ledger.key(node)
            got = Unshared() if key is None else await self._tools.cache.get_or_claim(key)
            if isinstance(got, Hit):
                await self._tools.io.run(self._ledger.accept_hit, node, got)
                return
            with got:
                if node in self._ledger.expansions:
                    await self._tools.io.run(self._ledger.assemble, node, got)
                else:
                    called = await self._caller.call_async(node, self._ledger.book.spec(node))
                    await self._tools.io.run(self._ledger.settle, node, called, got)

    def _run_sync(self, node: NodeId) -> None:
        """From nothing to a value, on the device thread."""
        with self._attempt(node) as attempt:
            key = self._ledger.key(node)
            got = Unshared() if key is None else self._tools.cache.claim(key)
            if isinstance(got, Hit):
                self._ledger.accept_hit(node, got)
            elif isinstance(got, Future):
                attempt.goes_on = True
                self._reporter.wake(partial(self._spawn_wait, node, got))
            else:
                with got:
                    if node in self._ledger.expansions:
                        self._ledger.assemble(node, got)
                    else:
                        self._ledger.settle(node, self._caller.call(node, self._ledger.book.spec(node)), got)

    def _spawn_wait(self, node: NodeId, flight: Flight) -> None:
        self._spawn(self._wait_for(node, flight))
        self._wake.set()

    async def _wait_for(self, node: NodeId, flight: Flight) -> None:
        """Somebody else is computing the same: see what comes of it, and compute it after all if nothing does."""
        with self._attempt(node) as attempt:
            value = await asyncio.wrap_future(flight)
            if value is not None:
                await self._tools.io.run(self._ledger.accept_hit, node, Hit(value, "run"))
            else:
                attempt.goes_on = True
                self._tools.device.post(partial(self._context.run, self._run_sync, node))

    @contextlib.contextmanager
    def _attempt(self, node: NodeId) -> Iterator[_Attempt]:
        """Whatever comes up on the way to the value of ``node`` ends here: the others go on, or the run stops."""
        attempt = _Attempt()
        try:
            yield attempt
        except Cancelled:
            self._abandoned = True
        except asyncio.CancelledError:
            if not self._is_cancelled():
                error = DefinitionError("cancelled its own task; a node must not do that, it may raise an error")
                self._ledger.fail(node, self._ledger.failure(node, error))
        except (Exception, SystemExit) as error:
            self._ledger.fail(node, self._ledger.failure(node, error))
        finally:
            if not attempt.goes_on:
                with self._ledger.lock:
                    self._active -= 1
                    self._post_step()
                    if not self._is_step_posted or self._ledger.plan.first_ready(ASYNC_LANE) is not None:
                        self._wake_up()

    # after

    async def _conclude(self) -> RunResult:
        status = self._ledger.status()
        values = await self._tools.io.run(self._ledger.kept) if self._run.keep and status != "cancelled" else {}
        await self._flush()
        if status == "succeeded" and self._tools.last_runs is not None:
            await self._tools.io.run(self._remember, self._tools.last_runs)
        self._reporter.post(events.JobFinished(self._run.job, status))
        return RunResult(
            job=self._run.job,
            status=status,
            ui=self._ledger.ui,
            failures=tuple(self._ledger.failures.values()),
            ran=tuple(self._ledger.ran),
            cached=tuple(self._ledger.cached),
            values=values,
            inner=self._ledger.live.inner(),
        )

    async def _flush(self) -> None:
        """Have on disk what belongs there; only then are the checkpoints of what has finished of no use."""
        if self._tools.cache.is_writing:
            for problem in await asyncio.to_thread(self._tools.cache.flush):
                node = next(
                    (node for node in self._ledger.ran if self._ledger.book.cache_key(node) == problem.key),
                    self._ledger.ran[-1],
                )
                self._reporter.post(
                    events.NodeWarning(self._run.job, node, self._ledger.live.shown(node), problem.message)
                )
        for node in self._ledger.ran:
            self._contexts.discard_checkpoints(node)

    def _remember(self, last_runs: LastRuns) -> None:
        """For the next time somebody asks why a node's result is not known."""
        book = self._ledger.book
        parts = describe(book.calls, book.specs, book.keyed, book.numerics, book.fingerprints)
        try:
            last_runs.remember(self._run.graph, {node: parts[node] for node in self._run.graph if node in parts})
        except OSError as error:
            _log.warning("what this run's results were made of was not written down: %s", one_line(error))

    # small things

    def _is_cancelled(self) -> bool:
        return self._abandoned or self._ledger.is_over or self._cancel()

    def _check_cancelled(self) -> None:
        if self._is_cancelled():
            raise Cancelled

    def _wake_up(self) -> None:
        self._reporter.wake(self._wake.set)


@dataclass(slots=True)
class _Attempt:
    goes_on: bool = False
    """Somebody else has taken it over."""


async def _now(call: Callable[[], None]) -> None:
    call()
