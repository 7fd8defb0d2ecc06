"""The service behind a proxy, as ``docs/service.md`` says: over a wire, with the server it has in life."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from engine.service.app import create_app
from engine.service.security import Guard, Policy
from engine.service.settings import ServiceSettings
from tests.service.files_app import places_below
from tests.service.guarded import TOKEN, app
from tests.service.serving import served

PUBLIC = "https://studio.example"
FORWARDED = {"Host": "studio.example", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}


def settings_at(folder: Path, *trusted: str) -> ServiceSettings:
    """Those of a service on loopback whose proxy is asked for as ``PUBLIC``."""
    (folder / "token").write_text(TOKEN)
    places = places_below(folder)
    return ServiceSettings(places=places, token_file=folder / "token", allow_origins=(PUBLIC,), trusted_proxies=trusted)


@pytest.mark.parametrize("trusted", [(), ("127.0.0.1/32",)])
def test_a_browser_comes_through_the_proxy(tmp_path: Path, trusted: tuple[str, ...]) -> None:
    """The login page, the login and what it opens work by the public name; the cookie is for https alone where the proxy is believed."""
    settings = settings_at(tmp_path, *trusted)
    policy = Policy.of(settings)
    browser = {**FORWARDED, "Origin": PUBLIC, "Sec-Fetch-Site": "same-origin"}
    with (
        served(Guard(create_app(settings), policy), settings=settings) as address,
        httpx.Client(base_url=address, headers=browser, trust_env=False) as client,
    ):
        assert client.get("/", headers={"Accept": "text/html"}).status_code == 401
        answer = client.post("/login", data={"token": TOKEN})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie, _, rest = answer.headers["set-cookie"].partition(";")
        assert rest.endswith("; Secure") == bool(trusted)
        assert client.get("/v1/openapi.json", headers={"Cookie": cookie}).status_code == 200
        assert (
            client.get("/v1/openapi.json", headers={"Cookie": cookie, "Origin": "http://evil.example"}).status_code
            == 403
        )


@pytest.mark.parametrize("trusted", [(), ("127.0.0.1/32",)])
def test_a_websocket_comes_through_the_proxy(tmp_path: Path, trusted: tuple[str, ...]) -> None:
    """Its handshake is accepted by the public name with the public page's origin, and refused with another's."""
    settings = settings_at(tmp_path, *trusted)
    shown = {name: value for name, value in FORWARDED.items() if name != "Host"} | {"X-Mezzotint-Token": TOKEN}
    with served(Guard(app(), Policy.of(settings)), settings=settings) as address:

        def opened(origin: str) -> str:
            sock = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
            with connect(
                "ws://studio.example/ws", sock=sock, origin=Origin(origin), additional_headers=shown
            ) as websocket:
                return str(websocket.recv(timeout=30))

        assert opened(PUBLIC) == "True"
        with pytest.raises(InvalidStatus) as caught:
            opened("http://studio.example")
        assert caught.value.response.status_code == 403


@pytest.mark.parametrize(("trusted", "last"), [((), 429), (("10.0.0.0/8",), 429), (("127.0.0.0/8",), 401)])
def test_addresses_are_believed_of_trusted_proxies_alone(tmp_path: Path, trusted: tuple[str, ...], last: int) -> None:
    """Who guesses tokens cannot pass for another address each time by saying so; a proxy that is trusted tells them apart."""
    settings = settings_at(tmp_path, *trusted)
    with (
        served(Guard(app(), Policy.of(settings)), settings=settings) as address,
        httpx.Client(base_url=address, headers={"Authorization": "Bearer wrong"}, trust_env=False) as client,
    ):
        found = [client.get("/x", headers={"X-Forwarded-For": f"203.0.113.{number}"}) for number in range(11)]
        assert [answer.status_code for answer in found] == [*[401] * 10, last]
        assert client.get("/x", headers={"X-Forwarded-For": "203.0.113.1, 198.51.100.7"}).status_code == last
