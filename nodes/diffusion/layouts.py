"""Where the tensors of text encoders and diffusion transformers are in files of the original layouts.

Each function gives ``Names``: name in the built network -> where it is in the file. The towers of text encoders are built by
``nodes.diffusion.towers``, which has a module ``text`` and for some a ``projection`` below the name of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.configs import DiTConfig, Tower
from nodes.diffusion.convert import Modules, Names, Stored, rename

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
        if not stored.startswith(prefix):
            continue
        name = stored.removeprefix(prefix)
        if name == "text_projection":
            names[f"{tower}.projection.weight"] = Stored(stored, transposed=True)
        elif name.startswith("transformer.resblocks."):
            names |= {f"{tower}.text.encoder.layers.{new}": where for new, where in _open_clip_layer(stored, name)}
        else:
            names[f"{tower}.{_OPEN_CLIP.get(name, name)}"] = Stored(stored)
    return names


def _open_clip_layer(stored: str, name: str) -> Iterator[tuple[str, Stored]]:
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
