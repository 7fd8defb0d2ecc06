"""Models as an editor lists them, and what the service says of itself."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from engine.graph.safetensors_header import with_safetensors_metadata
from engine.model_folders import SUBFOLDERS
from engine.service.desk import Desk
from engine.service.logs import Entry, LogRing, setup_logging
from tests.service.files_app import asking, make_desk, opened, picture
from tests.service.test_view import EMPTY_SAFETENSORS


@pytest.fixture
def models(files_desk: Desk) -> Path:
    return files_desk.places.models[0]


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_names_of_models(files_client: httpx.AsyncClient, models: Path, prefix: str) -> None:
    """Folder keys, and the names in each; an alias is its folder, an unknown key is not found."""
    for name in ("checkpoints/sub/a.safetensors", "checkpoints/b.ckpt", "checkpoints/notes.txt", "clip/c.safetensors"):
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_bytes(b"x")
    assert (await files_client.get(f"{prefix}/models")).json() == list(SUBFOLDERS)
    assert (await files_client.get(f"{prefix}/models/checkpoints")).json() == ["b.ckpt", "sub/a.safetensors"]
    assert (await files_client.get(f"{prefix}/models/clip")).json() == ["c.safetensors"]
    assert (await files_client.get(f"{prefix}/models/text_encoders")).json() == ["c.safetensors"]
    assert (await files_client.get(f"{prefix}/models/nowhere")).status_code == 404


async def test_names_of_embeddings(files_client: httpx.AsyncClient, models: Path) -> None:
    """Embeddings are named as a prompt names them."""
    (models / "embeddings" / "sub").mkdir(parents=True)
    (models / "embeddings" / "bad.v2.pt").write_bytes(b"x")
    (models / "embeddings" / "sub" / "b.safetensors").write_bytes(b"x")
    assert (await files_client.get("/embeddings")).json() == ["bad.v2", "sub/b"]


async def test_the_model_library(files_client: httpx.AsyncClient, models: Path) -> None:
    """Folders with their places, and files with size and times."""
    (models / "unet").mkdir()
    (models / "unet" / "a.safetensors").write_bytes(b"12345")
    library = (await files_client.get("/api/experiment/models")).json()
    assert {"configs", "custom_nodes"}.isdisjoint(entry["name"] for entry in library)
    (entry,) = (entry for entry in library if entry["name"] == "diffusion_models")
    assert entry["folders"] == [str(models / "diffusion_models"), str(models / "unet")]
    (listed,) = (await files_client.get("/experiment/models/diffusion_models")).json()
    found = (models / "unet" / "a.safetensors").stat()
    assert listed == {
        "name": "a.safetensors",
        "pathIndex": 1,
        "modified": found.st_mtime,
        "created": found.st_ctime,
        "size": 5,
    }
    assert (await files_client.get("/experiment/models/nowhere")).status_code == 404


@pytest.mark.parametrize("suffix", [".png", ".preview.png", ".jpg", ".webp"])
async def test_a_cover_beside_the_model(files_client: httpx.AsyncClient, models: Path, suffix: str) -> None:
    """A picture of the model's name is its cover, as WEBP, scaled down."""
    folder = models / "checkpoints" / "sub"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(EMPTY_SAFETENSORS)
    format = {".jpg": "JPEG", ".webp": "WEBP"}.get(suffix, "PNG")
    (folder / f"a{suffix}").write_bytes(picture(size=(2048, 512), format=format))
    answer = await files_client.get("/experiment/models/preview/checkpoints/0/sub%2Fa.safetensors")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    shown = opened(answer.content)
    assert (shown.format, shown.size) == ("WEBP", (1024, 256))


@pytest.mark.parametrize("as_list", [False, True])
async def test_a_cover_in_the_model(files_client: httpx.AsyncClient, models: Path, as_list: bool) -> None:
    """A thumbnail in the metadata is the cover, as a data URI or as the first of a list."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(stream, "PNG")
    text = base64.b64encode(stream.getvalue()).decode()
    metadata = (
        {"ssmd_cover_images": json.dumps([text])}
        if as_list
        else {"modelspec.thumbnail": f"data:image/png;base64,{text}"}
    )
    (models / "checkpoints" / "a.safetensors").write_bytes(with_safetensors_metadata(EMPTY_SAFETENSORS, metadata))
    answer = await files_client.get("/api/experiment/models/preview/checkpoints/0/a.safetensors")
    red = np.asarray(opened(answer.content).convert("RGB")).mean(axis=(0, 1))
    assert red[0] > 230
    assert red[1:].max() < 25


@pytest.mark.parametrize(
    "asked",
    [
        "checkpoints/0/bare.safetensors",
        "checkpoints/0/none.safetensors",
        "checkpoints/0/bad.safetensors",
        "checkpoints/0/text.safetensors",
        "checkpoints/1/covered.safetensors",
        "checkpoints/x/covered.safetensors",
        "nowhere/0/covered.safetensors",
        "checkpoints/0/..%2Fsecret.safetensors",
        "checkpoints/0/%2Fetc%2Fpasswd",
        "checkpoints/0/linked.safetensors",
        "checkpoints/0/.hidden.safetensors",
    ],
)
async def test_no_cover(files_client: httpx.AsyncClient, models: Path, asked: str) -> None:
    """A model without a cover, one that is broken, and names that lead elsewhere have none."""
    folder = models / "checkpoints"
    (models / "secret.png").write_bytes(picture())
    (folder / "covered.png").write_bytes(picture())
    (folder / ".hidden.png").write_bytes(picture())
    (folder / "linked.png").symlink_to(models / "secret.png")
    (folder / "bare.safetensors").write_bytes(EMPTY_SAFETENSORS)
    (folder / "bad.safetensors").write_bytes(
        with_safetensors_metadata(EMPTY_SAFETENSORS, {"modelspec.thumbnail": "data:image/svg+xml;base64,PHN2Zy8+"})
    )
    (folder / "text.safetensors").write_bytes(
        with_safetensors_metadata(EMPTY_SAFETENSORS, {"modelspec.thumbnail": "no base64!"})
    )
    answer = await files_client.get(f"/experiment/models/preview/{asked}")
    assert (answer.status_code, answer.content) == (404, b"")


async def test_what_the_service_says_of_itself(files_client: httpx.AsyncClient) -> None:
    """Memory in bytes, versions as text, no argument of the command line, a device of integers."""
    said = (await files_client.get("/api/system_stats")).json()
    system = said["system"]
    assert system["ram_total"] >= system["ram_free"] > 0
    assert system["embedded_python"] is False
    assert system["argv"] == ["mezzotint", "serve"]
    assert all(isinstance(system[key], str) for key in ("os", "comfyui_version", "python_version", "pytorch_version"))
    (device,) = said["devices"]
    assert set(device) == {
        "name", "type", "index", "vram_total", "vram_free", "torch_vram_total", "torch_vram_free"
    }  # fmt: skip
    assert all(isinstance(device[key], int) for key in device if key not in ("name", "type"))


async def test_features(tmp_path: Path) -> None:
    """A client is told how large an upload may be."""
    async with asking(make_desk(tmp_path, body=12345)) as client:
        assert (await client.get("/features")).json() == {"supports_preview_metadata": True, "max_upload_size": 12345}


@pytest.mark.parametrize("path", ["/global_subgraphs", "/node_replacements"])
async def test_what_there_is_none_of(files_client: httpx.AsyncClient, path: str) -> None:
    """An editor asks, and is told that there is nothing."""
    assert (await files_client.get(f"/api{path}")).json() == {}


async def test_folders_and_their_newest_files(files_client: httpx.AsyncClient, files_desk: Desk, models: Path) -> None:
    """Where models are looked for; the names of a folder's files, newest first, without what is hidden or elsewhere."""
    paths = (await files_client.get("/internal/folder_paths")).json()
    assert paths["checkpoints"] == [str(models / "checkpoints")]
    output = files_desk.places.output
    for age, name in enumerate(("new.png", "old.png", ".hidden.png")):
        (output / name).write_bytes(b"x")
        os.utime(output / name, (1000 - age, 1000 - age))
    (output / "folder").mkdir()
    (models / "secret.png").write_bytes(b"x")
    (output / "link.png").symlink_to(models / "secret.png")
    assert (await files_client.get("/internal/files/output")).json() == ["new.png", "old.png"]
    refused = await files_client.get("/internal/files/models")
    assert (refused.status_code, refused.json()) == (400, {"error": "Invalid directory type"})


async def test_the_log_is_shown(files_client: httpx.AsyncClient, files_desk: Desk) -> None:
    """The last lines as one text and as entries; a client may follow, and stop."""
    assert (await files_client.get("/internal/logs")).json() == ""
    ring = files_desk.log_ring = LogRing(capacity=2)
    for number in range(3):
        ring.handle(logging.LogRecord("test", logging.INFO, "", 0, "line %d", (number,), None))
    raw = (await files_client.get("/internal/logs/raw")).json()
    assert [entry["m"].split(": ")[-1] for entry in raw["entries"]] == ["line 1\n", "line 2\n"]
    assert all(isinstance(raw["size"][key], int) for key in ("cols", "rows"))
    text = (await files_client.get("/internal/logs")).json()
    assert text.count("\n") == 2
    follow = await files_client.patch("/internal/logs/subscribe", json={"clientId": "me", "enabled": True})
    assert (follow.status_code, ring.followers) == (200, frozenset({"me"}))
    await files_client.patch("/internal/logs/subscribe", json={"clientId": "me", "enabled": False})
    assert ring.followers == frozenset()
    refused: list[Any] = [{}, [], {"clientId": 1}, {"clientId": "x" * 1000, "enabled": True}]
    for said in refused:
        assert (await files_client.patch("/internal/logs/subscribe", json=said)).status_code == 400


def test_a_ring_tells_and_forgets() -> None:
    """Subscribers hear each line until they stop; of too many followers the first is forgotten."""
    ring, heard = LogRing(most_followers=2), list[Entry]()
    end = ring.subscribe(heard.append)
    ring.handle(logging.LogRecord("test", logging.INFO, "", 0, "first", (), None))
    end()
    ring.handle(logging.LogRecord("test", logging.INFO, "", 0, "second", (), None))
    assert [entry["m"].split(": ")[-1] for entry in heard] == ["first\n"]
    for client in "abc":
        ring.follow(client, True)
    assert ring.followers == {"b", "c"}


@pytest.mark.parametrize("format", ["json", "text"])
def test_lines_of_the_log(capsys: pytest.CaptureFixture[str], format: str) -> None:
    """A line of JSON can be read by a program whatever is in it; a line of text names the job too."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    ring = LogRing()
    try:
        setup_logging(format, "info", ring)
        logger = logging.getLogger("engine.test")
        logger.debug("quiet")
        logger.info("two\nlines", extra={"job": "j1"})
        try:
            raise ValueError("why")
        except ValueError:
            logger.exception("failed")
    finally:
        for handler in list(root.handlers):
            root.removeHandler(handler)
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
    said = capsys.readouterr().err
    assert len(ring.entries()) == 2
    if format == "text":
        assert "engine.test: two\nlines [job j1]" in said
        return
    first, second = map(json.loads, said.splitlines())
    assert (first["level"], first["logger"], first["message"], first["job"]) == (
        "info",
        "engine.test",
        "two\nlines",
        "j1",
    )
    assert "ValueError: why" in second["exc"]
    assert first["time"] < second["time"]
