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
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from functools import partial
from typing import Any, Final, Self, TypeVar

from engine.jobs.records import Gap, StoredEvent
from engine.link import Link, ServiceError, Unreachable
from engine.subscription import Preview, Subscription, Watched

__all__ = ["Client", "Gap", "Preview", "ServiceError", "SyncClient", "Unreachable", "Watched"]

T = TypeVar("T")
Records = list[dict[str, Any]]

_PART: Final = 2 * 2**20
"""Bytes of a file in one answer: over a thin line too it arrives before the connection counts as cut."""
_PATIENCE: Final = 30.0


class Client:
    """Belongs to an event loop; to be used with ``async with``."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8188",
        *,
        token: str | None = None,
        patience: float = _PATIENCE,
        first_patience: float | None = None,
    ) -> None:
        """``patience``: seconds for which it tries to connect whenever it was cut; ``first_patience``: at first, if that is another."""
        address = url.rstrip("/").replace("http", "ws", 1) + "/v1/stream"
        first = patience if first_patience is None else first_patience
        self._link = Link(address, token, first_patience=first, patience=patience)

    async def __aenter__(self) -> Self:
        """Raises ``Unreachable`` or ``ServiceError``."""
        try:
            await self._link.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._link.close()

    # what can be asked

    async def submit(self, workflow: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Have a workflow run; the job is on disk when this returns. Options: targets, client, priority, front, labels, use_cache,
        stop_on_failure, idempotency_key, id.

        Sent again after a cut connection it is the same job. Raises ``ServiceError`` with all problems of a workflow that is wrong.
        """
        options.setdefault("idempotency_key", uuid.uuid4().hex)
        job: dict[str, Any] = await self._link.call("submit", {"workflow": dict(workflow), **options})
        return job

    async def get(self, job: str) -> dict[str, Any]:
        """A job as it stands."""
        found: dict[str, Any] = await self._link.call("get", {"job": job})
        return found

    async def list(self, **asked: Any) -> Records:
        """Jobs, the newest first. Asked for by states, labels, client, limit, offset."""
        found: Records = await self._link.call("list", asked)
        return found

    async def cancel(self, job: str) -> bool:
        return bool(await self._link.call("cancel", {"job": job}))

    async def pause(self, job: str) -> bool:
        return bool(await self._link.call("pause", {"job": job}))

    async def resume(self, job: str) -> bool:
        return bool(await self._link.call("resume", {"job": job}))

    async def outputs(self, job: str) -> Records:
        """The files a job left, with the digests of their contents."""
        found: Records = await self._link.call("outputs", {"job": job})
        return found

    async def fetch(self, digest: str) -> bytes:
        """The bytes of an output."""
        data = bytearray()
        while len(data) % _PART == 0:
            part: bytes = await self._link.call("fetch", {"digest": digest, "start": len(data), "length": _PART})
            if not part:
                break
            data += part
        return bytes(data)

    async def upload(self, name: str, data: bytes, *, overwrite: bool = False) -> dict[str, str]:
        """Put a picture or other media into the service's input folder; returns its name there."""
        stored: dict[str, str] = await self._link.call("upload", {"name": name, "data": data, "overwrite": overwrite})
        return stored

    async def events(
        self, job: str | None = None, *, after: int | None = 0, previews: bool = False
    ) -> AsyncIterator[Watched]:
        """What happens, from a number on, in one job or in all; of one job until it has ended. ``after=None``: from now on.

        A ``Gap`` says that some events after a number above 0 are missing, since their jobs were deleted. Raises ``ServiceError`` for a job
        that there is not, or not any more.
        """
        following = self.follow(job, after, previews=previews)
        try:
            while (event := await following.next()) is not None:
                yield event
        finally:
            await following.close()

    def follow(self, job: str | None, after: int | None, *, previews: bool) -> Following:
        """``events`` for whoever takes them one by one, and closes it."""
        return Following(self._link, job, after, previews=previews)

    async def wait(self, job: str) -> dict[str, Any]:
        """Until a job has ended: the job."""
        async for _ in self.events(job):
            pass
        return await self.get(job)


class Following:
    """A subscription that is under way."""

    def __init__(self, link: Link, job: str | None, after: int | None, *, previews: bool) -> None:
        self._link = link
        self._job = job
        self._subscription = Subscription(job, after, previews)
        self._number: int | None = None
        self._has_ended = False

    async def next(self) -> Watched | None:
        """None when the job has ended."""
        if self._has_ended:
            return None
        if self._number is None:
            self._number = await self._link.subscribe(self._subscription)
        self._number, event = await self._link.fetch(self._number, self._subscription)
        self._has_ended = self._job is not None and isinstance(event, StoredEvent) and event.name == "job_finished"
        return event

    async def close(self) -> None:
        if self._number is not None:
            await self._link.unsubscribe(self._number)


class SyncClient:
    """``Client`` for programs without an event loop; to be used with ``with``."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8188",
        *,
        token: str | None = None,
        patience: float = _PATIENCE,
        first_patience: float | None = None,
    ) -> None:
        """As ``Client``."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mezzotint-client", daemon=True)
        self._make = partial(Client, url, token=token, patience=patience, first_patience=first_patience)
        self._client: Client | None = None

    def __enter__(self) -> Self:
        self._thread.start()

        async def open_client() -> Client:
            return await self._make().__aenter__()

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
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # where it is the wait that was broken off
            raise

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

    def events(self, job: str | None = None, *, after: int | None = 0, previews: bool = False) -> Iterator[Watched]:
        """As ``Client.events``."""
        following = self._open.follow(job, after, previews=previews)
        try:
            while (event := self._wait(following.next())) is not None:
                yield event
        finally:
            if not self._loop.is_closed():  # it may be given up after the client
                self._wait(following.close())
