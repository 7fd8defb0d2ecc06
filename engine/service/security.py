"""The service's door: every request and websocket passes it before a route sees it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import quote, unquote_plus

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.service.credentials import Credentials, new_session, session_cookie
from engine.service.login import LARGEST_FORM, login_page, token_of_form
from engine.service.origins import SECURE
from engine.service.policy import (
    LOGIN,
    Allow,
    Asked,
    Decision,
    Policy,
    Preflight,
    Refuse,
    decide,
    is_foreign,
    too_large,
)
from engine.service.sockets import Sockets, admitting

__all__ = ["Guard", "Policy", "decide"]

_log: Final = logging.getLogger(__name__)
_SPENT: Final = Refuse(429, "expected fewer wrong tokens from this address, found too many; wait a minute", True)
_PREFLIGHT: Final = {
    b"access-control-allow-methods": b"POST, GET, DELETE, PUT, PATCH, OPTIONS",
    b"access-control-allow-headers": b"Content-Type, Authorization, X-Mezzotint-Token, Idempotency-Key, Comfy-User",
}
_PATH: Final = "/:@!$&'()*+,;=~"
_QUERY: Final = _PATH + "?%"
_STARTS: Final = frozenset({"http.response.start", "websocket.http.response.start"})
_FORBIDDEN: Final = b"\r\n\0"
_JOINED: Final = frozenset({b"vary", b"content-security-policy"})
"""Headers that may come twice: what both say holds, so that a policy of the app's does not take away who may frame it."""
_OURS: Final = b"access-control-"
"""Headers of this kind are the guard's alone to give: the app knows no origins."""


class Guard:
    """ASGI middleware that keeps a ``Policy``. What it lets in carries ``scope["state"]["authenticated"]``.

    ``linger`` is for how many seconds a login is waited for, and the rest of a body that was refused is still read and thrown away.
    """

    def __init__(self, app: ASGIApp, policy: Policy, *, linger: float = 5.0) -> None:
        self._app = app
        self._policy = policy
        self._linger = linger
        self._sockets = Sockets(policy.sockets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] not in {"http", "websocket"}:
            raise ValueError(f"expected a scope of kind http or websocket, found {scope['type']!r}")
        asked = Asked.of(scope)
        decision = self._decision(asked, _address(scope))
        added = added_headers(self._policy, asked)
        out = _Answer(send, added | _PREFLIGHT if isinstance(decision, Preflight) else added)
        if scope["type"] == "websocket":
            await self._socket(decision, scope, receive, out.send)
        else:
            await self._http(asked, decision, scope, receive, out)

    def _decision(self, asked: Asked, address: str) -> Decision:
        """The decision, with the limit on guessing kept: past it, only sessions are looked at."""
        attempts = self._policy.attempts
        shows_token = bool(asked.credentials.tokens)
        is_spent = shows_token and attempts.is_spent(address)
        if is_spent:
            asked = replace(asked, credentials=Credentials(sessions=asked.credentials.sessions))
        decision = decide(self._policy, asked)
        lacks_token = decision == Allow(False) or (isinstance(decision, Refuse) and decision.lacks_token)
        if shows_token and lacks_token:
            if is_spent:
                return _SPENT if isinstance(decision, Refuse) else decision
            attempts.count(address)
        return decision

    # websockets

    async def _socket(self, decision: Decision, scope: Scope, receive: Receive, send: Send) -> None:
        address, is_known = _address(scope), decision == Allow(True)
        full = self._sockets.full(address, is_known=is_known) if isinstance(decision, Allow) else None
        if full is not None:
            decision = Refuse(503, full)
        if not isinstance(decision, Allow):
            await receive()
            await _deny(decision, scope, receive, send)
            return
        place = self._sockets.enter(address, is_known=is_known)
        try:
            await self._app(_marked(scope, decision), receive, admitting(place, scope, send))
        finally:
            place.leave()

    # requests

    async def _http(self, asked: Asked, decision: Decision, scope: Scope, receive: Receive, out: _Answer) -> None:
        answer = await self._own_answer(asked, decision, scope, receive)
        if answer is not None:
            await answer(scope, receive, out.send)
        elif isinstance(decision, Allow):
            body = _Body(receive, out, self._policy, self._linger)
            try:
                await self._app(_marked(scope, decision), body.receive, out.send)
            except Exception:
                # whatever the app makes of a client that has gone, the client has its answer
                if not out.is_replaced:
                    raise
        elif isinstance(decision, Preflight):
            await Response()(scope, receive, out.send)
        elif decision.status == 413:
            await _Parting(out.send, receive, self._linger).say(_refusal(decision, scope), scope)
        else:
            await _refusal(decision, scope)(scope, receive, out.send)

    async def _own_answer(self, asked: Asked, decision: Decision, scope: Scope, receive: Receive) -> Response | None:
        """What the guard answers to a link with a one-time code, and at the login page. None for any other request."""
        token = self._policy.token
        if token is None or not _is_ours(decision):
            return None
        redeemed = self._redeemed(token, asked, scope)
        if redeemed is not None or asked.path != LOGIN:
            return redeemed
        return await self._login(token, asked, decision, scope, receive)

    def _redeemed(self, token: bytes, asked: Asked, scope: Scope) -> Response | None:
        """Where a link with a good one-time code leads: to the same address without it, with a session. None for any other request."""
        if asked.method != "GET":
            return None
        pieces = scope["query_string"].decode("latin-1").split("&")
        named = [piece.partition("=") for piece in pieces]
        codes = [unquote_plus(value) for name, _, value in named if unquote_plus(name) == "token"]
        if len(codes) != 1 or not self._policy.codes.redeem(codes[0]):
            return None
        rest = "&".join(quote(p, safe=_QUERY) for p in pieces if unquote_plus(p.partition("=")[0]) != "token")
        return _let_in(token, scope, scope["path"], rest)

    async def _login(self, token: bytes, asked: Asked, decision: Decision, scope: Scope, receive: Receive) -> Response:
        root = scope.get("root_path", "")
        if asked.method in {"GET", "HEAD"}:
            if decision == Allow(True):
                return Response(status_code=303, headers={"Location": "/" + quote(f"{root}/".lstrip("/"), safe=_PATH)})
            return login_page(root, status=200)
        if asked.method != "POST":
            return _refusal(
                Refuse(405, f"expected GET or POST, found {asked.method}"), scope, {"Allow": "GET, HEAD, POST"}
            )
        body = await _form(scope, receive, self._linger)
        if body is None:
            return _refusal(Refuse(413, f"expected a form of at most {LARGEST_FORM} bytes, found more"), scope)
        address = _address(scope)
        if self._policy.attempts.is_spent(address):
            return login_page(root, said="Too many wrong tokens. Wait a minute.", status=429)
        if not self._policy.is_token(token_of_form(body), address):
            return login_page(root, said="That is not the token.")
        return _let_in(token, scope, f"{root}/")


def _let_in(token: bytes, scope: Scope, path: str, query: str = "") -> Response:
    """Sends a browser to ``path`` with a session."""
    # one leading slash: two would name another host
    where = "/" + quote(path.lstrip("/"), safe=_PATH) + (f"?{query}" if query else "")
    cookie = session_cookie(new_session(token), secure=scope.get("scheme") in SECURE)
    headers = {"Location": where, "Set-Cookie": cookie, "Cache-Control": "no-store"}
    return Response(status_code=303, headers=headers)


def _is_ours(decision: Decision) -> bool:
    # anything refused for where it comes from stays outside, whatever it shows
    return isinstance(decision, Allow) or (isinstance(decision, Refuse) and decision.lacks_token)


async def _form(scope: Scope, receive: Receive, seconds: float) -> bytes | None:
    """The body of a small form, what came of it in time; None if it is not small."""
    body = b""
    try:
        async with asyncio.timeout(seconds):
            async for part in Request(scope, receive).stream():
                body += part
                if len(body) > LARGEST_FORM:
                    return None
    except (ClientDisconnect, TimeoutError):
        return b""
    return body


def _marked(scope: Scope, decision: Allow) -> Scope:
    return {**scope, "state": {**scope.get("state", {}), "authenticated": decision.authenticated}}


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _refusal(refused: Refuse, scope: Scope, more: Mapping[str, str] | None = None) -> Response:
    headers = {"Cache-Control": "no-store", **(more or {})}
    if refused.status in {401, 429}:
        accepted = b",".join(value for name, value in scope["headers"] if name.lower() == b"accept")
        if refused.status == 401 and b"text/html" in accepted.lower():
            return login_page(scope.get("root_path", ""))
        headers |= {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {"Retry-After": "60"}
    if refused.status == 413:
        headers["Connection"] = "close"  # nobody waits for the rest of the body
    return JSONResponse({"error": refused.reason}, refused.status, headers)


async def _deny(decision: Refuse | Preflight, scope: Scope, receive: Receive, send: Send) -> None:
    refused = decision if isinstance(decision, Refuse) else Refuse(403, "expected a websocket, found something else")
    if "websocket.http.response" in scope.get("extensions", {}):
        await JSONResponse({"error": refused.reason}, refused.status)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})


# answers


def added_headers(policy: Policy, asked: Asked) -> dict[bytes, bytes]:
    """What every answer to a request carries unless it says something itself."""
    headers = {b"x-content-type-options": b"nosniff", b"referrer-policy": b"same-origin"}
    if policy.allow_origins:
        ancestors = " ".join(("'self'", *policy.frame_ancestors))
        headers[b"content-security-policy"] = f"frame-ancestors {ancestors}".encode("latin-1")
    else:
        headers[b"x-frame-options"] = b"SAMEORIGIN"
    if is_foreign(policy, asked):
        headers[b"access-control-allow-origin"] = asked.origins[0].encode("latin-1")
        headers[b"access-control-allow-credentials"] = b"true"
    else:
        headers[b"cross-origin-resource-policy"] = b"same-origin"
    if policy.allow_origins:
        headers[b"vary"] = b"Origin"
    return headers


class _Answer:
    """Passes an answer on with the headers added, or puts another in its place."""

    def __init__(self, send: Send, added: Mapping[bytes, bytes]) -> None:
        self._send = send
        self._added = added
        self.is_started = False
        self.is_replaced = False
        """Whether the guard has answered; what the app still sends goes nowhere."""

    async def send(self, message: Message) -> None:
        if not self.is_replaced:
            await self.send_own(message)

    async def send_own(self, message: Message) -> None:
        """The same, also when the guard has answered: it is what the guard says."""
        headers = list(message.get("headers", ()))
        broken = [name for name, value in headers if any(sign in _FORBIDDEN for sign in (*name, *value))]
        if broken and self.is_started:
            raise ValueError(f"expected headers of one line, found a line break in {broken[0]!r}")
        if broken:
            _log.error("expected headers of one line, found a line break in %r; answered 500 instead", broken[0])
            await self.replace(
                message["type"], Refuse(500, "expected an answer with headers of one line, found a broken one")
            )
            return
        if message["type"] in _STARTS:
            self.is_started = True
            kept = [(name, value) for name, value in headers if not bytes(name).lower().startswith(_OURS)]
            message = {**message, "headers": kept + self._missing(kept)}
        await self._send(message)

    def _missing(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        there = {bytes(name).lower() for name, _ in headers}
        return [(name, value) for name, value in self._added.items() if name not in there or name in _JOINED]

    async def replace(self, kind: str, refused: Refuse) -> None:
        """Answer this, and nothing else any more. ``kind`` is that of the message it takes the place of."""
        self.is_replaced = True
        if kind == "websocket.accept":
            await self._send({"type": "websocket.close", "code": 1011, "reason": ""})
        else:
            scope: Scope = {"type": "websocket" if kind.startswith("websocket.") else "http", "headers": []}
            await _refusal(refused, scope)(scope, _nothing, self.send_own)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


class _Parting:
    """Answers at once, then reads on for a while before the connection is closed.

    A server that closes while its client is still sending makes the client's system throw the answer away.
    """

    def __init__(self, send: Send, receive: Receive, seconds: float) -> None:
        self._send = send
        self._receive = receive
        self._seconds = seconds

    async def say(self, answer: Response, scope: Scope) -> None:
        await answer(scope, _nothing, self._unfinished)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                while (await self._receive()).get("more_body", False):
                    await asyncio.sleep(0)  # a body that is there already lets the clock run too
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _unfinished(self, message: Message) -> None:
        is_body = message["type"] == "http.response.body"
        await self._send({**message, "more_body": True} if is_body else message)


class _Body:
    """Counts a body as it comes. One that is too long is answered 413, and to the app its client has gone."""

    def __init__(self, receive: Receive, out: _Answer, policy: Policy, linger: float) -> None:
        self._receive = receive
        self._out = out
        self._policy = policy
        self._linger = linger
        self._seen = 0

    async def receive(self) -> Message:
        if self._seen > self._policy.body:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen <= self._policy.body:
            return message
        if not self._out.is_started:
            self._out.is_replaced = True
            scope: Scope = {"type": "http", "headers": []}
            rest = self._receive if message.get("more_body", False) else _nothing
            answer = _refusal(Refuse(413, too_large(self._policy)), scope)
            await _Parting(self._out.send_own, rest, self._linger).say(answer, scope)
        return {"type": "http.disconnect"}
