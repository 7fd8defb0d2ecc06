"""The service's door: what every answer carries, and how much may come in."""

from __future__ import annotations

import asyncio
import http.client
import json
from contextlib import closing
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from starlette.types import Message
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from engine.service.security import Guard, Policy
from engine.service.settings import ServiceLimits, ServiceSettings
from tests.service.guarded import HOST, PARTNER, Answer, app, ask, exchange, scope_of, shake
from tests.service.serving import served

# headers of answers


def test_every_answer_is_hardened(local: Guard, locked: Guard) -> None:
    """Answers of the app, refusals and refused websockets carry the same headers."""
    refused = shake(local, headers={"Origin": "null"})
    assert isinstance(refused, Answer)
    for answer in (ask(local), ask(local, headers={"Host": "evil.example"}), ask(locked), refused):
        assert answer["x-content-type-options"] == "nosniff"
        assert answer["referrer-policy"] == "same-origin"
        assert answer["cross-origin-resource-policy"] == "same-origin"
        assert answer["x-frame-options"] == "SAMEORIGIN"
        assert answer.all_of("vary") == []


def test_what_the_app_says_itself_stays(local: Guard, partnered: Guard) -> None:
    """A header the app set comes once, as it set it."""
    for guard in (local, partnered):
        answer = ask(guard, path="/own")
        assert answer.all_of("content-security-policy")[0] == "default-src 'self'"
        assert answer["referrer-policy"] == "no-referrer"
        assert answer["x-frame-options"] == "DENY"
        assert answer["cross-origin-resource-policy"] == "cross-origin"
    assert answer.all_of("vary") == ["Accept", "Origin"]


def test_allowed_origins_may_frame(local: Guard, partnered: Guard) -> None:
    """X-Frame-Options cannot name them, so the content security policy does, beside one that the app sets."""
    answer = ask(partnered)
    rule = f"frame-ancestors 'self' {PARTNER}"
    assert answer["content-security-policy"] == rule
    assert answer.all_of("x-frame-options") == []
    assert ask(partnered, path="/own").all_of("content-security-policy") == ["default-src 'self'", rule]
    assert ask(local).all_of("content-security-policy") == []


def test_the_app_opens_no_answer_to_others(local: Guard, partnered: Guard) -> None:
    """Which pages may read an answer is for the guard to say: an app's own word is taken off, and the allowed origin named once."""
    for guard in (local, partnered):
        assert [name for name, _ in ask(guard, path="/own").headers if name.startswith("access-control-")] == []
    answer = ask(partnered, path="/own", headers={"Origin": PARTNER})
    assert answer["access-control-allow-origin"] == PARTNER
    assert answer.all_of("access-control-expose-headers") == []


@pytest.mark.parametrize("sign", ["%0D%0A", "%0A", "%0D", "%00"])
def test_a_header_is_one_line(local: Guard, sign: str) -> None:
    """An app that would answer a header with a line break, which splits the answer in two, answers 500 and none of it."""
    answer = ask(local, path=f"/split?name=a{sign}Set-Cookie:%20x=y")
    assert answer.status == 500
    assert answer.all_of("x-name") == []
    assert answer["x-content-type-options"] == "nosniff"
    assert ask(local, path="/split?name=fine")["x-name"] == "fine"


def test_a_broken_header_ends_a_websocket(local: Guard) -> None:
    """The handshake is closed instead of accepted, and nothing the app says afterwards is sent."""
    sent = {}
    for name in ("a%0D%0ASet-Cookie:%20x=y", "fine"):
        scope = scope_of("websocket", f"/split?name={name}", [], subprotocols=[])
        sent[name[0]] = asyncio.run(exchange(local, scope, [{"type": "websocket.connect"}]))
    assert sent["a"] == [{"type": "websocket.close", "code": 1011, "reason": ""}]
    assert [message["type"] for message in sent["f"]] == ["websocket.accept", "websocket.send"]


@pytest.mark.parametrize("name", ["Origin", "Host", "Sec-Fetch-Site", "Content-Length", "Cookie"])
def test_line_breaks_that_come_in_do_not_go_out(partnered: Guard, name: str) -> None:
    """A server may hand on a header with a line break; it is never in a header of the answer."""
    for value in (f"{PARTNER}\r\nX-Evil: 1", f"{HOST}\r\nX-Evil: 1", "1\r\nX-Evil: 1"):
        answer = ask(partnered, "POST", headers={name: value})
        assert not any(sign in text for _, text in answer.headers for sign in "\r\n\0")
        assert b"\n" not in answer.body


# limits


def small(limit: int = 10, sockets: int = 2) -> Guard:
    settings = ServiceSettings(limits=replace(ServiceLimits(), body=limit, sockets=sockets))
    return Guard(app(), Policy.of(settings))


def test_an_announced_body_too_large_is_refused_at_once() -> None:
    """Before any of it is read; one that just fits is taken."""
    answer = ask(small(), "POST", headers={"Content-Length": "11"}, body=[b""])
    assert (answer.status, answer["connection"]) == (413, "close")
    assert ask(small(), "POST", headers={"Content-Length": "10"}, body=[b"x" * 10]).body == b"POST 10 True"
    for length in ("-1", "1x", "", "²", "9" * 30):
        assert ask(small(), "POST", headers={"Content-Length": length}).status == 400
    assert ask(small(), "POST", headers=[("Content-Length", "1"), ("Content-Length", "2")]).status == 400


def test_a_body_of_parts_is_counted() -> None:
    """Without an announcement it is refused as soon as it is too long, and the app sees its client go."""
    assert ask(small(), "POST", body=[b"x" * 5, b"x" * 5]).body == b"POST 10 True"
    answer = ask(small(), "POST", body=[b"x" * 5, b"x" * 6, b"x"])
    assert (answer.status, answer["x-content-type-options"]) == (413, "nosniff")
    assert "at most 10 bytes" in json.loads(answer.body)["error"]


def test_an_answer_that_has_begun_is_broken_off() -> None:
    """It is too late for a status: the app is told that the client has gone, and the server ends the connection."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - a group of exceptions or one, as Starlette likes
        ask(small(), "POST", "/early", body=[b"x" * 5, b"x" * 6, b"x"])
    assert "ClientDisconnect" in repr(caught.value)


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("size", [16, 8_000_000])
def test_a_real_server_refuses_a_body(size: int, is_chunked: bool) -> None:
    """Over a wire: a client that sends all before it reads is told 413, then the connection ends; no reset takes the answer away."""
    body = iter([b"x" * (size // 8)] * 8) if is_chunked else b"x" * size
    with served(small()) as address, closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)) as wire:
        wire.request("POST", "/x", body=body, encode_chunked=is_chunked)
        answer = wire.getresponse()
        assert (answer.status, answer.getheader("connection")) == (413, "close")
        assert "at most 10 bytes" in json.loads(answer.read())["error"]


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "1000000"}])
def test_a_refused_body_is_not_read_for_ever(headers: dict[str, str]) -> None:
    """The answer is sent before the rest is read, and a client that never ends, or sends nothing more, is left after a while."""

    async def answered(part: Message | None) -> list[Message]:
        guard = Guard(app(), Policy(body=10), linger=0.05)
        sent: list[Message] = []
        parts = iter([b"x" * 11])

        async def receive() -> Message:
            for first in parts:
                return {"type": "http.request", "body": first, "more_body": True}
            assert sent[-1]["type"] == "http.response.body"
            if part is None:
                await asyncio.Event().wait()
            return part or {}

        async def send(message: Message) -> None:
            sent.append(message)

        await asyncio.wait_for(guard(scope_of("http", "/x", list(headers.items()), method="POST"), receive, send), 20)
        return sent

    for part in ({"type": "http.request", "body": b"x", "more_body": True}, None):
        start, *bodies = asyncio.run(answered(part))
        assert start["status"] == 413
        assert [bool(body["body"]) for body in bodies] == [True, False]
        assert [body["more_body"] for body in bodies] == [True, False]


def test_open_websockets_are_counted() -> None:
    """One more than may be open is refused before it is accepted; a place that is left is free again."""

    async def steps() -> list[int]:
        guard = small(sockets=2)
        leave = asyncio.Event()
        accepted: list[int] = []

        async def hold() -> None:
            first = True

            async def receive() -> Message:
                nonlocal first
                if first:
                    first = False
                    return {"type": "websocket.connect"}
                await leave.wait()
                return {"type": "websocket.disconnect", "code": 1000}

            async def send(message: Message) -> None:
                accepted.append(1)

            await guard(scope_of("websocket", "/ws", [], subprotocols=[]), receive, send)

        async def knock() -> int:
            scope = scope_of("websocket", "/ws", [], subprotocols=[], extensions={"websocket.http.response": {}})
            sent = await exchange(guard, scope, [{"type": "websocket.connect"}])
            return int(sent[0].get("status", 101))

        held = [asyncio.create_task(hold()) for _ in range(2)]
        while len(accepted) < 4:
            await asyncio.sleep(0.001)
        found = [await knock()]
        leave.set()
        await asyncio.gather(*held)
        return [*found, await knock()]

    assert asyncio.run(steps()) == [503, 101]


def test_unknown_scopes_do_not_pass(local: Guard) -> None:
    """What the guard does not know, it lets nobody use."""
    with pytest.raises(ValueError, match="expected a scope of kind"):
        asyncio.run(exchange(local, {"type": "ftp"}, []))


def test_a_real_server_refuses_one_websocket_too_many() -> None:
    """Over a wire: the handshake is answered 503 with the reason while the other goes on."""
    with served(small(sockets=1)) as address:
        url = address.replace("http://", "ws://") + "/ws"
        with connect(url) as held:
            assert held.recv(timeout=30) == "True"
            with pytest.raises(InvalidStatus) as caught, connect(url):
                pass
            assert caught.value.response.status_code == 503
            assert b"at most 1 open websockets" in bytes(caught.value.response.body or b"")
            assert held.ping().wait(30)


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
def test_a_refusal_is_a_clean_exchange(local: Guard, extensions: dict[str, dict[str, str]]) -> None:
    """A refused websocket has its request taken up, and is closed where the server cannot send an answer instead."""
    incoming: list[Message] = [{"type": "websocket.connect"}]
    scope = scope_of("websocket", "/ws", [("Origin", "null")], subprotocols=[], extensions=extensions)
    sent = asyncio.run(exchange(local, scope, incoming))
    assert incoming == []
    if extensions:
        kinds = [message["type"] for message in sent]
        assert kinds == ["websocket.http.response.start", "websocket.http.response.body"]
        assert sent[0]["status"] == 403
    else:
        assert sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]


def test_the_app_starts_and_ends(local: Guard) -> None:
    """What the server says of its own start and end passes."""
    events: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = asyncio.run(exchange(local, {"type": "lifespan", "state": {}}, events))
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_refused_body_that_has_ended_is_not_waited_for() -> None:
    """Where its last part is the one too much, the answer is complete at once."""

    async def answered() -> list[Message]:
        sent: list[Message] = []
        parts = iter([b"x" * 11])

        async def receive() -> Message:
            for part in parts:
                return {"type": "http.request", "body": part, "more_body": False}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        guard = Guard(app(), Policy(body=10), linger=600)
        await asyncio.wait_for(guard(scope_of("http", "/x", [], method="POST"), receive, send), 10)
        return sent

    start, *bodies = asyncio.run(answered())
    assert start["status"] == 413
    assert [body["more_body"] for body in bodies] == [True, False]
