"""Translations and example workflows of packs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from engine.packs.sources import find_packs
from engine.service.pack_extras import merged, pack_folders, template_file, template_routes, templates, translations
from engine.service.served import Folder
from tests.conftest import ROOT
from tests.service.serving import raw_get, served

PACK = Folder(ROOT / "tests/packs/route_tools")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(Starlette(routes=template_routes(lambda: {"route_tools": PACK}))) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address) as client:
        yield client


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
    folders = {name: Folder(tmp_path / name) for name in "abc"}
    assert translations(folders) == {"en": {"x": 2, "deep": {"a": 1, "b": 2}}}
    assert merged({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


# example workflows


def test_examples_are_listed_and_served(client: httpx.Client) -> None:
    """By pack and name, with their pictures; and under /api as well."""
    assert templates({"route_tools": PACK, "none": Folder(PACK.path / "web")}) == {
        "route_tools": ["first steps", "second"]
    }
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
    folders = {"a": Folder(tmp_path / "a"), "b": Folder(tmp_path / "b")}
    assert templates(folders) == {"a": ["one"]}
    one = tmp_path / "a/workflows/one.json"
    assert template_file(folders, "a", "one.json") == (one, one.stat())
    assert template_file(folders, "b", "key.json") is None
    # of an installed pack a folder may be a link
    folders["b"] = Folder(tmp_path / "b", is_installed=True)
    assert templates(folders) == {"a": ["one"], "b": ["key"]}
    key = tmp_path / "b/example_workflows/key.json"
    assert template_file(folders, "b", "key.json") == (key, key.stat())


def test_packs_that_are_folders_have_one(tmp_path: Path) -> None:
    """A pack of one file brings nothing else."""
    (tmp_path / "single.py").write_text("")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/__init__.py").write_text("")
    assert pack_folders(find_packs([tmp_path])) == {"whole": Folder(tmp_path / "whole")}
