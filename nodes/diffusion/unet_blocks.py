"""The blocks of diffusers' UNet, in the order and with the numbers that they have in the original one."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn


class InputBlock(NamedTuple):
    """A block on the way down. What its ``last`` module puts out is handed on, and over to the way up; ``first`` takes it in."""

    first: nn.Module
    last: nn.Module


class OutputBlock(NamedTuple):
    """A block on the way up. ``resnet`` takes what comes from below, with ``below`` channels, and behind it what was handed over."""

    resnet: nn.Module
    last: nn.Module
    upsampler: nn.Module | None
    below: int


def input_blocks(unet: Any) -> list[InputBlock]:
    """The way down: the first convolution, then residual blocks, each with its attention, and downsamplers."""
    blocks = [InputBlock(unet.conv_in, unet.conv_in)]
    for level in unet.down_blocks:
        blocks += [InputBlock(*pair) for pair in _with_attention(level)]
        blocks += [InputBlock(downsampler, downsampler) for downsampler in level.downsamplers or ()]
    return blocks


def adapted_blocks(unet: Any) -> list[int]:
    """Numbers of the input blocks that diffusers adds a T2I-Adapter's features behind, level by level.

    That is the last one with attention of a level, or of a level without attention its last one, the downsampler included.
    """
    found, last = [], 0
    for level in unet.down_blocks:
        count = len(level.resnets)
        downsamplers = len(level.downsamplers or ())
        has_attention = getattr(level, "has_cross_attention", False)
        found.append(last + count + (0 if has_attention else downsamplers))
        last += count + downsamplers
    return found


def output_blocks(unet: Any) -> list[OutputBlock]:
    """The way up: residual blocks, each with its attention, the last of a level with its upsampler."""
    blocks = []
    below = unet.config.block_out_channels[-1]
    for level in unet.up_blocks:
        pairs = _with_attention(level)
        for number, (resnet, last) in enumerate(pairs):
            upsampler = level.upsamplers[0] if level.upsamplers and number == len(pairs) - 1 else None
            blocks.append(OutputBlock(resnet, last, upsampler, below))
            below = resnet.out_channels
    return blocks


class Slot(NamedTuple):
    """A place of a module in another."""

    owner: nn.Module
    name: str

    @property
    def module(self) -> nn.Module:
        return self.owner.get_submodule(self.name)


def input_slots(unet: Any) -> list[list[Slot]]:
    """The modules of each input block but the first, from ``input_blocks``; that one has none."""
    blocks: list[list[Slot]] = [[]]
    for level in unet.down_blocks:
        blocks += _slots(level)
        blocks += [[Slot(level.downsamplers, str(number))] for number in range(len(level.downsamplers or ()))]
    return blocks


def output_slots(unet: Any) -> list[list[Slot]]:
    """The modules of each output block, from ``output_blocks``."""
    blocks: list[list[Slot]] = []
    for level in unet.up_blocks:
        blocks += _slots(level)
        blocks[-1] += [Slot(level.upsamplers, str(number)) for number in range(len(level.upsamplers or ()))]
    return blocks


def _slots(level: Any) -> list[list[Slot]]:
    lists = [level.resnets, *([level.attentions] if getattr(level, "attentions", None) else [])]
    return [[Slot(modules, str(number)) for modules in lists] for number in range(len(level.resnets))]


def after_input(unet: Any) -> nn.Module:
    """What takes in the output of the last input block."""
    module: nn.Module = unet.up_blocks[0] if unet.mid_block is None else unet.mid_block
    return module


def _with_attention(level: Any) -> list[tuple[Any, Any]]:
    """Each residual block with the module that ends its block."""
    attentions = getattr(level, "attentions", None) or level.resnets
    return list(zip(level.resnets, attentions, strict=True))


def self_attentions(module: nn.Module | None) -> list[Any]:
    """The attention of every transformer block in ``module`` to itself."""
    if module is None:
        return []
    blocks: list[Any] = [child for child in module.modules() if type(child).__name__ == "BasicTransformerBlock"]
    return [block.attn1 for block in blocks if not block.only_cross_attention]


class CrossAttention(NamedTuple):
    """An attention to what the model is told. ``number`` counts them on the way down, on the way up, then in the middle, as diffusers
    does; ``transformer`` counts transformers in the order in which they compute."""

    module: Any
    number: int
    transformer: int


def cross_attentions(unet: Any) -> list[CrossAttention]:
    """Every cross attention of a UNet, in the order of their numbers."""
    down, middle, up = (_transformers(part) for part in (unet.down_blocks, unet.mid_block, unet.up_blocks))
    counted = dict(zip(map(id, [*down, *middle, *up]), range(len(down) + len(middle) + len(up)), strict=True))
    placed = [(block.attn2, counted[id(it)]) for it in [*down, *up, *middle] for block in it.transformer_blocks]
    return [CrossAttention(module, number, place) for number, (module, place) in enumerate(placed)]


def _transformers(module: nn.Module | None) -> list[Any]:
    if module is None:
        return []
    return [child for child in module.modules() if type(child).__name__ == "Transformer2DModel"]
