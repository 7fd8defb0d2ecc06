"""Loaders that are given a model of another kind say so at once: the node, the input, what was expected, what it is, where it belongs."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch
from torch import Tensor

from engine.graph.graph import Call
from tests.nodes.studio import Studio, checkpoint, demo_tensors, link

LOADERS: Final = {
    "CheckpointLoaderSimple": ("checkpoints", "ckpt_name", "a Stable Diffusion model"),
    "unCLIPCheckpointLoader": ("checkpoints", "ckpt_name", "a Stable Diffusion model"),
    "UNETLoader": ("diffusion_models", "unet_name", "a Stable Diffusion model"),
    "VAELoader": ("vae", "vae_name", "a VAE"),
    "CLIPLoader": ("text_encoders", "clip_name", "a text encoder"),
    "CLIPVisionLoader": ("clip_vision", "clip_name", "a CLIP vision model"),
    "ControlNetLoader": ("controlnet", "control_net_name", "a ControlNet"),
    "UpscaleModelLoader": ("upscale_models", "model_name", "an upscaler"),
    "FaceRestoreModelLoader": ("facerestore_models", "model_name", "a restorer of faces"),
    "IPAdapterModelLoader": ("ipadapter", "ipadapter_file", "an IP-Adapter"),
    "GLIGENLoader": ("gligen", "gligen_name", "a GLIGEN model"),
    "StyleModelLoader": ("style_models", "style_model_name", "a style model"),
    "PhotoMakerLoader": ("photomaker", "photomaker_model_name", "a PhotoMaker model"),
    "HypernetworkLoader": ("hypernetworks", "hypernetwork_name", "a hypernetwork"),
}
"""Where each looks for its file, the input that names it, and what it expects."""
MORE: Final[dict[str, dict[str, Any]]] = {
    "UNETLoader": {"weight_dtype": "default"},
    "CLIPLoader": {"type": "stable_diffusion", "device": "default"},
    "HypernetworkLoader": {"model": link("checkpoint"), "strength": 1.0},
}


def lora() -> dict[str, Tensor]:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    return {f"{name}.lora_down.weight": torch.zeros(2, 64), f"{name}.lora_up.weight": torch.zeros(64, 2)}


def vae() -> dict[str, Tensor]:
    prefix = "first_stage_model."
    return {name.removeprefix(prefix): it for name, it in demo_tensors().items() if name.startswith(prefix)}


def refusal(studio: Studio, type_: str, tensors: dict[str, Tensor]) -> str:
    folder, name, _ = LOADERS[type_]
    file = studio.write(f"{folder}/wrong.safetensors", tensors)
    loader = Call(type_, {name: file, **MORE.get(type_, {})})
    return studio.failure({"checkpoint": checkpoint(), "loader": loader}, "loader")


@pytest.mark.parametrize("type_", LOADERS)
def test_a_lora_is_called_by_its_name(studio: Studio, type_: str) -> None:
    _, name, expected = LOADERS[type_]
    message = refusal(studio, type_, lora())
    assert message.startswith(f"node loader ({type_}), input {name}: expected {expected} in wrong.safetensors, ")
    assert "found a LoRA (2 tensors such as lora_unet_down_blocks_0_" in message
    assert message.endswith("put it in models/loras and use a LoRA loader")


@pytest.mark.parametrize("type_", ["IPAdapterModelLoader", "HypernetworkLoader", "UpscaleModelLoader"])
def test_a_part_of_a_model_is_called_by_its_name(studio: Studio, type_: str) -> None:
    """Not the whole model that it could be of."""
    assert refusal(studio, type_, vae()).endswith("found a VAE; put it in models/vae and load it from there")


def test_one_file_chosen_twice(studio: Studio) -> None:
    """It is the second that is one too many."""
    prefix = "cond_stage_model.transformer."
    name = studio.write(
        "text_encoders/one.safetensors",
        {name.removeprefix(prefix): it for name, it in demo_tensors().items() if name.startswith(prefix)},
    )
    inputs = {"clip_name1": name, "clip_name2": name, "type": "sdxl"}
    message = studio.failure({"loader": Call("DualCLIPLoader", inputs)}, "loader")
    assert "input clip_name2: expected text encoders of different kinds, found a second L in one.safetensors" in message


def test_of_two_files_the_wrong_one_is_named(studio: Studio) -> None:
    """A whole checkpoint in the place of a text encoder is known as one."""
    prefix = "cond_stage_model.transformer."
    text = {name.removeprefix(prefix): it for name, it in demo_tensors().items() if name.startswith(prefix)}
    inputs = {
        "clip_name1": studio.write("text_encoders/one.safetensors", text),
        "clip_name2": studio.write("text_encoders/whole.safetensors", demo_tensors()),
    }
    message = studio.failure({"loader": Call("DualCLIPLoader", {**inputs, "type": "sdxl"})}, "loader")
    assert message == (
        "node loader (DualCLIPLoader), input clip_name2: expected a text encoder alone in whole.safetensors, found a UNet and a text "
        "encoder and a VAE; put it in models/checkpoints and load it from there"
    )
