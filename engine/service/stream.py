"""``/v1/stream``: everything that happens, from any number on, without a hole; and what can be asked, over one websocket.

The frames are described in ``engine.service.wire``. A subscription replays what the store has after a number and goes on with what comes;
a reader may be as slow as it likes, since it has a place in the sequence and not a queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine.errors import MezzotintError, UsageError, WorkflowError
from engine.jobs.feed import Watcher
from engine.service import intake
from engine.service.comfy.routing import is_unicode
from engine.service.desk import Desk, Work, desk_of, work_of
from engine.service.sockets import FIRST_MESSAGE
from engine.service.wire import BEAT, VERSION, BadFrame, pack, unpack

_SUBSCRIPTIONS: Final = 64
"""Of one socket."""
_CALLS: Final = 16
"""Questions of one socket that are seen to at the same time."""
_POLICY: Final = 1008
"""The websocket code for a client that is not let in."""

_log: Final = logging.getLogger(__name__)


def routes() -> list[BaseRoute]:
    return [WebSocketRoute("/v1/stream", _serve)]


async def _serve(websocket: WebSocket) -> None:
    desk, work = desk_of(websocket), work_of(websocket)
    await websocket.accept()
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
        if not await _authenticated(websocket, desk):
            await websocket.close(_POLICY, "expected a token in the first message")
            return
        await Connection(websocket, desk, work).serve()


async def _authenticated(websocket: WebSocket, desk: Desk) -> bool:
    """Whether the handshake or the first message carries what lets a client in."""
    if websocket.scope.get("state", {}).get("authenticated", True):
        return True
    try:
        data = await asyncio.wait_for(_receive(websocket), timeout=10)
        if len(data) > FIRST_MESSAGE:  # of a stranger, nothing is read that may take up more than it is worth
            return False
        frame = unpack(data)
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
            await self._send({"op": "hello", "version": VERSION, "last": self._work.feed.last})
            while True:
                await self._take(await _receive(self._websocket))
        finally:
            tasks = [beating, *self._subscriptions.values(), *self._calls]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, data: bytes) -> None:
        try:
            frame = unpack(data)
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
        if job is not None and not (is_unicode(job) and await self._has(job)):
            raise UsageError(f"there is no job {job[:80]!r}")
        watcher = self._work.feed.watch(min(after, self._work.feed.last), job)
        await self._send({"op": "subscribed", "id": number, "after": watcher.after})
        task = asyncio.create_task(self._follow(number, watcher, wants_previews=frame.get("previews") is True))
        task.add_done_callback(lambda _: watcher.close())  # also where it is cancelled before it has begun
        self._subscriptions[number] = task

    async def _has(self, job: str) -> bool:
        return await asyncio.to_thread(self._work.store.get, job) is not None

    async def _follow(self, number: Any, watcher: Watcher, *, wants_previews: bool) -> None:
        try:
            while True:
                chunks, previews = await watcher.next()
                for frame in self._work.event_frames.of(number, chunks):
                    await self._send_packed(frame)
                for preview in previews if wants_previews else ():
                    await self._send(
                        {
                            "op": "preview",
                            "id": number,
                            "job": preview.job,
                            "node": preview.node,
                            "shown": preview.shown,
                            "image": preview.image,
                        }
                    )
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # the reading side finds out too

    async def _beat(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            while True:
                await asyncio.sleep(BEAT)
                await self._send({"op": "beat", "last": self._work.feed.last})

    # questions

    async def _call(self, number: Any, frame: Mapping[str, Any]) -> None:
        method, params = frame.get("method"), frame.get("params")
        try:
            call = _METHODS.get(method) if isinstance(method, str) else None
            if call is None or not isinstance(params, dict):
                raise UsageError(f"expected a method among {', '.join(_METHODS)} and params, a map")
            result = await call(self._desk, self._work, params)
            await self._send({"op": "answer", "id": number, "result": result})
        except MezzotintError as error:
            await self._refuse(number, error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # params of other types than they should be
            await self._refuse(number, UsageError(f"these params cannot be used: {type(error).__name__}: {error}"))
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass
        except Exception as error:  # whatever it is, who asked must not wait for ever
            _log.exception("the call %r failed", method)
            await self._refuse(
                number, UsageError(f"the call failed ({type(error).__name__}); the service's log says why")
            )

    async def _refuse(self, number: Any, error: MezzotintError) -> None:
        details = intake.problems_of(error) if isinstance(error, WorkflowError) else []
        type_ = type(error).__name__
        await self._send({"op": "error", "id": number, "type": type_, "message": str(error), "details": details})

    async def _send(self, frame: Mapping[str, Any]) -> None:
        await self._send_packed(pack(frame))

    async def _send_packed(self, frame: bytes) -> None:
        async with self._sending:
            await self._websocket.send_bytes(frame)


def _fit_id(number: Any) -> Any:
    if number is None or isinstance(number, int | float) or (isinstance(number, str) and len(number) <= 64):
        return number
    raise UsageError("expected id to be a number or a text of at most 64 characters")


def _job_id(params: Mapping[str, Any]) -> str:
    job = params.get("job")
    if not isinstance(job, str):
        raise UsageError("expected job, the id of one")
    return job


def _optional_text(params: Mapping[str, Any], name: str) -> str | None:
    text = params.get(name)
    if text is not None and not (isinstance(text, str) and len(text) <= 256 and is_unicode(text)):
        raise UsageError(f"expected {name} to be a text of at most 256 characters, or none")
    return text


def _whole(params: Mapping[str, Any], name: str, default: int) -> int:
    number = params.get(name, default)
    if type(number) is not int or not 0 <= number < 2**31:
        raise UsageError(f"expected {name} to be a whole number from 0, found {str(number)[:40]!r}")
    return number


async def _submit(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    from engine.service.native import NewJob

    key = _optional_text(params, "idempotency_key")
    params.pop("idempotency_key", None)
    body = NewJob.model_validate(params)
    submitted = await intake.submit(desk, work, {**body.model_dump(), "idempotency_key": key})
    return intake.job_to_plain(submitted.job)


async def _get(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    job = await asyncio.to_thread(work.store.get, _job_id(params))
    if job is None:
        raise UsageError(f"there is no job {_job_id(params)[:80]!r}")
    return intake.job_to_plain(job)


async def _list(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    limit, offset = min(_whole(params, "limit", 100), intake.MOST), _whole(params, "offset", 0)
    client = _optional_text(params, "client")
    states, labels = [str(state) for state in params.get("states") or ()], dict(params.get("labels") or {})
    found = await asyncio.to_thread(
        lambda: work.store.find(
            states=states,  # type: ignore[arg-type]  # an unknown state finds nothing
            labels={str(name): str(value) for name, value in labels.items()},
            client=client,
            limit=limit,
            offset=offset,
        )
    )
    return [intake.job_to_plain(job) for job in found]


async def _cancel(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    return await work.dispatcher.cancel(_job_id(params))


async def _pause(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    return await work.dispatcher.pause(_job_id(params))


async def _resume(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    return await work.dispatcher.resume(_job_id(params))


async def _outputs(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    return [intake.output_to_plain(found) for found in await asyncio.to_thread(work.store.outputs, _job_id(params))]


async def _fetch(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    """The bytes of an output, by the digest of its content."""
    path = await asyncio.to_thread(intake.output_path, desk, work, str(params.get("digest")))
    if path is None:
        raise UsageError("there is no file with this content any more")
    return await asyncio.to_thread(path[0].read_bytes)


async def _upload(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    from engine.service.comfy.uploads import store_input

    name, data = params.get("name"), params.get("data")
    if not isinstance(name, str) or not isinstance(data, bytes):
        raise UsageError("expected name, a text, and data, bytes")
    overwrite = params.get("overwrite") is True
    return await asyncio.to_thread(
        lambda: dict(store_input(desk.files.roots, desk.settings.limits, name, data, overwrite=overwrite))
    )


_METHODS: Final[Mapping[str, Callable[[Desk, Work, dict[str, Any]], Awaitable[Any]]]] = {
    "submit": _submit,
    "get": _get,
    "list": _list,
    "cancel": _cancel,
    "pause": _pause,
    "resume": _resume,
    "outputs": _outputs,
    "fetch": _fetch,
    "upload": _upload,
}
