"""Tells ComfyUI's clients what happens: each job's events, told as ComfyUI would, to whom ComfyUI would tell them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any, Final

from engine.jobs.feed import Feed, JobPreview
from engine.jobs.records import Chunk, StoredEvent
from engine.jobs.store import Store
from engine.run.events import NodeBytes
from engine.service.comfy.frames import message_frame, preview_frame, text_frame
from engine.service.comfy.narrator import Audience, Binary, Message, Narrator, Only, audience_of

_REMEMBERED: Final = 200
"""Ended jobs whose messages are at hand; those of others are made again from the store."""
_BACKLOG: Final = 64 * 2**20
"""Bytes that wait for a slow reader before it is cut off; it may connect again."""
_RESULTS: Final = 2**30
"""The same of what packs send as bytes, counted apart: it is nowhere to be asked for, and one film may be larger than all else."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Socket:
    """One client's connection: what it is to be sent, in order."""

    sid: str
    wants_metadata: bool = False
    """Whether previews go with what they are of."""
    _waiting: deque[tuple[str | bytes, bool]] = field(default_factory=deque)
    """Frames, and whether they are results."""
    _bytes: int = 0
    _result_bytes: int = 0
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    is_closed: bool = False

    def send(self, frame: str | bytes, *, is_result: bool = False) -> None:
        if self.is_closed:
            return
        self._waiting.append((frame, is_result))
        self._count(frame, is_result, 1)
        if self._bytes > _BACKLOG or self._result_bytes > _RESULTS:
            self.close()
        self._woken.set()

    def send_preview(self, frame: bytes) -> None:
        """A picture that may be missed: not sent to who is behind."""
        if len(self._waiting) < 8:
            self.send(frame)

    def close(self) -> None:
        self.is_closed = True
        self._waiting.clear()
        self._woken.set()

    async def next(self) -> str | bytes | None:
        """The next frame; None when it is to be closed."""
        while not self._waiting:
            if self.is_closed:
                return None
            self._woken.clear()
            await self._woken.wait()
        frame, is_result = self._waiting.popleft()
        self._count(frame, is_result, -1)
        return frame

    def _count(self, frame: str | bytes, is_result: bool, sign: int) -> None:
        if is_result:
            self._result_bytes += sign * len(frame)
        else:
            self._bytes += sign * len(frame)


class Hub:
    """Belongs to the event loop of the service."""

    def __init__(self, store: Store, feed: Feed, active: set[str]) -> None:
        """``active``: the jobs that wait or run now."""
        self._store = store
        self._active = active
        self._sockets: dict[str, Socket] = {}
        self._narrators: dict[str, Narrator] = {}
        self._ended: OrderedDict[str, list[Any]] = OrderedDict()
        feed.listen(self)

    @property
    def remaining(self) -> int:
        """Jobs that wait or run."""
        return len(self._active)

    # sockets

    def join(self, sid: str | None) -> Socket:
        """A client has connected. Of two with one id the later one counts."""
        socket = Socket(sid or uuid.uuid4().hex)
        before = self._sockets.pop(socket.sid, None)
        if before is not None:
            before.close()
        self._sockets[socket.sid] = socket
        socket.send(text_frame("status", {**self._status(), "sid": socket.sid}))
        for narrator in self._narrators.values():
            current = narrator.current() if narrator.client == socket.sid else None
            if current is not None:
                socket.send(text_frame(current.type, current.data))
        return socket

    def leave(self, socket: Socket) -> None:
        """It is gone; the one that has taken its place stays."""
        socket.close()
        if self._sockets.get(socket.sid) is socket:
            del self._sockets[socket.sid]

    def __len__(self) -> int:
        return len(self._sockets)

    def pass_on(self, message: Message | Binary) -> None:
        """A message whose audience does not depend on a run."""
        self._send(message, None)

    def send_to(self, sid: str, name: str, data: Any) -> None:
        """To one client, if it is there."""
        if sid in self._sockets:
            self._sockets[sid].send(text_frame(name, data))

    # jobs

    def at_hand(self, job: str) -> list[Any] | None:
        """What the history says happened to a job; None where the store has to be asked: ``recalled``."""
        narrator = self._narrators.get(job)
        return self._ended.get(job) if narrator is None else narrator.history_messages()

    def recalled(self, job: str) -> list[Any]:
        """The same, of what is stored. It reads, and so is for a thread."""
        return self._recall(job).history_messages()

    def show(self, preview: JobPreview) -> None:
        narrator = self._narrators.get(preview.job)
        if narrator is None or not self._sockets:
            return
        told = narrator.preview(preview.node, preview.shown, preview.image)
        for socket in self._receivers(told.audience, narrator.client):
            frame = preview_frame(told, socket.wants_metadata)
            if preview.is_result:
                socket.send(frame, is_result=True)
            else:
                socket.send_preview(frame)

    def carry(self, message: NodeBytes) -> None:
        self.pass_on(Binary(message.kind, message.data, audience_of(message.client)))

    def hear(self, chunk: Chunk) -> None:
        narrator = self._narrators.get(chunk.job)
        for event in chunk.events:
            if narrator is None and event.name in ("job_leased", "job_finished"):
                narrator = self._recall(chunk.job, before=event.seq)
                if event.name == "job_finished" and not narrator.history_messages():
                    narrator = None  # it was taken out of the queue before it had begun: nobody was told of it
                else:
                    self._narrators[chunk.job] = narrator
            if narrator is not None:
                self._tell(narrator, event)
            self._follow(event)
            if event.name == "job_finished" and narrator is not None:
                self._end(narrator, chunk.job)
            elif event.name == "job_paused":
                self._narrators.pop(chunk.job, None)

    def _tell(self, narrator: Narrator, event: StoredEvent) -> None:
        if not self._sockets:  # most messages name every node so far: none is made that nobody hears
            narrator.replay([event])
            return
        for message in narrator.hear(event):
            self._send(message, narrator.client)

    def _follow(self, event: StoredEvent) -> None:
        """Tell everybody when the queue has changed."""
        match event.name:
            case "job_queued" | "job_resumed":
                self._active.add(event.job)
            case "job_finished" | "job_paused":
                self._active.discard(event.job)
            case "job_leased":
                pass
            case _:
                return
        if self._sockets:
            self._send_all(text_frame("status", self._status()))

    def _end(self, narrator: Narrator, job: str) -> None:
        for message in narrator.ended():
            self._send(message, narrator.client)
        self._narrators.pop(job, None)
        self._ended[job] = narrator.history_messages()
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _recall(self, job: str, before: int | None = None) -> Narrator:
        """The narrator of a job as its stored events leave it."""
        payload = self._store.payload(job)
        narrator = Narrator(job, payload.prompt if payload else {}, payload.client if payload else None)
        events = [event for chunk in self._store.events(0, job, 1_000_000) for event in chunk.events]
        narrator.replay([event for event in events if before is None or event.seq < before])
        return narrator

    # sending

    def _status(self) -> dict[str, Any]:
        return {"status": {"exec_info": {"queue_remaining": self.remaining}}}

    def _send(self, message: Message | Binary, client: str | None) -> None:
        receivers = self._receivers(message.audience, client)
        frame = message_frame(message) if receivers else ""
        for socket in receivers:
            socket.send(frame, is_result=isinstance(message, Binary))

    def _send_all(self, frame: str | bytes) -> None:
        for socket in self._sockets.values():
            socket.send(frame)

    def _receivers(self, audience: Audience, submitter: str | None) -> list[Socket]:
        if audience == "everyone":
            return list(self._sockets.values())
        named = audience.client if isinstance(audience, Only) else submitter
        return [self._sockets[named]] if named in self._sockets else []
