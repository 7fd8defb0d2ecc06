"""A safetensors file is believed only where it agrees with itself."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from engine.errors import MissingFile, ModelFileError
from nodes.diffusion.checkpoints import TensorInfo, WeightFile, parse_header, read_header

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """A file with this header, and its length as announced unless said otherwise."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_good_header_is_read(tmp_path: Path) -> None:
    """Names, dtypes, shapes, ranges and metadata come out as they were saved."""
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(2, 3), "e": torch.zeros(0, dtype=torch.float16)}, path, metadata={"made": "here"})
    header = read_header(path)
    assert header.metadata == {"made": "here"}
    assert header.tensors["x"].shape == (2, 3)
    assert header.tensors["e"].dtype == "F16"


LIES: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "range beyond the file": ({"a": F32}, b"1234", "only 4 bytes"),
    "size not of the shape": ({"a": F32 | {"shape": [3]}}, b"12345678", "does not fit"),
    "overlap": ({"a": F32, "b": F32}, b"12345678", "overlaps"),
    "gap": ({"a": F32 | {"data_offsets": [4, 12]}}, b"123456789012", "gap"),
    "unclaimed end": ({"a": F32}, b"123456789", "belong to no tensor"),
    "unknown dtype": ({"a": F32 | {"dtype": "F31"}}, b"12345678", "unknown dtype"),
    "negative size": ({"a": F32 | {"shape": [-2]}}, b"12345678", "no shape"),
    "size that is a truth": ({"a": F32 | {"shape": [True, 2]}}, b"12345678", "no shape"),
    "range backwards": ({"a": F32 | {"data_offsets": [8, 0]}}, b"12345678", "no byte range"),
    "huge shape": ({"a": F32 | {"shape": [2**62, 2**62]}}, b"12345678", "does not fit"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"12345678", "not described"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
}


def test_a_name_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    """Readers differ in which of the two they take."""
    entry = json.dumps(F32)
    path = write(tmp_path / "a.safetensors", f'{{"a": {entry}, "a": {entry}}}'.encode(), bytes(8))
    with pytest.raises(ModelFileError, match="a name is given twice"):
        read_header(path)


@pytest.mark.parametrize("lie", LIES)
def test_lying_header_is_refused(tmp_path: Path, lie: str) -> None:
    """A header that contradicts itself or the file is refused in one line that says where."""
    header, data, said = LIES[lie]
    with pytest.raises(ModelFileError, match=said) as caught:
        read_header(write(tmp_path / "a.safetensors", header, data))
    assert "a.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "length"),
    [
        (b"{", None),
        (b"[]", None),
        (b"[" * 100_000, None),
        (b'{"a": 1, "a": 1}', None),
        (b"\xff\xfe", None),
        (b"{}", 100),
        (b"{}", 2**63),
    ],
)
def test_broken_header_is_refused(tmp_path: Path, content: bytes, length: int | None) -> None:
    """A header that is no JSON object, or longer than the file, is refused before anything is made of it."""
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        read_header(write(tmp_path / "a.safetensors", content, length=length))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "found a pointer of Git LFS to them"),
        (
            b"<!DOCTYPE html>\n<html><head>404</head></html>",
            "found a text that begins with '<!DOCTYPE html> <html><head>404",
        ),
        (b"GGUF\x03\x00\x00\x00" + bytes(40), "found GGUF in a.safetensors"),
    ],
)
def test_files_of_other_formats_are_called_by_their_name(tmp_path: Path, content: bytes, words: str) -> None:
    """What people have in the place of a model: not a length of a header that makes no sense."""
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match=words):
        read_header(tmp_path / "a.safetensors")


def test_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    """A download that stopped, wherever it stopped, is not a model."""
    whole = tmp_path / "whole.safetensors"
    save_file({"x": torch.arange(6.0)}, whole)
    content = whole.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for end in range(len(content)):
        cut.write_bytes(content[:end])
        with pytest.raises(ModelFileError):
            read_header(cut)


@given(st.binary(max_size=300))
def test_any_header_is_read_or_refused(text: bytes) -> None:
    """No bytes in the place of a header raise anything but a ModelFileError."""
    with contextlib.suppress(ModelFileError):
        parse_header("a", text, 0)


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.pth", "a.bin", "a.PKL"])
def test_pickle_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """A pickle is not opened; the message says how to convert it."""
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(ModelFileError, match="mezzotint models convert"):
        read_header(tmp_path / name)


def test_pickle_is_refused_by_content(tmp_path: Path) -> None:
    """A pickle under another name is found out by its first bytes."""
    torch.save({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match="mezzotint models convert"):
        read_header(tmp_path / "a.safetensors")


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x10580])
def test_a_header_whose_length_begins_as_a_pickle_does_is_read(tmp_path: Path, length: int) -> None:
    """Eight bytes of length, of which the first two are those of a pickle's protocol."""
    text = json.dumps({"a": F32}).encode().ljust(length)
    assert set(read_header(write(tmp_path / "a.safetensors", text, bytes(8))).tensors) == {"a"}


def test_missing_file_is_said(tmp_path: Path) -> None:
    """No file is a MissingFile, a folder in its place a ModelFileError."""
    with pytest.raises(MissingFile):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(ModelFileError):
        read_header(tmp_path)


def test_tensors_are_views_of_a_private_mapping(tmp_path: Path) -> None:
    """Tensors are equal to those saved, and writing to one leaves the file as it was."""
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.arange(6.0), "y": torch.ones(3, dtype=torch.float16)}, path)
    before = path.read_bytes()
    file = WeightFile(path)
    assert file["x"].tolist() == [0, 1, 2, 3, 4, 5]
    assert file["y"].dtype == torch.float16
    file["x"].add_(1)
    assert path.read_bytes() == before
    with pytest.raises(KeyError):
        file["z"]
    assert list(file) == ["x", "y"]


def test_count_of_elements() -> None:
    """A tensor without dimensions has one element."""
    assert TensorInfo("F32", ()).count == 1
    assert TensorInfo("F32", (2, 3)).count == 6
