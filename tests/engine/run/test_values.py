"""Slots, sizes, and the encoding of values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fileref import FileRef
from engine.models import Digest, ModelRef, Patch
from engine.run.codecs import LARGE, Encoded, Unencodable, decode, encode
from engine.run.results import Blocked, OutputFile, Outputs
from engine.run.values import NodeValue, broadcast, locations, nbytes
from tests.engine.run.toolbox import ArrayCodec

CODECS = {"numpy.ndarray": ArrayCodec()}


def test_broadcast_repeats_the_last_element_of_shorter_slots() -> None:
    """As many calls as the longest slot has elements."""
    assert list(broadcast({"a": (1, 2, 3), "b": (10, 20), "c": (7,)})) == [
        {"a": 1, "b": 10, "c": 7},
        {"a": 2, "b": 20, "c": 7},
        {"a": 3, "b": 20, "c": 7},
    ]


def test_broadcast_of_nothing_is_one_call_and_of_an_empty_slot_none() -> None:
    """A node without inputs runs; a node with an empty list of something does not."""
    assert list(broadcast({})) == [{}]
    assert list(broadcast({"a": (1, 2), "b": ()})) == []


def test_sizes_count_what_is_shared_once() -> None:
    """Arrays and bytes count in full, wherever they are, models and numbers not at all."""
    array = np.zeros(1000, np.float32)
    assert nbytes(array) == 4000
    assert (
        nbytes(NodeValue(((array,), ({"samples": array, "more": [array[:10].copy()]},))))
        == 4000 + len("samplesmore") + 40
    )
    assert nbytes([ModelRef(Digest("d"), "vae", "/x"), 1, None, 2.5]) == 0
    assert nbytes(OutputFile(b"x" * 50, "p", "png")) == 50


def test_a_value_within_itself_has_a_size() -> None:
    """A list that holds itself is walked once."""
    ring: list[Any] = [b"1234"]
    ring.append(ring)
    assert nbytes(ring) == 4


def test_locations_are_those_of_models_their_patches_and_files() -> None:
    """Whatever a value refers to by name, absolute paths alone."""
    ref = ModelRef(Digest("d"), "unet", "/m.safetensors", (Patch("lora", Digest("l"), 1.0, "/l.safetensors"),))
    held = [ref, {"file": FileRef(Digest("f"), Path("/f.png"), "f.png")}, ModelRef(Digest("d"), "vae", "hub")]
    assert set(locations(held)) == {"/m.safetensors", "/l.safetensors", "/f.png"}
    merged = ModelRef(Digest("n"), "unet", "/n", (Patch("merge", Digest("d"), 0.5, "/m.safetensors", model=ref),))
    assert set(locations(merged)) == {"/n", "/m.safetensors", "/l.safetensors"}


def back(encoded: Encoded) -> Any:
    """Decode without a disk between."""

    def leaf(index: int) -> Any:
        stored = encoded.leaves[index]
        if stored.type_name == "bytes":
            return bytes(stored.buffers[0])
        return CODECS[stored.type_name].decode(stored.header, [memoryview(buffer) for buffer in stored.buffers])

    return decode(encoded.tree, leaf)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    """Types too: a tuple is a tuple, True is not 1, a list that looks like an encoded value is a list."""
    again = back(encode(value, {}))
    assert again == value
    assert repr(again) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        ["x", 0],
        ("t", 1),
        math.inf,
        -0.0,
        2**70,
        b"x" * LARGE,
        ModelRef(Digest("d"), "unet", "/m", (Patch("lora", Digest("l"), 0.5, "/l"),), (("clip_skip", -2),)),
        ModelRef(
            Digest("d"),
            "clip",
            "/m",
            (Patch("merge", Digest("e"), 0.5, "/e", (("a", 1.0), ("b", None)), ModelRef(Digest("e"), "clip", "/e")),),
        ),
        FileRef(Digest("f"), Path("/f.png"), "f.png"),
        OutputFile(b"png", "a/b", ".png", 3, 4, 5, "temp", "gifs"),
        OutputFile(b"png", "a/b", ".png", numbered=False),
        OutputFile(b"png", "a/b", ".png", bare=True),
        Outputs((1,), (OutputFile(b"", "p", "txt"),), {"text": ["a"]}),
        Blocked("because"),
    ],
)
def test_the_engines_own_types_come_back_as_they_were(value: Any) -> None:
    """To the representation, which shows what equality leaves out."""
    assert repr(back(encode([value], {}))) == repr([value])


def test_a_file_encoded_before_it_could_go_without_a_number_is_numbered() -> None:
    """Results written by an older version are read."""
    tree = encode(OutputFile(b"png", "a/b", ".png", 3, 4, 5, "temp", "gifs"), {}).tree
    assert back(Encoded(tree[:-2])) == OutputFile(b"png", "a/b", ".png", 3, 4, 5, "temp", "gifs", numbered=True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "uint8", "complex64"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_leaves_come_back_to_the_bit(dtype: str, shape: tuple[int, ...]) -> None:
    """Whatever dtype and shape, empty ones too."""
    array = np.arange(math.prod(shape)).astype(dtype).reshape(shape)
    again = back(encode({"samples": array}, CODECS))["samples"]
    assert (again.dtype, again.shape, again.tobytes()) == (array.dtype, array.shape, array.tobytes())


class Strange:
    """A type nobody encodes."""


@pytest.mark.parametrize("value", [Strange(), {1, 2}, np.zeros(3), [[Strange()]], {"a": lambda: None}])
def test_what_has_no_codec_is_refused_and_never_pickled(value: Any) -> None:
    """Without a codec for it, an array is as strange as any object."""
    with pytest.raises(Unencodable):
        encode(value, {})


def test_a_value_within_itself_is_refused() -> None:
    """There is no end to it."""
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(Unencodable):
        encode(ring, {})


@pytest.mark.parametrize("tree", [["z"], ["x"], ["x", "0"], [], [1, 2], ["b", 3], ["i", 3]])
def test_what_encode_did_not_write_is_an_error(tree: Any) -> None:
    """Never a value made up."""
    with pytest.raises(ValueError, match="not an encoded value"):
        decode(tree, lambda index: None)
