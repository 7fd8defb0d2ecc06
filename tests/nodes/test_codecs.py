"""Tensors as bytes."""

from __future__ import annotations

import pytest
import torch

from engine.models import Digest, ModelRef, Recipe
from engine.run.codecs import Encoded, decode, encode
from engine.run.values import locations, nbytes
from nodes.codecs import LEAVES

CODECS = {codec.type_name: codec for codec in LEAVES}


def _round_trip(value: object) -> object:
    encoded: Encoded = encode(value, CODECS)

    def leaf(index: int) -> object:
        stored = encoded.leaves[index]
        return CODECS[stored.type_name].decode(stored.header, [memoryview(bytearray(part)) for part in stored.buffers])

    return decode(encoded.tree, leaf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_a_tensor_comes_back_to_the_last_bit(dtype: torch.dtype) -> None:
    """Every dtype survives, NaN payloads and negative zeros included."""
    value = (torch.arange(24).reshape(2, 3, 4) - 7).to(dtype)
    if dtype.is_floating_point:
        value[0, 0, 0], value[0, 0, 1] = float("nan"), -0.0
    back = _round_trip(value)
    assert isinstance(back, torch.Tensor)
    assert back.dtype == dtype
    assert torch.equal(back.view(torch.uint8), value.view(torch.uint8))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,)])
def test_empty_and_scalar_tensors_keep_their_shape(shape: tuple[int, ...]) -> None:
    """Nothing is lost at the edges."""
    back = _round_trip(torch.zeros(shape))
    assert isinstance(back, torch.Tensor)
    assert back.shape == shape


def test_a_latent_comes_back_as_it_was() -> None:
    """A value of a link is a structure around tensors; a view is stored as what it shows."""
    samples = torch.randn(4, 4, 8, 8)[1:3].transpose(2, 3)
    back = _round_trip({"samples": samples, "batch_index": [1, 2]})
    assert isinstance(back, dict)
    assert torch.equal(back["samples"], samples)
    assert back["batch_index"] == [1, 2]


def test_a_conditioning_made_under_inference_mode_is_stored() -> None:
    """Text encoders run in inference mode; their results are values like any other."""
    with torch.inference_mode():
        value = [[torch.ones(1, 77, 4), {"pooled_output": torch.ones(1, 4)}]]
    back = _round_trip(value)
    assert isinstance(back, list)
    assert torch.equal(back[0][0], torch.ones(1, 77, 4))


def test_a_recipe_comes_back_with_what_it_holds() -> None:
    """A guider's model, its conditionings with their tensors, and its numbers; its files and its size are known."""
    model = ModelRef(Digest("d"), "unet", "/models/demo.safetensors")
    sides = {"positive": [[torch.ones(1, 77, 4), {"strength": 0.5}]]}
    recipe = Recipe("guider", {"model": model, "sides": sides, "numbers": {"scale": 8.0, "range": (1.0, 0.5)}})
    back = _round_trip(recipe)
    assert isinstance(back, Recipe)
    assert (back.kind, back.parts["model"], back.parts["numbers"]) == ("guider", model, recipe.parts["numbers"])
    assert torch.equal(back.parts["sides"]["positive"][0][0], torch.ones(1, 77, 4))
    assert locations(recipe) == ("/models/demo.safetensors",)
    assert nbytes(recipe) >= 77 * 4 * 4
