"""What a file is follows from the names and shapes of its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from benchmarks.random_sd15 import Sizes, checkpoint, vae
from engine.errors import ModelFileError
from nodes.diffusion.checkpoints import TensorInfo
from nodes.diffusion.configs import TextConfig, TowersConfig, UNetConfig, VaeConfig
from nodes.diffusion.convert import Stored
from nodes.diffusion.families import describe
from nodes.diffusion.layouts import UNET_PREFIX

TINY = Sizes(channels=32, mult=(1, 2), blocks=1, attention=(True, False), vae_channels=32, vae_mult=(1, 2), vae_blocks=1,
             width=64, layers=2, vocabulary=100)  # fmt: skip


def infos(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    return {name: TensorInfo("F32", shape) for name, shape in shapes.items()}


def test_full_size_configuration() -> None:
    """Stable Diffusion 1.5's configuration comes out of its shapes."""
    parts = describe("sd15", infos(checkpoint(Sizes())), {}).parts
    assert parts["unet"].config == UNetConfig(
        in_channels=4,
        out_channels=4,
        model_channels=320,
        channel_mult=(1, 2, 4, 4),
        down_depths=((1, 1), (1, 1), (1, 1), (0, 0)),
        up_depths=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
        mid_depth=1,
        context_dim=768,
        heads=(8, 8, 8, 8),
        norm_groups=32,
    )
    assert parts["vae"].config == VaeConfig(channels=128, channel_mult=(1, 2, 4, 4), res_blocks=2, latent_channels=4)
    text = TextConfig(width=768, layers=12, heads=12, positions=77, vocabulary=49408, intermediate=3072)
    assert parts["clip"].config == TowersConfig("sd1", (("l", text),))


def test_tiny_and_linear_variants() -> None:
    """Other widths, fewer levels and linear projections are seen, whatever the file is called."""
    parts = describe("x", infos(checkpoint(replace(TINY, linear=True))), {}).parts
    config = parts["unet"].config
    assert isinstance(config, UNetConfig)
    assert (config.model_channels, config.channel_mult, config.down_depths) == (32, (1, 2), ((1,), (0,)))
    assert config.linear_projection
    assert parts["vae"].config == VaeConfig(channels=32, channel_mult=(1, 2), res_blocks=1, latent_channels=4)


def test_metadata_overrides_what_shapes_do_not_show() -> None:
    """Heads, groups, activation and scale are taken from the file's metadata where it gives them."""
    metadata = {
        "unet": json.dumps({"num_heads": 4, "norm_groups": 16, "model_channels": 7}),
        "vae": json.dumps({"scale_factor": 0.5}),
        "text": json.dumps({"heads": 8, "act": "gelu"}),
    }
    parts = describe("x", infos(checkpoint(TINY)), metadata).parts
    unet, auto, text = parts["unet"].config, parts["vae"].config, parts["clip"].config
    assert isinstance(unet, UNetConfig)
    assert (unet.heads, unet.norm_groups, unet.model_channels) == ((4, 4), 16, 32)
    assert isinstance(auto, VaeConfig)
    assert auto.scale_factor == 0.5
    assert isinstance(text, TowersConfig)
    tower = text["l"]
    assert isinstance(tower, TextConfig)
    assert (tower.heads, tower.activation) == (8, "gelu")


@pytest.mark.parametrize(
    "metadata",
    [{"unet": "{"}, {"unet": '{"num_heads": "8"}'}, {"unet": '{"num_heads": 0}'}, {"unet": '{"num_heads": true}'},
     {"unet": '{"num_heads": 5}'}, {"vae": '{"scale_factor": NaN}'}, {"text": '{"heads": 7}'}],
)  # fmt: skip
def test_impossible_metadata_is_refused(metadata: dict[str, str]) -> None:
    """Metadata that no network can have is a ModelFileError, not a crash later."""
    with pytest.raises(ModelFileError):
        describe("x", infos(checkpoint(TINY)), metadata)


def test_distilled_unet_without_middle() -> None:
    """A UNet whose middle was distilled away is described without one."""
    shapes = {name: shape for name, shape in checkpoint(TINY).items() if "middle_block" not in name}
    config = describe("x", infos(shapes), {}).parts["unet"].config
    assert isinstance(config, UNetConfig)
    assert config.mid_depth is None


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_vae_alone(prefix: str) -> None:
    """A VAE file is described with and without its prefix; asking it for a UNet says what it holds."""
    description = describe("v", infos({prefix + name: shape for name, shape in vae(TINY)}), {})
    assert set(description.parts) == {"vae"}
    with pytest.raises(ModelFileError, match="expected a UNet in v, found only a VAE"):
        description.part("unet", "v")


def test_old_and_bare_text_towers() -> None:
    """The text tower is found under each of the names it has had."""
    old = "cond_stage_model.transformer.text_model."
    for prefix in ("cond_stage_model.transformer.", "text_model."):
        shapes = {name.replace(old, prefix): shape for name, shape in checkpoint(TINY).items()}
        part = describe("x", infos(shapes), {}).parts["clip"]
        assert part.names["l.text.final_layer_norm.weight"] == Stored(prefix + "final_layer_norm.weight")


def test_prediction_type_is_marked_by_trainers() -> None:
    """Marks of v-prediction and of zero terminal SNR are heeded."""
    shapes = infos(checkpoint(TINY))
    marked = describe("x", shapes | infos({"v_pred": (0,), "ztsnr": (0,)}), {}).schedule
    assert (marked.prediction, marked.zero_terminal_snr) == ("v_prediction", True)
    assert describe("x", shapes, {"modelspec.prediction_type": "v"}).schedule.prediction == "v_prediction"
    assert describe("x", shapes, {}).schedule.prediction == "epsilon"


FOREIGN: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "kohya LoRA": ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": (320, 4)}, "a LoRA .* models/loras"),
    "diffusers LoRA": ({"unet.down_blocks.0.attn.to_q.lora_A.weight": (4, 320)}, "a LoRA"),
    "LoHa": ({"lora_unet_x.hada_w1_a": (320, 4)}, "a LoRA"),
    "ControlNet": ({"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}, "a ControlNet"),
    "diffusers ControlNet": ({"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}, "a ControlNet"),
    "T2I adapter": ({"body.0.block1.weight": (320, 320, 3, 3)}, "a T2I adapter"),
    "FLUX": ({"double_blocks.0.img_attn.qkv.weight": (1,)}, "a FLUX model"),
    "upscaler": ({"conv_first.weight": (64, 3, 3, 3), "conv_first.bias": (64,)}, "an upscaler"),
    "embedding": ({"emb_params": (2, 768)}, "a textual inversion embedding"),
    "CLIP vision": ({"vision_model.encoder.layers.0.x": (1,), "y": (1,)}, "a CLIP vision model"),
    "diffusers UNet": ({"down_blocks.0.resnets.0.conv1.weight": (1,), "y": (1,)}, "a diffusers UNet alone"),
    "nothing known": ({"a.weight": (1, 2), "b.weight": (3,)}, r"2 tensors in 2 groups, of no known family: a\.weight, b\.weight"),
    "nothing": ({}, "no tensors at all"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_refused_by_name(kind: str) -> None:
    """A file of another kind is refused in one line that says what it is."""
    shapes, said = FOREIGN[kind]
    with pytest.raises(ModelFileError, match=said) as caught:
        describe("some.safetensors", infos(shapes), {})
    assert "some.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_unet_of_odd_inputs_is_refused_by_them() -> None:
    """A UNet that takes more channels than it gives, and none of the known numbers of them, is named as what it is."""
    shapes = checkpoint(TINY) | {UNET_PREFIX + "input_blocks.0.0.weight": (32, 7, 3, 3)}
    with pytest.raises(ModelFileError, match=r"takes 7 channels and gives 4; expected 4 in, or 9 \(inpainting\)"):
        describe("x", infos(shapes), {})


@pytest.mark.parametrize(
    "changed",
    [
        {"input_blocks.0.0.weight": (32, 4)},
        {"input_blocks.1.0.out_layers.3.weight": (48, 48, 3, 3)},
        {"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 80)},
        {"out.2.weight": (8, 32, 3, 3), "input_blocks.0.0.weight": (32, 8, 3, 3)},
        {"output_blocks.4.0.in_layers.2.weight": (32, 32, 3, 3)},
    ],
)
def test_inconsistent_shapes_are_refused(changed: dict[str, tuple[int, ...]]) -> None:
    """Shapes that cannot belong together are a ModelFileError, not an exception of the reader."""
    shapes = checkpoint(TINY) | {UNET_PREFIX + name: shape for name, shape in changed.items()}
    with pytest.raises(ModelFileError):
        describe("x", infos(shapes), {})
