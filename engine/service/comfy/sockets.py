"""``/ws``: ComfyUI's websocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine.service.comfy.frames import text_frame
from engine.service.comfy.hub import Hub, Socket
from engine.service.comfy.system import features
from engine.service.desk import desk_of, work_of

_LONGEST_ID = 256


def routes() -> list[BaseRoute]:
    return [WebSocketRoute(path, _serve) for path in ("/ws", "/api/ws")]


async def _serve(websocket: WebSocket) -> None:
    hub = work_of(websocket).hub
    await websocket.accept()
    sid = websocket.query_params.get("clientId", "")
    socket = hub.join(sid if 0 < len(sid) <= _LONGEST_ID else None)
    sending = asyncio.create_task(_send(websocket, socket))
    try:
        await _receive(websocket, socket, hub)
    finally:
        hub.leave(socket)
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await sending


async def _send(websocket: WebSocket, socket: Socket) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
        while (frame := await socket.next()) is not None:
            await (websocket.send_text(frame) if isinstance(frame, str) else websocket.send_bytes(frame))
        await websocket.close()


async def _receive(websocket: WebSocket, socket: Socket, hub: Hub) -> None:
    """The first message may say what the client can do; all others count for nothing."""
    is_first = True
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if is_first and (flags := _flags(message.get("text"))) is not None:
            socket.wants_metadata = flags.get("supports_preview_metadata") is True
            socket.send(text_frame("feature_flags", features(desk_of(websocket).settings.limits)))
        is_first = False


def _flags(text: str | None) -> dict[str, Any] | None:
    try:
        message = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or message.get("type") != "feature_flags":
        return None
    data = message.get("data")
    return data if isinstance(data, dict) else None
