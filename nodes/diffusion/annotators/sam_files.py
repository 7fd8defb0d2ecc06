"""Segment Anything's files: the first (Kirillov et al. 2023) and the second (Ravi et al. 2024), each as transformers' folders and as
single files in the layout it was released in.

What a file is, and how large, is read off its tensors. Of a second one nothing is taken but what sees single pictures; its memory of a film
is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from engine.errors import ModelFileError
from nodes.diffusion.annotators.networks import Tensors, from_folder, from_tensors, read_tensors

LABEL: Final = "Segment Anything"

_FIRST: Final = "image_encoder.patch_embed.proj.weight"
_SECOND: Final = "image_encoder.trunk.patch_embed.proj.weight"
_HQ: Final = "mask_decoder.hf_token.weight"

_COMMON: Final = (
    ("iou_prediction_head.layers.0", "iou_prediction_head.proj_in"),
    ("iou_prediction_head.layers.1", "iou_prediction_head.layers.0"),
    ("iou_prediction_head.layers.2", "iou_prediction_head.proj_out"),
    ("output_upscaling.0", "upscale_conv1"),
    ("output_upscaling.1", "upscale_layer_norm"),
    ("output_upscaling.3", "upscale_conv2"),
    ("mask_downscaling.0", "mask_embed.conv1"),
    ("mask_downscaling.1", "mask_embed.layer_norm1"),
    ("mask_downscaling.3", "mask_embed.conv2"),
    ("mask_downscaling.4", "mask_embed.layer_norm2"),
    ("mask_downscaling.6", "mask_embed.conv3"),
    ("point_embeddings", "point_embed"),
    ("pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    ("patch_embed.proj", "patch_embed.projection"),
    (".norm", ".layer_norm"),
)
_OF_FIRST: Final = (
    ("image_encoder", "vision_encoder"),
    ("neck.0", "neck.conv1"),
    ("neck.1", "neck.layer_norm1"),
    ("neck.2", "neck.conv2"),
    ("neck.3", "neck.layer_norm2"),
    (".blocks.", ".layers."),
)
_OF_SECOND: Final = (
    ("sam_prompt_encoder", "prompt_encoder"),
    ("sam_mask_decoder", "mask_decoder"),
    ("image_encoder.neck", "vision_encoder.neck"),
    ("image_encoder.trunk", "vision_encoder.backbone"),
    ("no_mem_embed", "no_memory_embedding"),
    ("out_proj", "o_proj"),
)
_HEADS: Final = re.compile(r"(.*(?:output_hypernetworks_mlps\.\d+|pred_obj_score_head)\.)layers\.([012])\.(.*)")
_MLP: Final = re.compile(
    r"((?:mask_decoder\.transformer\.layers|vision_encoder\.backbone\.blocks)\.\d+\.mlp\.)layers\.([01])\.(.*)"
)
_POSITION: Final = "prompt_encoder.shared_embedding.positional_embedding"
_KEPT: Final = ("vision_encoder.", "prompt_encoder.", "mask_decoder.", "no_memory_embedding")

_HIERA: Final[Mapping[tuple[int, int], dict[str, Any]]] = {
    (96, 12): {"blocks_per_stage": [1, 2, 7, 2], "global_attention_blocks": [5, 7, 9]},
    (96, 16): {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    (112, 24): {
        "blocks_per_stage": [2, 3, 16, 3], "global_attention_blocks": [12, 16, 20], "num_attention_heads_per_stage": [2, 4, 8, 16],
        "window_positional_embedding_background_size": [14, 14],
    },
    (144, 48): {
        "blocks_per_stage": [2, 6, 36, 4], "global_attention_blocks": [23, 33, 43], "num_attention_heads_per_stage": [2, 4, 8, 16],
        "window_size_per_stage": [8, 4, 16, 8],
    },
}  # fmt: skip
"""By width and number of blocks: tiny, small, base+, large."""


def load_sam(path: Path) -> nn.Module:
    """A ``SamModel`` or ``Sam2Model``. Raises ModelFileError where the file or folder at ``path`` holds neither."""
    if path.is_dir():
        return from_folder(_class_of(path), path, LABEL)
    tensors = read_tensors(path)
    if _HQ in tensors:
        raise ModelFileError(f"expected {LABEL} in {path.name}, found the HQ variant of it, which is not supported")
    if _FIRST in tensors:
        return _first(tensors, path)
    if _SECOND in tensors:
        return _second(tensors, path)
    found = ", ".join(sorted(tensors)[:2]) or "no tensors"
    raise ModelFileError(f"expected the weights of {LABEL} in {path.name}, found {found}; get the right file")


def _class_of(folder: Path) -> str:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelFileError(f"expected a config.json in {folder}, found none that can be read") from error
    classes = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
    if kind not in classes:
        raise ModelFileError(f"expected a model of type {', '.join(classes)} in {folder}, found {kind!r}")
    return classes[kind]


def _first(tensors: Tensors, path: Path) -> nn.Module:
    from transformers import SamConfig, SamModel, SamVisionConfig

    width, _, patch, _ = tensors[_FIRST].shape
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("image_encoder.blocks."))
    sides = [tensors[f"image_encoder.blocks.{layer}.attn.rel_pos_h"].shape for layer in range(layers)]
    narrow = min(side[0] for side in sides)
    vision = SamVisionConfig(
        hidden_size=width, num_hidden_layers=layers, patch_size=patch, mlp_dim=tensors["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
        num_attention_heads=width // sides[0][1], window_size=(narrow + 1) // 2,
        image_size=patch * tensors["image_encoder.pos_embed"].shape[1],
        global_attn_indexes=[index for index, side in enumerate(sides) if side[0] != narrow],
    )  # fmt: skip
    names = {_renamed(name, (*_COMMON, *_OF_FIRST)): tensors[name] for name in tensors}
    prompt = {"image_size": vision.image_size, "patch_size": patch}
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt)
    return from_tensors(SamModel, config, _with_position(names), path, LABEL)


def _second(tensors: Tensors, path: Path) -> nn.Module:
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    width = tensors[_SECOND].shape[0]
    blocks = 1 + max(int(name.split(".")[3]) for name in tensors if name.startswith("image_encoder.trunk.blocks."))
    size = _HIERA.get((width, blocks))
    if size is None:
        raise ModelFileError(
            f"expected {LABEL} 2 as tiny, small, base+ or large in {path.name}, found one {width} wide with {blocks} blocks"
        )
    background = list(tensors["image_encoder.trunk.pos_embed"].shape[2:])
    told = {"window_positional_embedding_background_size": background, **size}
    stages = [width, 2 * width, 4 * width, 8 * width]
    hiera = Sam2HieraDetConfig(hidden_size=width, embed_dim_per_stage=stages, **told)
    config = Sam2Config(vision_config=Sam2VisionConfig(backbone_config=hiera, backbone_channel_list=stages[::-1]))
    names = {_renamed(name, (*_COMMON, *_OF_SECOND)): tensors[name] for name in tensors}
    points = [names.pop(f"prompt_encoder.point_embed.{index}.weight") for index in range(4)]
    names["prompt_encoder.point_embed.weight"] = torch.cat(points)
    return from_tensors(Sam2Model, config, _with_position(names), path, LABEL)


def _with_position(names: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is needed, and the one table of positions where both the picture and the points have it."""
    kept = {name: tensor for name, tensor in names.items() if name.startswith(_KEPT)}
    return {**kept, "shared_image_embedding.positional_embedding": names[_POSITION]}


def _renamed(name: str, words: tuple[tuple[str, str], ...]) -> str:
    for old, new in words:
        name = name.replace(old, new)
    if head := _HEADS.fullmatch(name):
        return f"{head[1]}{('proj_in', 'layers.0', 'proj_out')[int(head[2])]}.{head[3]}"
    if mlp := _MLP.fullmatch(name):
        return f"{mlp[1]}{('proj_in', 'proj_out')[int(mlp[2])]}.{mlp[3]}"
    return re.sub(r"(vision_encoder\.neck\.convs\.\d+)\.conv\.", r"\1.", name)
