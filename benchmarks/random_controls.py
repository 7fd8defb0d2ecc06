"""Names and shapes of ControlNets and T2I-Adapters in the layouts that they were released in, at the true size and small.

They are spelled out here on their own, as those of ``random_models`` are. The nets fit the models that have the same names there. Layouts
of diffusers are not among them: they are what its own classes save.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from benchmarks.random_models import SMALL as SMALL_MODELS
from benchmarks.random_models import TRUE as TRUE_MODELS
from benchmarks.random_models import Model, UNet
from benchmarks.random_sd15 import Named, Shape, layer

CLDM: Final = "control_model."
"""What stands before all names in checkpoints of lllyasviel's own code."""

HINT: Final = (16, 16, 32, 32, 96, 96, 256)
"""Widths of the convolutions for the picture, but for the last."""

_SHARED: Final = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")


def cldm(network: UNet, *, hint_channels: int = 3) -> dict[str, Shape]:
    """A ControlNet for ``network`` in the original layout, without its prefix."""
    shapes = {name: shape for name, shape in network.named() if name.startswith(_SHARED)}
    shapes["input_blocks.0.0.weight"] = (network.channels, 4, 3, 3)
    return shapes | dict(_beside(network, hint_channels))


def _beside(network: UNet, hint_channels: int) -> Named:
    """What a ControlNet has beside the copy of the way down."""
    base = network.channels
    for number, (before, after) in enumerate(pairwise((hint_channels, *HINT, base))):
        yield from layer(f"input_hint_block.{2 * number}", after, before, 3, 3)
    widths = [base]
    for level, depths in enumerate(network.down):
        width = base * network.mult[level]
        widths += [width] * (len(depths) + (level < len(network.down) - 1))
    for number, width in enumerate(widths):
        yield from layer(f"zero_convs.{number}.0", width, width, 1, 1)
    yield from layer("middle_block_out.0", widths[-1], widths[-1], 1, 1)


def control_lora(network: UNet, rank: int) -> dict[str, Shape]:
    """The same as changes of the model's own weights: factors for the larger ones, the rest whole."""
    shapes: dict[str, Shape] = {"lora_controlnet": ()}
    for name, shape in cldm(network).items():
        if name.startswith(_SHARED) and len(shape) > 1:
            module = name.removesuffix(".weight")
            ones = (1,) * (len(shape) - 2)
            shapes[f"{module}.up"] = (shape[0], rank, *ones)
            shapes[f"{module}.down"] = (rank, *shape[1:])
        else:
            shapes[name] = shape
    return shapes


def _resnet(name: str, width: int, kernel: int) -> Named:
    yield from layer(f"{name}.block1", width, width, 3, 3)
    yield from layer(f"{name}.block2", width, width, kernel, kernel)


def full_adapter(channels: tuple[int, ...], inputs: int) -> dict[str, Shape]:
    """A full T2I-Adapter as TencentARC stores it: two blocks a level; ``inputs`` are the channels of its first convolution."""

    def named() -> Named:
        yield from layer("conv_in", channels[0], inputs, 3, 3)
        for level, (before, after) in enumerate(pairwise((channels[0], *channels))):
            if before != after:
                yield from layer(f"body.{2 * level}.in_conv", after, before, 1, 1)
            for block in (2 * level, 2 * level + 1):
                yield from _resnet(f"body.{block}", after, 1)

    return dict(named())


def light_adapter(channels: tuple[int, ...], inputs: int) -> dict[str, Shape]:
    """A light T2I-Adapter as TencentARC stores it: four blocks a level, a quarter as wide."""

    def named() -> Named:
        for level, (before, after) in enumerate(pairwise((inputs, *channels))):
            yield from layer(f"body.{level}.in_conv", after // 4, before, 1, 1)
            for block in range(4):
                yield from _resnet(f"body.{level}.body.{block}", after // 4, 3)
            yield from layer(f"body.{level}.out_conv", after, after // 4, 1, 1)

    return dict(named())


def stability(layers: int, width: int, pooled: int = 2048) -> dict[str, Shape]:
    """A ControlNet of Stability's for Stable Diffusion 3.5, which begins with the model's own embedding and reads no text."""

    def named() -> Named:
        yield "control_type", ()
        yield from layer("pos_embed_input.proj", width, 16, 2, 2)
        for part, inputs in (("timestep", 256), ("text", pooled)):
            yield from layer(f"time_text_embed.{part}_embedder.linear_1", width, inputs)
            yield from layer(f"time_text_embed.{part}_embedder.linear_2", width, width)
        for number in range(layers):
            name = f"transformer_blocks.{number}"
            yield from layer(f"{name}.attn.qkv", 3 * width, width)
            yield from layer(f"{name}.attn.proj", width, width)
            yield from layer(f"{name}.mlp.fc1", 4 * width, width)
            yield from layer(f"{name}.mlp.fc2", width, 4 * width)
            yield from layer(f"{name}.adaLN_modulation.1", 6 * width, width)
            yield from layer(f"controlnet_blocks.{number}", width, width)

    return dict(named())


def _unet(model: Model) -> UNet:
    assert isinstance(model.network, UNet)
    return model.network


def _controls(models: Mapping[str, Model], rank: int) -> dict[str, dict[str, Shape]]:
    """Nets by name."""
    sd1, sd2, sdxl = (_unet(models[name]) for name in ("sd15", "sd2", "sdxl"))
    levels = tuple(sd1.channels * mult for mult in sd1.mult)
    large = tuple(sdxl.channels * mult for mult in sdxl.mult)
    return {
        "sd15": {CLDM + name: shape for name, shape in cldm(sd1).items()},
        "sd2": cldm(sd2),
        "sdxl": cldm(sdxl),
        "bk-sdm-base": cldm(_unet(models["bk-sdm-base"])),
        "sdxl-lora": control_lora(sdxl, rank),
        "sd15-lora": control_lora(sd1, rank),
        "sd15-adapter": full_adapter(levels, 3 * 64),
        "sd15-grey-adapter": full_adapter(levels, 64),
        "sd15-light-adapter": light_adapter(levels, 3 * 64),
        "sdxl-adapter": full_adapter((*large, large[-1]), 3 * 256),
    }


TRUE: Final = _controls(TRUE_MODELS, 128) | {"sd35": stability(19, 38 * 64)}
"""At the size of the released nets."""
SMALL: Final = _controls(SMALL_MODELS, 4) | {"sd35": stability(1, 128, 128)}
"""A few megabytes each."""
