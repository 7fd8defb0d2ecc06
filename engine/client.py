"""A client of the service: submits, asks, and watches without missing anything.

    async with Client("http://127.0.0.1:8188") as client:
        job = await client.submit(workflow)
        async for event in client.events(job["id"]):
            print(event.seq, event.name, event.data)

One websocket carries everything. When it is cut the client connects again by itself and goes on after the last event it was given, so
that a watcher sees every event once, whatever happens in between. ``SyncClient`` is the same without asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from typing import Any, Final, Self, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from engine.errors import MezzotintError
from engine.jobs.records import StoredEvent
from engine.service.wire import pack, unpack
from engine.subscription import Preview, Subscription

__all__ = ["Client", "Preview", "ServiceError", "SyncClient", "Unreachable"]

T = TypeVar("T")
Records = list[dict[str, Any]]

_FIRST: Final = 0.1
_LONGEST: Final = 5.0
"""Seconds between two tries to connect; they double."""
_SILENCE: Final = 45.0
"""Seconds without a sign of life after which the connection counts as cut."""


class ServiceError(MezzotintError):
    """The service refused; ``type`` says what kind of refusal it is, ``problems`` what is wrong with a workflow."""

    def __init__(self, type_: str, message: str, problems: Records) -> None:
        self.type = type_
        self.problems = problems
        super().__init__(message)


class Unreachable(MezzotintError):
    """No service answers at the address."""


class Client:
    """Belongs to an event loop; to be used with ``async with``."""

    def __init__(self, url: str = "http://127.0.0.1:8188", *, token: str | None = None, patience: float = 30.0) -> None:
        """``patience``: seconds for which it tries to connect, at first and whenever the connection was cut."""
        self._address = url.rstrip("/").replace("http", "ws", 1) + "/v1/stream"
        self._token = token
        self._patience = patience
        self._numbers = itertools.count(1)
        self._socket: ClientConnection | None = None
        self._connected = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._task: asyncio.Task[None] | None = None
        self._failure: MezzotintError | None = None

    async def __aenter__(self) -> Self:
        """Raises ``Unreachable`` or ``ServiceError``."""
        self._task = asyncio.create_task(self._stay_connected())
        try:
            await self._ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # what can be asked

    async def submit(self, workflow: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Have a workflow run; the job is on disk when this returns. Options: targets, client, priority, front, labels, use_cache,
        stop_on_failure, idempotency_key, id.

        Sent again after a cut connection it is the same job. Raises ``ServiceError`` with all problems of a workflow that is wrong.
        """
        options.setdefault("idempotency_key", uuid.uuid4().hex)
        job: dict[str, Any] = await self._call("submit", {"workflow": dict(workflow), **options})
        return job

    async def get(self, job: str) -> dict[str, Any]:
        """A job as it stands."""
        found: dict[str, Any] = await self._call("get", {"job": job})
        return found

    async def list(self, **asked: Any) -> Records:
        """Jobs, the newest first. Asked for by states, labels, client, limit, offset."""
        found: Records = await self._call("list", asked)
        return found

    async def cancel(self, job: str) -> bool:
        return bool(await self._call("cancel", {"job": job}))

    async def pause(self, job: str) -> bool:
        return bool(await self._call("pause", {"job": job}))

    async def resume(self, job: str) -> bool:
        return bool(await self._call("resume", {"job": job}))

    async def outputs(self, job: str) -> Records:
        """The files a job left, with the digests of their contents."""
        found: Records = await self._call("outputs", {"job": job})
        return found

    async def fetch(self, digest: str) -> bytes:
        """The bytes of an output."""
        data: bytes = await self._call("fetch", {"digest": digest})
        return data

    async def upload(self, name: str, data: bytes, *, overwrite: bool = False) -> dict[str, str]:
        """Put a picture or other media into the service's input folder; returns its name there."""
        stored: dict[str, str] = await self._call("upload", {"name": name, "data": data, "overwrite": overwrite})
        return stored

    async def events(
        self, job: str | None = None, *, after: int | None = 0, previews: bool = False
    ) -> AsyncIterator[StoredEvent | Preview]:
        """What happens, from a number on, in one job or in all; of one job until it has ended. ``after=None``: from now on."""
        number = next(self._numbers)
        subscription = Subscription(job, after, previews)
        self._subscriptions[number] = subscription
        try:
            if self._socket is not None:
                with contextlib.suppress(WebSocketException):
                    await self._socket.send(pack(subscription.request(number)))
            while True:
                event = await self._unless_failed(subscription.fetch())
                yield event
                if job is not None and isinstance(event, StoredEvent) and event.name == "job_finished":
                    return
        finally:
            self._subscriptions.pop(number, None)
            if self._socket is not None:
                with contextlib.suppress(WebSocketException):
                    await self._socket.send(pack({"op": "unsubscribe", "id": number}))

    async def wait(self, job: str) -> dict[str, Any]:
        """Until a job has ended: the job."""
        async for _ in self.events(job):
            pass
        return await self.get(job)

    # the connection

    async def _call(self, method: str, params: Mapping[str, Any]) -> Any:
        """Ask until there is an answer: a question whose connection is cut is asked again."""
        while True:
            await self._ready()
            socket, number = self._socket, next(self._numbers)
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._answers[number] = future
            try:
                assert socket is not None
                await socket.send(pack({"op": "call", "id": number, "method": method, "params": params}))
                return await self._unless_failed(future)
            except (ConnectionError, WebSocketException):
                await asyncio.sleep(0)
            finally:
                self._answers.pop(number, None)

    async def _ready(self) -> None:
        await self._unless_failed(self._connected.wait())

    async def _unless_failed(self, wanted: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:
        """What is waited for, or the error with which the connection was given up."""
        assert self._task is not None, "use the client with async with"
        future = asyncio.ensure_future(wanted)
        try:
            await asyncio.wait([future, self._task], return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return future.result()
            raise self._failure or Unreachable("the client was closed")
        finally:
            future.cancel()

    async def _stay_connected(self) -> None:
        while self._failure is None:
            try:
                socket = await self._connect()
            except MezzotintError as error:
                self._failure = error
                return
            try:
                await self._listen(socket)
            except (WebSocketException, OSError, TimeoutError):
                pass
            finally:
                self._socket = None
                self._connected.clear()
                for future in self._answers.values():
                    if not future.done():
                        future.set_exception(ConnectionError("the connection was cut"))
                await socket.close()

    async def _connect(self) -> ClientConnection:
        """Try until it works. Raises ``Unreachable``, or ``ServiceError`` where the service does not let it in."""
        deadline = asyncio.get_running_loop().time() + self._patience
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        wait = _FIRST
        while True:
            try:
                return await connect(
                    self._address, additional_headers=headers, max_size=None, compression=None, open_timeout=10
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
        frame = unpack(_bytes(await asyncio.wait_for(socket.recv(), _SILENCE)))
        if frame.get("op") != "hello":
            raise OSError("no service of ours")
        for number, subscription in self._subscriptions.items():
            await socket.send(pack(subscription.request(number)))
        self._socket = socket
        self._connected.set()
        while True:
            self._take(unpack(_bytes(await asyncio.wait_for(socket.recv(), _SILENCE))))

    def _take(self, frame: Mapping[str, Any]) -> None:
        number = frame.get("id")
        subscription = self._subscriptions.get(number) if isinstance(number, int) else None
        match frame.get("op"):
            case "subscribed" | "events" | "preview" if subscription is not None:
                subscription.take(frame)
            case "answer" if number in self._answers and not self._answers[number].done():
                self._answers[number].set_result(frame["result"])
            case "error":
                error = ServiceError(str(frame.get("type")), str(frame.get("message")), frame.get("details") or [])
                if number in self._answers and not self._answers[number].done():
                    self._answers[number].set_exception(error)
                elif subscription is not None:
                    self._failure = error


def _bytes(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


class SyncClient:
    """``Client`` for programs without an event loop; to be used with ``with``."""

    def __init__(self, url: str = "http://127.0.0.1:8188", *, token: str | None = None, patience: float = 30.0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mezzotint-client", daemon=True)
        self._url, self._token, self._patience = url, token, patience
        self._client: Client | None = None

    def __enter__(self) -> Self:
        self._thread.start()

        async def open_client() -> Client:
            client = Client(self._url, token=self._token, patience=self._patience)
            return await client.__aenter__()

        try:
            self._client = self._wait(open_client())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._client is not None:
            self._wait(self._client.close())
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def _open(self) -> Client:
        if self._client is None:
            raise Unreachable("use the client in a with block")
        return self._client

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def submit(self, workflow: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return self._wait(self._open.submit(workflow, **options))

    def get(self, job: str) -> dict[str, Any]:
        return self._wait(self._open.get(job))

    def list(self, **asked: Any) -> Records:
        return self._wait(self._open.list(**asked))

    def cancel(self, job: str) -> bool:
        return self._wait(self._open.cancel(job))

    def pause(self, job: str) -> bool:
        return self._wait(self._open.pause(job))

    def resume(self, job: str) -> bool:
        return self._wait(self._open.resume(job))

    def outputs(self, job: str) -> Records:
        return self._wait(self._open.outputs(job))

    def fetch(self, digest: str) -> bytes:
        return self._wait(self._open.fetch(digest))

    def upload(self, name: str, data: bytes, *, overwrite: bool = False) -> dict[str, str]:
        return self._wait(self._open.upload(name, data, overwrite=overwrite))

    def wait(self, job: str) -> dict[str, Any]:
        return self._wait(self._open.wait(job))

    def events(
        self, job: str | None = None, *, after: int | None = 0, previews: bool = False
    ) -> Iterator[StoredEvent | Preview]:
        """As ``Client.events``."""
        arrived: queue.SimpleQueue[StoredEvent | Preview | BaseException | None] = queue.SimpleQueue()

        async def pass_on() -> None:
            try:
                async for event in self._open.events(job, after=after, previews=previews):
                    arrived.put(event)
                arrived.put(None)
            except MezzotintError as error:
                arrived.put(error)

        future = asyncio.run_coroutine_threadsafe(pass_on(), self._loop)
        try:
            while (event := arrived.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            future.cancel()
