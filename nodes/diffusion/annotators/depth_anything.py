"""Depth Anything (Yang et al. 2024) as it was released first: DINOv2 under ``pretrained``, a dense head under ``depth_head``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from engine.errors import ModelFileError
from nodes.diffusion.annotators.files import NETWORKS
from nodes.diffusion.annotators.networks import Tensors, from_tensors, read_tensors

_SIZES: Final[Mapping[int, dict[str, Any]]] = {
    384: {"heads": 6, "layers": 12, "fusion": 64, "neck": [48, 96, 192, 384], "out": [9, 10, 11, 12]},
    768: {"heads": 12, "layers": 12, "fusion": 128, "neck": [96, 192, 384, 768], "out": [9, 10, 11, 12]},
    1024: {"heads": 16, "layers": 24, "fusion": 256, "neck": [256, 512, 1024, 1024], "out": [21, 22, 23, 24]},
    1536: {"heads": 24, "layers": 40, "fusion": 384, "neck": [1536, 1536, 1536, 1536], "out": [10, 20, 30, 40]},
}
"""By the width of the backbone: S, B, L and g. ``out`` are the layers the first version reads, and the only ones of g."""
_OUT_OF_SECOND: Final = {384: [3, 6, 9, 12], 768: [3, 6, 9, 12], 1024: [5, 12, 18, 24]}
_SIDE: Final = 518
_WIDTH: Final = "pretrained.cls_token"

_NAMES: Final = (
    (r"pretrained\.(cls_token|mask_token)", r"backbone.embeddings.\1"),
    (r"pretrained\.pos_embed", r"backbone.embeddings.position_embeddings"),
    (r"pretrained\.patch_embed\.proj\.(.+)", r"backbone.embeddings.patch_embeddings.projection.\1"),
    (r"pretrained\.norm\.(.+)", r"backbone.layernorm.\1"),
    (r"pretrained\.blocks\.(\d+)\.ls([12])\.gamma", r"backbone.encoder.layer.\1.layer_scale\2.lambda1"),
    (r"pretrained\.blocks\.(\d+)\.attn\.proj\.(.+)", r"backbone.encoder.layer.\1.attention.output.dense.\2"),
    (r"pretrained\.blocks\.(\d+)\.mlp\.w12\.(.+)", r"backbone.encoder.layer.\1.mlp.weights_in.\2"),
    (r"pretrained\.blocks\.(\d+)\.mlp\.w3\.(.+)", r"backbone.encoder.layer.\1.mlp.weights_out.\2"),
    (r"pretrained\.blocks\.(\d+)\.((?:norm[12]|mlp\.fc[12])\..+)", r"backbone.encoder.layer.\1.\2"),
    (r"depth_head\.projects\.(\d+)\.(.+)", r"neck.reassemble_stage.layers.\1.projection.\2"),
    (r"depth_head\.resize_layers\.(\d+)\.(.+)", r"neck.reassemble_stage.layers.\1.resize.\2"),
    (r"depth_head\.scratch\.output_conv1\.(.+)", r"head.conv1.\1"),
    (r"depth_head\.scratch\.output_conv2\.0\.(.+)", r"head.conv2.\1"),
    (r"depth_head\.scratch\.output_conv2\.2\.(.+)", r"head.conv3.\1"),
)
"""From names there to those in the folders that transformers reads."""
_FUSION: Final = re.compile(r"depth_head\.scratch\.refinenet(\d)\.(?:(out_conv)|resConfUnit([12])\.conv([12]))\.(.+)")
_RN: Final = re.compile(r"depth_head\.scratch\.layer(\d)_rn\.(.+)")
_QKV: Final = re.compile(r"pretrained\.blocks\.(\d+)\.attn\.qkv\.(.+)")


def load_depth_anything(network: str, path: Path) -> nn.Module:
    """The network of a file in the first layout. Raises ModelFileError for another file."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    tensors, label = read_tensors(path), NETWORKS[network].label
    width = tensors[_WIDTH].shape[-1] if _WIDTH in tensors else 0
    size = _SIZES.get(width)
    if size is None:
        found = ", ".join(sorted(tensors)[:2])
        raise ModelFileError(f"expected the weights of {label} in {path.name}, found {found}; get the right file")
    out = _OUT_OF_SECOND.get(width, size["out"]) if network.startswith("depth_anything_v2") else size["out"]
    backbone = Dinov2Config(
        hidden_size=width, num_attention_heads=size["heads"], num_hidden_layers=size["layers"], image_size=_SIDE,
        patch_size=14, out_indices=out, apply_layernorm=True, reshape_hidden_states=False,
        use_swiglu_ffn="pretrained.blocks.0.mlp.w12.weight" in tensors,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=width, neck_hidden_sizes=size["neck"],
        fusion_hidden_size=size["fusion"],
    )  # fmt: skip
    return from_tensors(DepthAnythingForDepthEstimation, config, dict(renamed(tensors)), path, label)


def renamed(tensors: Tensors) -> Iterator[tuple[str, Tensor]]:
    """The tensors by the names they have in folders."""
    for name in tensors:
        if fused := _QKV.fullmatch(name):
            for word, piece in zip(("query", "key", "value"), tensors[name].chunk(3), strict=True):
                yield f"backbone.encoder.layer.{fused[1]}.attention.attention.{word}.{fused[2]}", piece.clone()
        else:
            yield _renamed(name), tensors[name]


def _renamed(name: str) -> str:
    if fusion := _FUSION.fullmatch(name):
        level, out, unit, convolution, leaf = fusion.groups()
        inner = "projection" if out else f"residual_layer{unit}.convolution{convolution}"
        return f"neck.fusion_stage.layers.{4 - int(level)}.{inner}.{leaf}"
    if rn := _RN.fullmatch(name):
        return f"neck.convs.{int(rn[1]) - 1}.{rn[2]}"
    for pattern, new in _NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, new, name)
    return name
