"""A thread that does one thing after the other: nodes compute on one of these, files are read and written on another.

So events flow while a node computes, no two nodes use a device at once, and nothing that takes time happens on an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class WorkThread:
    """Does what is posted, in order; started by the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def post(self, call: Callable[[], object]) -> None:
        """Have ``call`` called, which must not raise. From any thread, this one too: going on costs no change of threads."""
        with self._lock:
            if self._thread is None:
                # a daemon: a node that never returns must not keep the process
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
        self._queue.put(call)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have ``call`` called in the caller's context, and wait for what it returns or raises.

        When the waiting task is cancelled, a call that has not begun never does, and one that has is waited for.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        claim = (
            threading.Lock()
        )  # taken by whoever is first: the thread that does it, or the caller who does not want it any more
        context = contextvars.copy_context()
        self.post(partial(_do, claim, loop, future, partial(context.run, call, *args, **kwargs)))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not claim.acquire(blocking=False):
                await _ended(future)
            raise

    def close(self) -> None:
        """Let the thread end when it has done what was posted."""
        with self._lock:
            if self._thread is not None:
                self._queue.put(None)
                self._thread = None

    def _serve(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except BaseException:  # whatever it is, those who come after must not wait for ever
                _log.exception("%s: what was posted raised", self._name)
            del call  # not to keep values alive while waiting for more


def _do(
    claim: threading.Lock, loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], call: Callable[[], T]
) -> None:
    if not claim.acquire(blocking=False):
        return
    result: Any = None
    error: BaseException | None = None
    try:
        result = call()
    except BaseException as raised:
        error = raised
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits for it any more
        loop.call_soon_threadsafe(_deliver, future, result, error)


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def _ended(future: asyncio.Future[Any]) -> None:
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    future.exception()  # nobody else will ask, and asyncio complains of errors that nobody asked for
