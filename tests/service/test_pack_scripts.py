"""Browser scripts of packs, as the whole app serves them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from engine.service.app import create_app
from engine.service.security import Guard
from engine.service.served import Folder
from engine.service.settings import ServiceSettings
from tests.conftest import ROOT
from tests.service.files_app import places_below
from tests.service.guarded import PARTNER, ask, partnered_policy
from tests.service.serving import raw_get, served

PACK = ROOT / "tests/packs/route_tools"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A web directory with things in it that are not to be had, beside a secret."""
    folder = tmp_path_factory.mktemp("web")
    web = folder / "web"
    web.mkdir()
    (folder / "secret.js").write_text("secret")
    (web / "fine.js").write_text("fine")
    (web / ".hidden.js").write_text("secret")
    (web / "100%.js").write_text("percent")
    (web / "data.unknown").write_bytes(b"\0\1")
    (web / "SHOUT.HTML").write_text("<script>alert(1)</script>")
    (web / "code.PY").write_text("secret")
    (web / "out.js").symlink_to(folder / "secret.js")
    (web / "outside").symlink_to(folder)
    (web / "within.js").symlink_to(web / "fine.js")
    (web / "circle.js").symlink_to(web / "circle.js")
    os.mkfifo(web / "pipe.js")
    return web


@pytest.fixture(scope="module")
def app(root: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The whole app, with the scripts of three packs, of which one is gone."""
    places = places_below(tmp_path_factory.mktemp("service"))
    app = create_app(ServiceSettings(places=places))
    app.state.desk.web_directories |= {
        "route_tools": Folder(PACK / "web"),
        "my pack": Folder(root),
        "gone": Folder(root / "gone"),
    }
    return app


@pytest.fixture(scope="module")
def address(app: FastAPI) -> Iterator[str]:
    with served(app) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address) as client:
        yield client


def test_scripts_are_listed_for_the_editor(client: httpx.Client) -> None:
    """Every script below each directory, as a path that can be asked for; links out and hidden ones are not named."""
    for path in ("/extensions", "/api/extensions"):
        listed = [url for url in client.get(path).json() if "/mezzotint/" not in url and "/core/" not in url]
        assert listed == [
            "/extensions/route_tools/sub/deep.js",
            "/extensions/route_tools/x.js",
            "/extensions/my%20pack/100%25.js",
            "/extensions/my%20pack/fine.js",
            "/extensions/my%20pack/within.js",
        ]
    assert [client.get(url).text for url in listed] == [
        (PACK / "web/sub/deep.js").read_text(),
        (PACK / "web/x.js").read_text(),
        "percent",
        "fine",
        "fine",
    ]


@pytest.mark.parametrize(
    ("name", "kind", "cache"),
    [
        ("route_tools/x.js", "text/javascript; charset=utf-8", "no-cache"),
        ("route_tools/sub/y%20z.mjs", "text/javascript; charset=utf-8", "no-cache"),
        ("route_tools/data.json", "application/json", None),
        ("my%20pack/data.unknown", "application/octet-stream", None),
    ],
)
def test_files_are_of_their_type(client: httpx.Client, name: str, kind: str, cache: str | None) -> None:
    """A browser never guesses, and asks for scripts anew each time; they run in the editor's page."""
    answer = client.get(f"/extensions/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert (answer.headers.get("cache-control"), answer.headers["x-content-type-options"]) == (cache, "nosniff")
    assert "content-security-policy" not in answer.headers


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("route_tools/page.html", "text/html; charset=utf-8"),
        ("my%20pack/SHOUT.HTML", "text/html; charset=utf-8"),
        ("route_tools/icon.svg", "image/svg+xml"),
    ],
)
def test_a_page_of_a_pack_runs_no_scripts(app: FastAPI, client: httpx.Client, name: str, kind: str) -> None:
    """What a browser could open as a page of the service is shut in, also by the service's door with rules of its own."""
    path = f"/extensions/{name}"
    for answer in (client.get(path), client.get(path, headers={"Range": "bytes=0-3"})):
        assert (answer.headers["content-type"], answer.headers["x-content-type-options"]) == (kind, "nosniff")
        assert answer.headers["content-security-policy"] == "sandbox"
    guarded = ask(Guard(app, partnered_policy()), path=path.replace("%20", " "))
    assert guarded.all_of("content-security-policy") == ["sandbox", f"frame-ancestors 'self' {PARTNER}"]


def test_what_a_client_has_is_not_sent_again(client: httpx.Client) -> None:
    """304 for its ETag, weak or strong, and the file for another."""
    path = "/extensions/route_tools/x.js"
    etag = client.get(path).headers["etag"]
    again = client.get(path, headers={"If-None-Match": f'"other", W/{etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.head(path).headers["content-length"] == "20"


@pytest.mark.parametrize(
    "path",
    [
        "my%20pack/../secret.js",
        "my%20pack/%2e%2e/secret.js",
        "my%20pack/..%2fsecret.js",
        "my%20pack/%252e%252e/secret.js",
        "my%20pack/..%5csecret.js",
        "my%20pack/fine.js%00.png",
        "my%20pack/out.js",
        "my%20pack/outside/secret.js",
        "my%20pack/circle.js",
        "my%20pack/pipe.js",
        "my%20pack/.hidden.js",
        "my%20pack/code.PY",
        "my%20pack/code.PY%5c",
        "my%20pack/",
        "my%20pack/none.js",
        "none/x.js",
        "gone/x.js",
        "../web/fine.js",
        "route_tools/helper.py",
    ],
)
def test_nothing_else_is_served(address: str, path: str) -> None:
    """Ways out, links out, encodings, hidden files, code of the pack, what is no file."""
    status, text = raw_get(address, f"/extensions/{path}")
    assert (status, "secret" in text) == (404, False)


def test_a_pack_cannot_take_our_name(app: FastAPI, client: httpx.Client, root: Path) -> None:
    """What is listed and served under our name is ours."""
    before = client.get("/extensions").json()
    app.state.desk.web_directories["mezzotint"] = Folder(root)
    try:
        assert client.get("/extensions").json() == before
        assert client.get("/extensions/mezzotint/fine.js").status_code == 404
    finally:
        del app.state.desk.web_directories["mezzotint"]
