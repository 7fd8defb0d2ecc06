"""The message that lets a client into the native stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.types import Message
from starlette.websockets import WebSocket

from engine.service.policy import Policy
from engine.service.stream import routes
from engine.service.wire import pack
from tests.service.guarded import TOKEN
from tests.service.jobs_app import jobs_at


@pytest.mark.parametrize(("padding", "is_let_in"), [(0, True), (3000, True), (5000, False)])
def test_a_first_message_is_short(tmp_path: Path, padding: int, is_let_in: bool) -> None:
    """One of more than 4 KiB is not read, whatever is in it."""

    async def main() -> list[Message]:
        async with jobs_at(tmp_path) as jobs:
            app = jobs.client._transport.app  # type: ignore[attr-defined]
            app.state.policy = Policy(is_loopback=False, token=TOKEN.encode())
            first = pack({"op": "auth", "token": TOKEN, "more": "x" * padding})
            coming: list[Message] = [
                {"type": "websocket.connect"},
                {"type": "websocket.receive", "bytes": first},
                {"type": "websocket.disconnect", "code": 1000},
            ]
            sent: list[Message] = []

            async def receive() -> Message:
                return coming.pop(0)

            async def send(message: Message) -> None:
                sent.append(message)

            scope = {"type": "websocket", "app": app, "state": {"authenticated": False}, "client": ("127.0.0.1", 1)}
            await routes()[0].endpoint(WebSocket(scope, receive, send))  # type: ignore[attr-defined]
            return sent

    kinds = [message["type"] for message in asyncio.run(main())]
    assert kinds[1:] == (["websocket.send"] if is_let_in else ["websocket.close"])
