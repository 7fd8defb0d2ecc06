"""Third-party packs in the whole service: their nodes, their routes, their scripts, and what becomes of it when one kills its process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest

from engine.client import SyncClient
from engine.jobs.records import StoredEvent
from tests.service.process import ROOT, ServiceProcess

PACK = """
import os
import time
class Doubler:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}
    RETURN_TYPES = ("STRING",)
    FUNCTION = "go"
    CATEGORY = "t"
    OUTPUT_NODE = True
    @classmethod
    def VALIDATE_INPUTS(cls, text):
        return True if text != "bad" else "this text is bad"
    def go(self, text):
        if text == "die":
            os._exit(3)
        if text == "hang":
            time.sleep(300)
        return {"ui": {"text": [text * 2]}, "result": (text * 2,)}
NODE_CLASS_MAPPINGS = {"Doubler": Doubler}
WEB_DIRECTORY = "web"
"""


def _node(text: str) -> dict[str, object]:
    return {"1": {"class_type": "Doubler", "inputs": {"text": text}}}


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    folder = tmp_path / "packs"
    (folder / "doubler" / "web").mkdir(parents=True)
    (folder / "doubler" / "__init__.py").write_text(PACK)
    (folder / "doubler" / "web" / "d.js").write_text("export const d = 2;")
    (folder / "doubler" / "locales" / "de").mkdir(parents=True)
    texts = '{"Doubler": {"display_name": "Verdoppler"}}'
    (folder / "doubler" / "locales" / "de" / "nodeDefs.json").write_text(texts)
    (folder / "doubler" / "example_workflows").mkdir()
    (folder / "doubler" / "example_workflows" / "twice.json").write_text("{}")
    (folder / "route_tools").symlink_to(ROOT / "tests" / "packs" / "route_tools")
    return folder


def test_a_pack_lives_in_the_worker_and_dies_there(tmp_path: Path, packs: Path) -> None:
    """Its node is offered, checked and run; one that ends its process fails its job and nothing else; one
    that does not stop when it is told to is ended; the next start knows them at once."""
    service = ServiceProcess(tmp_path / "s", "--custom-nodes", str(packs), "--grace", "1")
    try:
        service.start()
        with httpx.Client(base_url=service.url, timeout=30) as http, SyncClient(service.url) as client:
            deadline = time.monotonic() + 60
            while not http.get("/object_info/Doubler").json() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert http.get("/object_info/Doubler").json()["Doubler"]["python_module"] == "custom_nodes.doubler"
            refused = http.post("/prompt", json={"prompt": _node("bad")}).json()
            assert refused["node_errors"]["1"]["errors"][0]["type"] == "custom_validation_failed"
            dies = client.submit(_node("die"))["id"]
            ended = client.wait(dies)
            assert ended["state"] == "failed"
            assert ended["errors"][0]["pack"] == "doubler"
            assert "3 in a row" in ended["errors"][0]["reason"]
            hangs = client.submit(_node("hang"))["id"]
            for event in client.events(hangs):
                if isinstance(event, StoredEvent) and event.name == "node_started":
                    break
            assert client.cancel(hangs)
            assert client.wait(hangs)["state"] == "cancelled"
            good = client.wait(client.submit(_node("ab"))["id"])
            assert good["outputs"]["1"]["text"] == ["abab"]
            assert "/extensions/doubler/d.js" in http.get("/extensions").json()
            assert http.get("/api/i18n").json()["de"]["nodeDefs"]["Doubler"] == {"display_name": "Verdoppler"}
            assert http.get("/workflow_templates").json()["doubler"] == ["twice"]
            assert http.get("/api/workflow_templates/doubler/twice.json").json() == {}
            assert http.get("/extensions/doubler/d.js").text == "export const d = 2;"
        service.kill()
        service.start()
        with httpx.Client(base_url=service.url, timeout=30) as http:
            first = http.get("/object_info").json()
            assert "Doubler" in first or http.get("/object_info/Doubler").json()
    finally:
        service.close()


def test_an_installed_pack_may_be_made_of_links(tmp_path: Path) -> None:
    """Its files lie where the installer keeps them, and the folder of packages is itself reached over a link: all it brings is served."""
    store, real, site = tmp_path / "store", tmp_path / "lib", tmp_path / "site"
    files = {
        "doubler_pack/__init__.py": PACK,
        "doubler_pack/web/d.js": "export const d = 2;",
        "doubler_pack/locales/de/main.json": '{"a": "b"}',
        "doubler_pack/example_workflows/twice.json": "{}",
        "doubler-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: doubler\nVersion: 1.0\n",
        "doubler-1.0.dist-info/entry_points.txt": "[mezzotint.packs]\ndoubler = doubler_pack\n",
    }
    for name, text in files.items():
        for folder in (store, real):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text(text)
        (real / name).symlink_to(store / name)
    site.symlink_to(real)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    service = ServiceProcess(tmp_path / "s", "--installed-packs", environment={"PYTHONPATH": path})
    try:
        service.start()
        with httpx.Client(base_url=service.url, timeout=30) as http:
            deadline = time.monotonic() + 60
            while "/extensions/doubler/d.js" not in http.get("/extensions").json() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert http.get("/extensions/doubler/d.js").text == "export const d = 2;"
            assert http.get("/extensions/doubler/../__init__.py").status_code == 404
            assert http.get("/i18n").json() == {"de": {"a": "b"}}
            assert http.get("/workflow_templates").json() == {"doubler": ["twice"]}
            assert http.get("/api/workflow_templates/doubler/twice.json").json() == {}
    finally:
        service.close()
