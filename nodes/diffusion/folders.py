"""A diffusers folder, described in the same words as a checkpoint file.

Such a folder holds ``model_index.json`` and one folder for each part, with a ``config.json`` and its weights: whole, in shards
listed by an index, or in a half precision variant. The ``read_*`` functions turn a config into ours and refuse what ours
cannot say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from engine.errors import MissingFile, ModelFileError
from engine.models import Part
from nodes.diffusion.configs import CLIP_HEAD_WIDTH, NORM_GROUPS, Schedule, TextConfig, UNetConfig, VaeConfig
from nodes.diffusion.configs import SD1_SCALE_FACTOR as SCALE_FACTOR
from nodes.diffusion.infer import checked_unet

Json = Mapping[str, Any]

INDEX: Final = "model_index.json"
FOLDERS: Final[Mapping[Part, str]] = {"unet": "unet", "clip": "text_encoder", "vae": "vae"}
CLASSES: Final[Mapping[str, Part]] = {
    "UNet2DConditionModel": "unet",
    "CLIPTextModel": "clip",
    "AutoencoderKL": "vae",
}
_OTHER_MODELS: Final = ("text_encoder_2", "transformer", "prior", "image_encoder_2")
_STEMS: Final = ("diffusion_pytorch_model", "model")
_VARIANTS: Final = ("", ".fp16", ".bf16", ".non_ema")

_UNET_EXTRAS: Final = (
    "addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim", "dual_cross_attention",
    "only_cross_attention", "num_class_embeds", "cross_attention_norm",
)  # fmt: skip
"""Settings of diffusers' UNet that add layers no Stable Diffusion 1 has."""


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


def part_folders(folder: Path) -> dict[Part, Path]:
    """The folder of every part that the diffusers folder ``folder`` holds, itself when it is one part alone."""
    if not (folder / INDEX).is_file():
        name = read_json(folder / "config.json").get("_class_name") or "CLIPTextModel"
        if name not in CLASSES:
            raise ModelFileError(f"expected a part of Stable Diffusion 1 in {folder}, found a {name}")
        return {CLASSES[name]: folder}
    index = read_json(folder / INDEX)
    other = next((key for key in _OTHER_MODELS if _is_component(index.get(key))), None)
    if other is not None:
        raise ModelFileError(
            f"expected a Stable Diffusion 1 folder, found {folder.name} made for {index.get('_class_name')} with a {other}"
        )
    parts = {part: folder / name for part, name in FOLDERS.items() if _is_component(index.get(name))}
    if not parts:
        raise ModelFileError(f"expected unet, vae or text_encoder in {folder / INDEX}, found none of them")
    return parts


def _is_component(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


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
    """Our words for the config.json of a ``UNet2DConditionModel``; ModelFileError when it is no SD1 UNet."""
    extra = next((key for key in _UNET_EXTRAS if config.get(key)), None)
    if extra is not None:
        raise ModelFileError(f"expected a Stable Diffusion 1 UNet, found one with {extra} = {config[extra]!r}")
    widths = _sizes(config, "block_out_channels")
    down = config.get("down_block_types", ())
    if len(down) != len(widths) or not set(down) <= {"CrossAttnDownBlock2D", "DownBlock2D"}:
        raise ModelFileError(f"expected a down block for each of {len(widths)} levels, found {down!r}")
    depths = _per_level(config, "transformer_layers_per_block", 1, len(widths))
    has_middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None
    result = UNetConfig(
        in_channels=_size(config, "in_channels", 4),
        out_channels=_size(config, "out_channels", 4),
        model_channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        res_blocks=_per_level(config, "layers_per_block", 2, len(widths)),
        depths=tuple(depth if "Attn" in kind else 0 for depth, kind in zip(depths, down, strict=True)),
        mid_depth=depths[-1] if has_middle else None,
        context_dim=_size(config, "cross_attention_dim"),
        heads=_uniform(config, "num_attention_heads" if config.get("num_attention_heads") else "attention_head_dim"),
        norm_groups=_size(config, "norm_num_groups", NORM_GROUPS),
        linear_projection=bool(config.get("use_linear_projection", False)),
    )
    if result.in_channels != result.out_channels:
        raise ModelFileError(
            f"expected a UNet with equal inputs and outputs, found {result.in_channels} input channels"
        )
    return checked_unet(result)


def read_vae(config: Json) -> VaeConfig:
    """Our words for the config.json of an ``AutoencoderKL``."""
    widths = _sizes(config, "block_out_channels")
    scale = config.get("scaling_factor", SCALE_FACTOR)
    if not isinstance(scale, int | float) or not scale > 0 or config.get("shift_factor"):
        raise ModelFileError(f"expected a VAE with a positive scaling_factor and no shift_factor, found {scale!r}")
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
    return TextConfig(
        width=width,
        layers=_size(config, "num_hidden_layers", 12),
        heads=_size(config, "num_attention_heads", width // CLIP_HEAD_WIDTH),
        positions=_size(config, "max_position_embeddings", 77),
        vocabulary=_size(config, "vocab_size", 49408),
        intermediate=_size(config, "intermediate_size", 2048),
        activation=str(config.get("hidden_act", "quick_gelu")),
    )


def read_schedule(config: Json) -> Schedule:
    """The noise schedule of a scheduler_config.json; ModelFileError when it is no schedule of Stable Diffusion 1."""
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


def _uniform(config: Json, key: str) -> int:
    value = config.get(key)
    if isinstance(value, list) and len(set(map(str, value))) == 1:
        value = value[0]
    if type(value) is not int or value <= 0:
        raise ModelFileError(f"expected as many attention heads at every level, as in SD1, found {key} = {value!r}")
    return value
