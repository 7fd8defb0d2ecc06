"""The service's door: tokens, sessions, one-time codes and the login page."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from engine.errors import UsageError
from engine.places import Places
from engine.service.credentials import Attempts, Codes, is_session, new_session
from engine.service.security import Guard, Policy
from engine.service.settings import ServiceSettings
from tests.service.guarded import OWN, TOKEN, Answer, app, ask, scope_of, shake, status_of

# the token


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"bearer  {TOKEN}"}, {"X-Mezzotint-Token": TOKEN}],
)
def test_the_token_lets_in(locked: Guard, headers: dict[str, str]) -> None:
    """By either header, for requests and for websockets."""
    assert ask(locked, "POST", headers=headers).body == b"POST 0 True"
    assert shake(locked, headers=headers) == "True"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"X-Mezzotint-Token": ""},
        {"X-Mezzotint-Token": "\xff"},
        {"Cookie": f"mezzotint_session={TOKEN}"},
    ],
)
def test_anything_else_does_not(locked: Guard, headers: dict[str, str]) -> None:
    """A program is told in one line of JSON how to authenticate; a websocket is refused before it is accepted."""
    answer = ask(locked, headers=headers)
    assert (answer.status, answer["www-authenticate"]) == (401, "Bearer")
    assert "Authorization: Bearer TOKEN" in json.loads(answer.body)["error"]
    assert b"\n" not in answer.body
    assert status_of(shake(locked, headers=headers)) == 403
    assert status_of(shake(locked, headers=headers, extensions={})) == 403


def test_a_request_is_one_guess(locked: Guard) -> None:
    """Several tokens are refused though one of them is right; the same one in both headers is one."""
    wrong = [("Authorization", f"Bearer wrong-{number}") for number in range(700)]
    assert ask(locked, headers=[*wrong, ("X-Mezzotint-Token", TOKEN)]).status == 400
    assert ask(locked, headers={"Authorization": f"Bearer {TOKEN}", "X-Mezzotint-Token": TOKEN}).status == 200


def test_what_is_open_needs_no_token(locked: Guard) -> None:
    """Health is asked by machines that know no token; the app is told that nobody showed one."""
    assert ask(locked, path="/healthz").body == b"GET 0 False"
    assert ask(locked, path="/app/healthz", root_path="/app").status == 200
    for path in ("/healthz/", "/healthz/x", "/Healthz", "/loginx", "//healthz"):
        assert ask(locked, path=path).status == 401


def test_the_stream_alone_may_authenticate_later(locked: Guard) -> None:
    """It is accepted without a token and knows it; a name near to its is not."""
    assert shake(locked, "/v1/stream") == "False"
    assert shake(locked, "/v1/stream", {"X-Mezzotint-Token": TOKEN}) == "True"
    assert status_of(shake(locked, "/v1/stream", {"Origin": "http://evil.example"})) == 403
    assert status_of(shake(locked, "/v1/stream/")) == 403
    assert ask(locked, path="/v1/stream").status == 401


def test_a_candidate_is_compared(policy: Policy) -> None:
    """The stream asks whether a text is the token; where no token is needed any is."""
    assert policy.is_token(TOKEN)
    assert not policy.is_token(TOKEN[:-1])
    assert not policy.is_token("\udcff\xe9")
    assert Policy().is_token("")


# where the token is from


def settings_at(folder: Path, **more: Any) -> ServiceSettings:
    return ServiceSettings(places=Places(state=folder / "state"), **more)


def test_loopback_needs_no_token_but_keeps_one_that_is_given(tmp_path: Path) -> None:
    """Only a token file makes a service on loopback ask."""
    assert Policy.of(settings_at(tmp_path)).token is None
    assert not (tmp_path / "state").exists()
    (tmp_path / "t").write_text(f"  {TOKEN}\n")
    assert Policy.of(settings_at(tmp_path, token_file=tmp_path / "t")).token == TOKEN.encode()


def test_off_loopback_a_token_is_made_once(tmp_path: Path) -> None:
    """It is for its owner's eyes, long, and the same after a restart."""
    settings = settings_at(tmp_path, host="0.0.0.0")
    first = Policy.of(settings)
    path = tmp_path / "state/token"
    assert first.token is not None
    assert len(first.token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert Policy.of(settings).token == first.token
    assert os.listdir(path.parent) == ["token"]
    assert first.token.decode() not in repr(first)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="readable by its owner alone"):
        Policy.of(settings)


@pytest.mark.parametrize("text", ["", "short", "fifteen-letters", "two words of enough letters", "letters-é-letters-é"])
def test_a_weak_token_file_is_refused(tmp_path: Path, text: str) -> None:
    """Sixteen letters are the least, and they must fit into a header; the message does not tell them."""
    (tmp_path / "t").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="at least 16 visible ASCII") as caught:
        Policy.of(settings_at(tmp_path, token_file=tmp_path / "t"))
    assert not text or text not in str(caught.value)
    with pytest.raises(UsageError, match="could not read it"):
        Policy.of(settings_at(tmp_path, token_file=tmp_path / "none"))


# sessions


def test_a_session_is_a_signature_of_the_token() -> None:
    """It holds for its token; any change, another token or another form makes it worthless."""
    token = TOKEN.encode()
    value = new_session(token)
    assert re.fullmatch(r"v1\.[0-9a-f]{32}\.[0-9a-f]{64}", value)
    assert new_session(token) != value
    assert is_session(token, value)
    assert not is_session(b"another-token-of-16", value)
    version, random, signature = value.split(".")
    flipped = "0" if signature[-1] != "0" else "1"
    forged = [
        f"{version}.{random}.{signature[:-1]}{flipped}",
        f"{version}.{'0' * 32}.{signature}",
        f"v2.{random}.{signature}",
    ]
    for text in (*forged, f"{value}\n", f"{version}..{signature}", "", value.upper()):
        assert not is_session(token, text)


def test_a_session_lets_in_and_a_forged_one_does_not(locked: Guard) -> None:
    """Also beside other cookies, and beside one of another service on this host."""
    good, other = new_session(TOKEN.encode()), new_session(b"another-token-of-16")
    cookies = f"a=b; mezzotint_session={other}; mezzotint_session={good}"
    assert ask(locked, headers={"Cookie": cookies}).body == b"GET 0 True"
    assert shake(locked, headers={"Cookie": cookies, "Origin": OWN}) == "True"
    assert ask(locked, headers={"Cookie": f"mezzotint_session={other}"}).status == 401
    assert ask(locked, headers={"Cookie": f"xmezzotint_session={good}"}).status == 401
    assert ask(locked, "POST", headers={"Cookie": cookies, "Origin": "http://evil.example"}).status == 403


# one-time codes


def test_a_code_works_once(locked: Guard, policy: Policy) -> None:
    """It leads to the same address without it, with a session; a second use is refused."""
    code = policy.codes.issue()
    answer = ask(locked, path=f"/a/b?x=1&token={code}&y=%20z")
    assert (answer.status, answer["location"]) == (303, "/a/b?x=1&y=%20z")
    assert "no-store" in answer["cache-control"]
    cookie, *attributes = answer["set-cookie"].split("; ")
    assert attributes == ["HttpOnly", "SameSite=Strict", "Path=/"]
    assert ask(locked, headers={"Cookie": cookie}).status == 200
    assert ask(locked, path=f"/a/b?token={code}").status == 401


def test_a_code_is_for_reading_from_here(locked: Guard, policy: Policy) -> None:
    """Not for another method, another page, a websocket or another Host; none of them uses it up."""
    code = policy.codes.issue()
    path = f"/x?token={code}"
    assert ask(locked, "POST", path).status == 401
    assert ask(locked, path=path, headers={"Origin": "http://evil.example"}).status == 403
    assert ask(locked, path=path, headers={"Host": "evil.example"}).status == 403
    assert status_of(shake(locked, path.replace("/x", "/ws"))) == 403
    assert ask(locked, path=path, scheme="https")["set-cookie"].endswith("; Secure")


@pytest.mark.parametrize("wanted", [TOKEN, "", "x"])
def test_the_token_is_no_code(locked: Guard, wanted: str) -> None:
    """Addresses are kept in histories and logs: the token itself does not work in one."""
    answer = ask(locked, path=f"/x?token={wanted}")
    assert answer.status == 401
    assert answer.all_of("set-cookie") == []
    assert status_of(shake(locked, f"/ws?token={wanted}")) == 403


def test_a_parameter_of_that_name_is_left_to_the_app() -> None:
    """Where no token is needed, and for a client that is in already, it means nothing to the guard."""
    assert ask(Guard(app(), Policy()), path="/x?token=abc").status == 200
    guard = Guard(app(), Policy(token=TOKEN.encode()))
    assert ask(guard, path="/x?token=abc", headers={"X-Mezzotint-Token": TOKEN}).status == 200


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("//evil.example/a", "/evil.example/a"),
        ("/\\evil.example", "/%5Cevil.example"),
        ("/a\r\nSet-Cookie: x=y", "/a%0D%0ASet-Cookie:%20x=y"),
    ],
)
def test_a_code_leads_nowhere_else(locked: Guard, policy: Policy, path: str, location: str) -> None:
    """A path that reads as another host, or holds a line break, stays a path of this service and one line."""
    answer = ask(locked, path=f"{path}?token={policy.codes.issue()}")
    assert (answer.status, answer["location"]) == (303, location)
    answer = ask(locked, path=f"/?token={policy.codes.issue()}&a=\r\nb")
    assert answer["location"] == "/?a=%0D%0Ab"


def test_codes_grow_old() -> None:
    """After 15 minutes a code is worth nothing, and what is old is forgotten."""
    now = 0.0
    codes = Codes(clock=lambda: now)
    young, old = codes.issue(), codes.issue()
    now = 899.0
    assert codes.redeem(young)
    now = 900.0
    assert not codes.redeem(old)
    for _ in range(1100):
        codes.issue()
    assert len(codes._until) == 1000


# the login page


def form(guard: Guard, text: str, **more: Any) -> Answer:
    headers = {"Content-Type": "application/x-www-form-urlencoded", **more.pop("headers", {})}
    return ask(guard, "POST", "/login", headers, [text.encode()], **more)


def test_a_browser_is_shown_the_login_page(locked: Guard) -> None:
    """As 401, loading nothing, framed by nobody, and posting to where it is mounted."""
    answer = ask(locked, headers={"Accept": "text/html,*/*"})
    assert (answer.status, answer["www-authenticate"]) == (401, "Bearer")
    assert answer["content-type"].startswith("text/html")
    rules = answer["content-security-policy"]
    assert rules.startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in rules
    assert "unsafe" not in rules
    assert b'method="post" action="/login"' in answer.body
    assert b"<script" not in answer.body
    assert ask(locked, path="/login").status == 200
    mounted = ask(locked, path="/m/x", headers={"Accept": "text/html"}, root_path='/m"')
    assert b'action="/m&quot;/login"' in mounted.body


def test_logging_in(locked: Guard) -> None:
    """The token gives a session; anything else the page again, with nothing set."""
    answer = form(locked, f"token=+{TOKEN}")
    assert (answer.status, answer["location"]) == (303, "/")
    cookie = answer["set-cookie"].partition(";")[0]
    assert ask(locked, "POST", headers={"Cookie": cookie, "Origin": OWN}).status == 200
    assert ask(locked, path="/login", headers={"Cookie": cookie})["location"] == "/"
    for text in ("token=wrong", "", "token=", "x" * 3000, "token=%ff"):
        wrong = form(locked, text)
        assert (wrong.status, wrong.all_of("set-cookie")) == (401, [])
    assert b"That is not the token." in wrong.body
    assert form(locked, "token=" + "x" * 5000).status == 413
    assert form(locked, f"token={TOKEN}", headers={"Origin": "http://evil.example"}).status == 403
    assert ask(locked, "PUT", "/login").status == 405


def test_a_browser_stays_in_until_the_token_changes(locked: Guard, policy: Policy) -> None:
    """What a link with a code gives holds over a restart, for pages, changes and sockets, and not with another token."""
    first = ask(locked, path=f"/?token={policy.codes.issue()}")
    assert (first.status, first["location"]) == (303, "/")
    browser = {"Cookie": first["set-cookie"].partition(";")[0], "Origin": OWN}
    restarted = Guard(app(), Policy(token=TOKEN.encode()))
    assert ask(restarted, "POST", headers=browser).body == b"POST 0 True"
    assert shake(restarted, headers=browser) == "True"
    changed = Guard(app(), Policy(token=b"another-token-of-16"))
    assert ask(changed, "POST", headers=browser).status == 401
    assert status_of(shake(changed, headers=browser)) == 403


def test_without_a_token_there_is_no_login(local: Guard) -> None:
    """The path is the app's."""
    assert ask(local, path="/login").body == b"GET 0 True"


def test_guessing_is_limited(locked: Guard, policy: Policy) -> None:
    """After ten wrong tokens of an address, by whatever way, none of it is compared for a minute; sessions and others go on."""
    for _ in range(3):
        assert form(locked, "token=wrong").status == 401
        assert ask(locked, headers={"Authorization": "Bearer wrong"}).status == 401
        assert status_of(shake(locked, headers={"X-Mezzotint-Token": "wrong"})) == 403
    assert not policy.is_token("wrong", "203.0.113.9")
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert form(locked, f"token={TOKEN}").status == 429
    assert ask(locked, headers=right)["retry-after"] == "60"
    assert status_of(shake(locked, headers=right)) == 429
    assert not policy.is_token(TOKEN, "203.0.113.9")
    assert ask(locked, headers={**right, "Cookie": f"mezzotint_session={new_session(TOKEN.encode())}"}).status == 200
    assert ask(locked, headers=right, client=("203.0.113.10", 1)).status == 200
    assert ask(locked, headers={**right, "Origin": "http://evil.example"}).status == 403


def test_sessions_and_codes_are_not_guessed_by_the_dozen(locked: Guard, policy: Policy) -> None:
    """Of the cookies of ours the first few are looked at, of several codes none."""
    good, bad = f"mezzotint_session={new_session(TOKEN.encode())}", "mezzotint_session=x"
    assert ask(locked, headers=[("Cookie", "; ".join([bad] * 3)), ("Cookie", good)]).status == 200
    assert ask(locked, headers=[("Cookie", "; ".join([bad] * 4)), ("Cookie", good)]).status == 401
    assert ask(locked, path=f"/x?token=wrong&token={policy.codes.issue()}").status == 401


def test_attempts_are_forgotten() -> None:
    """After the time is up an address may try again; a network of IPv6 is one address, each IPv4 one its own; memory is bounded."""
    now = 0.0
    attempts = Attempts(most=2, clock=lambda: now)
    attempts.count("2001:db8::1")
    attempts.count("2001:db8::2")
    assert attempts.is_spent("2001:db8::3")
    assert not attempts.is_spent("2001:db8:0:1::3")
    for _ in range(2):
        attempts.count("::ffff:203.0.113.9")
    assert attempts.is_spent("203.0.113.9")
    assert not attempts.is_spent("::ffff:203.0.113.10")
    now = 60.0
    assert not attempts.is_spent("2001:db8::3")
    for number in range(5000):
        attempts.count(str(number))
    assert len(attempts._wrong) == 4096


async def test_a_login_is_not_waited_for(policy: Policy) -> None:
    """A form that does not end is answered like an empty one, so that strangers keep nothing busy."""
    incoming: list[Message] = [{"type": "http.request", "body": f"token={TOKEN}".encode(), "more_body": True}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not incoming:
            await asyncio.Event().wait()
        return incoming.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    guard = Guard(app(), policy, linger=0.05)
    await asyncio.wait_for(guard(scope_of("http", "/login", [], method="POST"), receive, send), 20)
    assert sent[0]["status"] == 401
