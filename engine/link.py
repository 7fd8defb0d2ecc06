"""One websocket to a service, connected again whenever it is cut: questions are asked again, subscriptions go on where they were."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from engine.errors import MezzotintError
from engine.service.wire import BadFrame, pack, unpack
from engine.subscription import Subscription, Watched

_FIRST: Final = 0.1
_LONGEST: Final = 5.0
"""Seconds between two tries to connect; they double."""
_SILENCE: Final = 45.0
"""Seconds without a frame after which the connection counts as cut: there is a sign of life every 15."""
_CUTS: Final = 5
"""How often at least the connection is cut while a question is open, before that is taken to be why."""
_REFUSED: Final = 1008
_TOO_LARGE: Final = 1009
"""Websocket codes."""


class ServiceError(MezzotintError):
    """The service refused; ``type`` says what kind of refusal it is, ``problems`` what is wrong with a workflow."""

    def __init__(self, type_: str, message: str, problems: list[dict[str, Any]]) -> None:
        self.type = type_
        self.problems = problems
        super().__init__(message)


class Unreachable(MezzotintError):
    """No service answers at the address."""


@dataclass(slots=True)
class _Question:
    method: str
    frame: bytes
    asked: float
    cuts: int = 0
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, result: Any) -> None:
        if not self.answer.done():
            self.answer.set_result(result)

    def fail(self, error: MezzotintError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # whoever asked may be gone


class Link:
    """Belongs to an event loop."""

    def __init__(self, address: str, token: str | None, *, first_patience: float, patience: float) -> None:
        """``first_patience``, ``patience``: seconds for which it tries to connect, at first and whenever it was cut."""
        self._address = address
        self._token = token
        self._first_patience, self._patience = first_patience, patience
        self._numbers = itertools.count(1)
        self._socket: ClientConnection | None = None
        self._changed = asyncio.Event()
        """Set while there is a connection, and when there will be none any more."""
        self._largest: int | None = None
        self._questions: dict[int, _Question] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._task: asyncio.Task[None] | None = None
        self._failure: MezzotintError | None = None
        self._has_moved = False
        """Whether anything came of the connection that there is."""

    async def open(self) -> None:
        """Raises ``Unreachable`` or ``ServiceError``."""
        self._task = asyncio.create_task(self._stay_connected())
        await self._changed.wait()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        self._fail(Unreachable("the client was closed"))
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def call(self, method: str, params: Mapping[str, Any]) -> Any:
        """Ask until there is an answer: a question whose connection is cut is asked again.

        Raises ``ServiceError``, or ``Unreachable`` where there is no service any more, or where it is cut again and again over this.
        """
        number = next(self._numbers)
        frame = pack({"op": "call", "id": number, "method": method, "params": params})
        if self._failure is not None:
            raise self._failure
        if self._largest is not None and len(frame) > self._largest:
            raise _too_large(method, len(frame), f"at most {self._largest}")
        question = self._questions[number] = _Question(method, frame, asyncio.get_running_loop().time())
        try:
            await self._send(frame)
            return await question.answer
        finally:
            self._questions.pop(number, None)

    async def subscribe(self, subscription: Subscription) -> int:
        """Have it told what it asks for, from where it is. Returns the number to ``fetch`` it by."""
        if self._failure is not None:
            raise self._failure
        number = next(self._numbers)
        self._subscriptions[number] = subscription
        await self._send(pack(subscription.request(number)))
        return number

    async def fetch(self, number: int, subscription: Subscription) -> tuple[int, Watched]:
        """The next that has arrived, and the number to fetch more by."""
        if number not in self._subscriptions and subscription.wants_more:
            try:
                number = await self.subscribe(subscription)
            except MezzotintError as error:
                subscription.end(error)  # told of when all was fetched
        return number, await subscription.fetch()

    async def unsubscribe(self, number: int) -> None:
        if self._subscriptions.pop(number, None) is not None:
            await self._send(pack({"op": "unsubscribe", "id": number}))

    async def _send(self, frame: bytes) -> None:
        """Now, or when it is connected again: all that is open is sent then."""
        if self._socket is not None:
            with contextlib.suppress(WebSocketException, OSError):
                await self._socket.send(frame)

    # the connection

    async def _stay_connected(self) -> None:
        try:
            wait, patience = _FIRST, self._first_patience
            while True:
                self._has_moved = False
                async with await self._connect(patience) as socket:
                    await self._use(socket)
                wait, patience = _FIRST if self._has_moved else min(wait * 2, _LONGEST), self._patience
                await asyncio.sleep(wait if wait > _FIRST else 0)
        except MezzotintError as error:
            self._fail(error)
        except Exception as error:
            self._fail(Unreachable(f"the connection failed ({type(error).__name__}: {error})"))
            raise

    async def _use(self, socket: ClientConnection) -> None:
        """Until it is cut. Raises ``MezzotintError`` where it need not be tried again."""
        try:
            await self._listen(socket)
        except ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd is not None else None
            if code == _REFUSED:
                raise ServiceError("refused", f"the service closed the connection: {error.rcvd}", []) from error
            if code == _TOO_LARGE and self._questions:
                largest = max(self._questions.values(), key=lambda question: len(question.frame))
                largest.fail(_too_large(largest.method, len(largest.frame), "less"))
        except (WebSocketException, OSError, TimeoutError, BadFrame):
            pass
        finally:
            self._socket = None
            if self._failure is None:
                self._changed.clear()
        self._count_cut()

    def _count_cut(self) -> None:
        now = asyncio.get_running_loop().time()
        for question in self._questions.values():
            question.cuts += 1
            if question.cuts >= _CUTS and now - question.asked > self._patience:
                question.fail(
                    Unreachable(
                        f"the connection was cut {question.cuts} times while the service was asked to {question.method}"
                    )
                )

    async def _connect(self, patience: float) -> ClientConnection:
        """Try until it works. Raises ``Unreachable``, or ``ServiceError`` where the service does not let it in."""
        deadline = asyncio.get_running_loop().time() + patience
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        wait = _FIRST
        while True:
            try:
                # no pings of its own: the service sends signs of life, and they would wait behind a long upload
                return await connect(
                    self._address,
                    additional_headers=headers,
                    max_size=None,
                    compression=None,
                    open_timeout=10,
                    ping_interval=None,
                )
            except InvalidStatus as error:
                status = error.response.status_code
                if status in (401, 403, 404):
                    why = f"the service does not let this client in (status {status}); give a token, or another address"
                    raise ServiceError("refused", why, []) from error
                cause: Exception = error
            except (OSError, TimeoutError, WebSocketException, EOFError) as error:
                cause = error
            if asyncio.get_running_loop().time() + wait > deadline:
                raise Unreachable(
                    f"no service answers at {self._address} ({cause}); start one with mezzotint serve"
                ) from cause
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST)

    async def _listen(self, socket: ClientConnection) -> None:
        hello = await self._receive(socket)
        if hello.get("op") != "hello":
            raise Unreachable(f"what answers at {self._address} is no service of ours")
        self._largest = hello.get("largest")
        self._socket = socket
        for number, subscription in list(self._subscriptions.items()):
            if number in self._subscriptions:  # still: it may have been given up meanwhile
                await socket.send(pack(subscription.request(number)))
        for number, question in list(self._questions.items()):
            if number in self._questions:
                await socket.send(question.frame)
        self._changed.set()
        while True:
            await self._take(await self._receive(socket))

    async def _receive(self, socket: ClientConnection) -> dict[str, Any]:
        async with asyncio.timeout(_SILENCE):
            data = await socket.recv(decode=False)
        return unpack(data)

    async def _take(self, frame: Mapping[str, Any]) -> None:
        number = frame.get("id")
        question = self._questions.get(number) if isinstance(number, int) else None
        subscription = self._subscriptions.get(number) if isinstance(number, int) else None
        self._has_moved = self._has_moved or question is not None or frame.get("op") == "events"
        match frame.get("op"):
            case "answer" if question is not None:
                question.settle(frame["result"])
            case "error":
                error = ServiceError(str(frame.get("type")), str(frame.get("message")), frame.get("details") or [])
                if question is not None:
                    question.fail(error)
                elif isinstance(number, int) and subscription is not None:
                    del self._subscriptions[number]
                    subscription.end(error)
            case _ if isinstance(number, int) and subscription is not None:
                subscription.take(frame)
                if subscription.is_full:
                    await self.unsubscribe(number)

    def _fail(self, error: MezzotintError) -> None:
        """Nothing will be answered any more."""
        self._failure = self._failure or error
        self._changed.set()
        for question in self._questions.values():
            question.fail(self._failure)
        for subscription in self._subscriptions.values():
            subscription.end(self._failure)


def _too_large(method: str, size: int, expected: str) -> ServiceError:
    return ServiceError(
        "too_large", f"{method}: expected {expected} bytes in one message, found {size}; send less at once", []
    )
