"""Files of the three folders, as a client sees them."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from engine.graph.safetensors_header import with_safetensors_metadata
from engine.service.comfy import models, uploads, view
from engine.service.desk import Desk
from tests.service.files_app import asking, make_desk, opened, picture

EMPTY_SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


@pytest.fixture
def output(files_desk: Desk) -> Path:
    return files_desk.places.output


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_a_picture_comes_byte_for_byte(files_client: httpx.AsyncClient, output: Path, prefix: str) -> None:
    """What a workflow saved is what a client gets, with a type, validators and a name, bare and below /api."""
    (output / "a.png").write_bytes(picture())
    answer = await files_client.get(f"{prefix}/view", params={"filename": "a.png", "rand": "0.5"})
    assert (answer.status_code, answer.content) == (200, picture())
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == 'inline; filename="a.png"'
    assert {"etag", "last-modified"} <= set(answer.headers)
    assert "cache-control" not in answer.headers


async def test_a_client_that_has_the_file_is_told_so(files_client: httpx.AsyncClient, output: Path) -> None:
    """The tag or the date a client was given saves it the bytes, until the file is another one."""
    (output / "a.png").write_bytes(picture())
    first = await files_client.get("/view?filename=a.png")
    again = await files_client.get("/view?filename=a.png", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    dated = {"if-modified-since": first.headers["last-modified"]}
    assert (await files_client.get("/view?filename=a.png", headers=dated)).status_code == 304
    (output / "a.png").write_bytes(picture(size=(9, 9)))
    changed = await files_client.get("/view?filename=a.png", headers={"if-none-match": first.headers["etag"]})
    assert changed.status_code == 200


async def test_a_part_of_a_file(files_client: httpx.AsyncClient, output: Path) -> None:
    """A film can be watched from its middle."""
    (output / "a.mp4").write_bytes(b"0123456789")
    answer = await files_client.get("/view?filename=a.mp4", headers={"range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, b"234")
    assert answer.headers["content-range"] == "bytes 2-4/10"
    assert (await files_client.get("/view?filename=a.mp4", headers={"range": "bytes=20-"})).status_code == 416


async def test_head_says_what_get_would(files_client: httpx.AsyncClient, output: Path) -> None:
    """HEAD has the length and no body."""
    (output / "a.png").write_bytes(picture())
    answer = await files_client.head("/view?filename=a.png")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(picture())


async def test_folders_are_named_by_type_and_by_mark(files_client: httpx.AsyncClient, files_desk: Desk) -> None:
    """``type`` says the folder, a mark in the name says it louder, a subfolder lies below it."""
    places = files_desk.places
    (places.input / "sub").mkdir()
    (places.input / "sub" / "a.png").write_bytes(b"in")
    (places.temp / "a.png").write_bytes(b"temp")
    (places.output / "a.png").write_bytes(b"out")
    in_sub = await files_client.get("/view", params={"filename": "a.png", "type": "input", "subfolder": "sub"})
    marked = await files_client.get("/view", params={"filename": "a.png [temp]", "type": "input"})
    in_name = await files_client.get("/view", params={"filename": "sub/a.png [input]"})
    default = await files_client.get("/view", params={"filename": "a.png"})
    assert [answer.content for answer in (in_sub, marked, in_name, default)] == [b"in", b"temp", b"in", b"out"]


REFUSED = [
    ({}, 404),
    ({"filename": "none.png"}, 404),
    ({"filename": "sub"}, 404),
    ({"filename": "a" * 300 + ".png"}, 404),
    ({"filename": "a.png", "type": "models"}, 400),
    ({"filename": "/etc/passwd"}, 400),
    ({"filename": "../secret.png"}, 400),
    ({"filename": "..\\secret.png"}, 400),
    ({"filename": "sub/../../secret.png"}, 400),
    ({"filename": "../secret.png [input]"}, 400),
    ({"filename": "C:\\secret.png"}, 400),
    ({"filename": "a.png\0.txt"}, 400),
    ({"filename": "a\r\nX: y.png"}, 400),
    ({"filename": ".hidden.png"}, 400),
    ({"filename": "%2e%2e/secret.png"}, 404),
    ({"filename": "a.png", "subfolder": ".."}, 403),
    ({"filename": "a.png", "subfolder": "/etc"}, 403),
    ({"filename": "a.png", "subfolder": "sub/../.."}, 403),
    ({"filename": "a.png", "subfolder": "..\\.."}, 403),
    ({"filename": "a.png", "subfolder": ".hidden"}, 403),
    ({"filename": "secret.png", "subfolder": "away"}, 403),
    ({"filename": "link.png"}, 403),
    ({"filename": "loop.png"}, 403),
]


@pytest.mark.parametrize(("query", "status"), REFUSED)
async def test_what_is_not_served(
    files_client: httpx.AsyncClient, output: Path, query: dict[str, str], status: int
) -> None:
    """No name, whatever it says, reaches a file that is elsewhere or hidden; the body of the answer is empty."""
    secret = output.parent / "secret.png"
    secret.write_bytes(b"secret")
    (output / "a.png").write_bytes(b"a")
    (output / "sub").mkdir()
    (output / ".hidden").mkdir()
    for hidden in (output / ".hidden.png", output / ".hidden" / "a.png"):
        hidden.write_bytes(b"hidden")
    (output / "link.png").symlink_to(secret)
    (output / "away").symlink_to(output.parent)
    (output / "loop.png").symlink_to(output / "loop.png")
    answer = await files_client.get("/view", params=query)
    assert (answer.status_code, answer.content) == (status, b"")


async def test_a_link_within_the_folder_is_followed(files_client: httpx.AsyncClient, output: Path) -> None:
    """Only where a link leads matters."""
    (output / "a.png").write_bytes(b"a")
    (output / "b.png").symlink_to(output / "a.png")
    assert (await files_client.get("/view?filename=b.png")).content == b"a"


@pytest.mark.parametrize(
    "suffix",
    ["svg", "html", "htm", "xhtml", "xml", "js", "mjs", "css", "pdf", "swf", "glb", "obj", "latent", "safetensors", ""],
)
async def test_nothing_that_could_run_is_shown(files_client: httpx.AsyncClient, output: Path, suffix: str) -> None:
    """What a browser could run with our origin's rights is bytes to be saved, and the browser is told not to guess."""
    name = f"x.{suffix}" if suffix else "x"
    (output / name).write_bytes(b"<svg onload='alert(1)'>")
    answer = await files_client.get("/view", params={"filename": name})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("x.JPG", "image/jpeg"),
        ("x.avif", "image/avif"),
        ("x.tiff", "image/tiff"),
        ("x.webm", "video/webm"),
        ("x.flac", "audio/flac"),
        ("x.json", "application/json"),
        ("x.txt", "text/plain; charset=utf-8"),
        ("x.ogv", "video/ogg"),
    ],
)
async def test_plain_data_says_what_it_is(files_client: httpx.AsyncClient, output: Path, name: str, type_: str) -> None:
    """Pictures, sound, film and plain data keep their types."""
    (output / name).write_bytes(b"x")
    answer = await files_client.get("/view", params={"filename": name})
    assert answer.headers["content-type"] == type_
    assert answer.headers["content-disposition"].startswith("inline")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ('a"; filename="b.html.png', "inline; filename*=utf-8''a%22%3B%20filename%3D%22b.html.png"),
        ("日本 é.png", "inline; filename*=utf-8''%E6%97%A5%E6%9C%AC%20%C3%A9.png"),
    ],
)
async def test_a_name_cannot_break_its_header(
    files_client: httpx.AsyncClient, output: Path, name: str, expected: str
) -> None:
    """Quotes and other alphabets are written as RFC 6266 says."""
    (output / name).write_bytes(b"x")
    answer = await files_client.get("/view", params={"filename": name})
    assert answer.headers["content-disposition"] == expected


async def test_a_preview_is_drawn_anew(files_client: httpx.AsyncClient, output: Path) -> None:
    """``preview`` names the format; anything unknown, and a wish for alpha, is WEBP; the quality counts."""
    (output / "a.png").write_bytes(picture("RGBA", size=(64, 48)))

    async def drawn(**query: str) -> tuple[str | None, str, int]:
        answer = await files_client.get("/view", params={"filename": "a.png", **query})
        image = opened(answer.content)
        assert image.size == (64, 48)
        return image.format, answer.headers["content-type"], len(answer.content)

    best, worst = await drawn(preview="webp"), await drawn(preview="webp;10")
    assert best[:2] == worst[:2] == ("WEBP", "image/webp")
    assert worst[2] < best[2]
    assert (await drawn(preview="jpeg;80"))[:2] == ("JPEG", "image/jpeg")
    assert (await drawn(preview="jpeg;80", channel="rgba"))[0] == "WEBP"
    assert (await drawn(preview="bmp;nonsense"))[0] == "WEBP"


async def test_a_preview_has_the_name_of_its_file(files_client: httpx.AsyncClient, output: Path) -> None:
    """Who saves it is offered a name, in any alphabet."""
    for name, expected in (("a.png", 'inline; filename="a.png"'), ("é.png", "inline; filename*=utf-8''%C3%A9.png")):
        (output / name).write_bytes(picture())
        for query in ({"preview": "webp"}, {"channel": "rgb"}):
            answer = await files_client.get("/view", params={"filename": name, **query})
            assert answer.headers["content-disposition"] == expected


async def test_one_picture_is_drawn_at_a_time(
    files_client: httpx.AsyncClient, files_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Previews, covers, masks and uploads: the next one is not decoded before the one before has been encoded."""
    (files_desk.places.output / "a.png").write_bytes(picture())
    (files_desk.places.models[0] / "checkpoints" / "m.png").write_bytes(picture())
    at_work: list[int] = []
    most = 0

    def slowly(call: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            nonlocal most
            thread = threading.get_ident()
            at_work.append(thread)
            most = max(most, len(set(at_work)))
            time.sleep(0.01)
            try:
                return call(*args, **options)
            finally:
                time.sleep(0.01)
                at_work.remove(thread)

        return wrapped

    for module in (view, models, uploads):
        monkeypatch.setattr(module, "eight_bits", slowly(module.eight_bits))
        monkeypatch.setattr(module, "encoded", slowly(module.encoded))
    original = {"original_ref": json.dumps({"filename": "a.png", "type": "output"})}
    asked = [files_client.get("/view?filename=a.png&preview=webp") for _ in range(3)]
    asked += [files_client.get("/view?filename=a.png&channel=a") for _ in range(3)]
    asked += [files_client.get("/experiment/models/preview/checkpoints/0/m.safetensors") for _ in range(3)]
    asked += [
        files_client.post("/upload/mask", data=original, files={"image": (f"{number}.png", picture("RGBA"))})
        for number in range(3)
    ]
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * len(asked)
    assert most == 1


STRANGERS = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (STRANGERS, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({**STRANGERS, "Sec-Fetch-Mode": "navigate"}, 200),
        ({**STRANGERS, "Sec-Fetch-Mode": "cors", "Origin": "http://allowed.example"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
        ({}, 200),
    ],
)
async def test_nothing_is_drawn_for_pages_of_other_sites(
    files_client: httpx.AsyncClient, files_desk: Desk, headers: dict[str, str], status: int
) -> None:
    """A stranger's page cannot have the service decode pictures by naming them as its own; whoever goes there, or is allowed, can."""
    (files_desk.places.output / "a.png").write_bytes(picture())
    (files_desk.places.models[0] / "checkpoints" / "m.png").write_bytes(picture())
    for path in (
        "/view?filename=a.png&preview=webp",
        "/view?filename=a.png&channel=rgb",
        "/experiment/models/preview/checkpoints/0/m.safetensors",
    ):
        assert (await files_client.get(path, headers=headers)).status_code == status, path


async def test_a_preview_is_turned_as_the_picture_says(files_client: httpx.AsyncClient, output: Path) -> None:
    """A phone's picture that says it lies on its side is shown upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (output / "a.jpg").write_bytes(picture(size=(8, 6), format="JPEG", exif=exif))
    answer = await files_client.get("/view?filename=a.jpg&preview=webp")
    assert opened(answer.content).size == (6, 8)


async def test_sixteen_bits_of_grey_are_shown_in_eight(files_client: httpx.AsyncClient, output: Path) -> None:
    """A depth map's levels keep their order and span."""
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(output / "depth.png")
    answer = await files_client.get("/view?filename=depth.png&channel=rgb")
    shown = np.asarray(opened(answer.content).convert("L")).astype(int)
    assert np.abs(shown - levels / 257).max() <= 1


async def test_channels_come_apart(files_client: httpx.AsyncClient, output: Path) -> None:
    """``rgb`` is without alpha; ``a`` is a picture whose alpha is the alpha, opaque where there is none."""
    (output / "a.png").write_bytes(picture("RGBA"))
    (output / "b.png").write_bytes(picture("RGB"))
    original = np.asarray(opened(picture("RGBA")))
    rgb = opened((await files_client.get("/view?filename=a.png&channel=rgb")).content)
    alpha = opened((await files_client.get("/view?filename=a.png&channel=a")).content)
    opaque = opened((await files_client.get("/view?filename=b.png&channel=a")).content)
    assert (rgb.format, rgb.mode, alpha.mode) == ("PNG", "RGB", "RGBA")
    assert np.array_equal(np.asarray(rgb), original[..., :3])
    assert np.array_equal(np.asarray(alpha)[..., 3], original[..., 3])
    assert np.asarray(opaque)[..., 3].min() == 255


async def test_what_is_no_picture_has_no_preview(files_client: httpx.AsyncClient, output: Path) -> None:
    """A preview of something else is a bad request, not a fault of the service."""
    (output / "a.png").write_bytes(b"no picture")
    answer = await files_client.get("/view?filename=a.png&preview=webp")
    assert (answer.status_code, answer.content) == (400, b"")


async def test_a_preview_of_a_huge_picture_is_refused(tmp_path: Path) -> None:
    """A picture beyond the limit is not decoded for a preview either."""
    desk = make_desk(tmp_path, pixels=40)
    (desk.places.output / "a.png").write_bytes(picture())
    async with asking(desk) as client:
        assert (await client.get("/view?filename=a.png&preview=webp")).status_code == 400
        assert (await client.get("/view?filename=a.png")).status_code == 200


async def test_metadata_of_a_model(files_client: httpx.AsyncClient, files_desk: Desk) -> None:
    """The header of a safetensors file is told; without one, for other files and other folders there is none."""
    folder = files_desk.places.models[0] / "checkpoints"
    (folder / "a.safetensors").write_bytes(with_safetensors_metadata(EMPTY_SAFETENSORS, {"modelspec.title": "demo"}))
    (folder / "bare.safetensors").write_bytes(EMPTY_SAFETENSORS)
    (folder / "broken.safetensors").write_bytes(b"\xff" * 40)
    (folder / "a.ckpt").write_bytes(b"x")
    answer = await files_client.get("/view_metadata/checkpoints?filename=a.safetensors")
    assert answer.json() == {"modelspec.title": "demo"}
    for asked in (
        "checkpoints?filename=bare.safetensors",
        "checkpoints?filename=broken.safetensors",
        "checkpoints?filename=a.ckpt",
        "checkpoints?filename=../checkpoints/a.safetensors",
        "checkpoints?filename=none.safetensors",
        "checkpoints",
        "nowhere?filename=a.safetensors",
    ):
        answer = await files_client.get(f"/view_metadata/{asked}")
        assert (answer.status_code, answer.content) == (404, b""), asked


async def test_a_name_that_is_no_text_is_refused(files_client: httpx.AsyncClient, output: Path) -> None:
    """A lone surrogate, which JSON can carry and no file system has, is a bad name and not a fault."""
    reference = json.dumps({"filename": "\ud800.png", "type": "output"})
    form = {"original_ref": reference}
    answer = await files_client.post("/upload/mask", data=form, files={"image": ("m.png", io.BytesIO(picture("RGBA")))})
    assert answer.status_code == 400
