from __future__ import annotations

import json
import struct
import zlib
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError, UnreadableWorkflow
from engine.graph.png import read_text, with_text
from tests.engine.graph.vocabulary import PROPERTY, refusal, said_only


def chunk(type_: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data))
        + type_
        + data
        + struct.pack(">I", zlib.crc32(type_ + data) if crc is None else crc)
    )


HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
PIXELS = chunk(b"IDAT", zlib.compress(b"\0\1\2\3"))
END = chunk(b"IEND", b"")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PICTURE = SIGNATURE + HEADER + PIXELS + END


def test_text_goes_right_behind_the_header_in_its_order() -> None:
    """The chunks are tEXt with ASCII JSON, as ComfyUI writes them, and the pixels are untouched."""
    png = with_text(PICTURE, {"prompt": {"1": "é"}, "workflow": "as it is"})
    text = chunk(b"tEXt", b'prompt\0{"1": "\\u00e9"}') + chunk(b"tEXt", b"workflow\0as it is")
    assert png == SIGNATURE + HEADER + text + PIXELS + END


def test_an_entry_replaces_the_old_one_wherever_that_was() -> None:
    """Text of the same keyword goes, other text stays where it is."""
    after = chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"old")) + chunk(b"tEXt", b"Author\0me")
    before = chunk(b"iTXt", b"prompt\0\0\0\0\0older")
    png = with_text(SIGNATURE + HEADER + before + PIXELS + after + END, {"prompt": "new"})
    assert png == SIGNATURE + HEADER + chunk(b"tEXt", b"prompt\0new") + PIXELS + chunk(b"tEXt", b"Author\0me") + END
    assert read_text(png) == {"prompt": "new", "Author": "me"}


def test_all_three_kinds_of_text_are_read() -> None:
    """Plain, packed and international text, the last one packed or not."""
    png = (
        SIGNATURE
        + HEADER
        + chunk(b"tEXt", b"plain\0caf\xe9")
        + chunk(b"zTXt", b"packed\0\0" + zlib.compress(b"caf\xe9" * 100))
        + chunk(b"iTXt", b"world\0\0\0en\0Welt\0" + "日本".encode())
        + chunk(b"iTXt", b"small\0\1\0\0\0" + zlib.compress("日本".encode()))
        + END
    )
    assert read_text(png) == {"plain": "café", "packed": "café" * 100, "world": "日本", "small": "日本"}


@PROPERTY
@given(
    st.dictionaries(
        st.text("abc é", min_size=1, max_size=8),
        st.text("ab é日\n{}\ud800", max_size=20)
        | st.dictionaries(st.text("aé", max_size=3), st.integers() | st.none(), max_size=3),
        max_size=4,
    )
)
def test_what_is_written_is_read(entries: dict[str, Any]) -> None:
    """Any text and any JSON comes back, a lone surrogate as a question mark."""
    read = read_text(with_text(PICTURE, entries))
    assert list(read) == list(entries)
    for key, value in entries.items():
        if isinstance(value, str):
            assert read[key] == value.replace("\ud800", "?")
        else:
            assert json.loads(read[key]) == value


@pytest.mark.parametrize("keyword", ["", "x" * 80, "日本", "a\0b"])
def test_a_keyword_png_does_not_allow_is_refused(keyword: str) -> None:
    """Nothing is written under a name no reader could find."""
    with pytest.raises(InputError, match="expected a PNG keyword"):
        with_text(PICTURE, {keyword: "x"})


BOMB = zlib.compress(b"\0" * (80 * 2**20), 9)


@pytest.mark.parametrize(
    ("png", "said"),
    [
        (b"", "expected a PNG picture"),
        (b"GIF89a", "expected a PNG picture"),
        (SIGNATURE, "cut off after 8 bytes"),
        (PICTURE[:50], "a chunk at byte 33 says it has"),
        (SIGNATURE + PIXELS + END, "does not begin with its header"),
        (SIGNATURE + HEADER + struct.pack(">I", 2**32 - 1) + b"tEXtprompt", "says it has 4294967295 bytes"),
        (
            SIGNATURE + HEADER + chunk(b"tEXt", b"prompt\0{}", crc=1) + END,
            "the checksum of its text at byte 33 is wrong",
        ),
        (SIGNATURE + HEADER + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"xy")[:-3]) + END, "cut off"),
        (SIGNATURE + HEADER + chunk(b"zTXt", b"a\0\0nonsense") + END, "cannot be read"),
        (SIGNATURE + HEADER + chunk(b"zTXt", b"a\0\7") + END, "unknown compression"),
        (SIGNATURE + HEADER + chunk(b"iTXt", b"a\0\0\0\0\0\xff") + END, "cannot be read"),
        (SIGNATURE + HEADER + chunk(b"zTXt", b"a\0\0" + BOMB) + END, "more than 64 MiB of text"),
        (SIGNATURE + HEADER + chunk(b"junk", b"") * 100_001, "more than 100000 chunks"),
    ],
    ids=said_only,
)
def test_a_damaged_picture_is_refused_in_one_line(png: bytes, said: str) -> None:
    """Cut off, damaged or hostile: the message says what was seen."""
    with pytest.raises(UnreadableWorkflow) as caught:
        read_text(png)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@PROPERTY
@given(st.data())
def test_a_changed_byte_is_refused_or_read(data: st.DataObject) -> None:
    """Whatever happens to a file, the only error is that it cannot be read."""
    png = bytearray(with_text(PICTURE, {"prompt": {"1": 2}, "note": "日本"}))
    for _ in range(data.draw(st.integers(1, 3))):
        png[data.draw(st.integers(0, len(png) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(png)))
    for candidate in (bytes(png), bytes(png[:cut])):
        assert "\n" not in refusal(partial(read_text, candidate))
        assert "\n" not in refusal(partial(with_text, candidate, {"workflow": {}}))
