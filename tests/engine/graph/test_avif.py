"""Workflows in AVIF files, written and read on the bytes alone."""

from __future__ import annotations

import io
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from engine.errors import UnreadableWorkflow
from engine.graph import avif

ENTRIES = {
    "prompt": {"1": {"class_type": "Löschen", "inputs": {}}},
    "workflow": {"nodes": [], "version": 0.4},
    "note": "n",
}
ROOM = b"II*\0\x08\0\0\0\0\0\0\0\0\0"


def picture(exif: bytes = ROOM, **options: object) -> bytes:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    stream = io.BytesIO()
    Image.radial_gradient("L").resize((40, 24)).convert("RGB").save(stream, "AVIF", exif=exif, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def plain() -> bytes:
    return picture()


def test_entries_come_back_and_the_picture_stays(plain: bytes) -> None:
    """To the pixel; a second writing takes the first's place."""
    marked = avif.with_text(plain, ENTRIES)
    assert {key: text if key == "note" else json.loads(text) for key, text in avif.read_text(marked).items()} == ENTRIES
    again = avif.with_text(marked, {"prompt": {}})
    assert avif.read_text(again) == {"prompt": "{}"}
    for data in (marked, again):
        assert Image.open(io.BytesIO(data)).tobytes() == Image.open(io.BytesIO(plain)).tobytes()


def test_others_read_them_where_editors_look(plain: bytes) -> None:
    """Make and Model of the EXIF data, as a library that knows nothing of it has them."""
    exif = Image.open(io.BytesIO(avif.with_text(plain, ENTRIES))).getexif()
    assert json.loads(exif[0x0110].removeprefix("prompt:")) == ENTRIES["prompt"]
    assert json.loads(exif[0x010F].removeprefix("workflow:")) == ENTRIES["workflow"]


def test_a_large_workflow_has_room(plain: bytes) -> None:
    text = "x" * 3_000_000
    assert avif.read_text(avif.with_text(plain, {"prompt": text})) == {"prompt": text}


def test_what_has_no_place_for_entries_stays_as_it_is(plain: bytes) -> None:
    """A picture without EXIF data, one cut off, and what is none."""
    without = picture(b"")
    assert avif.with_text(without, ENTRIES) == without
    assert avif.read_text(without) == {}
    for data in (b"", b"text", b"\0\0\0\x18ftypmp42" + bytes(40), plain[:60]):
        assert avif.with_text(data, ENTRIES) == data
    assert avif.with_text(plain, {}) == plain


def test_a_cut_file_is_said_to_be_cut(plain: bytes) -> None:
    marked = avif.with_text(plain, ENTRIES)
    for end in (len(marked) - 10, 70, 120):
        with pytest.raises(UnreadableWorkflow, match="the AVIF picture is cut off or damaged"):
            avif.read_text(marked[:end])


@given(st.data())
def test_damage_ends_in_entries_or_words(plain: bytes, data: st.DataObject) -> None:
    """Whatever byte of the boxes is wrong: no other error, and no endless search."""
    marked = bytearray(avif.with_text(plain, {"prompt": {}}))
    for _ in range(data.draw(st.integers(1, 4))):
        marked[data.draw(st.integers(0, 340))] = data.draw(st.integers(0, 255))
    try:
        found = avif.read_text(bytes(marked))
    except UnreadableWorkflow:
        return
    assert all(isinstance(text, str) for text in found.values())
    assert isinstance(avif.with_text(bytes(marked), ENTRIES), bytes)


def _box(type_: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), type_) + content


@pytest.mark.parametrize("version", [0, 1, 2])
def test_every_way_to_write_a_place_is_read(version: int) -> None:
    """Numbers of other sizes, other items before it, a base to count from: as other encoders write."""
    text = (
        b"\0\0\0\0"
        + ROOM[:8]
        + b"\x01\0"
        + struct.pack("<HHI", 0x0110, 2, 10)
        + b"\x1a\0\0\0"
        + bytes(4)
        + b"prompt:{}\0"
    )
    wide = version == 2
    ids = struct.Struct(">I" if wide else ">H")

    def item(number: int, base: int, stretches: list[tuple[int, int]]) -> bytes:
        method = b"" if version == 0 else b"\0\0"
        head = ids.pack(number) + method + b"\0\0" + struct.pack(">IH", base, len(stretches))
        return head + b"".join(struct.pack(">HQ", offset, length) for offset, length in stretches)

    def meta(position: int) -> bytes:
        count = struct.pack(">I" if wide else ">H", 2)
        iloc = bytes([version, 0, 0, 0]) + b"\x28\x40" + count
        iloc += item(1, 0, [(0, 4), (4, 4)]) + item(7, position - 5, [(5, len(text))])
        infe = _box(b"infe", b"\x02\0\0\0" + struct.pack(">HH4s", 1, 0, b"av01") + b"\0")
        infe += _box(b"infe", b"\x03\0\0\0" + struct.pack(">IH4s", 7, 0, b"Exif") + b"\0")
        boxes = _box(b"hdlr", bytes(24)) + _box(b"iloc", iloc) + _box(b"iinf", bytes(4) + struct.pack(">H", 2) + infe)
        return _box(b"meta", bytes(4) + boxes)

    head = _box(b"ftyp", b"avif\0\0\0\0avif")
    position = len(head) + len(meta(9)) + 8
    data = head + meta(position) + _box(b"mdat", text)
    assert avif.read_text(data) == {"prompt": "{}"}
    assert avif.with_text(data, ENTRIES) == data
