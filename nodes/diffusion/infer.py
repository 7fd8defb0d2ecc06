"""Read the configuration of a network off the names and shapes of its tensors, in the original layout.

Every function takes a file's tensors and the prefix below which the part lives. A shape that no Stable Diffusion 1 has is a
ModelFileError that names the tensor. What shapes do not show (heads, groups, activation, scale) follows the family, and
the safetensors metadata may say otherwise, as JSON under the keys ``unet``, ``vae`` and ``text``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from engine.errors import ModelFileError
from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.configs import CLIP_HEAD_WIDTH, TextConfig, UNetConfig, VaeConfig

Metadata = Mapping[str, str]
Config = TypeVar("Config", UNetConfig, VaeConfig, TextConfig)


def shape_of(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of tensor ``name``; ModelFileError when it is missing or has another number of dimensions."""
    info = tensors.get(name)
    if info is None:
        raise ModelFileError(f"expected a tensor {name}, found none; the file is incomplete or of another family")
    if len(info.shape) != dimensions or 0 in info.shape:
        raise ModelFileError(f"expected tensor {name} with {dimensions} dimensions, found shape {list(info.shape)}")
    return info.shape


def count(tensors: Tensors, pattern: str) -> int:
    """How many numbers 0, 1, 2, ... in place of ``{}`` in ``pattern`` name a tensor."""
    number = 0
    while pattern.format(number) in tensors:
        number += 1
    return number


def transformer_depth(tensors: Tensors, block: str) -> int:
    """Transformer blocks in the spatial transformer ``block``; 0 when there is none."""
    return count(tensors, block + ".transformer_blocks.{}.attn1.to_q.weight")


def unet_config(tensors: Tensors, prefix: str, metadata: Metadata) -> UNetConfig:
    """The configuration of the UNet whose tensors start with ``prefix``."""
    model_channels, in_channels = shape_of(tensors, prefix + "input_blocks.0.0.weight", 4)[:2]
    levels = _unet_levels(tensors, prefix)
    mid = _mid_depth(tensors, prefix)
    attention = _first_attention(tensors, prefix)
    channels = [width for width, _, _ in levels]
    if any(width % model_channels for width in channels) or channels[0] != model_channels:
        raise ModelFileError(f"expected UNet levels in multiples of {model_channels} channels, found {channels}")
    config = UNetConfig(
        in_channels=in_channels,
        out_channels=shape_of(tensors, prefix + "out.2.weight", 4)[0],
        model_channels=model_channels,
        channel_mult=tuple(width // model_channels for width in channels),
        res_blocks=tuple(blocks for _, blocks, _ in levels),
        depths=tuple(depth for _, _, depth in levels),
        mid_depth=mid,
        context_dim=shape_of(tensors, attention + ".transformer_blocks.0.attn2.to_k.weight", 2)[1],
        linear_projection=len(tensors[attention + ".proj_in.weight"].shape) == 2,
    )
    return checked_unet(_override(config, "unet", metadata, {"num_heads": "heads", "norm_groups": "norm_groups"}))


def _unet_levels(tensors: Tensors, prefix: str) -> list[tuple[int, int, int]]:
    """(channels, residual blocks, transformer depth) of every level of the way down."""
    levels: list[tuple[int, int, int]] = []
    widths: list[int] = []
    depths: set[int] = set()
    block = 1
    while True:
        name = f"{prefix}input_blocks.{block}."
        if name + "0.in_layers.2.weight" in tensors:
            widths.append(shape_of(tensors, name + "0.out_layers.3.weight", 4)[0])
            depths.add(transformer_depth(tensors, name + "1"))
        else:
            levels.append(_level(name, widths, depths))
            widths, depths = [], set()
            if name + "0.op.weight" not in tensors:
                return levels
        block += 1


def _level(name: str, widths: list[int], depths: set[int]) -> tuple[int, int, int]:
    if not widths:
        raise ModelFileError(
            f"expected a residual block before {name.rstrip('.')}, found none; the UNet is of another kind"
        )
    if len(set(widths)) > 1 or len(depths) > 1:
        raise ModelFileError(
            f"expected equal blocks within a UNet level, found channels {widths} and transformer depths "
            f"{sorted(depths)} before {name.rstrip('.')}; this distilled UNet is not known"
        )
    return widths[0], len(widths), depths.pop()


def _mid_depth(tensors: Tensors, prefix: str) -> int | None:
    if prefix + "middle_block.0.in_layers.2.weight" not in tensors:
        return None
    return transformer_depth(tensors, prefix + "middle_block.1")


def _first_attention(tensors: Tensors, prefix: str) -> str:
    blocks = [f"{prefix}input_blocks.{number}.1" for number in range(1, 64)] + [f"{prefix}middle_block.1"]
    for block in blocks:
        if block + ".proj_in.weight" in tensors:
            return block
    raise ModelFileError("expected a UNet with cross attention, found none; it cannot follow a prompt")


def checked_unet(config: UNetConfig) -> UNetConfig:
    """``config``, or ModelFileError when it is a UNet that the networks at hand cannot build."""
    attended = [
        config.model_channels * mult for mult, depth in zip(config.channel_mult, config.depths, strict=True) if depth
    ]
    widths = attended + [config.model_channels * config.channel_mult[-1]] * (config.mid_depth is not None)
    if any(width % config.heads for width in widths):
        raise ModelFileError(f"expected attention widths divisible by {config.heads} heads, found {widths}")
    if any(config.model_channels * mult % config.norm_groups for mult in config.channel_mult):
        raise ModelFileError(
            f"expected channels divisible by {config.norm_groups} groups, found {config.model_channels} channels"
        )
    if config.mid_depth == 0 or (config.mid_depth and config.depths[-1] not in (0, config.mid_depth)):
        raise ModelFileError(
            f"expected a middle block with the last level's {config.depths[-1]} transformer blocks, "
            f"found {config.mid_depth}; this UNet is not known"
        )
    return config


def vae_config(tensors: Tensors, prefix: str, metadata: Metadata) -> VaeConfig:
    """The configuration of the autoencoder whose tensors start with ``prefix``."""
    channels = shape_of(tensors, prefix + "encoder.conv_in.weight", 4)[0]
    levels = count(tensors, prefix + "encoder.down.{}.block.0.conv1.weight")
    widths = [shape_of(tensors, f"{prefix}encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)]
    if not widths or any(width % channels for width in widths):
        raise ModelFileError(f"expected VAE levels in multiples of {channels} channels, found {widths}")
    blocks = {count(tensors, f"{prefix}encoder.down.{level}.block.{{}}.conv1.weight") for level in range(levels)}
    if len(blocks) > 1:
        raise ModelFileError(f"expected a VAE with equal levels, found {sorted(blocks)} residual blocks")
    config = VaeConfig(
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        res_blocks=blocks.pop(),
        latent_channels=shape_of(tensors, prefix + "decoder.conv_in.weight", 4)[1],
        quant_convs=prefix + "quant_conv.weight" in tensors,
    )
    return _override(config, "vae", metadata, {"norm_groups": "norm_groups", "scale_factor": "scale_factor"})


def text_config(tensors: Tensors, prefix: str, metadata: Metadata) -> TextConfig:
    """The configuration of the CLIP text tower whose tensors start with ``prefix``."""
    vocabulary, width = shape_of(tensors, prefix + "embeddings.token_embedding.weight", 2)
    config = TextConfig(
        width=width,
        layers=count(tensors, prefix + "encoder.layers.{}.self_attn.q_proj.weight"),
        heads=max(width // CLIP_HEAD_WIDTH, 1),
        positions=shape_of(tensors, prefix + "embeddings.position_embedding.weight", 2)[0],
        vocabulary=vocabulary,
        intermediate=shape_of(tensors, prefix + "encoder.layers.0.mlp.fc1.weight", 2)[0],
    )
    config = _override(config, "text", metadata, {"heads": "heads", "act": "activation"})
    if width % config.heads:
        raise ModelFileError(f"expected a text width divisible by {config.heads} heads, found {width}")
    return config


def _override(config: Config, key: str, metadata: Metadata, fields: Mapping[str, str]) -> Config:
    """``config`` with those ``fields`` (metadata name -> field name) that the metadata's JSON under ``key`` gives."""
    if key not in metadata:
        return config
    try:
        given = json.loads(metadata[key])
    except ValueError as error:
        raise ModelFileError(f"expected JSON in the metadata entry {key!r}, found: {error}") from error
    if not isinstance(given, dict):
        return config
    changes: dict[str, Any] = {
        field: _like(getattr(config, field), given[name], f"{key}.{name}")
        for name, field in fields.items()
        if name in given
    }
    return replace(config, **changes)


def _like(default: object, value: object, name: str) -> object:
    """``value`` when it is of the type of ``default`` and, for a number, positive."""
    fits = isinstance(value, str) if isinstance(default, str) else type(value) in (int, type(default))
    if not fits or (isinstance(value, int | float) and not 0 < value < math.inf):
        raise ModelFileError(f"expected a {type(default).__name__} in the metadata entry {name}, found {value!r}")
    return value
