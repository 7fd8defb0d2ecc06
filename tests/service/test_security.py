"""The service's door: which hosts and pages are let in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin as WireOrigin

from engine.errors import UsageError
from engine.service.origins import Origin, read_host, read_origin
from engine.service.security import Guard, Policy
from engine.service.settings import ServiceSettings
from tests.service.guarded import HOST, OWN, PARTNER, TOKEN, app, ask, shake, status_of
from tests.service.serving import served

# the Host


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8188", "127.8.9.1", "[::1]:8188", "[::1]"])
def test_this_machines_names_are_let_in(local: Guard, host: str) -> None:
    """Every name of the loopback interface, with any port, reaches a service that listens there."""
    assert ask(local, headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:8188", "localhost.evil.example", "192.168.1.2", "[::2]", "2130706433"],
)
def test_dns_rebinding_is_refused(local: Guard, host: str) -> None:
    """A name that somebody's name server may point at this machine is refused for requests and for websockets, whatever the Origin."""
    assert ask(local, headers={"Host": host}).status == 403
    assert ask(local, headers={"Host": host, "Origin": f"http://{host}"}).status == 403
    assert status_of(shake(local, headers={"Host": host, "Origin": f"http://{host}"})) == 403


@pytest.mark.parametrize(
    "host", ["", "a b", "127.0.0.1:x", "127.0.0.1:99999", "u@127.0.0.1", "[::1", "127.0.0.1/x", "localhost\n"]
)
def test_a_malformed_host_is_a_bad_request(local: Guard, host: str) -> None:
    """A Host that is no host and port is answered 400."""
    assert ask(local, headers={"Host": host}).status == 400


def test_there_is_exactly_one_host(local: Guard) -> None:
    """None and two are both answered 400: which of two counts is a matter of taste."""
    assert ask(local, headers={"Host": "-"}).status == 400
    assert ask(local, headers=[("Host", HOST), ("Host", "evil.example")]).status == 400


def test_a_proxy_in_front_asks_by_the_name_of_an_allowed_origin() -> None:
    """On loopback that name is known, with its port or without; others are as foreign as before."""
    guard = Guard(app(), Policy.of(ServiceSettings(allow_origins=("https://studio.example",))))
    for host in ("studio.example", "studio.example:443"):
        assert ask(guard, headers={"Host": host}).status == 200
        assert ask(guard, "POST", headers={"Host": host, "Origin": "https://studio.example"}).status == 200
        assert status_of(shake(guard, headers={"Host": host, "Origin": "https://studio.example"})) != 403
        assert ask(guard, "POST", headers={"Host": host, "Origin": "https://evil.example"}).status == 403
    for host in ("studio.example:8443", "evil.example", "x.studio.example"):
        assert ask(guard, headers={"Host": host}).status == 403


def test_off_loopback_any_host_is_let_in_with_the_token() -> None:
    """A service for other machines does not know its names; the token is what counts."""
    guard = Guard(app(), Policy(is_loopback=False, token=TOKEN.encode()))
    assert ask(guard, headers={"Host": "studio.example", "Authorization": f"Bearer {TOKEN}"}).status == 200
    assert ask(guard, headers={"Host": "studio.example"}).status == 401
    assert ask(guard, headers={"Host": "a b", "Authorization": f"Bearer {TOKEN}"}).status == 400


def test_where_a_service_listens_decides_which_hosts_it_knows(tmp_path: Path) -> None:
    """As it is set up: on loopback no other name is let in, token or not; off loopback any is, with the token."""
    (tmp_path / "t").write_text(TOKEN)
    for host, status in (("127.0.0.1", 403), ("localhost", 403), ("::1", 403), ("0.0.0.0", 200), ("::", 200)):
        guard = Guard(app(), Policy.of(ServiceSettings(host=host, token_file=tmp_path / "t")))
        assert ask(guard, headers={"Host": "studio.example", "X-Mezzotint-Token": TOKEN}).status == status
        assert ask(guard, headers={"X-Mezzotint-Token": TOKEN}).status == 200


# the Origin


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:3000", "http://127.0.0.1", "null", "x", ""]
)
def test_other_pages_are_refused(local: Guard, method: str, origin: str) -> None:
    """A page of another host, another port or nowhere at all is refused by every method and gets no CORS header."""
    answer = ask(local, method, headers={"Origin": origin})
    assert answer.status == 403
    assert answer.all_of("access-control-allow-origin") == []


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1:1", "null"])
def test_websockets_of_other_pages_are_refused(local: Guard, origin: str) -> None:
    """Browsers let any page open a websocket to any host: its Origin is looked at before it is accepted."""
    assert status_of(shake(local, headers={"Origin": origin})) == 403
    assert shake(local, headers={"Origin": OWN}) == "True"


def test_null_is_refused_whatever_is_allowed(partnered: Guard) -> None:
    """A sandboxed page may change nothing and open no websocket, also where other origins are allowed."""
    assert ask(partnered, "POST", headers={"Origin": "null"}).status == 403
    assert status_of(shake(partnered, headers={"Origin": "null"})) == 403
    with pytest.raises(UsageError, match="expected an origin such as"):
        Policy.of(ServiceSettings(allow_origins=("null",)))


def test_two_origins_are_refused(partnered: Guard) -> None:
    """One that is allowed does not help another in."""
    assert ask(partnered, "POST", headers=[("Origin", PARTNER), ("Origin", "http://evil.example")]).status == 403
    assert ask(partnered, "POST", headers=[("Origin", OWN), ("Origin", "http://evil.example")]).status == 403


def test_own_pages_and_programs_are_let_in(local: Guard) -> None:
    """The service's own origin passes, and so does a client that names none."""
    assert ask(local, "POST", headers={"Origin": OWN}).status == 200
    assert ask(local, "POST").status == 200
    assert ask(local, "POST", headers={"Host": "localhost", "Origin": "http://localhost"}).status == 200
    assert ask(local, "POST", headers={"Host": "localhost:80", "Origin": "http://localhost"}).status == 200
    assert ask(local, "POST", headers={"Host": "localhost:80", "Origin": "https://localhost"}).status == 403


def test_a_page_by_http_is_not_one_of_a_service_by_https(local: Guard) -> None:
    """Behind a proxy that speaks https the page's scheme may differ from ours; a downgrade may not."""
    headers = {"Host": "localhost", "Origin": "http://localhost"}
    assert ask(local, "POST", headers=headers, scheme="https").status == 403
    assert ask(local, "POST", headers={**headers, "Origin": "https://localhost"}, scheme="http").status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_strangers_without_an_origin_change_nothing(local: Guard, site: str) -> None:
    """What a browser says comes from elsewhere is refused where it could change something, even if no Origin is sent."""
    for method in ("POST", "PUT", "PATCH", "DELETE", "BREW"):
        assert ask(local, method, headers={"Sec-Fetch-Site": site}).status == 403
    assert status_of(shake(local, headers={"Sec-Fetch-Site": site})) == 403
    assert ask(local, "GET", headers={"Sec-Fetch-Site": site}).status == 200
    assert ask(local, "POST", headers={"Sec-Fetch-Site": "same-origin"}).status == 200
    assert ask(local, "POST", headers={"Sec-Fetch-Site": "none"}).status == 200


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Example.com", Origin("https", "example.com", 443)),
        ("http://[0:0::1]:80", Origin("http", "::1", 80)),
        ("app://page", Origin("app", "page", None)),
        ("https://example.com/", None),
        ("https://example.com\n", None),
        ("https://a@example.com", None),
        ("//example.com", None),
        ("*", None),
    ],
)
def test_origins_are_read_strictly(text: str, origin: Origin | None) -> None:
    """Scheme, host and port, and not one sign more."""
    assert read_origin(text) == origin


def test_hosts_are_compared_by_what_they_mean() -> None:
    """Two spellings of an IPv6 address are one host."""
    assert read_host("[0:0:0:0:0:0:0:1]:5") == read_host("[::1]:5")


# CORS


def test_origins_are_allowed_as_they_are_set_up() -> None:
    """One setting opens the answers to a site and lets it frame the pages."""
    guard = Guard(app(), Policy.of(ServiceSettings(allow_origins=(PARTNER,))))
    answer = ask(guard, "POST", headers={"Origin": PARTNER})
    assert (answer.status, answer["access-control-allow-origin"]) == (200, PARTNER)
    assert answer["content-security-policy"] == f"frame-ancestors 'self' {PARTNER}"


def test_a_preflight_of_an_allowed_origin(partnered: Guard) -> None:
    """It is answered with the exact origin, needs no token, and does not reach the app."""
    asked = {"Origin": PARTNER, "Access-Control-Request-Method": "POST"}
    for guard in (partnered, Guard(app(), replace(partnered._policy, token=TOKEN.encode()))):
        answer = ask(guard, "OPTIONS", headers=asked)
        assert (answer.status, answer.body) == (200, b"")
        assert answer["access-control-allow-origin"] == PARTNER
        assert answer["access-control-allow-credentials"] == "true"
        assert answer["access-control-allow-methods"] == "POST, GET, DELETE, PUT, PATCH, OPTIONS"
        names = answer["access-control-allow-headers"].split(", ")
        assert names == ["Content-Type", "Authorization", "X-Mezzotint-Token", "Idempotency-Key", "Comfy-User"]
        assert answer["vary"] == "Origin"


def test_answers_to_an_allowed_origin(partnered: Guard) -> None:
    """They may be read by its pages, refusals too; nobody else's answers say so."""
    answer = ask(partnered, "POST", headers={"Origin": PARTNER})
    assert answer.status == 200
    assert answer["access-control-allow-origin"] == PARTNER
    assert answer["access-control-allow-credentials"] == "true"
    assert answer.all_of("cross-origin-resource-policy") == []
    refused = ask(Guard(app(), replace(partnered._policy, token=TOKEN.encode())), headers={"Origin": PARTNER})
    assert (refused.status, refused["access-control-allow-origin"]) == (401, PARTNER)
    plain = ask(partnered)
    assert plain.all_of("access-control-allow-origin") == []
    assert (plain["vary"], plain["cross-origin-resource-policy"]) == ("Origin", "same-origin")
    assert ask(partnered, headers={"Origin": "https://partner.example.evil.example"}).status == 403
    assert ask(partnered, headers={"Origin": "http://partner.example"}).status == 403


def test_a_real_server_refuses_a_foreign_websocket(local: Guard) -> None:
    """Over a wire: the handshake of another page is answered 403 with the reason, that of our own is accepted."""
    with served(local) as address:
        url = address.replace("http://", "ws://") + "/ws"
        with pytest.raises(InvalidStatus) as caught, connect(url, origin=WireOrigin("http://evil.example")):
            pass
        assert caught.value.response.status_code == 403
        assert b"found Origin" in bytes(caught.value.response.body or b"")
        with connect(url, origin=WireOrigin(address)) as websocket:
            assert websocket.recv(timeout=30) == "True"


# a proxy in front


PUBLIC = {"Host": "studio.example", "Origin": "https://studio.example"}


@pytest.fixture
def proxied() -> Guard:
    """On loopback, known to browsers by the name of a proxy."""
    return Guard(app(), Policy.of(ServiceSettings(allow_origins=("https://studio.example",))))


@pytest.mark.parametrize("host", ["studio.example", "studio.example:443", "Studio.Example"])
def test_a_proxys_name_is_ours(proxied: Guard, host: str) -> None:
    """The host of an allowed origin is let in, with its port and without, for pages, programs and websockets."""
    assert ask(proxied, headers={"Host": host}).status == 200
    assert ask(proxied, "POST", headers={**PUBLIC, "Host": host}).status == 200
    assert shake(proxied, headers={**PUBLIC, "Host": host}) == "True"


@pytest.mark.parametrize(
    "host", ["studio.example:8188", "x.studio.example", "studio.example.evil.example", "evil.example"]
)
def test_no_other_name_is(proxied: Guard, host: str) -> None:
    """Another port or another name is refused as ever."""
    assert ask(proxied, headers={"Host": host}).status == 403
    assert ask(proxied, "POST", headers={**PUBLIC, "Host": host}).status == 403


@pytest.mark.parametrize("origin", ["http://studio.example", "https://studio.example:8443", "http://127.0.0.1", "null"])
def test_a_proxys_name_does_not_let_other_pages_in(proxied: Guard, origin: str) -> None:
    """A page of that name that came by http, or from another port, is none of the service's own."""
    assert ask(proxied, "POST", headers={**PUBLIC, "Origin": origin}).status == 403
    assert status_of(shake(proxied, headers={**PUBLIC, "Origin": origin})) == 403
