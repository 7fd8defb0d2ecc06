"""The files of a diffusers folder, in our words: config.json and weights of each part.

Weights are whole, in shards listed by an index, or in a half precision variant. The ``read_*`` functions turn a config into ours and
refuse what ours cannot say. ``nodes.diffusion.folder_parts`` puts the parts together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from engine.errors import MissingFile, ModelFileError
from nodes.diffusion.configs import (
    CLIP_HEAD_WIDTH,
    NORM_GROUPS,
    Depths,
    DiTConfig,
    Schedule,
    T5Config,
    TextConfig,
    UNetConfig,
    VaeConfig,
)
from nodes.diffusion.configs import SD1_SCALE_FACTOR as SCALE_FACTOR
from nodes.diffusion.control_configs import ControlConfig
from nodes.diffusion.infer import checked_unet

Json = Mapping[str, Any]

_STEMS: Final = ("diffusion_pytorch_model", "model")
_VARIANTS: Final = ("", ".fp16", ".bf16", ".non_ema")

_UNET_EXTRAS: Final = (
    "encoder_hid_dim_type", "time_cond_proj_dim", "dual_cross_attention", "cross_attention_norm",
)  # fmt: skip
"""Settings of diffusers' UNet that add layers no model of the known families has."""


def read_json(path: Path) -> Json:
    """The object in the JSON file ``path``; MissingFile or ModelFileError when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFile(
            f"expected {path.name} in {path.parent}, found none; the diffusers folder is incomplete"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"expected a JSON object in {path}, found: {error}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"expected a JSON object in {path}, found a {type(content).__name__}")
    return content


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of the part in ``folder``: one, or all shards that its index lists.

    Raises ModelFileError when there are only pickles, MissingFile when there are none at all.
    """
    for stem in _STEMS:
        for variant in _VARIANTS:
            if (index := folder / f"{stem}.safetensors.index{variant}.json").is_file():
                return _shards(index)
            if (path := folder / f"{stem}{variant}.safetensors").is_file():
                return (path,)
    pickles = sorted(folder.glob("*.bin"))
    if pickles:
        raise ModelFileError(
            f"{pickles[0]} is a pickle, and reading one can run code; make a safetensors file of it: "
            f"mezzotint models convert {pickles[0]}"
        )
    raise MissingFile(f"expected {_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors in {folder}, found neither")


def _shards(index: Path) -> tuple[Path, ...]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelFileError(f"expected a weight_map in {index}, found none")
    files = sorted(set(map(str, names.values())))
    outside = next((name for name in files if Path(name).name != name), None)
    if outside is not None:
        raise ModelFileError(f"expected file names beside {index} in its weight_map, found {outside!r}")
    return tuple(index.parent / name for name in files)


def read_unet(config: Json) -> UNetConfig:
    """Our words for the config.json of a ``UNet2DConditionModel``; ModelFileError when it is one of no known family."""
    extra = next((key for key in _UNET_EXTRAS if config.get(key)), None)
    if extra is not None:
        raise ModelFileError(f"expected a Stable Diffusion UNet, found one with {extra} = {config[extra]!r}")
    widths = _sizes(config, "block_out_channels")
    blocks = _per_level(config, "layers_per_block", 2, len(widths))
    down = _attended(config, "down_block_types", "Down", len(widths))
    up = _attended(config, "up_block_types", "Up", len(widths), tuple(reversed(down)))
    given = config.get("transformer_layers_per_block", 1)
    depths = _depths(given, down, blocks)
    mirrored = config.get("reverse_transformer_layers_per_block")
    upward = tuple(count + 1 for count in reversed(blocks))
    if mirrored is None:
        mirrored = list(reversed(given)) if isinstance(given, list) else given
    heads_key = "num_attention_heads" if config.get("num_attention_heads") else "attention_head_dim"
    return checked_unet(
        UNetConfig(
            in_channels=_size(config, "in_channels", 4),
            out_channels=_size(config, "out_channels", 4),
            model_channels=widths[0],
            channel_mult=tuple(width // widths[0] for width in widths),
            down_depths=depths,
            up_depths=_depths(mirrored, up, upward),
            mid_depth=_middle(config, given),
            context_dim=_size(config, "cross_attention_dim"),
            heads=_per_level(config, heads_key, 8, len(widths)),
            vector_dim=_vector_dim(config),
            norm_groups=_size(config, "norm_num_groups", NORM_GROUPS),
            linear_projection=bool(config.get("use_linear_projection", False)),
            classes=None if config.get("num_class_embeds") is None else _size(config, "num_class_embeds"),
            text_alone=_text_alone(config, down),
        )
    )


def _text_alone(config: Json, attended: tuple[bool, ...]) -> tuple[bool, ...]:
    """Levels whose attention looks at the text alone; empty where none does."""
    levels = len(attended)
    given = config.get("only_cross_attention") or False
    found = given if isinstance(given, list) else [given] * levels
    if len(found) != levels or any(type(it) is not bool for it in found):
        raise ModelFileError(
            f"expected true or false for each of {levels} levels in only_cross_attention, found {given!r}"
        )
    alone = tuple(it and has_attention for it, has_attention in zip(found, attended, strict=True))
    return alone if any(alone) else ()


def _attended(config: Json, key: str, way: str, levels: int, default: tuple[bool, ...] = ()) -> tuple[bool, ...]:
    """Which levels have attention."""
    kinds = config.get(key)
    if kinds is None and default:
        return default
    plain, attended = f"{way}Block2D", f"CrossAttn{way}Block2D"
    if not isinstance(kinds, list) or len(kinds) != levels or not set(map(str, kinds)) <= {plain, attended}:
        raise ModelFileError(f"expected a block for each of {levels} levels in {key}, found {kinds!r}")
    return tuple(kind == attended for kind in kinds)


def _depths(given: object, attended: tuple[bool, ...], blocks: tuple[int, ...]) -> Depths:
    """Transformer blocks behind every residual block: given as one number, one a level, or one a block."""
    levels = given if isinstance(given, list) else [given] * len(attended)
    if len(levels) != len(attended):
        raise ModelFileError(f"expected transformer layers for each of {len(attended)} levels, found {given!r}")
    found = []
    for level, has_attention, count in zip(levels, attended, blocks, strict=True):
        row = (level if isinstance(level, list) else [level] * count) if has_attention else [0] * count
        if len(row) < count or any(type(depth) is not int or depth < (1 if has_attention else 0) for depth in row):
            raise ModelFileError(f"expected a positive number of transformer layers for each block, found {given!r}")
        found.append(tuple(row[:count]))
    return tuple(found)


def _middle(config: Json, given: object) -> int | None:
    kind = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if kind is None or kind == "UNetMidBlock2D":
        return None if kind is None else 0
    last = given[-1] if isinstance(given, list) and given else given
    depth = last[0] if isinstance(last, list) and last else last
    if kind != "UNetMidBlock2DCrossAttn" or type(depth) is not int or depth < 1:
        raise ModelFileError(f"expected a middle of transformer layers, found {kind} with {given!r}")
    return depth


def _vector_dim(config: Json) -> int | None:
    """Width of what is added to the time's embedding: SDXL says it one way, unCLIP another."""
    if config.get("addition_embed_type") is None and config.get("class_embed_type") is None:
        return None
    if config.get("addition_embed_type") != "text_time" and config.get("class_embed_type") != "projection":
        found = config.get("addition_embed_type") or config.get("class_embed_type")
        raise ModelFileError(f"expected a UNet that is told sizes or nothing beside its text, found {found!r}")
    return _size(config, "projection_class_embeddings_input_dim")


def read_dit(config: Json) -> DiTConfig:
    """Our words for the config.json of an ``SD3Transformer2DModel``."""
    heads, head_width = _size(config, "num_attention_heads", 18), _size(config, "attention_head_dim", 64)
    dual = config.get("dual_attention_layers") or []
    if _size(config, "caption_projection_dim", 1152) != heads * head_width or not isinstance(dual, list):
        raise ModelFileError(f"expected a caption projection {heads * head_width} wide, as the transformer is")
    return DiTConfig(
        channels=_size(config, "in_channels", 16),
        patch=_size(config, "patch_size", 2),
        layers=_size(config, "num_layers", 18),
        heads=heads,
        head_width=head_width,
        context_dim=_size(config, "joint_attention_dim", 4096),
        pooled_dim=_size(config, "pooled_projection_dim", 2048),
        positions=_size(config, "pos_embed_max_size", 96),
        dual_layers=tuple(int(layer) for layer in dual),
        qk_norm=bool(config.get("qk_norm")),
    )


def read_control(found: ControlConfig, config: Json) -> ControlConfig:
    """``found``, with what the config.json of a ``ControlNetModel`` says beyond its shapes."""
    heads_key = "num_attention_heads" if config.get("num_attention_heads") else "attention_head_dim"
    return replace(
        found,
        heads=_per_level(config, heads_key, 8, len(found.widths)),
        norm_groups=_size(config, "norm_num_groups", NORM_GROUPS),
        is_pooled=bool(config.get("global_pool_conditions", False)),
        is_bgr=config.get("controlnet_conditioning_channel_order") == "bgr",
    )


def read_vae(config: Json) -> VaeConfig:
    """Our words for the config.json of an ``AutoencoderKL``."""
    widths = _sizes(config, "block_out_channels")
    scale = config.get("scaling_factor", SCALE_FACTOR)
    if not isinstance(scale, int | float) or not scale > 0:
        raise ModelFileError(f"expected a VAE with a positive scaling_factor, found {scale!r}")
    return VaeConfig(
        channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        res_blocks=_size(config, "layers_per_block", 1),
        latent_channels=_size(config, "latent_channels", 4),
        norm_groups=_size(config, "norm_num_groups", NORM_GROUPS),
        scale_factor=float(scale),
        quant_convs=bool(config.get("use_quant_conv", True)),
    )


def read_text(config: Json) -> TextConfig:
    """Our words for the config.json of a ``CLIPTextModel``; transformers leaves out what equals its defaults."""
    width = _size(config, "hidden_size", 512)
    projected = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
    return TextConfig(
        width=width,
        layers=_size(config, "num_hidden_layers", 12),
        heads=_size(config, "num_attention_heads", max(width // CLIP_HEAD_WIDTH, 1)),
        positions=_size(config, "max_position_embeddings", 77),
        vocabulary=_size(config, "vocab_size", 49408),
        intermediate=_size(config, "intermediate_size", 2048),
        activation=str(config.get("hidden_act", "quick_gelu")),
        projection=_size(config, "projection_dim", 512) if projected else None,
    )


def read_t5(config: Json) -> T5Config:
    """Our words for the config.json of a ``T5EncoderModel``."""
    return T5Config(
        width=_size(config, "d_model", 512),
        layers=_size(config, "num_layers", 6),
        heads=_size(config, "num_heads", 8),
        head_width=_size(config, "d_kv", 64),
        vocabulary=_size(config, "vocab_size", 32128),
        intermediate=_size(config, "d_ff", 2048),
        buckets=_size(config, "relative_attention_num_buckets", 32),
    )


def read_schedule(config: Json) -> Schedule:
    """The noise schedule of a scheduler_config.json; ModelFileError when it is one that no known family has."""
    if str(config.get("_class_name", "")).startswith("FlowMatch"):
        return Schedule(prediction="flow", flow_shift=float(config.get("shift", 3.0)))
    prediction = config.get("prediction_type", "epsilon")
    curve = config.get("beta_schedule", "scaled_linear")
    if prediction not in ("epsilon", "v_prediction") or curve != "scaled_linear":
        raise ModelFileError(f"expected epsilon or v_prediction on scaled_linear betas, found {prediction} on {curve}")
    return Schedule(
        prediction=prediction,
        betas=(float(config.get("beta_start", 0.00085)), float(config.get("beta_end", 0.012))),
        steps=_size(config, "num_train_timesteps", 1000),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )


def _size(config: Json, key: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if type(value) is not int or value <= 0:
        raise ModelFileError(f"expected a positive number for {key} in config.json, found {value!r}")
    return value


def _sizes(config: Json, key: str) -> tuple[int, ...]:
    values = config.get(key)
    if not isinstance(values, list) or not values or any(type(value) is not int or value <= 0 for value in values):
        raise ModelFileError(f"expected a list of positive numbers for {key} in config.json, found {values!r}")
    if any(value % values[0] for value in values):
        raise ModelFileError(f"expected multiples of the first number for {key} in config.json, found {values}")
    return tuple(values)


def _per_level(config: Json, key: str, default: int, levels: int) -> tuple[int, ...]:
    value = config.get(key, default)
    values = value if isinstance(value, list) else [value] * levels
    if len(values) != levels or any(type(item) is not int or item <= 0 for item in values):
        raise ModelFileError(f"expected a positive number for {key} at each of {levels} levels, found {value!r}")
    return tuple(values)
