"""One worker process as its parent sees it: started, talked to, and known to be dead when it is."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from multiprocessing import connection as sockets
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, Final

from engine.errors import MezzotintError, ResourceError
from engine.graph.graph import NodeId
from engine.jobs.left_over import sign_out
from engine.jobs.messages import OnBroadcast, WorkerSettings, event_from_plain, receive, send
from engine.jobs.web_address import WebAddress
from engine.run.events import Event

_START: Final = "from engine.jobs.worker import main; main()"
_POLL: Final = 0.1
_LAST_WORDS: Final = 2.0
"""Seconds in which what a dead process said last is read."""
_TO_END: Final = 10.0
"""Seconds a process has to end when it is told to."""
_TO_CONNECT: Final = 60.0
"""Seconds it has to come up: before a pack or torch is imported."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told of a run."""

    on_events: Callable[[list[Event]], None]
    on_work: Callable[[NodeId, str, NodeId], None]
    """Told of each call of a pack's node before it begins: the node, its type, and the node it is shown as."""
    on_rest: Callable[[NodeId], None]
    """Told of its end."""


class WorkerDied(MezzotintError):
    """The worker process ended before it had answered."""


class NotStarted(ResourceError):
    """No worker process comes up: for a reason of the machine's or the installation's, and of no job's."""


class WorkerProcess:
    """A running worker. Its answers come on a thread of this object's."""

    def __init__(
        self,
        settings: WorkerSettings,
        on_broadcast: OnBroadcast,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Starts the process; what it says first is in ``ready``. ``is_unwanted``: whether it need not come up any more.

        Raises ``NotStarted`` if it cannot be started.
        """
        self.ready: Future[dict[str, Any]] = Future()
        """The first message: what was loaded. Or ``WorkerDied``."""
        self.loading: str | None = None
        """The pack whose code was about to run when it was last heard of."""
        self.loading_since = time.monotonic()
        self.last_heard = time.monotonic()
        """When it last said anything; it does every second."""
        self._asking: dict[int, str] = {}
        """By thread of the process: the question to a pack's class that is open there."""
        self._shared = settings.shared
        self._on_broadcast = on_broadcast
        self._numbers = itertools.count(1)
        self._pending: dict[int, Future[Any]] = {}
        self._listeners: dict[int, Listener] = {}
        self._lock = threading.Lock()
        self._outgoing: SimpleQueue[Mapping[str, Any] | None] = SimpleQueue()
        self._verdict: str | None = None
        self._buried = False
        self._process, self._connection = _start(settings, is_unwanted)
        self._reader = threading.Thread(target=self._read, name="mezzotint-worker-reader", daemon=True)
        self._reader.start()
        self._sender = threading.Thread(target=self._write, name="mezzotint-worker-writer", daemon=True)
        self._sender.start()
        threading.Thread(target=self._await_death, name="mezzotint-worker-waiter", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def asking(self) -> str | None:
        """The question that a pack's class was last asked and has not answered, in words."""
        return next(reversed([*self._asking.values()]), None)

    @property
    def was_ended(self) -> bool:
        """Whether it was ended from here, for a reason."""
        return self._verdict is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, plain: Mapping[str, Any], listener: Listener) -> tuple[int, Future[Any]]:
        """Have a run executed. Returns its number, and what comes of it; ``listener`` is called on this object's thread."""
        return self._ask({"op": "run", "run": plain}, listener)

    def ask(self, what: str, type_: str, arguments: Mapping[str, Any]) -> Future[Any]:
        """Ask a node class something."""
        return self._ask({"op": "ask", "what": what, "type": type_, "arguments": arguments}, None)[1]

    def free(self, *, unload_models: bool, free_memory: bool) -> Future[None]:
        """Have memory given back when the runs under way have ended."""
        return self._ask({"op": "free", "unload_models": unload_models, "free_memory": free_memory}, None)[1]

    @property
    def is_busy(self) -> bool:
        """Whether a run is under way."""
        return bool(self._listeners)

    def cancel(self, number: int) -> None:
        """Tell a run to stop."""
        self._send({"op": "cancel", "id": number})

    def kill(self, verdict: str) -> None:
        """End the process at once; ``verdict`` is what those who wait for it are told."""
        self._verdict = self._verdict or verdict
        _kill(self._process)

    def close(self) -> None:
        """Let it end; kill it if it does not."""
        self._verdict = self._verdict or "it was told to end"
        self._send({"op": "close"})
        try:
            self._process.wait(_TO_END)
        except subprocess.TimeoutExpired:
            _kill(self._process)
            self._process.wait()

    def _ask(self, message: Mapping[str, Any], listener: Listener | None) -> tuple[int, Future[Any]]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # who no longer waits cannot cancel it: the answer would find it in no state to be set
        with self._lock:
            if self._buried:
                raise WorkerDied(self._verdict or "it ended")
            number = next(self._numbers)
            self._pending[number] = future
            if listener is not None:
                self._listeners[number] = listener
        self._send({**message, "id": number})
        return number, future

    def _send(self, message: Mapping[str, Any]) -> None:
        """To a process that is gone nothing is sent: its end is told on the reading thread."""
        self._outgoing.put(message)

    def _write(self) -> None:
        """On a thread: a process that stands still reads nothing, and whoever tells it something must not wait for that."""
        while (message := self._outgoing.get()) is not None:
            try:
                send(self._connection, message)
            except OSError:
                return
            except Exception as error:  # of the packing: nothing was sent, and what is asked next may be better
                _log.exception("a worker cannot be sent a message: %s", message.get("op"))
                self._settle(message.get("id", 0), None, f"the worker cannot be sent this: {error}")

    def _read(self) -> None:
        """On a thread: take what it says, until there is no more."""
        while True:
            try:
                message = receive(self._connection)
            except (EOFError, OSError):
                return
            except Exception:
                _log.exception("a worker sent what cannot be read")
                self.kill("it sent what cannot be read")
                return
            try:
                self._take(message)
            except Exception:  # who listens must not be able to end the listening
                _log.exception("a message of a worker was not taken: %s", message.get("op"))

    def _await_death(self) -> None:
        """On a thread: when the process has ended, and what it said last was read, tell everybody who waits.

        Its own end is what counts: a process that a pack left behind may hold the connection open.
        """
        code = self._process.wait()
        _kill(self._process)  # what it has started and left behind
        self._reader.join(_LAST_WORDS)
        self._bury(code)

    def _take(self, message: Mapping[str, Any]) -> None:
        self.last_heard = time.monotonic()
        number = message.get("id", 0)
        match message["op"]:
            case "events" if number in self._listeners:
                self._listeners[number].on_events([event_from_plain(plain) for plain in message["events"]])
            case "at_work" if number in self._listeners:
                self._listeners[number].on_work(*message["call"])
            case "rested" if number in self._listeners:
                self._listeners[number].on_rest(message["node"])
            case "asking":
                self._asking.pop(message["thread"], None)
                if message["hook"] is not None:
                    self._asking[message["thread"]] = message["hook"]
            case "result":
                self._settle(number, message["result"], None)
            case "answer":
                self._settle(number, message.get("value"), message.get("error"))
            case "broadcast":
                self._on_broadcast(message["name"], message["data"], message["client"])
            case "loading":
                self.loading, self.loading_since = message["pack"], time.monotonic()
            case "ready":
                self.loading = None
                self.ready.set_result(dict(message))

    def _settle(self, number: int, value: Any, error: str | None) -> None:
        with self._lock:
            future = self._pending.pop(number, None)
            self._listeners.pop(number, None)
        if future is None:
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(MezzotintError(error))

    def _bury(self, code: int) -> None:
        """The process is gone: tell everybody who waits for it."""
        error = WorkerDied(self._verdict or _how(code))
        with self._lock:
            waiting = [*self._pending.values()]
            self._pending.clear()
            self._buried = True
        self._outgoing.put(None)
        self._sender.join(_LAST_WORDS)
        self._connection.close()
        self._clear_away()
        for future in waiting:
            future.set_exception(error)
        with contextlib.suppress(InvalidStateError):  # it was ready long ago
            self.ready.set_exception(error)

    def _clear_away(self) -> None:
        """Remove what a process leaves that had no time to."""
        sign_out(self._shared, self.pid)
        if self.ready.done() and self.ready.exception() is None:
            web = self.ready.result().get("web")
            if web is not None:
                WebAddress.from_plain(web).remove()


def _how(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"it ended its process (exit code {code})"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hints = {"SIGKILL": ": the machine may have run out of memory", "SIGSEGV": ": a library it uses crashed"}
    return f"its process was ended by {name}{hints.get(name, '')}"


def _start(settings: WorkerSettings, is_unwanted: Callable[[], bool]) -> tuple[subprocess.Popen[str], Connection]:
    key = secrets.token_bytes(32)
    with sockets.Listener(None, authkey=key) as listener:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START],  # -P: nothing is imported from the folder it is started in
                stdin=subprocess.PIPE,
                stdout=2,  # what packs print is for people; standard output may be read by a program
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # to be ended with all that it has started
            )
        except OSError as error:
            raise NotStarted(f"a worker could not be started: {error}") from error
        assert process.stdin is not None
        try:
            started = {"address": listener.address, "key": key.hex(), "settings": settings.to_json()}
            process.stdin.write(json.dumps(started) + "\n")
            process.stdin.close()
        except OSError:
            pass  # it has ended already, which is found out below
        return process, _accept(listener, process, is_unwanted)


def _accept(listener: sockets.Listener, process: subprocess.Popen[str], is_unwanted: Callable[[], bool]) -> Connection:
    """The connection of ``process``; raises ``NotStarted`` if it ends without one."""
    accepted: SimpleQueue[Connection | Exception] = SimpleQueue()

    def wait() -> None:
        try:
            accepted.put(listener.accept())
        except Exception as error:  # closed, since the process has ended, or somebody else tried without the key
            accepted.put(error)

    threading.Thread(target=wait, daemon=True).start()
    deadline = time.monotonic() + _TO_CONNECT
    while True:
        try:
            got = accepted.get(timeout=_POLL)
        except Empty:
            if process.poll() is not None:
                raise NotStarted(f"a worker could not be started: {_how(process.returncode)}") from None
            if time.monotonic() < deadline and not is_unwanted():
                continue
            got = TimeoutError(
                "nobody waits for it any more" if is_unwanted() else f"no answer within {_TO_CONNECT:g} s"
            )
        if not isinstance(got, Exception):
            return got
        _kill(process)
        process.wait()
        raise NotStarted(f"a worker could not be started: {got}")


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process at once, and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
