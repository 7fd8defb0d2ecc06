"""Pictures and other media that come in: what is taken, under which name, and what is refused."""

from __future__ import annotations

import asyncio
import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from engine.errors import InputError
from engine.graph.png import read_text
from engine.graph.safetensors_header import with_safetensors_metadata
from engine.service.comfy.uploads import store_input
from engine.service.desk import Desk
from engine.service.settings import ServiceLimits
from tests.service.files_app import asking, make_desk, opened, picture


@pytest.fixture
def input_folder(files_desk: Desk) -> Path:
    return files_desk.places.input


async def send(
    client: httpx.AsyncClient, name: str, data: bytes, route: str = "/upload/image", **form: Any
) -> httpx.Response:
    return await client.post(route, data=form, files={"image": (name, io.BytesIO(data))})


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says it is large, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_a_picture_is_kept_byte_for_byte(
    files_client: httpx.AsyncClient, input_folder: Path, prefix: str
) -> None:
    """Metadata and all: what was sent is what a workflow reads, and the answer says how it is named."""
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "{}")
    data = picture(pnginfo=text)
    answer = await send(files_client, "a b.png", data, f"{prefix}/upload/image")
    assert (answer.status_code, answer.json()) == (200, {"name": "a b.png", "subfolder": "", "type": "input"})
    assert files_below(input_folder) == {"a b.png": data}


async def test_one_name_for_one_content(files_client: httpx.AsyncClient, input_folder: Path) -> None:
    """The same bytes use their file again; others get a number; ``overwrite`` takes the place."""
    first, second, third = (picture(seed=seed) for seed in range(3))
    names = [(await send(files_client, "a.png", data)).json()["name"] for data in (first, first, second, second, first)]
    assert names == ["a.png", "a.png", "a (1).png", "a (1).png", "a.png"]
    assert (await send(files_client, "a.png", third, overwrite="true")).json()["name"] == "a.png"
    assert files_below(input_folder) == {"a.png": third, "a (1).png": second}


async def test_many_at_once_lose_nothing(files_client: httpx.AsyncClient, input_folder: Path) -> None:
    """Pictures of one name that come at the same moment each get a file, whole."""
    sent = [picture(seed=seed) for seed in range(8)]
    answers = await asyncio.gather(*(send(files_client, "a.png", data) for data in sent))
    stored = files_below(input_folder)
    assert [stored[answer.json()["name"]] for answer in answers] == sent
    assert len(stored) == len(sent)


async def test_where_it_goes(files_client: httpx.AsyncClient, files_desk: Desk) -> None:
    """``type`` and ``subfolder`` say the folder, which is made."""
    answer = await send(files_client, "a.png", picture(), type="temp", subfolder="x/y")
    assert answer.json() == {"name": "a.png", "subfolder": "x/y", "type": "temp"}
    assert (files_desk.places.temp / "x" / "y" / "a.png").read_bytes() == picture()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
async def test_formats_that_are_taken(files_client: httpx.AsyncClient, format: str) -> None:
    """The formats that the nodes read."""
    answer = await send(files_client, f"a.{format.lower()}", picture(format=format))
    assert answer.status_code == 200


LATENT = with_safetensors_metadata((2).to_bytes(8, "little") + b"{}", {"prompt": "{}"})


@pytest.mark.parametrize(
    ("name", "type_", "kind"),
    [
        ("a.mp3", "audio/mpeg", "inline"),
        ("a.WAV", "audio/wav", "inline"),
        ("a.flac", "audio/flac", "inline"),
        ("a.opus", "audio/ogg", "inline"),
        ("a.mp4", "video/mp4", "inline"),
        ("a.webm", "video/webm", "inline"),
        ("a.avi", "video/x-msvideo", "inline"),
        ("a.latent", "application/octet-stream", "attachment"),
        ("a.safetensors", "application/octet-stream", "attachment"),
        ("a.glb", "application/octet-stream", "attachment"),
        ("a.gltf", "application/octet-stream", "attachment"),
        ("a.obj", "application/octet-stream", "attachment"),
        ("a.fbx", "application/octet-stream", "attachment"),
        ("a.STL", "application/octet-stream", "attachment"),
    ],
)
async def test_other_media_are_taken_and_never_run(
    files_client: httpx.AsyncClient, input_folder: Path, name: str, type_: str, kind: str
) -> None:
    """Sound, film, latents and 3D models are kept byte for byte; what is sent back is played or saved, whatever is in it."""
    data = LATENT if type_ == "application/octet-stream" else b"<script>alert(1)</script>"
    answer = await send(files_client, name, data, subfolder="3d", type="input")
    assert (answer.status_code, answer.json()) == (200, {"name": name, "subfolder": "3d", "type": "input"})
    assert (await send(files_client, name, data, subfolder="3d")).json()["name"] == name
    another = (await send(files_client, name, data + b"x", subfolder="3d")).json()["name"]
    assert another == f"{name[0]} (1){name[1:]}"
    assert files_below(input_folder) == {f"3d/{name}": data, f"3d/{another}": data + b"x"}
    found = await files_client.get("/view", params={"filename": name, "subfolder": "3d", "type": "input"})
    assert (found.content, found.headers["content-type"]) == (data, type_)
    assert found.headers["content-disposition"] == f'{kind}; filename="{name}"'
    assert found.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name", ["a.svg", "a.html", "a.glb.html", "a.mp4.js", "a.py", "a.ckpt", "a.json", "a.pdf", "mp4"]
)
async def test_what_is_no_media_is_refused(files_client: httpx.AsyncClient, input_folder: Path, name: str) -> None:
    """And the answer says what is taken."""
    for data in (picture(), b"text"):
        answer = await send(files_client, name, data)
        assert answer.status_code == 400
        for suffix in (".png", ".mp3", ".mp4", ".latent", ".glb"):
            assert suffix in answer.json()["error"]
    assert files_below(input_folder) == {}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.latent", b""),
        ("a.latent", b"\x80\x04cos\nsystem\n."),
        ("a.safetensors", LATENT[:20]),
        ("a.safetensors", (2**40).to_bytes(8, "little") + b"{}"),
        ("a.png", LATENT),
        ("a.mp4", b""),
        ("a.glb", b""),
    ],
)
async def test_what_is_not_what_it_is_called_is_refused(
    files_client: httpx.AsyncClient, input_folder: Path, name: str, data: bytes
) -> None:
    """As far as that is looked at: a latent is a safetensors file, and no pickle; and nothing is no film."""
    answer = await send(files_client, name, data)
    assert answer.status_code == 400
    assert name in answer.json()["error"] or "picture" in answer.json()["error"]
    assert files_below(input_folder) == {}


@pytest.mark.parametrize("name", ["../a.mp4", "sub/a.mp4", "/etc/a.glb", ".hidden.mp3", "a.latent [output]"])
async def test_other_media_stay_in_their_folder(files_client: httpx.AsyncClient, files_desk: Desk, name: str) -> None:
    """Their names are held to the same rules as those of pictures."""
    for form in ({}, {"overwrite": "true"}, {"subfolder": "../.."}):
        assert (await send(files_client, name, LATENT, **form)).status_code == 400
    assert files_below(files_desk.places.state.parent) == {}


async def test_many_frames_and_many_bits(files_client: httpx.AsyncClient, input_folder: Path) -> None:
    """Animations and 16 bit pictures stay what they are."""
    stream = io.BytesIO()
    frames = [opened(picture(seed=seed)) for seed in range(3)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    deep = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(deep, "PNG")
    for name, data in (("a.gif", stream.getvalue()), ("b.png", deep.getvalue())):
        assert (await send(files_client, name, data)).status_code == 200
    assert files_below(input_folder) == {"a.gif": stream.getvalue(), "b.png": deep.getvalue()}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        picture(size=(64, 64))[:400],
        picture(format="PPM"),
        picture("RGBA", size=(16, 16), format="ICO"),
    ],
)
async def test_what_is_no_whole_picture_is_refused(
    files_client: httpx.AsyncClient, input_folder: Path, data: bytes
) -> None:
    """Other files, formats that nobody needs, and half a picture leave nothing behind, and the answer says why."""
    answer = await send(files_client, "a.png", data)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert "\n" not in answer.json()["error"]
    assert files_below(input_folder) == {}


BAD_NAMES = [
    "../a.png",
    "sub/a.png",
    "..\\a.png",
    "/etc/a.png",
    "C:\\a.png",
    "C:a.png",
    ".hidden.png",
    ".png",
    "a\nb.png",
    "a\r\nX: y.png",
    "a\0.png",
    "a.svg",
    "a.html",
    "a.png.js",
    "a.png [output]",
    "a",
    "con.png",
    "NUL.tar.png",
    "x" * 300 + ".png",
    "..",
    "\ud800.png",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(files_desk: Desk, name: str) -> None:
    """No name leaves the folder, hides, breaks a header, or makes a page of a picture."""
    with pytest.raises(InputError):
        store_input(files_desk.files.roots, ServiceLimits(), name, picture())
    assert files_below(files_desk.places.state.parent) == {}


@pytest.mark.parametrize("name", ["../a.png", "a.svg", ".hidden.png", "sub/a.png"])
async def test_bad_names_are_bad_requests(files_client: httpx.AsyncClient, files_desk: Desk, name: str) -> None:
    """A form is held to the same rules, and told so."""
    answer = await send(files_client, name, picture())
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("expected ")
    assert files_below(files_desk.places.state.parent) == {}


def test_reserved_characters_are_replaced(files_desk: Desk) -> None:
    """A name some file system could not hold is told back as it was stored."""
    stored = store_input(files_desk.files.roots, ServiceLimits(), "photo 12:30?.png", picture())
    assert stored["name"] == "photo 12_30_.png"
    assert (files_desk.places.input / "photo 12_30_.png").is_file()


@pytest.mark.parametrize(
    "subfolder", ["..", "a/../..", "/etc", "\\etc", "C:\\x", ".hidden", "a/.b", "a\0b", "away", "a\nb"]
)
async def test_bad_subfolders_are_refused(files_client: httpx.AsyncClient, files_desk: Desk, subfolder: str) -> None:
    """No subfolder leads out of the folder, by its name or by a link."""
    base = files_desk.places.state.parent
    (base / "elsewhere").mkdir()
    (files_desk.places.input / "away").symlink_to(base / "elsewhere")
    answer = await send(files_client, "a.png", picture(), subfolder=subfolder)
    assert answer.status_code == 400
    assert files_below(base) == {}


async def test_a_link_at_the_name_is_not_followed(files_client: httpx.AsyncClient, files_desk: Desk) -> None:
    """A picture is not written to where a link leads, overwriting or not."""
    base = files_desk.places.state.parent
    (base / "secret.png").write_bytes(b"secret")
    (files_desk.places.input / "a.png").symlink_to(base / "secret.png")
    for form in ({}, {"overwrite": "true"}):
        assert (await send(files_client, "a.png", picture(), **form)).status_code == 400
    assert (base / "secret.png").read_bytes() == b"secret"


async def test_a_link_is_not_taken_for_the_same_file(files_client: httpx.AsyncClient, files_desk: Desk) -> None:
    """What lies elsewhere is not compared with what a client sends, under whatever number it is linked."""
    base = files_desk.places.state.parent
    (base / "secret.png").write_bytes(picture(seed=1))
    (files_desk.places.input / "a.png").write_bytes(picture())
    (files_desk.places.input / "a (1).png").symlink_to(base / "secret.png")
    assert (await send(files_client, "a.png", picture(seed=1))).status_code == 400


async def test_an_unknown_type_is_refused(files_client: httpx.AsyncClient) -> None:
    """There are three folders."""
    answer = await send(files_client, "a.png", picture(), type="models")
    assert answer.status_code == 400
    assert "input, output, temp" in answer.json()["error"]


async def test_a_form_without_a_picture_is_refused(files_client: httpx.AsyncClient) -> None:
    """No file, a field in place of one, and no form at all are bad requests."""
    requests: list[dict[str, Any]] = [
        {"data": {"type": "input"}},
        {"data": {"image": "text"}},
        {"json": {}},
        {"content": b""},
    ]
    for request in requests:
        answer = await files_client.post("/upload/image", **request)
        assert answer.status_code == 400, request
        assert "error" in answer.json()
    broken = {"content-type": "multipart/form-data"}
    assert (await files_client.post("/upload/image", content=b"x", headers=broken)).status_code == 400


@pytest.mark.parametrize("size", [(1000, 1001), (60000, 60000), (2**31 - 1, 2**31 - 1)])
async def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    """A few bytes that say they are a huge picture are refused for what they say."""
    async with asking(make_desk(tmp_path, pixels=1000 * 1000)) as client:
        answer = await send(client, "a.png", png_of_size(*size))
        assert answer.status_code == 400
        assert "at most 1000000 pixels" in answer.json()["error"]
        assert (await send(client, "a.png", picture(size=(1000, 1000)))).status_code == 200


def test_the_limit_of_pixels_is_ours(files_desk: Desk) -> None:
    """Pillow's own limit is neither in the way of a higher one nor changed for the rest of the process."""
    before = Image.MAX_IMAGE_PIXELS
    assert before is not None
    stream = io.BytesIO()
    Image.new("1", (10000, before // 10000 + 100)).save(stream, "PNG")
    stored = store_input(files_desk.files.roots, ServiceLimits(), "a.png", stream.getvalue())
    assert stored["name"] == "a.png"
    assert before == Image.MAX_IMAGE_PIXELS


async def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """Neither a length that is said nor one that is not gets past the limit, in one part or many."""
    desk = make_desk(tmp_path, body=100_000)
    async with asking(desk) as client:
        for name in ("a.png", "a.mp4"):
            assert (await send(client, name, bytes(200_000))).status_code == 413
        request = client.build_request("POST", "/upload/image", files={"image": ("a.png", bytes(200_000))})
        body = await request.aread()

        async def parts() -> Any:
            for start in range(0, len(body), 10_000):
                yield body[start : start + 10_000]

        headers = {"content-type": request.headers["content-type"]}
        assert (await client.post("/upload/image", content=parts(), headers=headers)).status_code == 413
        assert (await send(client, "a.png", picture())).status_code == 200
    for name in ("a.png", "a.mp4"):
        with pytest.raises(InputError, match="at most 100000 bytes"):
            store_input(desk.files.roots, desk.settings.limits, name, bytes(100_001))


async def test_a_mask_becomes_the_alpha_of_its_picture(files_client: httpx.AsyncClient, files_desk: Desk) -> None:
    """Colours and text are the picture's, alpha is the drawing's; the picture itself stays as it was."""
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", '{"1": {}}')
    original, mask = picture(pnginfo=text), picture("RGBA", seed=1)
    (files_desk.places.output / "sub").mkdir()
    (files_desk.places.output / "sub" / "a.png").write_bytes(original)
    reference = json.dumps({"filename": "a.png", "subfolder": "sub", "type": "output"})
    answer = await send(
        files_client, "mask.png", mask, "/upload/mask", original_ref=reference, subfolder="clipspace", type="input"
    )
    assert answer.json() == {"name": "mask.png", "subfolder": "clipspace", "type": "input"}
    stored = (files_desk.places.input / "clipspace" / "mask.png").read_bytes()
    pixels = np.asarray(opened(stored))
    assert np.array_equal(pixels[..., :3], np.asarray(opened(original)))
    assert np.array_equal(pixels[..., 3], np.asarray(opened(mask))[..., 3])
    assert read_text(stored) == {"prompt": '{"1": {}}'}
    assert (files_desk.places.output / "sub" / "a.png").read_bytes() == original


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "",
        "no json",
        "[" * 100_000,
        "[]",
        '{"filename": 1}',
        '{"filename": "none.png"}',
        '{"filename": "../secret.png"}',
        '{"filename": "/etc/passwd"}',
        '{"filename": "a.png", "type": "models"}',
        '{"filename": "a.png", "type": "input", "subfolder": ".."}',
        '{"filename": "large.png", "type": "input"}',
    ],
)
async def test_a_mask_of_nothing_is_refused(
    files_client: httpx.AsyncClient, files_desk: Desk, reference: str | None
) -> None:
    """A mask belongs to a picture of ours of its own size; nothing is stored otherwise."""
    (files_desk.places.state.parent / "secret.png").write_bytes(picture())
    (files_desk.places.input / "large.png").write_bytes(picture(size=(9, 9)))
    form = {} if reference is None else {"original_ref": reference}
    answer = await send(files_client, "m.png", picture("RGBA"), "/upload/mask", **form)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("expected ")
    assert sorted(files_below(files_desk.places.input)) == ["large.png"]


def test_no_half_of_a_file_is_seen(files_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk fails the name stays free, the old file stays whole, and no temporary file is left."""
    roots = files_desk.files.roots
    store_input(roots, ServiceLimits(), "a.png", picture())

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", fails)
    monkeypatch.setattr(os, "replace", fails)
    for overwrite in (False, True):
        with pytest.raises(Exception, match="no space left"):
            store_input(roots, ServiceLimits(), "a.png", picture(seed=1), overwrite=overwrite)
    assert files_below(files_desk.places.input) == {"a.png": picture()}
