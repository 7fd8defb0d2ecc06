"""PhotoMaker against its own arithmetic on transformers' image encoder, and its file in both spellings."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear
from torch.testing import assert_close
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.errors import InputError
from engine.graph.graph import Call
from engine.models import ModelRef
from nodes.diffusion import photomaker
from nodes.diffusion.pickles import convert_pickle
from nodes.diffusion.vision import prepared
from tests.nodes.studio import Studio, checkpoint, link

WIDTH = 128
"""Of both text encoders of the small Stable Diffusion XL together."""


@cache
def encoder() -> Any:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1, image_size=28, patch_size=14,
        hidden_act="quick_gelu", projection_dim=64,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


@cache
def tensors() -> dict[str, Tensor]:
    """In the layout of photomaker-v1, smaller."""
    draw = torch.Generator().manual_seed(1)
    fuse = {"mlp1.layernorm": (2 * WIDTH,), "mlp1.fc1": (WIDTH, 2 * WIDTH), "mlp1.fc2": (WIDTH, WIDTH), "mlp2.layernorm": (WIDTH,),
            "mlp2.fc1": (WIDTH, WIDTH), "mlp2.fc2": (WIDTH, WIDTH), "layer_norm": (WIDTH,)}  # fmt: skip
    found = {name: tensor for name, tensor in encoder().state_dict().items() if "position_ids" not in name}
    found["visual_projection_2.weight"] = torch.randn(64, 64, generator=draw) * 0.2
    for name, shape in fuse.items():
        found[f"fuse_module.{name}.weight"] = torch.randn(shape, generator=draw) * 0.2
        found[f"fuse_module.{name}.bias"] = torch.randn(shape[:1], generator=draw) * 0.2
    return found


def fused(word: Tensor, picture: Tensor) -> Tensor:
    """As the paper's code does it (eq. 2 and what follows)."""
    kept = tensors()

    def mlp(name: str, x: Tensor) -> Tensor:
        norm = f"fuse_module.{name}.layernorm"
        x = layer_norm(x, x.shape[-1:], kept[f"{norm}.weight"], kept[f"{norm}.bias"])
        for layer in ("fc1", "fc2"):
            x = linear(x, *(kept[f"fuse_module.{name}.{layer}.{leaf}"] for leaf in ("weight", "bias")))
            x = gelu(x) if layer == "fc1" else x
        return x

    seen = encoder().vision_model(pixel_values=prepared(picture[:1], 28, "center")).pooler_output
    person = torch.cat(
        [linear(seen, kept["visual_projection.weight"]), linear(seen, kept["visual_projection_2.weight"])], -1
    )
    x = mlp("mlp1", torch.cat([word, person], -1)) + word
    x = mlp("mlp2", x) + x
    return layer_norm(x, (WIDTH,), kept["fuse_module.layer_norm.weight"], kept["fuse_module.layer_norm.bias"])


def calls(name: str, text: str, ckpt: str = "xl.safetensors", batch: int = 1) -> dict[str, Call]:
    given = {"photomaker": link("maker"), "image": link("picture"), "clip": link("checkpoint", 1), "text": text}
    return {
        "checkpoint": checkpoint(ckpt),
        "maker": Call("PhotoMakerLoader", {"photomaker_model_name": name}),
        "picture": Call("EmptyImage", {"width": 40, "height": 30, "batch_size": batch, "color": 0x804020}),
        "plain": Call("CLIPTextEncode", {"text": "photograph of a man", "clip": link("checkpoint", 1)}),
        "told": Call("PhotoMakerEncode", given),
    }


@pytest.fixture
def xl(studio: Studio) -> Studio:
    path = studio.folder / "models" / "checkpoints" / "xl.safetensors"
    path.parent.mkdir(parents=True)
    write_shapes(path, SMALL["sdxl"].shapes(), "float16")
    return studio


@pytest.mark.parametrize("prefix", ["", "id_encoder."])
def test_the_word_before_the_trigger_means_the_person(xl: Studio, prefix: str) -> None:
    """All else is as in the prompt without the trigger word."""
    name = xl.write("photomaker/one.safetensors", {prefix + key: tensor for key, tensor in tensors().items()})
    [[text, options]] = xl.values(calls(name, "photograph of photomaker a man"), "told")[0]
    nodes = calls(name, "photograph of photomaker a man")
    [[plain, pooled]] = xl.values(nodes, "plain")[0]
    picture: Tensor = xl.values(nodes, "picture")[0]
    with torch.no_grad():
        expected = fused(plain[:, 2], picture)
    assert_close(text[:, 2], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(text[:, [0, 1, *range(3, 77)]], plain[:, [0, 1, *range(3, 77)]])
    assert torch.equal(options["pooled_output"], pooled["pooled_output"])
    assert not xl.warnings


def test_what_is_left_out_is_said(xl: Studio) -> None:
    name = xl.write("photomaker/one.safetensors", tensors())
    [[text, _]] = xl.values(calls(name, "photograph of a man"), "told")[0]
    assert torch.equal(text, xl.values(calls(name, ""), "plain")[0][0][0])
    xl.values(calls(name, "photomaker a man", batch=2), "told")
    assert "does not have the word photomaker" in xl.warnings[0]
    assert "found 2; the first one is used" in xl.warnings[1]
    assert "expected text 128 wide" in xl.failure(calls(name, "a photomaker", "demo.safetensors"), "told")


def test_the_released_pickle_is_refused_and_converted(xl: Studio, tmp_path: Path) -> None:
    path = xl.folder / "models" / "photomaker" / "photomaker-v1.bin"
    path.parent.mkdir(parents=True)
    torch.save({"id_encoder": tensors(), "lora_weights": {"unet.up.weight": torch.ones(2)}}, path)
    assert "mezzotint models convert" in xl.failure(calls("photomaker-v1.bin", "a photomaker"), "told")
    found = load_file(convert_pickle(path))
    assert set(found) == {f"id_encoder.{name}" for name in tensors()} | {"lora_weights.unet.up.weight"}
    maker: ModelRef = xl.values(calls("photomaker-v1.safetensors", ""), "maker")[0]
    assert maker.part == "photomaker"


def test_a_trigger_behind_all_tokens_is_refused() -> None:
    assert photomaker.split("a man photomaker in a hat") == ("a man in a hat", 2)
    assert photomaker.split("a photomaker, smiling") == ("a photomaker, smiling", None)
    with pytest.raises(InputError, match="expected a picture of a person"):
        photomaker.told((torch.zeros(1, 4, WIDTH), {}), 9, torch.zeros(0, 8, 8, 3), _maker())
    with pytest.raises(InputError, match="among the first 4"):
        photomaker.told((torch.zeros(1, 4, WIDTH), {}), 9, torch.zeros(1, 8, 8, 3), _maker())


def _maker() -> Any:
    from types import SimpleNamespace

    from nodes.diffusion.beside import find_beside
    from nodes.diffusion.checkpoints import TensorInfo

    found = find_beside({name: TensorInfo("F32", tuple(tensor.shape)) for name, tensor in tensors().items()})
    assert found is not None
    return SimpleNamespace(config=found[1][0])
