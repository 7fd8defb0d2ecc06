"""Files of networks beside a model: which one it is, of which sizes, and where its tensors are."""

from __future__ import annotations

import re
from typing import Final

from engine.errors import ModelFileError
from engine.models import Part
from nodes.diffusion.beside_configs import GligenConfig, StyleConfig
from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.configs import CLIP_HEAD_WIDTH, PartConfig
from nodes.diffusion.convert import Names, Stored
from nodes.diffusion.infer import count, shape_of

Found = tuple[Part, tuple[PartConfig, Names]]

_POSITION: Final = "position_net."
_FUSER: Final = ".fuser."
_CORNERS: Final = 4
_WAYS: Final = {"input": 0, "down": 0, "middle": 1, "mid": 1, "output": 2, "up": 2}
"""Parts of a UNet by the beginnings of their names, in the original layout and in that of diffusers."""
_STYLE: Final = "style_embedding"
_LAYER: Final = "transformer_layes."  # so spelled in the released file


def find_beside(tensors: Tensors) -> Found | None:
    """What a file is, where it holds such a network; None for all others. Raises ModelFileError for impossible shapes."""
    position = next((name for name in tensors if name.endswith(_POSITION + "null_positive_feature")), None)
    if position is not None and any(_FUSER in name for name in tensors):
        return "gligen", _gligen(tensors, position.removesuffix("null_positive_feature"))
    if _STYLE in tensors and _LAYER + "0.attn.in_proj_weight" in tensors:
        return "style_model", _style(tensors)
    return None


def _gligen(tensors: Tensors, prefix: str) -> tuple[GligenConfig, Names]:
    blocks = sorted({name.partition(_FUSER)[0] for name in tensors if _FUSER in name}, key=_place)
    text_width = shape_of(tensors, prefix + "null_positive_feature", 1)[0]
    hidden, told = shape_of(tensors, prefix + "linears.0.weight", 2)
    if told <= text_width or (told - text_width) % (2 * _CORNERS):
        raise ModelFileError(
            f"expected a GLIGEN model that is told of the four corners of a box, found a layer for {told} numbers, "
            f"{text_width} of them for words"
        )
    config = GligenConfig(
        text_width=text_width,
        frequencies=(told - text_width) // (2 * _CORNERS),
        hidden=hidden,
        token_width=shape_of(tensors, prefix + "linears.4.weight", 2)[0],
        widths=tuple(shape_of(tensors, f"{block}{_FUSER}linear.weight", 2)[0] for block in blocks),
    )
    names = {_POSITION + name.removeprefix(prefix): Stored(name) for name in tensors if name.startswith(prefix)}
    for number, block in enumerate(blocks):
        inside = block + _FUSER
        names |= {f"fusers.{number}.{it.removeprefix(inside)}": Stored(it) for it in tensors if it.startswith(inside)}
    return config, names


def _place(block: str) -> tuple[int, ...]:
    """Where a block is on the way through the UNet."""
    way = re.search(r"(input|down|middle|mid|output|up)_block", block)
    if way is None:
        raise ModelFileError(f"expected GLIGEN's layers in the blocks of a UNet, found some in {block}")
    return (_WAYS[way[1]], *map(int, re.findall(r"\d+", block[way.end() :])))


def _style(tensors: Tensors) -> tuple[StyleConfig, Names]:
    _, tokens, width = shape_of(tensors, _STYLE, 3)
    config = StyleConfig(
        width=width,
        layers=count(tensors, _LAYER + "{}.attn.in_proj_weight"),
        heads=max(width // (2 * CLIP_HEAD_WIDTH), 1),
        tokens=tokens,
        context_dim=shape_of(tensors, "proj", 2)[1],
    )
    return config, {name.replace(_LAYER, "layers."): Stored(name) for name in tensors}
