"""Where the tensors of a network are in files of the original layouts, and back.

``*_names`` read a file: name in the built network -> where it is in the file. The towers of text encoders are built by
``nodes.diffusion.towers``, which has a module ``text`` and for some a ``projection`` below the name of each. ``original_places`` is the
way back: merges by block, saved checkpoints and LoRAs speak of modules by the names of the original code. It reads the same tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from nodes.diffusion.beside_configs import GligenConfig, StyleConfig
from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.configs import (
    DiTConfig,
    FamilyName,
    PartConfig,
    PhotoMakerConfig,
    TinyVaeConfig,
    Tower,
    TowersConfig,
    UNetConfig,
    UpscalerConfig,
    VaeConfig,
    VisionConfig,
)
from nodes.diffusion.convert import Modules, Names, Stored, rename, unet_modules, vae_modules
from nodes.diffusion.tiny import original_place

UNET_PREFIX: Final = "model.diffusion_model."
VAE_PREFIX: Final = "first_stage_model."
"""Of the names in a checkpoint."""

_OPEN_CLIP_IMAGES: Final = "visual."
"""The image encoder's, beside the text encoder in a file of both."""
_OPEN_CLIP: Final = {
    "token_embedding.weight": "text.embeddings.token_embedding.weight",
    "positional_embedding": "text.embeddings.position_embedding.weight",
    "ln_final.weight": "text.final_layer_norm.weight",
    "ln_final.bias": "text.final_layer_norm.bias",
}
_OPEN_CLIP_LAYER: Final[Modules] = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_QKV: Final = ("q_proj", "k_proj", "v_proj")


def open_clip_names(tensors: Tensors, prefix: str, tower: Tower) -> Names:
    """A text tower as open_clip stores it, its query, key and value in one matrix."""
    names: dict[str, Stored] = {}
    for stored in tensors:
        if not stored.startswith(prefix) or stored.startswith(_OPEN_CLIP_IMAGES):
            continue
        name = stored.removeprefix(prefix)
        if name == "text_projection":
            names[f"{tower}.projection.weight"] = Stored(stored, transposed=True)
        elif name.startswith("transformer.resblocks."):
            names |= {f"{tower}.text.encoder.layers.{new}": where for new, where in open_clip_layer(stored, name)}
        else:
            names[f"{tower}.{_OPEN_CLIP.get(name, name)}"] = Stored(stored)
    return names


def open_clip_layer(stored: str, name: str) -> Iterator[tuple[str, Stored]]:
    """A tensor of a layer of one of CLIP's transformers, by its names from the layer's number on."""
    number, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        for piece, part in enumerate(_QKV):
            yield f"{number}.self_attn.{part}.{kind}", Stored(stored, piece, len(_QKV))
    else:
        yield f"{number}.{rename(rest, _OPEN_CLIP_LAYER)}", Stored(stored)


def clip_names(tensors: Tensors, prefix: str, tower: Tower) -> Names:
    """A text tower as transformers stores it; ``prefix`` ends where the tower's own names begin, below ``text_model.`` or not."""
    names = {
        f"{tower}.text.{stored.removeprefix(prefix)}": Stored(stored)
        for stored in tensors
        if stored.startswith(prefix) and not stored.endswith("text_projection.weight")
    }
    projection = prefix.removesuffix("text_model.") + "text_projection.weight"
    return names | ({f"{tower}.projection.weight": Stored(projection)} if projection in tensors else {})


def t5_names(tensors: Tensors, prefix: str) -> Names:
    """T5's encoder, as transformers stores it; its embedding goes by two names."""
    names = {
        f"t5.text.{stored.removeprefix(prefix + 'encoder.')}": Stored(stored)
        for stored in tensors
        if stored.startswith(prefix + "encoder.")
    }
    shared = prefix + "shared.weight"
    return names | ({"t5.text.embed_tokens.weight": Stored(shared)} if shared in tensors else {})


_DIT_ENDS: Final[Modules] = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_DIT_BLOCK: Final[Modules] = {
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
_DIT_QKV: Final = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def dit_names(tensors: Tensors, prefix: str, config: DiTConfig) -> Names:
    """Stable Diffusion 3's transformer in its original layout."""
    names: dict[str, Stored] = {}
    for stored in tensors:
        if not stored.startswith(prefix):
            continue
        name = stored.removeprefix(prefix)
        if name == "pos_embed":
            names["pos_embed.pos_embed"] = Stored(stored)
        elif name.startswith("final_layer.adaLN_modulation.1."):
            # diffusers has the scale before the shift
            names["norm_out.linear." + name.rpartition(".")[2]] = Stored(stored, swapped=True)
        elif name.startswith("joint_blocks."):
            names |= dict(_dit_block(stored, name, config.layers - 1))
        else:
            names[rename(name, _DIT_ENDS)] = Stored(stored)
    return names


def _dit_block(stored: str, name: str, last: int) -> Iterator[tuple[str, Stored]]:
    number, _, rest = name.removeprefix("joint_blocks.").partition(".")
    module, _, leaf = rest.rpartition(".")
    path = f"transformer_blocks.{number}."
    if module in _DIT_QKV:
        for piece, part in enumerate(_DIT_QKV[module]):
            yield f"{path}{part}.{leaf}", Stored(stored, piece, len(_DIT_QKV[module]))
    else:
        # the text's side of the last block has no more than a scale and a shift, which diffusers has the other way round
        swapped = int(number) == last and module == "context_block.adaLN_modulation.1"
        yield f"{path}{_DIT_BLOCK.get(module, module)}.{leaf}", Stored(stored, swapped=swapped)


def original_places(config: PartConfig, names: Iterable[str]) -> Names:
    """Name in the network of ``config`` -> where the original layout has it, without what stands before all names of a UNet or a VAE."""
    if isinstance(config, TowersConfig):
        return {name: _tower_place(config, name) for name in names}
    if isinstance(config, DiTConfig):
        return {name: _dit_place(name, config.layers - 1) for name in names}
    if isinstance(config, VisionConfig | UpscalerConfig | PhotoMakerConfig | GligenConfig | StyleConfig):
        return {name: Stored(name) for name in names}
    if isinstance(config, TinyVaeConfig):
        return {name: original_place(name) for name in names}
    assert isinstance(config, UNetConfig | VaeConfig)  # nobody patches ControlNets by the original names
    modules = unet_modules(config) if isinstance(config, UNetConfig) else vae_modules(config)
    back = {new: old for old, new in modules.items()}
    return {name: Stored(rename(name, back)) for name in names}


def original_names(config: PartConfig, names: Iterable[str]) -> Mapping[str, str]:
    """Name in the network of ``config`` -> name in the original layout, of those tensors that it has each by itself."""
    return {
        name: place.name
        for name, place in original_places(config, names).items()
        if place == Stored(place.name)  # neither a piece of another, nor turned round
    }


TOWER_PREFIXES: Final[Mapping[tuple[FamilyName, Tower], str]] = {
    ("sd1", "l"): "cond_stage_model.transformer.",
    ("sd2", "h"): "cond_stage_model.model.",
    ("upscaler", "h"): "cond_stage_model.model.",
    ("sdxl", "l"): "conditioner.embedders.0.transformer.",
    ("sdxl", "g"): "conditioner.embedders.1.model.",
    ("refiner", "g"): "conditioner.embedders.0.model.",
    ("sd3", "l"): "text_encoders.clip_l.transformer.",
    ("sd3", "g"): "text_encoders.clip_g.transformer.",
    ("sd3", "t5"): "text_encoders.t5xxl.transformer.",
}
"""What stands before a text encoder's names in checkpoints. Those that end in ``model.`` are in the layout of open_clip."""


def is_open_clip(prefix: str) -> bool:
    return prefix.endswith(".model.")


def _tower_place(config: TowersConfig, name: str) -> Stored:
    tower, _, rest = name.partition(".")
    prefix = TOWER_PREFIXES[config.kind, tower]  # type: ignore[index]  # the network's modules are called by the towers
    if rest == "projection.weight":
        return (
            Stored(prefix + "text_projection", transposed=True)
            if is_open_clip(prefix)
            else Stored(prefix + "text_projection.weight")
        )
    inner = rest.removeprefix("text.")
    if tower == "t5":
        return Stored(prefix + t5_name(inner))
    return _open_clip_place(prefix, rest) if is_open_clip(prefix) else Stored(f"{prefix}text_model.{inner}")


def t5_name(inner: str) -> str:
    """The name of a tensor of T5's encoder in its files, which keep its embedding for the decoder as well."""
    return "shared.weight" if inner == "embed_tokens.weight" else "encoder." + inner


_OPEN_CLIP_BACK: Final = {new: old for old, new in _OPEN_CLIP.items()}
_OPEN_CLIP_LAYER_BACK: Final = {new: old for old, new in _OPEN_CLIP_LAYER.items()}


def _open_clip_place(prefix: str, rest: str) -> Stored:
    if rest in _OPEN_CLIP_BACK:
        return Stored(prefix + _OPEN_CLIP_BACK[rest])
    number, _, inner = rest.removeprefix("text.encoder.layers.").partition(".")
    block = f"{prefix}transformer.resblocks.{number}."
    module, _, leaf = inner.rpartition(".")
    part = module.removeprefix("self_attn.")
    if part in _QKV:
        return Stored(f"{block}attn.in_proj_{leaf}", _QKV.index(part), len(_QKV))
    return Stored(block + rename(inner, _OPEN_CLIP_LAYER_BACK))


_DIT_ENDS_BACK: Final = {new: old for old, new in _DIT_ENDS.items()}
_DIT_BLOCK_BACK: Final = {new: old for old, new in _DIT_BLOCK.items()}
_DIT_PIECES: Final = {part: (old, parts.index(part)) for old, parts in _DIT_QKV.items() for part in parts}


def _dit_place(name: str, last: int) -> Stored:
    if name == "pos_embed.pos_embed":
        return Stored("pos_embed")
    if name.startswith("norm_out.linear."):
        return Stored("final_layer.adaLN_modulation.1." + name.rpartition(".")[2], swapped=True)
    if not name.startswith("transformer_blocks."):
        return Stored(rename(name, _DIT_ENDS_BACK))
    number, _, rest = name.removeprefix("transformer_blocks.").partition(".")
    module, _, leaf = rest.rpartition(".")
    block = f"joint_blocks.{number}."
    if module in _DIT_PIECES:
        old, piece = _DIT_PIECES[module]
        return Stored(f"{block}{old}.{leaf}", piece, 3)
    old = _DIT_BLOCK_BACK.get(module, module)
    return Stored(f"{block}{old}.{leaf}", swapped=int(number) == last and old == "context_block.adaLN_modulation.1")


def unet_prefix(tensors: Tensors) -> str | None:
    """Where a UNet in the original layout begins: below UNET_PREFIX, or at once; None where there is none."""
    return prefix_of("input_blocks.0.0.weight", (UNET_PREFIX, ""), tensors)


def prefix_of(name: str, prefixes: Iterable[str], tensors: Tensors) -> str | None:
    """The first of ``prefixes`` below which there is a tensor ``name``."""
    return next((prefix for prefix in prefixes if prefix + name in tensors), None)
