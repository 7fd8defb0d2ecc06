"""One safetensors file in the original single-file layout, float16, with CLIP's whole vocabulary.

Keys begin with model.diffusion_model., first_stage_model. and cond_stage_model.transformer.text_model., as in the
checkpoints of Stable Diffusion 1. What shapes do not show is written in the file's metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from training.text import HEADS, LAYERS, WIDTH, make_text_encoder
from training.unet import Unet, make_unet
from training.vae import GROUPS, SCALE, WIDTHS, make_vae

Weights = Mapping[str, Tensor]

UNET_OUTER = {
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
}
UNET_RESIDUAL = {
    ".norm1.": ".in_layers.0.",
    ".conv1.": ".in_layers.2.",
    ".time_emb_proj.": ".emb_layers.1.",
    ".norm2.": ".out_layers.0.",
    ".conv2.": ".out_layers.3.",
    ".conv_shortcut.": ".skip_connection.",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
LAYERS_PER_BLOCK = 1
TEXT_PREFIX = "cond_stage_model.transformer.text_model."


def unet_key(key: str, attended_ups: frozenset[int]) -> str:
    """A diffusers key of the UNet in the original names. `attended_ups`: up blocks that have attention."""
    if ".resnets." in key:
        for new, old in UNET_RESIDUAL.items():
            key = key.replace(new, old)
    if found := re.match(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.*)", key):
        return _down_key(int(found[1]), found[2], int(found[3]), found[4])
    if found := re.match(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.*)", key):
        return _up_key(int(found[1]), found[2], int(found[3]), found[4], int(found[1]) in attended_ups)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", key):
        place = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{place}.{found[3]}"
    outer = next(name for name in UNET_OUTER if key.startswith(name))
    return UNET_OUTER[outer] + key.removeprefix(outer)


def _down_key(level: int, kind: str, number: int, rest: str) -> str:
    block = 1 + level * (LAYERS_PER_BLOCK + 1)
    if kind == "downsamplers":
        return f"input_blocks.{block + LAYERS_PER_BLOCK}.0.{rest.replace('conv.', 'op.')}"
    return f"input_blocks.{block + number}.{int(kind == 'attentions')}.{rest}"


def _up_key(level: int, kind: str, number: int, rest: str, attended: bool) -> str:
    block = level * (LAYERS_PER_BLOCK + 1)
    if kind == "upsamplers":
        return f"output_blocks.{block + LAYERS_PER_BLOCK}.{1 + attended}.{rest}"
    return f"output_blocks.{block + number}.{int(kind == 'attentions')}.{rest}"


def unet_weights(weights: Weights) -> dict[str, Tensor]:
    attended = frozenset(int(key.split(".")[1]) for key in weights if re.match(r"up_blocks\.\d+\.attentions", key))
    return {f"model.diffusion_model.{unet_key(key, attended)}": value for key, value in weights.items()}


def vae_key(key: str) -> str:
    """A diffusers key of the autoencoder in the original names; the decoder's levels count from the other end there."""
    top = len(WIDTHS) - 1
    key = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2", key)
    key = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", key)
    key = re.sub(
        r"up_blocks\.(\d)\.(resnets\.(\d)|upsamplers\.0)",
        lambda m: f"up.{top - int(m[1])}." + (f"block.{m[3]}" if m[3] else "upsample"),
        key,
    )
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        head, tail = key.split("mid_block.attentions.0.")
        name, kind = tail.rsplit(".", 1)
        key = f"{head}mid.attn_1.{VAE_ATTENTION[name]}.{kind}"
    return key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def vae_weights(weights: Weights) -> dict[str, Tensor]:
    """Linear layers of the attention become 1x1 convolutions, as the original has them."""
    renamed = {vae_key(key): value for key, value in weights.items()}
    return {
        f"first_stage_model.{key}": value[:, :, None, None] if ".attn_1." in key and value.ndim == 2 else value
        for key, value in renamed.items()
    }


def text_weights(weights: Weights) -> dict[str, Tensor]:
    """CLIP's keys, and the position numbers that the original layout carries."""
    renamed = {key.removeprefix("text_model."): value for key, value in weights.items()}
    positions = len(renamed["embeddings.position_embedding.weight"])
    renamed["embeddings.position_ids"] = torch.arange(positions)[None]
    return {TEXT_PREFIX + key: value for key, value in renamed.items()}


def metadata() -> dict[str, str]:
    """What a loader cannot read off the shapes, and for people, what it can."""
    unet = {
        "model_channels": 64,
        "channel_mult": [1, 2],
        "num_res_blocks": LAYERS_PER_BLOCK,
        "attention_levels": [0],
        "num_heads": 8,
        "context_dim": WIDTH,
        "norm_groups": GROUPS,
    }
    vae = {"ch": 64, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "norm_groups": GROUPS, "scale_factor": SCALE}
    text = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "act": "quick_gelu", "final_layer_norm": True}
    parts = {"unet": unet, "vae": vae, "text": text}
    return {"format": "pt", "architecture": "sd1.5-tiny"} | {name: json.dumps(part) for name, part in parts.items()}


def export(unet: Weights, vae: Weights, text: Weights, path: Path) -> None:
    """Write the file; the pieces come as state dicts in diffusers' and transformers' names."""
    weights = unet_weights(unet) | vae_weights(vae) | text_weights(text)
    small = {key: value if value.dtype == torch.int64 else value.half() for key, value in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous().clone() for key, value in small.items()}, path, metadata=metadata())


def save_halves(weights: Weights, path: Path, **told: str) -> None:
    """Write what goes with a checkpoint in float16; `told` is metadata, what shapes do not show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {key: value.half().contiguous() for key, value in weights.items()}
    save_file(halves, path, metadata={"format": "pt"} | told)


def _fill(module: nn.Module, named: Weights, stored: Weights) -> None:
    """Load a module from a file: `named` are its own weights under the file's keys, in the module's order."""
    own = module.state_dict()
    module.load_state_dict({key: stored[name].float().view_as(own[key]) for key, name in zip(own, named, strict=True)})
    module.eval().requires_grad_(False)


def read(path: Path) -> tuple[Unet, AutoencoderKL, CLIPTextModel]:
    """The three pieces of an exported file, float32, the text encoder with CLIP's whole vocabulary."""
    stored = load_file(path)
    unet, vae = make_unet(stored["model.diffusion_model.input_blocks.0.0.weight"].shape[1]), make_vae()
    text = make_text_encoder()
    _fill(unet, unet_weights(unet.state_dict()), stored)
    _fill(vae, vae_weights(vae.state_dict()), stored)
    _fill(
        text, {TEXT_PREFIX + key.removeprefix("text_model."): value for key, value in text.state_dict().items()}, stored
    )
    return unet, vae, text
