"""One run that a worker is at: its events passed on, its end waited for, and seen to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from engine.errors import MezzotintError, NodeFailed, ResourceError
from engine.graph.graph import NodeId
from engine.jobs.messages import result_from_plain
from engine.jobs.process import Listener, WorkerDied, WorkerProcess
from engine.jobs.watch import Attention, Watch
from engine.run import events
from engine.run.cancel import CancelToken
from engine.run.request import RunResult

_TICK: Final = 0.25


@dataclass(frozen=True, slots=True)
class RunPatience:
    """How long a worker may take, in seconds."""

    node: float
    """Without any sign of life, while a pack's node is at work."""
    grace: float
    """To stop, when it is told to while a pack's node is at work."""
    idle_grace: float = 60.0
    """To stop, when it is told to while no node is at work."""
    own: float | None = None
    """To stop, when it is told to while a node of ours is at work. None: for as long as it takes."""
    lease: float | None = None
    """Without any sign of life of the process. None: for as long as it takes."""


class WorkerLost(MezzotintError):
    """A worker died in the middle of a run, and whoever asked for the run sees to that."""

    def __init__(self, why: str, suspect: NodeFailed | None) -> None:
        """``suspect``: the node that was at work."""
        self.why = why
        self.suspect = suspect
        super().__init__(str(suspect) if suspect is not None else f"the worker ended before a node was at work: {why}")


class Underway:
    """Belongs to the event loop it is made on, and to one run."""

    def __init__(
        self,
        process: WorkerProcess,
        plain: Mapping[str, Any],
        on_event: events.OnEvent,
        cancel: CancelToken,
        packs: Mapping[str, str],
    ) -> None:
        """``plain``: the run as a message. ``packs`` gives the pack of each node type that comes from one."""
        self._process = process
        self._plain = plain
        self._job: str = plain["job"]
        self._on_event = on_event
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._watch = Watch(packs, time.monotonic())
        self._attention = Attention(time.monotonic())
        self._woken = asyncio.Event()
        self._is_told = False
        """Whether it was told to stop."""
        self._since: float | None = None
        """Since when it is waited for with no more than patience."""

    async def end(self, patience: RunPatience, *, is_last: bool = True, reports_loss: bool = True) -> RunResult:
        """Have it run, and wait for what comes of it. Whatever happens to the process, there is an end.

        The loss of the process is told as a failure of the node that was at work, or without ``reports_loss`` raised as ``WorkerLost``.
        Unless it is the last attempt, raises ``WorkerDied`` where the process was gone before it had begun.
        """
        listener = Listener(
            on_events=partial(self._pass_on, self._hear_all),
            on_work=partial(self._pass_on, self._begin),
            on_rest=partial(self._pass_on, self._rest),
        )
        number, answer = self._process.run(self._plain, listener)
        unsubscribe = self._cancel.subscribe(partial(self._pass_on, self._woken.set))
        future = asyncio.wrap_future(answer)
        try:
            while not future.done():
                await self._wait(future)
                self._see_to_it(number, patience)
            return result_from_plain(future.result())
        except WorkerDied as error:
            if not (is_last or self._watch.has_begun or self._process.was_ended or self._cancel()):
                raise
            if not (reports_loss or self._cancel()):
                raise WorkerLost(str(error), self._watch.verdict(str(error))) from error
            return self._buried(str(error))
        except asyncio.CancelledError:
            if self._cancel():  # for the second time
                self._process.kill("it was told to stop at once")
                raise
            self._process.cancel(number)
            with contextlib.suppress(MezzotintError):
                await asyncio.shield(asyncio.wait([future], timeout=patience.grace))
            raise
        finally:
            unsubscribe()

    def _pass_on(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have ``call`` called on the loop; from any thread, or a signal handler."""
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens any more
            self._loop.call_soon_threadsafe(call, *arguments)

    def _hear_all(self, heard: list[events.Event]) -> None:
        for event in heard:
            self._hear(event)

    def _hear(self, event: events.Event) -> None:
        self._watch.hear(event, time.monotonic())
        self._on_event(event)

    def _begin(self, node: NodeId, class_type: str, shown: NodeId) -> None:
        self._watch.begin(node, class_type, shown, time.monotonic())

    def _rest(self, node: NodeId) -> None:
        self._watch.rest(node, time.monotonic())

    async def _wait(self, future: asyncio.Future[Any]) -> None:
        """Until it has ended, or was cancelled, or it is time to look."""
        woken = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait([future, woken], timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            self._woken.clear()

    def _see_to_it(self, number: int, patience: RunPatience) -> None:
        """Tell it to stop if it has to, and end its process if it does not, or if it hangs."""
        now = time.monotonic()
        self._attention.look(now)
        awake = self._attention.since
        if self._cancel() and not self._is_told:
            self._is_told = True
            self._process.cancel(number)
        if self._cancel() and not self._cancel.is_patient and self._since is None:
            self._since = now
        waited = 0.0 if self._since is None else now - max(self._since, awake)
        if patience.lease is not None and now - max(self._process.last_heard, awake) > patience.lease:
            self._process.kill(f"its process gave no sign of life for {patience.lease:g} s, so it was ended")
        elif patience.own is not None and waited > patience.own:
            self._process.kill(f"it did not stop within {patience.own:g} s of being told to, so its process was ended")
        elif self._watch.is_pack_at_work and waited > patience.grace:
            self._process.kill(
                f"it did not stop within {patience.grace:g} s of being told to, so its process was ended"
            )
        elif self._watch.is_idle and waited > patience.idle_grace:
            self._process.kill("it did not stop when it was told to, so its process was ended")
        elif self._watch.is_silent(now, patience.node, awake):
            self._process.kill(
                f"there was no sign of life for {patience.node:g} s, so its process was ended; "
                "a node that takes longer may report its progress, or give it more time with --node-timeout"
            )

    def _buried(self, why: str) -> RunResult:
        """The result of a run whose process has died. Raises ``ResourceError`` where no node can be named."""
        was_cancelled = self._cancel()
        failure = None if was_cancelled else self._watch.verdict(why)
        if failure is not None:
            self._hear(_failed(self._job, failure))
        status: Literal["cancelled", "failed"] = "cancelled" if was_cancelled else "failed"
        self._hear(events.JobFinished(self._job, status))
        if failure is None and not was_cancelled:
            asked = f"while {self._process.asking} was asked" if self._process.asking else "before a node was at work"
            raise ResourceError(f"the worker ended {asked}: {why}")
        return RunResult(
            job=self._job,
            status=status,
            ui=self._watch.ui,
            failures=() if failure is None else (failure,),
            ran=tuple(self._watch.ran),
            cached=tuple(self._watch.cached),
            values={},
            inner=self._watch.inner,
        )


def _failed(job: str, failure: NodeFailed) -> events.NodeFailed:
    return events.NodeFailed(
        job,
        NodeId(failure.node),
        NodeId(failure.shown),
        failure.class_type,
        failure.reason,
        pack=failure.pack,
    )
