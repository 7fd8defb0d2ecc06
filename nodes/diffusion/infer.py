"""Read the configuration of a network off the names and shapes of its tensors, in the original layout.

Every function takes a file's tensors and the prefix below which the part lives. A shape that no model of the known families has is a
ModelFileError that names the tensor. What shapes do not show (heads, groups, activation, scale) follows the family, and
the safetensors metadata may say otherwise, as JSON under the keys ``unet``, ``vae`` and ``text``.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from engine.errors import ModelFileError
from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.configs import (
    CLIP_HEAD_WIDTH,
    DIT_HEAD_WIDTH,
    NORM_GROUPS,
    SD1_HEADS,
    SD1_SCALE_FACTOR,
    Depths,
    DiTConfig,
    T5Config,
    TextConfig,
    UNetConfig,
    VaeConfig,
    VisionConfig,
)

Metadata = Mapping[str, str]
CLASSES = "label_emb.weight"
"""The embeddings of noise levels that an upscaling UNet has."""
Config = TypeVar("Config", VaeConfig, TextConfig, VisionConfig)


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


def unet_config(tensors: Tensors, prefix: str, metadata: Metadata, *, head_width: int | None) -> UNetConfig:
    """The configuration of the UNet whose tensors start with ``prefix``.

    ``head_width``: channels of an attention head; None for as many heads at every level.
    """
    model_channels, in_channels = shape_of(tensors, prefix + "input_blocks.0.0.weight", 4)[:2]
    levels = _down_levels(tensors, prefix)
    mid = _mid_depth(tensors, prefix)
    attention = _first_attention(tensors, prefix)
    widths = [level[0][0] for level in levels]
    if any(width % model_channels for width in widths) or widths[0] != model_channels:
        raise ModelFileError(f"expected UNet levels in multiples of {model_channels} channels, found {widths}")
    vector = tensors.get(prefix + "label_emb.0.0.weight")
    classes = tensors.get(prefix + CLASSES)
    given = _given("unet", metadata, {"num_heads": SD1_HEADS, "norm_groups": NORM_GROUPS})
    heads = tuple(max(width // head_width, 1) for width in widths) if head_width else (SD1_HEADS,) * len(widths)
    return checked_unet(
        UNetConfig(
            in_channels=in_channels,
            out_channels=shape_of(tensors, prefix + "out.2.weight", 4)[0],
            model_channels=model_channels,
            channel_mult=tuple(width // model_channels for width in widths),
            down_depths=tuple(tuple(depth for _, depth in level) for level in levels),
            up_depths=_up_depths(tensors, prefix, [len(level) + 1 for level in reversed(levels)]),
            mid_depth=mid,
            context_dim=shape_of(tensors, attention + ".transformer_blocks.0.attn2.to_k.weight", 2)[1],
            heads=(given["num_heads"],) * len(widths) if "num_heads" in given else heads,
            vector_dim=None if vector is None else shape_of(tensors, prefix + "label_emb.0.0.weight", 2)[1],
            norm_groups=given.get("norm_groups", NORM_GROUPS),
            linear_projection=len(tensors[attention + ".proj_in.weight"].shape) == 2,
            classes=None if classes is None else shape_of(tensors, prefix + CLASSES, 2)[0],
            text_alone=_text_alone(tensors, prefix, levels),
        )
    )


def _text_alone(tensors: Tensors, prefix: str, levels: list[list[tuple[int, int]]]) -> tuple[bool, ...]:
    """Which levels have a first attention that reads something of another width than the picture's; empty where none has."""
    found, block = [], 1
    for level in levels:
        key = tensors.get(f"{prefix}input_blocks.{block}.1.transformer_blocks.0.attn1.to_k.weight")
        found.append(key is not None and len(key.shape) == 2 and key.shape[1] != level[0][0])
        block += len(level) + 1
    return tuple(found) if any(found) else ()


def _down_levels(tensors: Tensors, prefix: str) -> list[list[tuple[int, int]]]:
    """(channels, transformer depth) of every residual block of every level of the way down."""
    levels: list[list[tuple[int, int]]] = [[]]
    block = 1
    while True:
        name = f"{prefix}input_blocks.{block}."
        if name + "0.in_layers.2.weight" in tensors:
            width = shape_of(tensors, name + "0.out_layers.3.weight", 4)[0]
            levels[-1].append((width, transformer_depth(tensors, name + "1")))
        else:
            _check_level(name, levels[-1])
            if name + "0.op.weight" not in tensors:
                return levels
            levels.append([])
        block += 1


def _check_level(name: str, level: list[tuple[int, int]]) -> None:
    if not level:
        raise ModelFileError(
            f"expected a residual block before {name.rstrip('.')}, found none; the UNet is of another kind"
        )
    widths = [width for width, _ in level]
    if len(set(widths)) > 1:
        raise ModelFileError(
            f"expected blocks of one width within a UNet level, found {widths} before {name.rstrip('.')}"
        )


def _up_depths(tensors: Tensors, prefix: str, blocks: list[int]) -> Depths:
    """Transformer depths of the way up, where its levels have so many ``blocks``."""
    numbers = itertools.count()
    depths = tuple(
        tuple(transformer_depth(tensors, f"{prefix}output_blocks.{next(numbers)}.1") for _ in range(count))
        for count in blocks
    )
    after = f"{prefix}output_blocks.{next(numbers)}.0.in_layers.2.weight"
    if after in tensors:
        raise ModelFileError(f"expected {sum(blocks)} blocks on the UNet's way up, found {after} beyond them")
    return depths


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
    widths = [config.model_channels * mult for mult in config.channel_mult]
    last = max(config.down_depths[-1], default=0)
    for level in (*config.down_depths, *config.up_depths):
        if any(level) and not all(level):
            raise ModelFileError(
                f"expected attention behind all residual blocks of a level or none, found depths {level}"
            )
    attended = [any(level) for level in config.down_depths]
    attended[-1] = attended[-1] or bool(config.mid_depth)
    if [any(level) for level in reversed(config.up_depths)] != [any(level) for level in config.down_depths]:
        raise ModelFileError(
            f"expected attention at the same levels down and up, found {config.down_depths} and {config.up_depths}"
        )
    for width, heads, is_attended in zip(widths, config.heads, attended, strict=True):
        if is_attended and width % heads:
            raise ModelFileError(f"expected attention widths divisible by {heads} heads, found {width}")
    if any(width % config.norm_groups for width in widths):
        raise ModelFileError(
            f"expected channels divisible by {config.norm_groups} groups, found {config.model_channels} channels"
        )
    if config.mid_depth and last and config.down_depths[-1][0] != config.mid_depth:
        raise ModelFileError(
            f"expected a middle block with the last level's {config.down_depths[-1][0]} transformer blocks, "
            f"found {config.mid_depth}; this UNet is not known"
        )
    return config


def vae_config(tensors: Tensors, prefix: str, metadata: Metadata, scale: float = SD1_SCALE_FACTOR) -> VaeConfig:
    """The configuration of the autoencoder whose tensors start with ``prefix``; ``scale`` is that of its family."""
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
        scale_factor=scale,
        quant_convs=prefix + "quant_conv.weight" in tensors,
    )
    return override(config, "vae", metadata, {"norm_groups": "norm_groups", "scale_factor": "scale_factor"})


def clip_config(tensors: Tensors, prefix: str, metadata: Metadata, *, activation: str = "quick_gelu") -> TextConfig:
    """The configuration of the CLIP text tower whose tensors start with ``prefix``, in the layout of transformers."""
    vocabulary, width = shape_of(tensors, prefix + "embeddings.token_embedding.weight", 2)
    projection = prefix.removesuffix("text_model.") + "text_projection.weight"
    config = TextConfig(
        width=width,
        layers=count(tensors, prefix + "encoder.layers.{}.self_attn.q_proj.weight"),
        heads=max(width // CLIP_HEAD_WIDTH, 1),
        positions=shape_of(tensors, prefix + "embeddings.position_embedding.weight", 2)[0],
        vocabulary=vocabulary,
        intermediate=shape_of(tensors, prefix + "encoder.layers.0.mlp.fc1.weight", 2)[0],
        activation=activation,
        projection=shape_of(tensors, projection, 2)[0] if projection in tensors else None,
    )
    return _checked_text(override(config, "text", metadata, {"heads": "heads", "act": "activation"}))


def open_clip_config(tensors: Tensors, prefix: str) -> TextConfig:
    """The configuration of the text tower whose tensors start with ``prefix``, in the layout of open_clip."""
    vocabulary, width = shape_of(tensors, prefix + "token_embedding.weight", 2)
    projection = prefix + "text_projection"
    return _checked_text(
        TextConfig(
            width=width,
            layers=count(tensors, prefix + "transformer.resblocks.{}.ln_1.weight"),
            heads=max(width // CLIP_HEAD_WIDTH, 1),
            positions=shape_of(tensors, prefix + "positional_embedding", 2)[0],
            vocabulary=vocabulary,
            intermediate=shape_of(tensors, prefix + "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
            activation="gelu",
            projection=shape_of(tensors, projection, 2)[1] if projection in tensors else None,
        )
    )


def _checked_text(config: TextConfig) -> TextConfig:
    if config.width % config.heads:
        raise ModelFileError(f"expected a text width divisible by {config.heads} heads, found {config.width}")
    return config


def t5_config(tensors: Tensors, prefix: str) -> T5Config:
    """The configuration of the T5 encoder whose tensors start with ``prefix``."""
    embedding = "shared.weight" if prefix + "shared.weight" in tensors else "encoder.embed_tokens.weight"
    vocabulary, width = shape_of(tensors, prefix + embedding, 2)
    attention = prefix + "encoder.block.0.layer.0.SelfAttention."
    buckets, heads = shape_of(tensors, attention + "relative_attention_bias.weight", 2)
    inner = shape_of(tensors, attention + "q.weight", 2)[0]
    if inner % heads:
        raise ModelFileError(f"expected T5's attention width divisible by {heads} heads, found {inner}")
    return T5Config(
        width=width,
        layers=count(tensors, prefix + "encoder.block.{}.layer.0.SelfAttention.q.weight"),
        heads=heads,
        head_width=inner // heads,
        vocabulary=vocabulary,
        intermediate=shape_of(tensors, prefix + "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0],
        buckets=buckets,
    )


def dit_config(tensors: Tensors, prefix: str) -> DiTConfig:
    """The configuration of the diffusion transformer whose tensors start with ``prefix``: its heads are 64 wide."""
    width, channels, patch, _ = shape_of(tensors, prefix + "x_embedder.proj.weight", 4)
    layers = count(tensors, prefix + "joint_blocks.{}.x_block.attn.qkv.weight")
    places = shape_of(tensors, prefix + "pos_embed", 3)[1]
    if width % DIT_HEAD_WIDTH or math.isqrt(places) ** 2 != places or not layers:
        raise ModelFileError(
            f"expected a transformer of heads {DIT_HEAD_WIDTH} wide over a square of positions, "
            f"found a width of {width}, {places} positions and {layers} blocks"
        )
    return DiTConfig(
        channels=channels,
        patch=patch,
        layers=layers,
        heads=width // DIT_HEAD_WIDTH,
        head_width=DIT_HEAD_WIDTH,
        context_dim=shape_of(tensors, prefix + "context_embedder.weight", 2)[1],
        pooled_dim=shape_of(tensors, prefix + "y_embedder.mlp.0.weight", 2)[1],
        positions=math.isqrt(places),
        dual_layers=tuple(
            layer for layer in range(layers) if f"{prefix}joint_blocks.{layer}.x_block.attn2.qkv.weight" in tensors
        ),
        qk_norm=prefix + "joint_blocks.0.x_block.attn.ln_q.weight" in tensors,
    )


def override(config: Config, key: str, metadata: Metadata, fields: Mapping[str, str]) -> Config:
    """``config`` with those ``fields`` (metadata name -> field name) that the metadata's JSON under ``key`` gives."""
    given = _given(key, metadata, {name: getattr(config, field) for name, field in fields.items()})
    changes: dict[str, Any] = {fields[name]: value for name, value in given.items()}
    return replace(config, **changes)


def _given(key: str, metadata: Metadata, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata's JSON under ``key`` gives of ``defaults``, of the types that those have."""
    if key not in metadata:
        return {}
    try:
        given = json.loads(metadata[key])
    except ValueError as error:
        raise ModelFileError(f"expected JSON in the metadata entry {key!r}, found: {error}") from error
    if not isinstance(given, dict):
        return {}
    return {name: _like(default, given[name], f"{key}.{name}") for name, default in defaults.items() if name in given}


def given_numbers(key: str, metadata: Metadata, names: Iterable[str]) -> dict[str, float]:
    """Those of ``names`` that the metadata's JSON under ``key`` gives, all of them numbers."""
    try:
        given = json.loads(metadata.get(key, "{}"))
    except ValueError as error:
        raise ModelFileError(f"expected JSON in the metadata entry {key!r}, found: {error}") from error
    found = {name: given[name] for name in names if name in given} if isinstance(given, dict) else {}
    for name, value in found.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ModelFileError(f"expected a number in the metadata entry {key}.{name}, found {value!r}")
    return {name: float(value) for name, value in found.items()}


def _like(default: object, value: object, name: str) -> object:
    """``value`` when it is of the type of ``default`` and, for a number, positive."""
    fits = isinstance(value, str) if isinstance(default, str) else type(value) in (int, type(default))
    if not fits or (isinstance(value, int | float) and not 0 < value < math.inf):
        raise ModelFileError(f"expected a {type(default).__name__} in the metadata entry {name}, found {value!r}")
    return value
