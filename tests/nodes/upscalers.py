"""Small upscalers with random weights, in the layouts that their kinds are released in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


def _state(make: Callable[[], nn.Module]) -> Weights:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return {name: tensor.clone() for name, tensor in make().state_dict().items()}


def compact(scale: int = 2, channels: int = 3, features: int = 8, layers: int = 2) -> Weights:
    """Real-ESRGAN's compact network. All of its weights zero, it repeats each pixel ``scale`` times either way."""
    from spandrel.architectures.Compact import Compact

    return _state(
        lambda: Compact(num_in_ch=channels, num_out_ch=channels, num_feat=features, num_conv=layers, upscale=scale)
    )


def nearest(scale: int, channels: int = 3) -> Weights:
    """An upscaler that repeats pixels, and does nothing else."""
    return {name: torch.zeros_like(tensor) for name, tensor in compact(scale, channels).items()}


def rrdb(channels: int = 3, features: int = 8, blocks: int = 1, scale: int = 4) -> Weights:
    """ESRGAN's network (Wang et al. 2018) by the names of Real-ESRGAN's files."""
    convolutions = {"conv_first": (channels, features), "conv_body": (features, features)}
    for block in range(blocks):
        for dense in (1, 2, 3):
            for layer in range(1, 6):
                seen, made = features + (layer - 1) * 32, 32 if layer < 5 else features
                convolutions[f"body.{block}.rdb{dense}.conv{layer}"] = (seen, made)
    for name in ("conv_up1", "conv_up2")[: {1: 0, 2: 1, 4: 2}[scale]]:
        convolutions[name] = (features, features)
    convolutions |= {"conv_hr": (features, features), "conv_last": (features, 3)}
    generator = torch.Generator().manual_seed(0)
    weights: Weights = {}
    for name, (seen, made) in convolutions.items():
        weights[f"{name}.weight"] = torch.randn(made, seen, 3, 3, generator=generator) * (0.5 / (seen * 9) ** 0.5)
        weights[f"{name}.bias"] = torch.rand(made, generator=generator) * 0.2
    return weights


def esrgan() -> Weights:
    """The same network by the names of ESRGAN's first files."""
    from spandrel.architectures.ESRGAN import ESRGAN

    return _state(lambda: ESRGAN(num_filters=8, num_blocks=1, scale=4))


def span() -> Weights:
    from spandrel.architectures.SPAN import SPAN

    return _state(lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2))


def swin_ir() -> Weights:
    from spandrel.architectures.SwinIR import SwinIR

    return _state(
        lambda: SwinIR(
            img_size=16, depths=[2], embed_dim=12, num_heads=[2], window_size=8, upscale=2, upsampler="pixelshuffle"
        )
    )


def hat() -> Weights:
    from spandrel.architectures.HAT import HAT

    return _state(
        lambda: HAT(
            img_size=16, depths=[2], embed_dim=32, num_heads=[2], window_size=8, upscale=2, upsampler="pixelshuffle",
            mlp_ratio=2,
        )
    )  # fmt: skip


def dat() -> Weights:
    from spandrel.architectures.DAT import DAT

    return _state(
        lambda: DAT(
            img_size=16, split_size=[2, 4], depth=[2], embed_dim=16, num_heads=[2], expansion_factor=2.0, upscale=2
        )
    )


KINDS: Mapping[str, Callable[[], Weights]] = {
    "compact": compact,
    "esrgan": esrgan,
    "real_esrgan_x4": rrdb,
    "real_esrgan_x2": lambda: rrdb(channels=12),
    "span": span,
    "swin_ir": swin_ir,
    "hat": hat,
    "dat": dat,
}
"""By name; Real-ESRGAN makes a picture twice as large by folding it to half its size first."""


def by_library(weights: Weights, pictures: Tensor) -> Tensor:
    """Pictures [1,H,W,C] as spandrel alone makes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spandrel import ModelLoader

        network: Any = ModelLoader().load_from_state_dict(dict(weights))
        network.eval()
        result: Tensor = network(pictures.movedim(-1, 1).contiguous())
    return result.movedim(1, -1)
