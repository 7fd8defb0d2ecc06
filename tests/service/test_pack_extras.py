"""Browser scripts, translations and example workflows of packs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from engine.packs.sources import find_packs
from engine.service.pack_extras import merged, pack_folders, template_file, template_routes, templates, translations
from engine.service.pack_web import file_below, web_files, web_routes
from tests.conftest import ROOT
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
    (web / "100%.js").write_text("secret")
    (web / "data.unknown").write_bytes(b"\0\1")
    (web / "out.js").symlink_to(folder / "secret.js")
    (web / "outside").symlink_to(folder)
    (web / "within.js").symlink_to(web / "fine.js")
    (web / "circle.js").symlink_to(web / "circle.js")
    os.mkfifo(web / "pipe.js")
    return web


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    folders = {"route_tools": PACK}
    directories = {"route_tools": PACK / "web", "my pack": root}
    app = Starlette(routes=[*web_routes(lambda: directories), *template_routes(lambda: folders)])
    with served(app) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address) as client:
        yield client


# scripts


def test_scripts_are_listed_for_the_editor(client: httpx.Client, root: Path) -> None:
    """Every script below each directory, as a path that can be asked for; links out and hidden ones are not named."""
    listed = web_files({"route_tools": PACK / "web", "my pack": root, "gone": root / "gone"})
    assert listed == [
        "/extensions/route_tools/sub/deep.js",
        "/extensions/route_tools/x.js",
        "/extensions/my%20pack/100%25.js",
        "/extensions/my%20pack/fine.js",
        "/extensions/my%20pack/within.js",
    ]
    assert client.get(listed[0]).text == "console.log(1)\n"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.js", "text/javascript; charset=utf-8"),
        ("sub/y%20z.mjs", "text/javascript; charset=utf-8"),
        ("data.json", "application/json"),
        ("icon.svg", "image/svg+xml; charset=utf-8"),
        ("page.html", "text/html; charset=utf-8"),
    ],
)
def test_files_are_of_their_type(client: httpx.Client, name: str, kind: str) -> None:
    """Asked for anew each time, never guessed at; what could run as a page is shut in."""
    answer = client.get(f"/extensions/route_tools/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-cache", "nosniff")
    assert answer.headers.get("content-security-policy") == ("sandbox" if "html" in kind or "svg" in kind else None)


def test_an_unknown_type_is_bytes(client: httpx.Client) -> None:
    """A browser does not show it."""
    answer = client.get("/extensions/my pack/data.unknown")
    assert (answer.content, answer.headers["content-type"]) == (b"\0\1", "application/octet-stream")


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
        "my%20pack/100%25.js",
        "my%20pack//fine.js",
        "my%20pack/",
        "my%20pack/none.js",
        "none/x.js",
        "../web/fine.js",
        "route_tools/helper.py",
    ],
)
def test_nothing_else_is_served(address: str, path: str) -> None:
    """Ways out, links out, encodings, hidden files, code of the pack, what is no file."""
    status, text = raw_get(address, f"/extensions/{path}")
    assert (status, "secret" in text) == (404, False)


def test_links_that_stay_within_are_followed(client: httpx.Client) -> None:
    """A file under another name of the same folder."""
    assert client.get("/extensions/my pack/within.js").text == "fine"


def test_names_that_are_none_are_no_files(tmp_path: Path) -> None:
    """Whatever a client sends as a name, the answer is that there is no such file."""
    for name in ("", ".", "a\0b", "x" * 5000, "a/./b", "\ud800"):
        assert file_below(tmp_path, name) is None


# translations


def test_translations_are_put_together() -> None:
    """By language and part; a file that cannot be read is left out, and the rest of its language is there."""
    assert translations({"route_tools": PACK}) == {
        "en": {
            "greeting": "Hello",
            "menu": {"a": "A"},
            "nodeDefs": {"Counter|route_tools": {"display_name": "Counter"}},
        },
        "fr": {"greeting": "Bonjour", "commands": {"Run": {"label": "Lancer"}}},
    }


def test_packs_translate_side_by_side(tmp_path: Path) -> None:
    """Each keeps what the other does not say."""
    for pack, text in (("a", '{"x": 1, "deep": {"a": 1, "b": 1}}'), ("b", '{"x": 2, "deep": {"b": 2}}'), ("c", "[1]")):
        (tmp_path / pack / "locales/en").mkdir(parents=True)
        (tmp_path / pack / "locales/en/main.json").write_text(text)
    (tmp_path / "c/locales/de").symlink_to(tmp_path)
    folders = {name: tmp_path / name for name in "abc"}
    assert translations(folders) == {"en": {"x": 2, "deep": {"a": 1, "b": 2}}}
    assert merged({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


# example workflows


def test_examples_are_listed_and_served(client: httpx.Client) -> None:
    """By pack and name, with their pictures; and under /api as well."""
    assert templates({"route_tools": PACK, "none": PACK / "web"}) == {"route_tools": ["first steps", "second"]}
    answer = client.get("/api/workflow_templates/route_tools/first steps.json")
    assert (answer.json(), answer.headers["content-type"]) == ({"nodes": []}, "application/json")
    assert client.get("/workflow_templates/route_tools/second.jpg").content == b"\xff\xd8\xff"


@pytest.mark.parametrize("path", ["route_tools/none.json", "none/second.json", "route_tools/../__init__.py"])
def test_nothing_else_is_a_template(address: str, path: str) -> None:
    """Neither what is not there nor what lies beside."""
    assert raw_get(address, f"/api/workflow_templates/{path}")[0] == 404


def test_examples_lie_in_a_folder_of_the_pack(tmp_path: Path) -> None:
    """Older names of the folder count too; a folder that is elsewhere does not."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key.json").write_text("{}")
    (tmp_path / "a/workflows").mkdir(parents=True)
    (tmp_path / "a/workflows/one.json").write_text("{}")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/example_workflows").symlink_to(tmp_path / "secrets")
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    assert templates(folders) == {"a": ["one"]}
    assert template_file(folders, "a", "one.json") == tmp_path / "a/workflows/one.json"
    assert template_file(folders, "b", "key.json") is None


def test_packs_that_are_folders_have_one(tmp_path: Path) -> None:
    """A pack of one file brings nothing else."""
    (tmp_path / "single.py").write_text("")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/__init__.py").write_text("")
    assert pack_folders(find_packs([tmp_path])) == {"whole": tmp_path / "whole"}
