"""Which network a file of a ControlNet or T2I-Adapter holds, told by the names and shapes of its tensors alone.

Files of the original layouts are brought to the names of diffusers first, block by block, so that a configuration is read off one
layout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from engine.errors import ModelFileError
from nodes.diffusion.checkpoints import TensorInfo, Tensors
from nodes.diffusion.configs import CLIP_HEAD_WIDTH, DIT_HEAD_WIDTH, NORM_GROUPS, SD1_HEADS
from nodes.diffusion.control_configs import (
    AdapterConfig,
    AnyControl,
    ControlConfig,
    Form,
    TransformerControlConfig,
)
from nodes.diffusion.convert import UNET_RESNET, Modules, Names, Stored, rename
from nodes.diffusion.family import FAMILIES
from nodes.diffusion.infer import Metadata, count, shape_of, transformer_depth

Found = tuple[AnyControl, Names]

LOW_RANK_MARK: Final = "lora_controlnet"
DIFFERENCE_MARK: Final = "difference"
UP, DOWN = ".up", ".down"
"""Ends of the factors of a layer's change, in place of ``.weight``."""

TYPE_MARK: Final = "control_type"
"""In files of Stability's nets for Stable Diffusion 3.5: a number that says what picture they take."""
MARKS: Final = frozenset({LOW_RANK_MARK, DIFFERENCE_MARK, TYPE_MARK})

_CLDM: Final = ("control_model.", "")
_CLDM_MARK: Final = "input_hint_block.0.weight"
_HINT: Final = "controlnet_cond_embedding"
_PREFIXES: Final = ("", "controlnet.", "module.")
"""What may stand before the names of diffusers."""


def find_control(tensors: Tensors, metadata: Metadata) -> Found | None:
    """The network of a ControlNet's file, None where it is no such file. Raises ModelFileError for one of impossible shapes."""
    for prefix in _CLDM:
        if prefix + _CLDM_MARK in tensors:
            return _unet_control(_from_cldm(tensors, prefix), tensors, metadata)
    for prefix in _PREFIXES:
        if f"{prefix}{_HINT}.conv_in.weight" in tensors:
            return _unet_control(_plain(tensors, prefix), tensors, metadata)
        if f"{prefix}pos_embed_input.proj.weight" in tensors and f"{prefix}controlnet_blocks.0.weight" in tensors:
            return _transformer_control(_from_mmdit(_plain(tensors, prefix)), tensors)
    return _adapter(tensors)


def _plain(tensors: Tensors, prefix: str) -> dict[str, Stored]:
    return {
        name.removeprefix(prefix): Stored(name)
        for name in tensors
        if name.startswith(prefix) and name.removeprefix(prefix) not in MARKS
    }


def _own(names: Names, tensors: Tensors) -> dict[str, TensorInfo]:
    """The tensors by the names of the network, those in factors as the product."""
    infos = {new: replace(tensors[it.name], shape=it.shape(tensors[it.name].shape)) for new, it in names.items()}
    for name in [name for name in infos if name.endswith(UP)]:
        down = infos.get(name.removesuffix(UP) + DOWN)
        if down is not None and infos[name].shape and down.shape:
            product = replace(down, shape=(infos[name].shape[0], *down.shape[1:]))
            infos[name.removesuffix(UP) + ".weight"] = product
    return infos


def _from_cldm(tensors: Tensors, prefix: str) -> dict[str, Stored]:
    """The names of diffusers for a file of the original layout, read block by block."""
    own = {name.removeprefix(prefix): info for name, info in tensors.items() if name.startswith(prefix)}
    modules = dict(_ENDS) | dict(_blocks(own)) | dict(_hint_modules(own))
    return {rename(name, modules): Stored(prefix + name) for name in own if name not in MARKS}


_ENDS: Final[Modules] = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "class_embedding.linear_1",
    "label_emb.0.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block_out.0": "controlnet_mid_block",
}


def _resnet(old: str, new: str) -> Iterator[tuple[str, str]]:
    return ((f"{old}.{part}", f"{new}.{name}") for part, name in UNET_RESNET.items())


def _blocks(own: Tensors) -> Iterator[tuple[str, str]]:
    """Module paths of the way down, of the middle, and of the convolutions behind them."""
    places = {name.split(".")[1] for name in own if name.startswith("input_blocks.")}
    level, layer = 0, 0
    for block in range(1, len(places)):
        old = f"input_blocks.{block}"
        if any(name.startswith(f"{old}.0.op.") for name in own):
            yield f"{old}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            level, layer = level + 1, 0
        else:
            yield from _resnet(f"{old}.0", f"down_blocks.{level}.resnets.{layer}")
            yield f"{old}.1", f"down_blocks.{level}.attentions.{layer}"
            layer += 1
    yield from _resnet("middle_block.0", "mid_block.resnets.0")
    yield from _resnet("middle_block.2", "mid_block.resnets.1")
    for block in range(len(places)):
        yield f"zero_convs.{block}.0", f"controlnet_down_blocks.{block}"


def _hint_modules(own: Tensors) -> Iterator[tuple[str, str]]:
    """Of the convolutions for the picture, with activations between them in the original's count."""
    numbers = sorted({int(part) for name in own if name.startswith("input_hint_block.")
                      if (part := name.split(".")[1]).isdigit()})  # fmt: skip
    for place, number in enumerate(numbers):
        ends = {0: "conv_in", len(numbers) - 1: "conv_out"}
        yield f"input_hint_block.{number}", f"{_HINT}.{ends.get(place, f'blocks.{place - 1}')}"


_RENAMED: Final[Modules] = {
    "add_embedding.linear_1": "class_embedding.linear_1",
    "add_embedding.linear_2": "class_embedding.linear_2",
}
"""diffusers makes SDXL's vector inside of its networks; ours are given it whole, as a class."""


def _unet_control(names: Mapping[str, Stored], tensors: Tensors, metadata: Metadata) -> Found:
    named = {rename(name, _RENAMED): it for name, it in names.items()}
    form: Form = "whole"
    if LOW_RANK_MARK in tensors or any(name.endswith(UP) for name in named):
        form = "low_rank"
    elif DIFFERENCE_MARK in tensors:
        form = "difference"
    return _config(_own(named, tensors), metadata, form), named


def _config(own: Tensors, metadata: Metadata, form: Form) -> ControlConfig:
    base, in_channels = shape_of(own, "conv_in.weight", 4)[:2]
    levels = count(own, "down_blocks.{}.resnets.0.conv1.weight")
    widths = [shape_of(own, f"down_blocks.{level}.resnets.0.conv1.weight", 4)[0] for level in range(levels)]
    blocks = {count(own, f"down_blocks.{level}.resnets.{{}}.conv1.weight") for level in range(levels)}
    if not widths or widths[0] != base or any(width % base for width in widths) or len(blocks) != 1:
        raise ModelFileError(
            f"expected a ControlNet with equal levels in multiples of {base} channels, found {widths} "
            f"with {sorted(blocks)} residual blocks; the file is incomplete or of another family"
        )
    depths = tuple(transformer_depth(own, f"down_blocks.{level}.attentions.0") for level in range(levels))
    mid_depth = transformer_depth(own, "mid_block.attentions.0")
    context = _context(own)
    vector = "class_embedding.linear_1.weight"
    union = shape_of(own, "task_embedding", 2) if "task_embedding" in own else (0, 0)
    given = _given(metadata)
    config = ControlConfig(
        in_channels=in_channels,
        model_channels=base,
        channel_mult=tuple(width // base for width in widths),
        blocks=blocks.pop(),
        depths=depths,
        mid_depth=mid_depth,
        context_dim=context,
        heads=_heads(widths, context, vector in own, given),
        hint_channels=shape_of(own, f"{_HINT}.conv_in.weight", 4)[1],
        hint_widths=_hint_widths(own),
        vector_dim=shape_of(own, vector, 2)[1] if vector in own else None,
        norm_groups=given.get("norm_groups", NORM_GROUPS),
        linear_projection=_is_linear(own),
        union_types=union[0],
        union_width=union[1],
        union_layers=count(own, "transformer_layes.{}.attn.in_proj_weight"),
        form=form,
    )
    return _checked(config)


def _checked(config: ControlConfig) -> ControlConfig:
    if any(width % config.norm_groups for width in config.widths):
        raise ModelFileError(
            f"expected channels divisible by {config.norm_groups} groups, found {list(config.widths)} in a ControlNet"
        )
    if config.mid_depth and config.depths[-1] not in (0, config.mid_depth):
        raise ModelFileError(
            f"expected a ControlNet's middle with the last level's {config.depths[-1]} transformer blocks, "
            f"found {config.mid_depth}; this ControlNet is not known"
        )
    return config


def _context(own: Tensors) -> int | None:
    suffix = ".transformer_blocks.0.attn2.to_k.weight"
    return next((info.shape[-1] for name, info in own.items() if name.endswith(suffix) and info.shape), None)


def _heads(widths: Sequence[int], context: int | None, has_vector: bool, given: Mapping[str, int]) -> tuple[int, ...]:
    if "num_heads" in given:
        return (given["num_heads"],) * len(widths)
    if context == FAMILIES["sd2"].context or has_vector:
        return tuple(max(width // CLIP_HEAD_WIDTH, 1) for width in widths)
    return (SD1_HEADS,) * len(widths)


def _given(metadata: Metadata) -> dict[str, int]:
    """Heads and groups, where the metadata gives them under ``controlnet``."""
    try:
        given = json.loads(metadata.get("controlnet", "{}"))
    except ValueError as error:
        raise ModelFileError(f"expected JSON in the metadata entry 'controlnet', found: {error}") from error
    found = {name: given.get(name) for name in ("num_heads", "norm_groups")} if isinstance(given, dict) else {}
    return {name: value for name, value in found.items() if type(value) is int and value > 0}


def _is_linear(own: Tensors) -> bool:
    return any(len(info.shape) == 2 for name, info in own.items() if name.endswith(".proj_in.weight"))


def _hint_widths(own: Tensors) -> tuple[int, ...]:
    convolutions = count(own, f"{_HINT}.blocks.{{}}.weight")
    first = shape_of(own, f"{_HINT}.conv_in.weight", 4)[0]
    return (first, *(shape_of(own, f"{_HINT}.blocks.{n}.weight", 4)[0] for n in range(1, convolutions, 2)))


_MMDIT: Final[Modules] = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_MMDIT_QKV: Final = ("attn.to_q", "attn.to_k", "attn.to_v")


def _from_mmdit(names: Mapping[str, Stored]) -> dict[str, Stored]:
    """The names of diffusers, also for files that have blocks as Stability's own code does."""
    found: dict[str, Stored] = {}
    for name, it in names.items():
        start, _, rest = name.partition("transformer_blocks.")
        number, _, inner = rest.partition(".")
        module, _, leaf = inner.rpartition(".")
        path = f"transformer_blocks.{number}"
        if start or not rest:
            found[name] = it
        elif module == "attn.qkv":
            found |= {f"{path}.{part}.{leaf}": replace(it, piece=piece, pieces=3)
                      for piece, part in enumerate(_MMDIT_QKV)}  # fmt: skip
        else:
            found[f"{path}.{rename(inner, _MMDIT)}"] = it
    return found


def _transformer_control(names: Mapping[str, Stored], tensors: Tensors) -> Found:
    own = _own(names, tensors)
    width, seen, patch, _ = shape_of(own, "pos_embed_input.proj.weight", 4)
    layers = count(own, "controlnet_blocks.{}.weight")
    places = shape_of(own, "pos_embed.pos_embed", 3)[1] if "pos_embed.pos_embed" in own else None
    if width % DIT_HEAD_WIDTH or (places is not None and math.isqrt(places) ** 2 != places):
        raise ModelFileError(
            f"expected a ControlNet of heads {DIT_HEAD_WIDTH} wide over a square of positions, "
            f"found a width of {width} and {places} positions"
        )
    channels = FAMILIES["sd3"].channels
    if "pos_embed.proj.weight" in own:
        channels = shape_of(own, "pos_embed.proj.weight", 4)[1]
    context = "context_embedder.weight"
    config = TransformerControlConfig(
        channels=channels,
        patch=patch,
        layers=layers,
        heads=width // DIT_HEAD_WIDTH,
        head_width=DIT_HEAD_WIDTH,
        context_dim=shape_of(own, context, 2)[1] if context in own else None,
        pooled_dim=shape_of(own, "time_text_embed.text_embedder.linear_1.weight", 2)[1],
        positions=None if places is None else math.isqrt(places),
        mask_channels=seen - channels,
        dual_layers=tuple(n for n in range(layers) if f"transformer_blocks.{n}.attn2.to_q.weight" in own),
        qk_norm="transformer_blocks.0.attn.norm_q.weight" in own,
    )
    if config.mask_channels not in (0, 1):
        raise ModelFileError(f"expected a ControlNet for {channels} channels, or one more for a mask, found {seen}")
    return config, names


_ADAPTER: Final = ("adapter.", "")
_XL_INPUTS: Final = (256, 768)
"""Channels in which pictures of one and of three stand, 16 x 16 pixels to a cell: adapters for SDXL alone work so."""
_CELL: Final = 8


def _adapter(tensors: Tensors) -> Found | None:
    for prefix in _ADAPTER:
        if f"{prefix}body.0.resnets.0.block1.weight" in tensors:
            return _adapter_config({name.removeprefix(prefix): Stored(name) for name in tensors}, tensors)
        if f"{prefix}body.0.body.0.block1.weight" in tensors:
            names = {name.removeprefix(prefix).replace(".body.", ".resnets.", 1): Stored(name) for name in tensors}
            return _adapter_config(names, tensors)
        if f"{prefix}body.0.block1.weight" in tensors and f"{prefix}conv_in.weight" in tensors:
            return _adapter_config(_from_tencent(tensors, prefix), tensors)
    return None


_ADAPTER_BLOCKS: Final = 2
"""Residual blocks of a level in full adapters."""


def _from_tencent(tensors: Tensors, prefix: str) -> dict[str, Stored]:
    """A full adapter of the original layout, which counts its blocks through all levels."""
    names: dict[str, Stored] = {}
    for stored in tensors:
        name = stored.removeprefix(prefix)
        if name.startswith("body."):
            _, number, module, leaf = name.split(".", 3)
            level, block = divmod(int(number), _ADAPTER_BLOCKS)
            inner = f"in_conv.{leaf}" if module == "in_conv" else f"resnets.{block}.{module}.{leaf}"
            name = f"body.{level}.{inner}"
        names[name] = Stored(stored)
    return names


def _adapter_config(names: Mapping[str, Stored], tensors: Tensors) -> Found:
    own = {new: tensors[it.name] for new, it in names.items()}
    levels = count(own, "body.{}.resnets.0.block1.weight")
    is_light = "conv_in.weight" not in own
    last = "out_conv.weight" if is_light else "resnets.0.block1.weight"
    channels = tuple(shape_of(own, f"body.{level}.{last}", 4)[0] for level in range(levels))
    seen = shape_of(own, "body.0.in_conv.weight" if is_light else "conv_in.weight", 4)[1]
    is_large = not is_light and seen in _XL_INPUTS
    cell = 2 * _CELL if is_large else _CELL
    if seen % cell**2 or (is_light and channels[-2:-1] != channels[-1:]):
        raise ModelFileError(
            f"expected a T2I-Adapter that sees cells of {cell} x {cell} pixels, found {seen} channels "
            f"and levels of {list(channels)}; this adapter is not known"
        )
    config = AdapterConfig(
        kind="light_adapter" if is_light else "full_adapter_xl" if is_large else "full_adapter",
        in_channels=seen // cell**2,
        channels=channels,
        res_blocks=count(own, "body.0.resnets.{}.block1.weight"),
        downscale=cell,
    )
    return config, {"adapter." + name: it for name, it in names.items()}
