"""CLIP's image encoder in its layouts, small, with random weights: transformers' own module, and its tensors as open_clip has them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

SIDE, PATCH, LAYERS = 28, 14, 3


def vision(width: int = 128, projection: int = 64) -> CLIPVisionModelWithProjection:
    """A model of ``width`` that sees four patches; heads are 64 wide."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=LAYERS, num_attention_heads=width // 64,
        image_size=SIDE, patch_size=PATCH, projection_dim=projection, hidden_act="quick_gelu",
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


def transformers_layout(model: CLIPVisionModelWithProjection) -> dict[str, Tensor]:
    return {name: it for name, it in model.state_dict().items() if "position_ids" not in name}


def open_clip_layout(model: CLIPVisionModelWithProjection, prefix: str = "visual.") -> dict[str, Tensor]:
    state = {name.removeprefix("vision_model."): it for name, it in model.state_dict().items()}
    found = {
        "class_embedding": state["embeddings.class_embedding"],
        "conv1.weight": state["embeddings.patch_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "proj": state["visual_projection.weight"].T,
    }
    for end in ("weight", "bias"):
        found |= {
            f"ln_pre.{end}": state[f"pre_layrnorm.{end}"],
            f"ln_post.{end}": state[f"post_layernorm.{end}"],
        }
        for number in range(LAYERS):
            layer, block = f"encoder.layers.{number}", f"transformer.resblocks.{number}"
            found |= {
                f"{block}.attn.in_proj_{end}": torch.cat([state[f"{layer}.self_attn.{it}_proj.{end}"] for it in "qkv"]),
                f"{block}.attn.out_proj.{end}": state[f"{layer}.self_attn.out_proj.{end}"],
                f"{block}.ln_1.{end}": state[f"{layer}.layer_norm1.{end}"],
                f"{block}.ln_2.{end}": state[f"{layer}.layer_norm2.{end}"],
                f"{block}.mlp.c_fc.{end}": state[f"{layer}.mlp.fc1.{end}"],
                f"{block}.mlp.c_proj.{end}": state[f"{layer}.mlp.fc2.{end}"],
            }
    return {prefix + name: it for name, it in found.items()}
