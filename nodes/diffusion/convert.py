"""Names of tensors: from the original latent diffusion layout to the modules of diffusers and transformers.

A network is a tree of modules. ``*_modules`` gives, for an inferred configuration, the original path of every module and the
path that diffusers gives it; ``rename`` carries that over to tensors, so a weight and its bias need no entry of their own.
The functions are pure: names in, names out. ``bind`` then holds the renamed tensors against what the built network wants,
and says which are missing, left over or of the wrong shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.errors import ModelFileError
from nodes.diffusion.configs import UNetConfig, VaeConfig

if TYPE_CHECKING:
    import torch

Modules = Mapping[str, str]
"""Original module path -> path in the built network."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Stored:
    """How a file holds a tensor of a network: whole under a name, or one way or another within it."""

    name: str
    piece: int = 0
    pieces: int = 1
    """It is number ``piece`` of so many equal ones along the first dimension: query, key and value in one matrix."""
    transposed: bool = False
    swapped: bool = False
    """Whether its halves along the first dimension are exchanged: shift before scale."""

    def shape(self, whole: Sequence[int]) -> tuple[int, ...]:
        """The tensor's shape, where that of what is stored is ``whole``."""
        if self.transposed:
            return tuple(reversed(whole))
        return (whole[0] // self.pieces, *whole[1:]) if self.pieces > 1 and whole else tuple(whole)

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """The tensor, a view of ``whole`` where that can be."""
        if self.transposed:
            return whole.t()
        if self.swapped:
            return whole.roll(len(whole) // 2, 0)
        return whole.chunk(self.pieces)[self.piece] if self.pieces > 1 else whole


def as_stored(places: Iterable[tuple[Stored, torch.Tensor]]) -> torch.Tensor:
    """What a file holds under one name, put together from all tensors of the network that are in it: the way back from ``Stored.of``."""
    import torch

    pieces = sorted(places, key=lambda place: place[0].piece)
    stored, tensor = pieces[0]
    if stored.pieces > 1:
        return torch.cat([piece for _, piece in pieces])
    if stored.transposed:
        return tensor.t()
    return tensor.roll(len(tensor) // 2, 0) if stored.swapped else tensor


Names = Mapping[str, Stored]
"""Name in the built network -> where it is in the file."""

UNET_RESNET: Final[Modules] = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}

UNET_ENDS: Final[Modules] = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "label_emb.0.0": "class_embedding.linear_1",
    "label_emb.0.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}

VAE_ATTENTION: Final[Modules] = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}

OLD_VAE_ATTENTION: Final[Modules] = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the same layers in folders that diffusers before 0.15 wrote."""

IGNORED_SUFFIXES: Final = ("position_ids", "logit_scale", "attn_mask", "text_projection", "text_projection.weight")
"""Tensors beside the text tower that only CLIP's training used, or that hold no weights."""

IGNORED_NAMES: Final = frozenset({"loss.logvar", "logvar"})
IGNORED_PREFIXES: Final = ("loss.", "model_ema.")
"""Parts of the autoencoder's training: its discriminator and its moving average."""

_SHOWN: Final = 4


def unet_modules(config: UNetConfig) -> Modules:
    """Original module path -> diffusers' path, for the whole UNet of ``config``, resnet by resnet."""
    return dict(UNET_ENDS) | dict(_unet_down(config)) | dict(_unet_middle(config)) | dict(_unet_up(config))


def _resnet(old: str, new: str) -> Iterator[tuple[str, str]]:
    return ((f"{old}.{part}", f"{new}.{name}") for part, name in UNET_RESNET.items())


def _unet_down(config: UNetConfig) -> Iterator[tuple[str, str]]:
    block = 1
    last = len(config.down_depths) - 1
    for level, depths in enumerate(config.down_depths):
        for layer, depth in enumerate(depths):
            yield from _resnet(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{layer}")
            if depth:
                yield f"input_blocks.{block}.1", f"down_blocks.{level}.attentions.{layer}"
            block += 1
        if level < last:
            yield f"input_blocks.{block}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            block += 1


def _unet_middle(config: UNetConfig) -> Iterator[tuple[str, str]]:
    if config.mid_depth is None:
        return
    yield from _resnet("middle_block.0", "mid_block.resnets.0")
    if config.mid_depth:
        yield "middle_block.1", "mid_block.attentions.0"
        yield from _resnet("middle_block.2", "mid_block.resnets.1")


def _unet_up(config: UNetConfig) -> Iterator[tuple[str, str]]:
    block = 0
    for level, depths in enumerate(config.up_depths):
        for layer, depth in enumerate(depths):
            yield from _resnet(f"output_blocks.{block}.0", f"up_blocks.{level}.resnets.{layer}")
            if depth:
                yield f"output_blocks.{block}.1", f"up_blocks.{level}.attentions.{layer}"
            if layer == len(depths) - 1 and level < len(config.up_depths) - 1:
                position = 2 if depth else 1
                yield f"output_blocks.{block}.{position}.conv", f"up_blocks.{level}.upsamplers.0.conv"
            block += 1


def vae_modules(config: VaeConfig) -> Modules:
    """Original module path -> diffusers' path, for the autoencoder of ``config``."""
    levels = len(config.channel_mult)
    modules = {
        "encoder.norm_out": "encoder.conv_norm_out",
        "decoder.norm_out": "decoder.conv_norm_out",
    }
    for level in range(levels):
        # the original counts the decoder's levels from the finest, diffusers in the order they run
        up = levels - 1 - level
        modules[f"encoder.down.{level}.downsample"] = f"encoder.down_blocks.{level}.downsamplers.0"
        modules[f"decoder.up.{level}.upsample"] = f"decoder.up_blocks.{up}.upsamplers.0"
        for layer in range(config.res_blocks + 1):
            modules |= _vae_resnet(
                f"encoder.down.{level}.block.{layer}", f"encoder.down_blocks.{level}.resnets.{layer}"
            )
            modules |= _vae_resnet(f"decoder.up.{level}.block.{layer}", f"decoder.up_blocks.{up}.resnets.{layer}")
    for side in ("encoder", "decoder"):
        modules |= {f"{side}.mid.block_{n + 1}": f"{side}.mid_block.resnets.{n}" for n in (0, 1)}
        for old, new in VAE_ATTENTION.items():
            modules[f"{side}.mid.attn_1.{old}"] = f"{side}.mid_block.attentions.0.{new}"
    return modules


def _vae_resnet(old: str, new: str) -> Modules:
    return {old: new, f"{old}.nin_shortcut": f"{new}.conv_shortcut"}


def old_folder_vae_modules() -> Modules:
    """Module paths of autoencoder folders that diffusers wrote before 0.15 -> today's paths."""
    return {
        f"{side}.mid_block.attentions.0.{old}": f"{side}.mid_block.attentions.0.{new}"
        for side in ("encoder", "decoder")
        for old, new in OLD_VAE_ATTENTION.items()
    }


def rename(name: str, modules: Modules) -> str:
    """``name`` with its longest leading module path that is in ``modules`` replaced."""
    end = len(name)
    while (end := name.rfind(".", 0, end)) > 0:
        if name[:end] in modules:
            return modules[name[:end]] + name[end:]
    return name


def is_ignorable(name: str) -> bool:
    """Whether a tensor (its prefix taken off) is known to be of no use for making pictures."""
    return name.endswith(IGNORED_SUFFIXES) or name in IGNORED_NAMES or name.startswith(IGNORED_PREFIXES)


def bind(found: Names, found_shapes: Shapes, wanted: Shapes, what: str) -> dict[str, Stored]:
    """Hold a file's tensors against a network.

    Args:
        found: name in the network -> where it is in the file, for all tensors of the part.
        found_shapes: shapes by the name in the file.
        wanted: shapes by the name in the network.
        what: the part's name in messages.

    Returns:
        name in the network -> where it is in the file, exactly for the names in ``wanted``.

    Raises:
        ModelFileError: a tensor is missing, is left over, or has a shape that even reshaping does not fit.
    """
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise ModelFileError(
            f"expected {len(wanted)} tensors in the {what}, found {len(missing)} missing: {some(missing)}"
        )
    extra = sorted({old.name for new, old in found.items() if new not in wanted and not is_ignorable(new)})
    if extra:
        raise ModelFileError(f"expected {len(wanted)} tensors in the {what}, found {len(extra)} more: {some(extra)}")
    for name, shape in wanted.items():
        old = found[name]
        stored = found_shapes[old.name]
        if (old.pieces > 1 and (not stored or stored[0] % old.pieces)) or not same_layer(old.shape(stored), shape):
            raise ModelFileError(
                f"expected shape {list(shape)} of {name} in the {what}, found {list(stored)} in {old.name}; "
                "the file is of another family"
            )
    return {name: found[name] for name in wanted}


def same_layer(found: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether two shapes are equal but for trailing ones: a 1x1 convolution is a linear layer over channels."""
    return _without_trailing_ones(found) == _without_trailing_ones(wanted)


def _without_trailing_ones(shape: Sequence[int]) -> tuple[int, ...]:
    end = len(shape)
    while end and shape[end - 1] == 1:
        end -= 1
    return tuple(shape[:end])


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
