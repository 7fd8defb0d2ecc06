"""HTTP routes of packs through the service: a real worker, its real socket, and what a client sees."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from engine.compat.host import Route as Noted
from engine.jobs.pack_server import serve_routes
from engine.jobs.remote import RemoteExecutor
from engine.packs.report import NotedRoute
from engine.service.pack_proxy import request_headers, response_headers
from engine.service.pack_routes import PackRoutes
from engine.service.pack_table import RouteTable, answers, comparable
from tests.engine.jobs.test_remote import TESTS, settings_of, wait_until_gone
from tests.service.serving import raw_get, served

LIMIT = 1 << 20
BASE = "/route_tools"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteExecutor]:
    settings = settings_of(tmp_path_factory.mktemp("routes"), TESTS / "packs/route_tools")
    with RemoteExecutor(settings) as executor:
        yield executor


def app_of(worker: RemoteExecutor, patience: float = 30.0) -> Starlette:
    async def object_info(request: Request) -> PlainTextResponse:
        return PlainTextResponse("core")

    routes = worker.loaded.routes
    packs = PackRoutes(lambda: routes, lambda: worker.web, limit=LIMIT, patience=patience)
    return Starlette(routes=[Route("/object_info", object_info), packs])


@pytest.fixture(scope="module")
def address(worker: RemoteExecutor) -> Iterator[str]:
    with served(app_of(worker)) as address:
        yield address


@pytest.fixture
def client(worker: RemoteExecutor, address: str) -> Iterator[httpx.Client]:
    _ = worker.loaded  # a test before may have ended the worker
    with httpx.Client(base_url=address, timeout=30) as client:
        yield client


# what packs do with aiohttp


def test_a_query_and_a_path_arrive_as_they_were_sent(client: httpx.Client) -> None:
    """Repeated and encoded parameters, the path below /api and bare, and the host that the client named."""
    for prefix in ("", "/api"):
        query = "a=1&a=%C3%A9%26&b=x+y"
        said = client.get(f"{prefix}{BASE}/echo?{query}", headers={"Host": "shop.example:8188"}).json()
        assert said["query"] == {"a": ["1", "é&"], "b": ["x y"]}
        assert (said["path"], said["host"]) == (f"{prefix}{BASE}/echo", "shop.example:8188")
        assert said["raw"] == f"{prefix}{BASE}/echo?a=1&a=%C3%A9%26&b=x+y"


def test_json_is_posted(client: httpx.Client) -> None:
    """The body, its length and the pack's own status."""
    answer = client.post(f"/api{BASE}/json", content=b'{"numbers": [1, 2, 39]}')
    assert (answer.status_code, answer.json()) == (201, {"sum": 42, "length": 23})


def test_a_form_with_a_file_is_posted(client: httpx.Client) -> None:
    """A multipart body of several chunks, with its fields and its bytes."""
    content = bytes(range(256)) * 2000
    answer = client.post(f"{BASE}/upload", files={"image": ("é.png", content, "image/png")}, data={"note": "hi"})
    said = {"name": "é.png", "type": "image/png", "size": len(content), "sum": sum(content), "note": "hi"}
    assert answer.json() == said


def test_a_body_of_unknown_length_is_streamed(client: httpx.Client) -> None:
    """Chunks there and back, without a length either way."""
    answer = client.post(f"{BASE}/stream", content=iter([b"one", b"two" * 1000, b"three"]))
    assert answer.content == b"one" + b"two" * 1000 + b"three"


def test_parts_of_the_path_are_matched(client: httpx.Client) -> None:
    """Names, regular expressions, and a slash that is part of a name."""
    assert client.get(f"{BASE}/item/a%20b%2Fc/7").json() == {"name": "a b/c", "number": "7"}
    assert client.get(f"{BASE}/item/a/seven").status_code == 404


def test_views_answer_by_method(client: httpx.Client) -> None:
    """A class with a method for each, and 405 by aiohttp for one that it has not."""
    assert client.get(f"{BASE}/view").text == "got"
    assert client.put(f"/api{BASE}/view", content="it").text == "put it"
    assert client.delete(f"{BASE}/view").status_code == 405


def test_a_folder_of_files_is_served(client: httpx.Client, address: str) -> None:
    """Its files and no others, whichever way the path is written."""
    for prefix in ("", "/api"):
        assert client.get(f"{prefix}{BASE}/files/a.txt").text == "a file\n"
    for path in ("/files/../__init__.py", "/files/%2e%2e/__init__.py", "/files/..%2f__init__.py", "/files/none.txt"):
        status, text = raw_get(address, f"{BASE}{path}")
        assert status in (403, 404), path
        assert "PromptServer" not in text


def test_head_is_answered_by_a_get(client: httpx.Client) -> None:
    """The headers, and no body."""
    answer = client.head(f"{BASE}/page")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "8")


def test_a_redirection_is_passed_on(client: httpx.Client) -> None:
    """It is the client that follows it."""
    answer = client.get(f"{BASE}/moved", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (302, f"{BASE}/echo?a=1")


# what they do wrong


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("raises", "KeyError: 'nothing here'"),
        ("exits", "called sys.exit(3)"),
        ("nothing", "TypeError: expected a response of aiohttp's, found NoneType"),
    ],
)
def test_a_handler_that_fails_is_named(client: httpx.Client, path: str, line: str) -> None:
    """Status 500 and one line with the pack's name; the worker goes on."""
    answer = client.get(f"{BASE}/{path}")
    assert answer.status_code == 500
    assert answer.json()["error"].startswith(f"pack route_tools: GET {BASE}/{path} failed: {line}")
    assert client.get(f"{BASE}/left").status_code == 200


def test_an_error_that_is_an_answer_is_one(client: httpx.Client) -> None:
    """What a pack raises of aiohttp's is what it says."""
    answer = client.get(f"{BASE}/refuses")
    assert (answer.status_code, answer.text) == (403, "not for you")


def test_one_that_hangs_is_given_up(worker: RemoteExecutor) -> None:
    """Status 504 when its time is over."""
    with served(app_of(worker, patience=0.3)) as address:
        answer = httpx.get(f"{address}{BASE}/hangs")
    assert answer.status_code == 504
    assert answer.json() == {"error": "pack route_tools: expected an answer within 0.3 s, found none"}


def test_who_leaves_ends_the_answer(client: httpx.Client) -> None:
    """An answer without end is ended in the worker when its client is gone."""
    before = client.get(f"{BASE}/left").json()
    with client.stream("GET", f"{BASE}/forever") as answer:
        assert next(answer.iter_bytes()).startswith(b"tick\n")
    until = time.monotonic() + 20
    while client.get(f"{BASE}/left").json() == before and time.monotonic() < until:
        time.sleep(0.05)
    assert client.get(f"{BASE}/left").json() == before + 1


def test_a_slow_upload_is_waited_for(worker: RemoteExecutor) -> None:
    """The time to the first byte counts from the last of the body, not from the first."""

    def slowly() -> Iterator[bytes]:
        for _ in range(5):
            yield b"x"
            time.sleep(0.3)

    with served(app_of(worker, patience=1.0)) as address:
        answer = httpx.post(f"{address}{BASE}/json", content=slowly())
    assert (answer.status_code, "JSONDecodeError" in answer.json()["error"]) == (500, True)


def test_a_body_that_is_too_large_is_refused(client: httpx.Client) -> None:
    """Whether its length is told or not."""
    for content in (bytes(LIMIT + 1), iter([bytes(LIMIT), b"x"])):
        answer = client.post(f"{BASE}/json", content=content)
        assert (answer.status_code, "larger" in answer.json()["error"]) == (413, True)


# what is not theirs


def test_credentials_stay_here(client: httpx.Client) -> None:
    """No cookie and no token of the service's reaches a pack; other headers do."""
    headers = {"Authorization": "Bearer t", "Cookie": "token=t", "X-Mine": "1", "Connection": "X-Hop", "X-Hop": "1"}
    said = client.get(f"{BASE}/echo", headers=headers).json()
    assert said["cookies"] == {}
    assert said["headers"]["x-mine"] == "1"
    assert said["headers"].keys().isdisjoint({"authorization", "cookie", "x-hop"})


def test_an_answer_says_nothing_of_the_site(client: httpx.Client) -> None:
    """No cookie, nothing for other origins, no header of the inner connection; and its type is not to be guessed."""
    answer = client.get(f"{BASE}/page")
    assert (answer.text, answer.headers["content-type"]) == ("<p>hello", "text/html; charset=utf-8")
    assert (answer.headers["x-kept"], answer.headers["x-content-type-options"]) == ("2", "nosniff")
    assert {"set-cookie", "access-control-allow-origin", "x-secret", "connection"}.isdisjoint(answer.headers)
    assert "server" not in answer.headers


def test_headers_are_chosen_whatever_their_case() -> None:
    """Names are compared without regard to case, and values are left as they are."""
    sent = [(b"COOKIE", b"a"), (b"X-A", b"\xe9"), (b"Te", b"x"), (b"X-Mezzotint-Token", b"t"), (b"Authorization", b"t")]
    assert request_headers(sent) == [("X-A", "é")]
    told = response_headers(
        [(b"Set-Cookie", b"a"), (b"ACCESS-CONTROL-MAX-AGE", b"1"), (b"X-Content-Type-Options", b"")]
    )
    assert told == [(b"x-content-type-options", b"nosniff")]


def test_the_services_own_routes_win(client: httpx.Client, worker: RemoteExecutor) -> None:
    """A pack cannot take a path of core's, even where it is the only one to say /api."""
    assert NotedRoute("GET", "/object_info", "route_tools") in worker.loaded.routes
    assert client.get("/object_info").text == "core"


def test_only_what_was_noted_is_passed_on(client: httpx.Client) -> None:
    """404 elsewhere, and 405 with what there is where the method is another."""
    assert client.get(f"{BASE}/unknown").status_code == 404
    answer = client.post(f"{BASE}/echo")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


def test_websockets_are_not_supported(address: str) -> None:
    """They are refused with a status that says so."""
    with pytest.raises(InvalidStatus) as refused, connect(f"{address.replace('http', 'ws')}{BASE}/echo"):
        pass
    assert refused.value.response.status_code == 501
    assert b"not supported" in (refused.value.response.body or b"")


# routes and where they are


def test_routes_that_cannot_be_are_left_out(worker: RemoteExecutor, client: httpx.Client) -> None:
    """A broken path is not there, the first of two has the place, and one that says /api itself is found there."""
    paths = [route.path for route in worker.loaded.routes]
    assert not [path for path in paths if path.endswith("{")]
    assert paths.count(f"{BASE}/echo") == 1
    assert client.get(f"/api{BASE}/added").text == "added"
    assert worker.loaded.failures == ()


def test_nobody_else_can_reach_the_socket(worker: RemoteExecutor) -> None:
    """It is in a folder that only this user may enter."""
    _ = worker.loaded
    assert worker.web is not None
    assert worker.web.socket is not None
    assert stat.S_IMODE(Path(worker.web.socket).parent.stat().st_mode) == 0o700


def test_a_worker_that_ends_is_503_until_there_is_another(worker: RemoteExecutor, client: httpx.Client) -> None:
    """A request that ends the worker, one while there is none, the same one with a new worker; and no folder is left behind."""
    before, pid = worker.web, worker.pid
    assert before is not None
    assert before.socket is not None
    answer = client.get(f"{BASE}/ends")
    assert (answer.status_code, "ended before it had answered" in answer.json()["error"]) == (503, True)
    assert wait_until_gone(pid)
    until = time.monotonic() + 20
    while os.path.exists(os.path.dirname(before.socket)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not os.path.exists(os.path.dirname(before.socket))
    answer = client.get(f"{BASE}/left")
    assert (answer.status_code, "its worker is not there" in answer.json()["error"]) == (503, True)
    _ = worker.loaded
    assert client.get(f"{BASE}/left").status_code == 200


def test_a_worker_that_is_told_to_end_takes_its_folder_along(tmp_path: Path) -> None:
    """Nothing is left below the system's folder of temporary files."""
    with RemoteExecutor(settings_of(tmp_path, TESTS / "packs/route_tools")) as worker:
        _ = worker.loaded
        address = worker.web
        assert address is not None
        assert address.socket is not None
        assert os.path.exists(address.socket)
    assert worker.web is None
    assert not os.path.exists(os.path.dirname(address.socket))


async def test_without_unix_sockets_a_port_takes_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the path would be too long for a socket: the proxy is let in, anybody else is not."""
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    server = await serve_routes([Noted("GET", "/hello", hello, "a")])
    try:
        assert server.address.socket is None
        packs = PackRoutes(lambda: server.routes, lambda: server.address, limit=LIMIT)
        transport = httpx.ASGITransport(Starlette(routes=[packs]))
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            assert (await client.get("/hello")).text == "hello"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.address.port}") as other:
            assert (await other.get("/hello")).status_code == 403
        assert list(long.iterdir()) == []
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/a/{x}", "/a/b", True),
        ("/a/{x}", "/a/b/c", False),
        ("/a/{x}", "/a/b%2Fc", True),
        ("/a/{x:.*}", "/a/b/c", True),
        (r"/a/{n:\d{2,3}}.png", "/a/12.png", True),
        (r"/a/{n:\d{2,3}}.png", "/a/1.png", False),
        ("/a.b/{x}", "/acb/x", False),
        ("/é/{x}", "/%C3%A9/1", True),
        ("/a b", "/a%20b", True),
    ],
)
def test_paths_are_read_as_aiohttp_reads_them(pattern: str, path: str, matches: bool) -> None:
    """Encoded slashes stay within a name, regular expressions may have braces, a full stop is one."""
    assert bool(RouteTable([NotedRoute("GET", pattern, "a")]).at(comparable(path))) is matches


def test_methods_are_told_apart() -> None:
    """A GET answers HEAD, a folder both, a view everything; a broken pattern nothing."""
    said: Callable[[str, str], bool] = lambda noted, asked: answers(NotedRoute(noted, "/x", None), asked)  # noqa: E731
    assert [said("GET", "HEAD"), said("HEAD", "GET"), said("STATIC", "POST"), said("*", "PATCH")] == [
        True,
        False,
        False,
        True,
    ]
    assert RouteTable([NotedRoute("GET", "/{x:(}", None)]).at("/a") == []


def test_a_prefix_of_the_service_is_not_a_packs(worker: RemoteExecutor) -> None:
    """Below a mount the pack sees its own path."""
    with served(app_of(worker), root_path="/studio") as address:
        said: dict[str, Any] = httpx.get(f"{address}{BASE}/echo").json()
    assert said["path"] == f"{BASE}/echo"
