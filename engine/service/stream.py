"""``/v1/stream``: everything that happens, from any number on, without a hole; and what can be asked, over one websocket.

The frames are described in ``engine.service.wire``. A subscription replays what the store has after a number and goes on with what comes;
a reader may be as slow as it likes, since it has a place in the sequence and not a queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine.errors import MezzotintError, UsageError, WorkflowError
from engine.jobs.feed import News, Watcher
from engine.service import intake
from engine.service.calls import call
from engine.service.comfy.routing import is_unicode
from engine.service.desk import Desk, Work, desk_of, work_of
from engine.service.sockets import FIRST_MESSAGE
from engine.service.wire import BEAT, LARGEST, VERSION, BadFrame, pack, unpack_of_client

_SUBSCRIPTIONS: Final = 64
"""Of one socket."""
_CALLS: Final = 16
"""Questions of one socket that are seen to at the same time."""
_POLICY: Final = 1008
"""The websocket code for a client that is not let in."""

_GONE: Final = (WebSocketDisconnect, RuntimeError, OSError)
"""What sending raises when nobody is there any more."""

_log: Final = logging.getLogger(__name__)


def routes() -> list[BaseRoute]:
    return [WebSocketRoute("/v1/stream", _serve)]


async def _serve(websocket: WebSocket) -> None:
    desk, work = desk_of(websocket), work_of(websocket)
    await websocket.accept()
    with contextlib.suppress(*_GONE):
        if not await _authenticated(websocket, desk):
            await websocket.close(_POLICY, "expected a token in the first message")
            return
        await Connection(websocket, desk, work).serve()


async def _authenticated(websocket: WebSocket, desk: Desk) -> bool:
    """Whether the handshake or the first message carries what lets a client in."""
    if websocket.scope.get("state", {}).get("authenticated", True):
        return True
    try:
        async with asyncio.timeout(10):
            data = await _receive(websocket)
        if len(data) > FIRST_MESSAGE:  # of a stranger, nothing is read that may take up more than it is worth
            return False
        frame = unpack_of_client(data)
    except (BadFrame, TimeoutError):
        return False
    address = websocket.client.host if websocket.client is not None else ""
    return frame.get("op") == "auth" and bool(websocket.app.state.policy.is_token(str(frame.get("token")), address))


async def _receive(websocket: WebSocket) -> bytes:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    data = message.get("bytes")
    return data if isinstance(data, bytes) else str(message.get("text") or "").encode("utf-8", "surrogatepass")


class Connection:
    """One client."""

    def __init__(self, websocket: WebSocket, desk: Desk, work: Work) -> None:
        self._websocket = websocket
        self._desk = desk
        self._work = work
        self._sending = asyncio.Lock()
        self._subscriptions: dict[Any, asyncio.Task[None]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Until it is gone."""
        beating = asyncio.create_task(self._beat())
        try:
            await self._send({"op": "hello", "version": VERSION, "last": self._work.feed.last, "largest": LARGEST})
            while True:
                await self._take(await _receive(self._websocket))
        finally:
            tasks = [beating, *self._subscriptions.values(), *self._calls]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, data: bytes) -> None:
        try:
            frame = unpack_of_client(data)
        except BadFrame as error:
            await self._refuse(None, error)
            return
        number: Any = None
        try:
            number = _fit_id(frame.get("id"))
            match frame.get("op"):
                case "subscribe":
                    await self._subscribe(number, frame)
                case "unsubscribe":
                    task = self._subscriptions.pop(number, None)
                    if task is not None:
                        task.cancel()
                case "call":
                    if len(self._calls) >= _CALLS:  # what more it asks for is read when one is answered
                        await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
                    task = asyncio.create_task(self._call(number, frame))
                    self._calls.add(task)
                    task.add_done_callback(self._calls.discard)
                case "auth":
                    pass  # it is in already
                case op:
                    raise UsageError(f"expected op to be subscribe, unsubscribe or call, found {str(op)[:40]!r}")
        except MezzotintError as error:
            await self._refuse(number, error)

    # subscriptions

    async def _subscribe(self, number: Any, frame: Mapping[str, Any]) -> None:
        if number in self._subscriptions or len(self._subscriptions) >= _SUBSCRIPTIONS:
            raise UsageError(f"expected an id of its own for each of at most {_SUBSCRIPTIONS} subscriptions")
        job, after = frame.get("job"), frame.get("after", self._work.feed.last)
        if not (job is None or isinstance(job, str)) or type(after) is not int or not 0 <= after < 2**63:
            raise UsageError("expected job to be an id or null and after to be an event's number")
        watcher = self._work.feed.watch(min(after, self._work.feed.last), job, previews=frame.get("previews") is True)
        try:
            # looked for when it is watched already, so that its end is not missed
            if job is not None and not (is_unicode(job) and await self._has(job)):
                raise UsageError(f"there is no job {job[:80]!r}")
            await self._send({"op": "subscribed", "id": number, "after": watcher.after})
        except BaseException:
            watcher.close()
            raise
        task = asyncio.create_task(self._follow(number, watcher))
        task.add_done_callback(lambda _: watcher.close())  # also where it is cancelled before it has begun
        self._subscriptions[number] = task

    async def _has(self, job: str) -> bool:
        return await asyncio.to_thread(self._work.store.get, job) is not None

    async def _follow(self, number: Any, watcher: Watcher) -> None:
        """Until the reader is gone, or there is no more to tell."""
        with contextlib.suppress(*_GONE):  # the reading side finds out too
            while True:
                try:
                    news = await watcher.next()
                except Exception as error:  # whatever it is, who listens must not wait for ever
                    self._subscriptions.pop(number, None)
                    await self._refuse(number, _told(error, "the subscription"))
                    return
                await self._tell(number, news)

    async def _tell(self, number: Any, news: News) -> None:
        if news.gap is not None:
            await self._send({"op": "gap", "id": number, **asdict(news.gap)})
        for frame in self._work.event_frames.of(number, news.chunks):
            await self._send_packed(frame)
        for preview in news.previews:
            shown = {"job": preview.job, "node": preview.node, "shown": preview.shown, "image": preview.image}
            await self._send({"op": "preview", "id": number, **shown})

    async def _beat(self) -> None:
        with contextlib.suppress(*_GONE):
            while True:
                await asyncio.sleep(BEAT)
                await self._send({"op": "beat", "last": self._work.feed.last})

    # questions

    async def _call(self, number: Any, frame: Mapping[str, Any]) -> None:
        method, params = frame.get("method"), frame.get("params")
        with contextlib.suppress(*_GONE):
            try:
                result = await call(self._desk, self._work, method, params)
            except Exception as error:  # whatever it is, who asked must not wait for ever
                await self._refuse(number, _told(error, f"the call {str(method)[:40]!r}"))
                return
            await self._send({"op": "answer", "id": number, "result": result})

    async def _refuse(self, number: Any, error: MezzotintError) -> None:
        details = intake.problems_of(error) if isinstance(error, WorkflowError) else []
        type_ = type(error).__name__
        await self._send({"op": "error", "id": number, "type": type_, "message": str(error), "details": details})

    async def _send(self, frame: Mapping[str, Any]) -> None:
        await self._send_packed(pack(frame))

    async def _send_packed(self, frame: bytes) -> None:
        async with self._sending:
            await self._websocket.send_bytes(frame)


def _told(error: Exception, what: str) -> MezzotintError:
    """What the client is told of an error."""
    if isinstance(error, MezzotintError):
        return error
    _log.error("%s failed", what, exc_info=error)
    return UsageError(f"{what} failed ({type(error).__name__}); the service's log says why")


def _fit_id(number: Any) -> Any:
    if number is None or isinstance(number, int | float) or (isinstance(number, str) and len(number) <= 64):
        return number
    raise UsageError("expected id to be a number or a text of at most 64 characters")
