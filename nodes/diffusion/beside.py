"""Files of networks beside a model: which one it is, of which sizes, and where its tensors are."""

from __future__ import annotations

import re
from typing import Final

from engine.errors import ModelFileError
from engine.models import Part
from nodes.diffusion.beside_configs import GligenConfig, StyleConfig
from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.configs import CLIP_HEAD_WIDTH, PartConfig, PhotoMakerConfig
from nodes.diffusion.convert import Names, Stored
from nodes.diffusion.infer import count, shape_of
from nodes.diffusion.vision_parts import find_vision

Found = tuple[Part, tuple[PartConfig, Names]]

_POSITION: Final = "position_net."
_FUSER: Final = ".fuser."
_CORNERS: Final = 4
_WAYS: Final = {"input": 0, "down": 0, "middle": 1, "mid": 1, "output": 2, "up": 2}
"""Parts of a UNet by the beginnings of their names, in the original layout and in that of diffusers."""
_SECOND: Final = "visual_projection_2.weight"
_FUSE: Final = "fuse_module."
_STYLE: Final = "style_embedding"
_LAYER: Final = "transformer_layes."  # so spelled in the released file


def find_beside(tensors: Tensors) -> Found | None:
    """What a file is, where it holds such a network; None for all others. Raises ModelFileError for impossible shapes."""
    position = next((name for name in tensors if name.endswith(_POSITION + "null_positive_feature")), None)
    if position is not None and any(_FUSER in name for name in tensors):
        return "gligen", _gligen(tensors, position.removesuffix("null_positive_feature"))
    if _STYLE in tensors and _LAYER + "0.attn.in_proj_weight" in tensors:
        return "style_model", _style(tensors)
    second = next((name for name in tensors if name.endswith(_SECOND)), None)
    if second is not None and any(_FUSE in name for name in tensors):
        return "photomaker", _photomaker(tensors, second.removesuffix(_SECOND))
    return None


def _photomaker(tensors: Tensors, prefix: str) -> tuple[PhotoMakerConfig, Names]:
    own = {name.removeprefix(prefix): info for name, info in tensors.items() if name.startswith(prefix)}
    vision = find_vision(own, {})
    if vision is None or vision[0].projection is None:
        raise ModelFileError("expected CLIP's image encoder in a PhotoMaker model, found none that is known")
    config = PhotoMakerConfig(vision[0], shape_of(own, _SECOND, 2)[0])
    fuse = shape_of(own, _FUSE + "layer_norm.weight", 1)[0]
    if fuse != config.text_width:
        raise ModelFileError(f"expected PhotoMaker version 1, for texts {config.text_width} wide, found one for {fuse}")
    names = {f"tower.{new}": Stored(prefix + where.name) for new, where in vision[1].items()}
    names["second.weight"] = Stored(prefix + _SECOND)
    return config, names | {
        f"fuse.{name.removeprefix(_FUSE)}": Stored(prefix + name) for name in own if name.startswith(_FUSE)
    }


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
