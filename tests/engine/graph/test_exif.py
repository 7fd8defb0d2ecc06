"""Workflows in pictures that are no PNG, written and read again, and seen by another program."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.errors import UnreadableWorkflow
from engine.graph import exif, jpeg, webp

METADATA: dict[str, Any] = {"prompt": {"1": {"class_type": "Ä"}}, "workflow": {"nodes": []}, "note": "plain ü"}
READ = {"prompt": json.dumps(METADATA["prompt"]), "workflow": '{"nodes": []}', "note": "plain ü"}
PIXELS = np.arange(5 * 7 * 4, dtype=np.uint8).reshape(5, 7, 4)


def picture(format: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS, "RGBA").convert(mode).save(stream, format, **options)
    return stream.getvalue()


def pixels(data: bytes) -> tuple[str, bytes]:
    with Image.open(io.BytesIO(data)) as opened:
        return opened.mode, opened.tobytes()


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"lossless": True}),
        ("RGBA", {}),
        ("RGBA", {"lossless": True}),
        ("RGB", {"exif": b"Exif\0\0"}),
    ],
)
def test_a_webp_of_any_kind_carries_text(mode: str, options: dict[str, Any]) -> None:
    """Lossy and lossless, with and without alpha: the pixels stay, and Pillow finds the tags where ComfyUI puts them."""
    plain = picture("WEBP", mode, **options)
    carrying = webp.with_text(plain, METADATA)
    assert webp.read_text(carrying) == READ
    assert pixels(carrying) == pixels(plain)
    with Image.open(io.BytesIO(carrying)) as opened:
        tags = opened.getexif()
    assert tags[0x0110].startswith('prompt:{"1"')
    assert tags[0x010F].startswith("workflow:{")
    assert webp.read_text(webp.with_text(carrying, {"prompt": {}})) == {"prompt": "{}"}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}])
def test_a_jpeg_carries_text(options: dict[str, Any]) -> None:
    """Behind its JFIF header, in place of what EXIF data it had."""
    plain = picture("JPEG", **options)
    carrying = jpeg.with_text(plain, METADATA)
    assert jpeg.read_text(carrying) == READ
    assert pixels(carrying) == pixels(plain)
    assert carrying[2:4] == b"\xff\xe0"
    with Image.open(io.BytesIO(carrying)) as opened:
        assert opened.getexif()[0x0110].startswith('prompt:{"1"')
    assert jpeg.read_text(jpeg.with_text(carrying, {"workflow": {}})) == {"workflow": "{}"}
    assert jpeg.with_text(carrying, {"workflow": {}}).count(exif.HEADER) == 1


def test_a_jpeg_carries_what_finds_room() -> None:
    """A segment holds 64 KiB: an editor's file that is too large is left out, the prompt stays; neither is cut."""
    plain = picture("JPEG")
    carrying = jpeg.with_text(plain, {"workflow": "x" * 40_000, "prompt": "y" * 40_000})
    assert jpeg.read_text(carrying) == {"prompt": "y" * 40_000}
    assert jpeg.with_text(plain, {"prompt": "y" * 70_000}) == plain
    assert len(jpeg.read_text(jpeg.with_text(plain, {"prompt": "y" * 65_000}))["prompt"]) == 65_000


def test_what_is_no_such_picture_stays_as_it_is() -> None:
    """Data that cannot carry text is written without."""
    for data in (b"", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0", b"RIFF\0\0\0\0WEBPANIM\0\0\0\0"):
        assert webp.with_text(data, METADATA) == data
    for data in (b"", b"\xff\xd8\xff", picture("JPEG")[:10]):
        assert jpeg.with_text(data, METADATA) == data


@given(st.data())
def test_damaged_pictures_are_read_or_refused(data: st.DataObject) -> None:
    """With any byte changed or any part cut off, nothing but ``UnreadableWorkflow`` comes up."""
    module, sample = data.draw(
        st.sampled_from(
            [(webp, webp.with_text(picture("WEBP"), METADATA)), (jpeg, jpeg.with_text(picture("JPEG"), METADATA))]
        )
    )
    broken = bytearray(sample[: data.draw(st.integers(0, len(sample)))])
    if broken:
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableWorkflow):
        module.read_text(bytes(broken))
    module.with_text(bytes(broken), METADATA)
