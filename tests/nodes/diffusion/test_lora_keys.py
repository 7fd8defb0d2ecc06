"""Keys of LoRA files, whoever wrote them, find the module they mean."""

from __future__ import annotations

import pytest

from nodes.diffusion.configs import DiTConfig, TextConfig, Tower, TowersConfig, UNetConfig
from nodes.diffusion.lora_keys import grouped, is_text, spellings

UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    down_depths=((1, 1), (1, 1), (1, 1), (0, 0)),
    up_depths=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    mid_depth=1,
    context_dim=768,
    heads=(8, 8, 8, 8),
)
TEXT = TextConfig(width=768, layers=12, heads=12, positions=77, vocabulary=49408, intermediate=3072)
QUERY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0"
CONV = "mid_block.resnets.1.conv1"
DOWN = "down_blocks.0.downsamplers.0.conv"
TIME = "time_embedding.linear_1"
MLP = "encoder.layers.3.mlp.fc1"


@pytest.mark.parametrize(
    ("key", "module", "role"),
    [
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight", QUERY, "up"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight", QUERY, "down"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.alpha", QUERY, "alpha"),
        ("lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.hada_w1_a", QUERY, "hada_w1_a"),
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight", QUERY, "up"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight", QUERY, "down"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", QUERY, "down"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora.up.weight", QUERY, "up"),
        ("base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.default.weight", QUERY, "up"),
        ("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.lokr_w2", QUERY, "lokr_w2"),
        ("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.dora_scale", QUERY, "dora_scale"),
        ("unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.processor.to_out_lora.up.weight", OUT, "up"),
        ("lora_unet_output_blocks_5_1_transformer_blocks_0_attn2_to_out_0.lora_up.weight", OUT, "up"),
        ("lora_unet_middle_block_2_in_layers_2.lora_mid.weight", CONV, "mid"),
        ("lora_unet_mid_block_resnets_1_conv1.oft_blocks", CONV, "oft_blocks"),
        ("diffusion_model.input_blocks.3.0.op.diff_b", DOWN, "diff_b"),
        ("lora_unet_time_embed_0.diff", TIME, "diff"),
        ("unet.time_embedding.linear_1.b1.weight", TIME, "b1"),
        ("diffusion_model.time_embed.0.set_weight", TIME, "set_weight"),
    ],
)  # fmt: skip
def test_modules_of_a_unet_by_either_layout(key: str, module: str, role: str) -> None:
    """Kohya's flat names, LyCORIS', diffusers' old and new, PEFT's, in the original layout or diffusers'."""
    groups, others = grouped([key])
    ((spelled, roles),) = groups.items()
    names = [f"{path}.{leaf}" for path in (QUERY, OUT, CONV, DOWN, TIME) for leaf in ("weight", "bias")]
    assert spellings(UNET, names)[spelled] == module
    assert (list(roles), others, is_text(spelled)) == ([role], [], False)


@pytest.mark.parametrize(
    ("key", "tower"),
    [
        ("lora_te_text_model_encoder_layers_3_mlp_fc1.lora_up.weight", "l"),
        ("lora_te1_text_model_encoder_layers_3_mlp_fc1.lora_up.weight", "l"),
        ("lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_up.weight", "g"),
        ("text_encoder.text_model.encoder.layers.3.mlp.fc1.lora_linear_layer.up.weight", "l"),
        ("text_encoder_2.text_model.encoder.layers.3.mlp.fc1.lora_B.weight", "g"),
        ("text_encoders.clip_g.transformer.text_model.encoder.layers.3.mlp.fc1.lora_B.weight", "g"),
        ("base_model.model.text_model.encoder.layers.3.mlp.fc1.lora_B.weight", "l"),
    ],
)
def test_modules_of_text_towers(key: str, tower: Tower) -> None:
    """Of two, each has names of its own; the only one there is goes by the first one's as well."""
    ((spelled, roles),) = grouped([key])[0].items()
    assert (list(roles), is_text(spelled)) == (["up"], True)
    both = TowersConfig("sdxl", (("l", TEXT), ("g", TEXT)))
    assert spellings(both, [f"{name}.text.{MLP}.weight" for name in both.names])[spelled] == f"{tower}.text.{MLP}"
    alone = TowersConfig("refiner", (("g", TEXT),))
    if not key.startswith(("base_model", "text_encoders")):
        assert spellings(alone, [f"g.text.{MLP}.weight"])[spelled] == f"g.text.{MLP}"


def test_a_fused_layer_goes_by_the_networks_own_names() -> None:
    """The original layout has query, key and value of Stable Diffusion 3 in one matrix, which is none of the network's."""
    config = DiTConfig(
        channels=16, patch=2, layers=2, heads=2, head_width=64, context_dim=64, pooled_dim=64, positions=8
    )
    found = spellings(config, ["transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.ff.net.2.weight"])
    assert found["transformer.transformer_blocks.0.attn.to_q"] == "transformer_blocks.0.attn.to_q"
    assert found["diffusion_model.joint_blocks.0.x_block.mlp.fc2"] == "transformer_blocks.0.ff.net.2"
    assert not any("qkv" in spelled for spelled in found)


def test_keys_that_end_in_no_known_way_are_kept_apart() -> None:
    """Keys of one module are one group, whatever their order."""
    groups, others = grouped(["a.alpha", "b.lora_up.weight", "a.lora_A.weight", "step", "a.lora_magnitude_vector"])
    assert groups == {
        "a": {"alpha": "a.alpha", "down": "a.lora_A.weight", "dora_scale": "a.lora_magnitude_vector"},
        "b": {"up": "b.lora_up.weight"},
    }
    assert others == ["step"]
