"""The editor's files, and the page there is without it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from engine.graph.read import read_workflow
from engine.registry import Registry
from engine.service import editor
from engine.service.desk import Desk
from engine.service.served import Folder
from tests.conftest import ROOT

FILES = {
    "index.html": b"<!doctype html><title>Editor</title>",
    "assets/index-abc.js": b"export {}",
    "assets/style.css": b"body {}",
    "assets/index.en.json": b"{}",
    "assets/data.json": b"{}",
    "assets/logo.svg": b"<svg/>",
    "assets/logo.png": b"png",
    "assets/font.woff2": b"font",
    "assets/page.xhtml": b"<html/>",
    "extensions/core/a.js": b"core",
    ".env": b"secret",
}


def make_package(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """A package whose import would fail: it must never be imported."""
    for path, data in files.items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_bytes(data)
    (folder / name / "__init__.py").write_text("raise ImportError('imported')")
    return folder / name


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where packages are installed, before all others."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def frontend(site: Path) -> Path:
    return make_package(site, "comfyui_frontend_package", {f"static/{name}": data for name, data in FILES.items()})


@pytest.fixture
def no_frontend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editor, "FRONTEND", "a_package_nobody_has")


@pytest.mark.usefixtures("frontend")
async def test_the_editor_is_served(files_client: httpx.AsyncClient) -> None:
    """Its page and its scripts are asked for anew each time, and not sent again when they are the same."""
    page = await files_client.get("/")
    assert (page.content, page.headers["content-type"]) == (FILES["index.html"], "text/html; charset=utf-8")
    assert page.headers["cache-control"] == "no-cache"
    again = await files_client.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await files_client.head("/")).headers["content-length"] == str(len(FILES["index.html"]))


@pytest.mark.usefixtures("frontend")
@pytest.mark.parametrize(
    ("name", "type_", "cache"),
    [
        ("assets/index-abc.js", "text/javascript; charset=utf-8", "no-cache"),
        ("assets/style.css", "text/css; charset=utf-8", "no-cache"),
        ("assets/index.en.json", "application/json", "no-cache"),
        ("assets/data.json", "application/json", None),
        ("assets/logo.svg", "image/svg+xml", None),
        ("assets/logo.png", "image/png", "public, max-age=86400"),
        ("assets/font.woff2", "font/woff2", None),
        ("assets/page.xhtml", "application/octet-stream", None),
        ("extensions/core/a.js", "text/javascript; charset=utf-8", "no-cache"),
    ],
)
async def test_types_and_caching(files_client: httpx.AsyncClient, name: str, type_: str, cache: str | None) -> None:
    """A browser runs scripts only under their own type; what has the same name in every release is asked for anew."""
    answer = await files_client.get(f"/{name}")
    assert (answer.status_code, answer.content) == (200, FILES[name])
    assert answer.headers["content-type"] == type_
    assert answer.headers.get("cache-control") == cache


@pytest.mark.parametrize(
    "path",
    [
        "/none.js",
        "/assets",
        "/assets/",
        "/extensions",
        "/.env",
        "/..%2f__init__.py",
        "/%2e%2e/__init__.py",
        "/assets/..%2f..%2f__init__.py",
        "/..%5c__init__.py",
        "/assets/%2fetc%2fpasswd",
        "//etc/passwd",
        "/a%00.js",
        "/api/none",
        "/extensions/core/none.js",
        "/extensions/pack/..%2fsecret.js",
        "/extensions/pack/link.js",
        "/extensions/none/a.js",
        "/extensions/%2e%2e/index.html",
        "/extensions/mezzotint/..%2fhome.html",
        "/docs/..%2f..%2fsecret.md",
        "/templates/..%2fsecret.json",
    ],
)
@pytest.mark.usefixtures("frontend")
async def test_what_is_not_there(files_client: httpx.AsyncClient, files_desk: Desk, tmp_path: Path, path: str) -> None:
    """No folder is listed, and no path leads out of the folders that are served."""
    pack = tmp_path / "pack" / "web"
    pack.mkdir(parents=True)
    (pack.parent / "secret.js").write_bytes(b"secret")
    (pack / "link.js").symlink_to(pack.parent / "secret.js")
    files_desk.web_directories["pack"] = Folder(pack)
    answer = await files_client.get(path)
    # what lists extensions is a route of its own
    assert (answer.status_code, answer.content) == (404, b"") or path == "/extensions", answer.content


async def test_packages_that_are_made_of_links(
    files_client: httpx.AsyncClient, files_desk: Desk, site: Path, tmp_path: Path
) -> None:
    """Some installers keep files elsewhere and link to them: the editor, its texts and installed packs' scripts are served as ever."""
    made = {
        "comfyui_frontend_package": {f"static/{name}": data for name, data in FILES.items()},
        "comfyui_embedded_docs": {"docs/KSampler/en.md": b"# KSampler"},
        "comfyui_workflow_templates": {"templates/index.json": b"[1]"},
        "a_pack": {"web/a.js": b"export {}", "web/own.py": b"secret"},
    }
    for name, files in made.items():
        make_package(tmp_path / "store", name, files)
        for path in files:
            (site / name / path).parent.mkdir(parents=True, exist_ok=True)
            (site / name / path).symlink_to(tmp_path / "store" / name / path)
        (site / name / "__init__.py").symlink_to(tmp_path / "store" / name / "__init__.py")
    files_desk.web_directories["pack"] = Folder(site / "a_pack" / "web", is_installed=True)
    assert (await files_client.get("/")).content == FILES["index.html"]
    for name in ("assets/index-abc.js", "assets/logo.png", "extensions/core/a.js"):
        assert (await files_client.get(f"/{name}")).content == FILES[name]
    assert (await files_client.get("/docs/KSampler/en.md")).content == b"# KSampler"
    assert (await files_client.get("/templates/index.json")).json() == [1]
    listed = ["/extensions/core/a.js", "/extensions/mezzotint/first_visit.js", "/extensions/pack/a.js"]
    assert (await files_client.get("/extensions")).json() == listed
    assert (await files_client.get("/extensions/pack/a.js")).content == b"export {}"
    for path in ("/.env", "/extensions/pack/own.py", "/..%2f__init__.py", "/assets/..%2f..%2f__init__.py"):
        assert (await files_client.get(path)).status_code == 404


@pytest.mark.usefixtures("frontend")
async def test_other_methods_find_nothing(files_client: httpx.AsyncClient) -> None:
    """A path nobody knows is not found, whatever is asked of it; one that is known says what it allows."""
    assert (await files_client.post("/none")).status_code == 404
    assert (await files_client.delete("/view")).status_code == 405


@pytest.mark.usefixtures("frontend")
async def test_scripts_of_packs(files_client: httpx.AsyncClient, files_desk: Desk, tmp_path: Path) -> None:
    """Every script below a pack's web folder is listed, and what lies beside it is served."""
    pack = tmp_path / "my pack"
    (pack / "js").mkdir(parents=True)
    (pack / "js" / "a b.js").write_bytes(b"export {}")
    (pack / "style.css").write_bytes(b"body {}")
    (tmp_path / "secret.js").write_bytes(b"secret")
    (pack / "out.js").symlink_to(tmp_path / "secret.js")
    files_desk.web_directories["my pack"] = Folder(pack)
    urls = (await files_client.get("/api/extensions")).json()
    assert urls == [
        "/extensions/core/a.js",
        "/extensions/mezzotint/first_visit.js",
        "/extensions/my%20pack/js/a%20b.js",
    ]
    for url in urls:
        answer = await files_client.get(url)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/javascript; charset=utf-8"), url
    assert (await files_client.get("/extensions/my%20pack/style.css")).content == b"body {}"


async def test_a_pack_cannot_take_our_name(files_client: httpx.AsyncClient, files_desk: Desk, tmp_path: Path) -> None:
    """What is served under our name is ours."""
    (tmp_path / "first_visit.js").write_bytes(b"theirs")
    files_desk.web_directories["mezzotint"] = Folder(tmp_path)
    assert b"theirs" not in (await files_client.get("/extensions/mezzotint/first_visit.js")).content


@pytest.mark.usefixtures("no_frontend")
async def test_a_page_without_the_editor(files_client: httpx.AsyncClient) -> None:
    """Without the package there is one page that says how to get it, and that loads nothing from elsewhere."""
    page = await files_client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'pip install "mezzotint[editor]"' in page.text
    assert "/v1/docs" in page.text
    assert re.search(r"https?://|src=[\"']//|@import", page.text) is None
    assert (await files_client.get("/assets/index.js")).status_code == 404
    assert (await files_client.get("/extensions/core/a.js")).status_code == 404
    assert (await files_client.get("/extensions")).json() == ["/extensions/mezzotint/first_visit.js"]


async def test_documentation_of_nodes(files_client: httpx.AsyncClient, site: Path) -> None:
    """Pages of the documentation package, where there is one."""
    assert (await files_client.get("/docs/KSampler/en.md")).status_code == 404
    make_package(site, "comfyui_embedded_docs", {"docs/KSampler/en.md": b"# KSampler"})
    answer = await files_client.get("/docs/KSampler/en.md")
    assert (answer.content, answer.headers["content-type"]) == (b"# KSampler", "text/markdown; charset=utf-8")
    assert (await files_client.get("/docs/KSampler/fr.md")).status_code == 404


async def test_templates(files_client: httpx.AsyncClient, site: Path) -> None:
    """Templates of however many packages there are; none at all are an empty list."""
    assert (await files_client.get("/templates/index.json")).json() == []
    assert (await files_client.get("/templates/a.json")).status_code == 404
    make_package(site, "comfyui_workflow_templates", {"templates/index.json": b"[1]"})
    make_package(site, "comfyui_workflow_templates_media_image", {"templates/a-1.webp": b"webp"})
    assert (await files_client.get("/templates/index.json")).json() == [1]
    picture = await files_client.get("/templates/a-1.webp")
    assert (picture.content, picture.headers["content-type"]) == (b"webp", "image/webp")


def test_the_first_workflow_is_the_one_people_run(core: Registry) -> None:
    """What a first visit shows is ``workflows/txt2img.json``, laid out for an editor."""
    shown = read_workflow(editor.PAGES / "extension" / "txt2img.json", core)
    run = read_workflow(ROOT / "workflows" / "txt2img.json", core)
    assert (shown.source, run.source) == ("editor", "api")
    assert dict(shown.graph) == dict(run.graph)


async def test_the_real_editor_has_what_the_script_needs(files_client: httpx.AsyncClient) -> None:
    """The installed frontend has the shims that the first visit's script imports."""
    if editor.frontend_folder() is None:
        pytest.skip("the editor is not installed")
    script = (await files_client.get("/extensions/mezzotint/first_visit.js")).text
    imported = re.findall(r'import \{ (\w+) \} from "([^"]+)"', script)
    assert imported == [("app", "/scripts/app.js"), ("api", "/scripts/api.js")]
    for name, url in imported:
        answer = await files_client.get(url)
        assert answer.headers["content-type"].startswith("text/javascript")
        assert f"export const {name} " in answer.text
