"""A small app behind the guard, and raw requests to it: headers are sent letter by letter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message
from starlette.websockets import WebSocket

from engine.service.origins import checked_origin
from engine.service.security import Policy

TOKEN = "correct-horse-battery"
HOST = "127.0.0.1:8188"
OWN = f"http://{HOST}"
PARTNER = "https://partner.example"


@dataclass
class Answer:
    """What came back over the wire."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def all_of(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def __getitem__(self, name: str) -> str:
        (value,) = self.all_of(name)
        return value


async def echo(request: Request) -> Response:
    body = await request.body()
    state = request.scope["state"]["authenticated"]
    return PlainTextResponse(f"{request.method} {len(body)} {state}")


async def own_headers(request: Request) -> Response:
    return PlainTextResponse(
        "own",
        headers={
            "Content-Security-Policy": "default-src 'self'",
            "Referrer-Policy": "no-referrer",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Vary": "Accept",
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Expose-Headers": "*",
        },
    )


async def split_header(request: Request) -> Response:
    return PlainTextResponse("x", headers={"X-Name": request.query_params["name"]})


async def split_accept(websocket: WebSocket) -> None:
    await websocket.accept(headers=[(b"x-name", websocket.query_params["name"].encode())])
    await websocket.send_text("in")


async def early(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"early "
        async for _ in request.stream():
            pass
        yield b"late"

    return StreamingResponse(parts())


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(str(websocket.scope["state"]["authenticated"]))
    await websocket.receive()


def app() -> Starlette:
    methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
    return Starlette(
        routes=[
            Route("/own", own_headers),
            Route("/split", split_header),
            Route("/early", early, methods=["POST"]),
            WebSocketRoute("/ws", socket),
            WebSocketRoute("/split", split_accept),
            WebSocketRoute("/v1/stream", socket),
            Route("/{path:path}", echo, methods=methods),
        ]
    )


def partnered_policy() -> Policy:
    """A service on this machine whose pages another site may show and talk to."""
    return Policy(allow_origins=frozenset({checked_origin(PARTNER)}), frame_ancestors=(PARTNER,))


def scope_of(kind: str, path: str, headers: Sequence[tuple[str, str]], **more: Any) -> dict[str, Any]:
    bare, _, query = path.partition("?")
    names = {name.lower() for name, _ in headers}
    full = [*([] if "host" in names else [("host", HOST)]), *headers]
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": bare,
        "raw_path": bare.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in full if value != "-"],
        "client": ("203.0.113.9", 50000),
        "server": ("127.0.0.1", 8188),
        **more,
    }


async def exchange(guard: ASGIApp, scope: dict[str, Any], incoming: list[Message]) -> list[Message]:
    sent: list[Message] = []
    gone = {"type": "http.disconnect" if scope["type"] == "http" else "websocket.disconnect", "code": 1000}

    async def receive() -> Message:
        await asyncio.sleep(0)
        return incoming.pop(0) if incoming else gone

    async def send(message: Message) -> None:
        sent.append(message)

    await guard(scope, receive, send)
    return sent


def ask(
    guard: ASGIApp,
    method: str = "GET",
    path: str = "/x",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    body: Sequence[bytes] = (b"",),
    **more: Any,
) -> Answer:
    """One request. A header whose value is ``-`` is left out, among them the Host that there is else."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    parts: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    parts[-1]["more_body"] = False
    sent = asyncio.run(exchange(guard, scope_of("http", path, pairs, method=method, **more), parts))
    start, *rest = sent
    assert [message["type"] for message in sent].count("http.response.start") == 1
    found = [(bytes(name).decode(), bytes(value).decode("latin-1")) for name, value in start["headers"]]
    return Answer(start["status"], found, b"".join(message.get("body", b"") for message in rest))


def shake(guard: ASGIApp, path: str = "/ws", headers: Mapping[str, str] | None = None, **more: Any) -> Answer | str:
    """A websocket's handshake: what the socket said first, or the answer that refused it."""
    more.setdefault("extensions", {"websocket.http.response": {}})
    scope = scope_of("websocket", path, list((headers or {}).items()), subprotocols=[], **more)
    sent = asyncio.run(exchange(guard, scope, [{"type": "websocket.connect"}]))
    if sent[0]["type"] == "websocket.accept":
        return str(sent[1]["text"])
    if sent[0]["type"] == "websocket.close":
        return Answer(403)
    found = [(bytes(name).decode(), bytes(value).decode()) for name, value in sent[0]["headers"]]
    return Answer(sent[0]["status"], found, sent[1]["body"])


def status_of(found: Answer | str) -> int:
    return found.status if isinstance(found, Answer) else 101
