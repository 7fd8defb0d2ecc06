from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UnreadableWorkflow
from engine.graph.png import with_text
from engine.graph.read import read_data, read_workflow
from engine.graph.safetensors_header import read_metadata, with_safetensors_metadata
from engine.graph.seeds import SeedInput
from tests.engine.graph.test_png import PICTURE
from tests.engine.graph.vocabulary import FILES, PROPERTY, refusal, registry, said_only

REGISTRY = registry()
API = {"1": {"inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}, "class_type": "EmptyImage"}}
EDITOR = {"version": 0.4, "nodes": [{"id": 1, "type": "EmptyImage", "widgets_values": [9, 9, 1, 0]}], "links": []}


def safetensors(metadata: Any) -> bytes:
    header = json.dumps({"__metadata__": metadata, "t": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"abc"


def webp(entries: list[tuple[int, bytes]], order: str = "<") -> bytes:
    start = 8 + 2 + 12 * len(entries) + 4
    directory, texts = struct.pack(order + "H", len(entries)), b""
    for tag, text in entries:
        directory += struct.pack(order + "HHII", tag, 2, len(text), start + len(texts))
        texts += text
    exif = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + directory + b"\0" * 4 + texts
    chunks = b"VP8 " + struct.pack("<I", 3) + b"abc\0" + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def test_both_formats_are_told_apart() -> None:
    """API and editor JSON are known by what they hold."""
    api = read_data(API, REGISTRY)
    assert (api.source, api.editor, api.api) == ("api", None, API)
    editor = read_data(EDITOR, REGISTRY)
    assert (editor.source, editor.editor) == ("editor", EDITOR)
    assert editor.graph["1"].inputs["width"] == 9


def test_what_is_left_out_of_an_api_file_is_told() -> None:
    """An input of another version of the node is no error, but a person is told; a misspelt one is left to be reported."""
    api = {
        "1": {"inputs": {"width": 8, "height": 8, "batch_size": 1, "colour": 0, "gamma": 2}, "class_type": "EmptyImage"}
    }
    assert read_data(api, REGISTRY).warnings == (
        "node 1 (EmptyImage), input gamma: the node has no such input; it is left out",
    )


def test_a_posted_job_is_a_workflow() -> None:
    """What clients post holds the workflow under a key."""
    assert read_data({"client_id": "x", "prompt": API}, REGISTRY).api == API


def test_a_path_is_read_whatever_its_name_says(tmp_path: Path) -> None:
    """The content decides, also with a byte order mark before it."""
    path = tmp_path / "picture.png"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(API).encode())
    assert read_workflow(path, REGISTRY).api == API
    assert read_workflow(str(path), REGISTRY).api == API


def test_a_picture_is_a_workflow_and_its_editor_file_goes_first() -> None:
    """Of a PNG's two entries the editor's is read; without it the API one."""
    both = with_text(PICTURE, {"prompt": API, "workflow": EDITOR})
    assert read_workflow(both, REGISTRY).source == "editor"
    assert read_workflow(with_text(PICTURE, {"prompt": API}), REGISTRY).api == API


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_webp_keeps_its_workflow_in_exif(order: str) -> None:
    """The tag Model holds the prompt, the tags from Make downward the rest; either byte order."""
    prompt = (0x0110, b"prompt:" + json.dumps(API).encode() + b"\0")
    other = (0x010F, b"workflow:" + json.dumps(EDITOR).encode() + b"\0")
    assert read_workflow(webp([prompt], order), REGISTRY).api == API
    assert read_workflow(webp([other, prompt], order), REGISTRY).source == "editor"


def test_a_latent_keeps_its_workflow_in_its_header(tmp_path: Path) -> None:
    """Only the header is read, so the tensors behind it may be large or missing."""
    data = safetensors({"prompt": json.dumps(API)})
    assert read_workflow(data, REGISTRY).api == API
    path = tmp_path / "x.latent"
    path.write_bytes(data[:-3])
    assert read_workflow(path, REGISTRY).api == API


def test_metadata_is_added_to_a_safetensors_file() -> None:
    """Old entries stay, tensors are unchanged and begin at a multiple of eight."""
    data = with_safetensors_metadata(safetensors({"kind": "latent"}), {"prompt": API, "note": "é"})
    assert read_metadata(data) == {"kind": "latent", "prompt": json.dumps(API), "note": "é"}
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert header["t"] == {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}
    assert size % 8 == 0
    assert data[8 + size :] == b"abc"


def test_the_seeds_of_an_api_file_are_its_literal_seeds() -> None:
    """A seed that comes over a link is not to be redrawn."""
    data = {
        "1": {"class_type": "KSampler", "inputs": {"seed": 5}},
        "2": {"class_type": "KSampler", "inputs": {"seed": ["1", 0]}},
        "3": {"class_type": "KSampler", "inputs": {}},
    }
    assert read_data(data, REGISTRY).seeds == (SeedInput("1", "seed", "fixed", "1.seed"),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"  \n", "the file is empty"),
        (b"hello", "the file is no JSON: Expecting value at line 1, column 1; it begins with 'hello'"),
        (
            b"\x8a\xd8\xff\xe0 a photo",
            "neither text nor a PNG, WEBP, JPEG, AVIF or safetensors file (it begins with the bytes 8a d8",
        ),
        (b"[1, 2]", "this is JSON, but no workflow: expected nodes by id"),
        (b"3", "found a number"),
        (b'{"a": 1, "b": {}}', "found an object with the keys a, b"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"1": ' + b"9" * 5000 + b"}", "cannot be read"),
        (PICTURE, "the PNG picture carries no workflow: expected an entry workflow or prompt, found nothing"),
        (with_text(PICTURE, {"parameters": "a cat, Steps: 20"}), "A1111 parameters"),
        (with_text(PICTURE, {"prompt": "{"}), "the prompt in the PNG picture is no JSON"),
        (safetensors({"format": "pt"}), "the safetensors file carries no workflow"),
        (safetensors(5), "expected an object as its metadata, found a number"),
        (struct.pack("<Q", 90) + b'{"__m', "cut off: its header has 90 bytes, 5 are there"),
        (struct.pack("<Q", 4) + b"{{{{", "its header is no JSON"),
        (webp([(0x0110, b"prompt:{}\0")])[:60], "WEBP picture is cut off or damaged"),
    ],
    ids=said_only,
)
def test_what_is_no_workflow_is_refused_in_one_line(data: bytes, said: str) -> None:
    """The message says what was seen and what was expected."""
    with pytest.raises(UnreadableWorkflow) as caught:
        read_workflow(data, REGISTRY)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Also a folder and an impossible name are one line."""
    for path in (tmp_path / "gone.json", tmp_path, Path("a\0b")):
        with pytest.raises(UnreadableWorkflow, match="cannot read"):
            read_workflow(path, REGISTRY)


SAMPLES = [
    json.dumps(API).encode(),
    (FILES / "txt2img.json").read_bytes(),
    webp([(0x0110, b"prompt:" + json.dumps(API).encode())]),
    safetensors({"prompt": json.dumps(API)}),
]


@PROPERTY
@given(st.sampled_from(SAMPLES), st.data())
def test_a_damaged_file_is_read_or_refused(sample: bytes, data: st.DataObject) -> None:
    """Whatever bytes are changed or missing, the only error is that the file cannot be read."""
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    assert "\n" not in refusal(lambda: read_workflow(cut, REGISTRY))
