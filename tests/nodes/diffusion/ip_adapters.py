"""IP-Adapters with random weights in the layouts of released files, for UNets of any size, and diffusers' UNets that have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from nodes.diffusion.configs import UNetConfig
from nodes.diffusion.library_arguments import unet_arguments

Half = dict[str, Tensor]


def widths(unet: UNet2DConditionModel) -> list[int]:
    """Of the cross attentions, in the order in which diffusers lists them."""
    modules = dict(unet.named_modules())
    names = [name.removesuffix(".processor") for name in unet.attn_processors if ".attn2." in name]
    return [modules[name].to_q.in_features for name in names]


def drawn(shapes: Iterable[tuple[str, tuple[int, ...]]], seed: int) -> Half:
    """Noise by fan-in; norms are about one."""
    draw = torch.Generator().manual_seed(seed)

    def one(name: str, shape: tuple[int, ...]) -> Tensor:
        noise: Tensor = torch.randn(shape, generator=draw) / max(shape[-1] if len(shape) > 1 else 50, 1) ** 0.5
        return 1 + noise if len(shape) == 1 and name.endswith("weight") else noise

    return {name: one(name, shape) for name, shape in shapes}


def linear(name: str, outputs: int, inputs: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,))]


def norm(name: str, width: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def base(width: int, reads: int, tokens: int = 4) -> Half:
    """The projection of ip-adapter_sd15."""
    return drawn([*linear("proj", tokens * width, reads), *norm("norm", width)], 1)


def full(width: int, reads: int) -> Half:
    """That of ip-adapter-full-face_sd15."""
    return drawn([*linear("proj.0", reads, reads), *linear("proj.2", width, reads), *norm("proj.3", width)], 2)


def plus(width: int, reads: int, tokens: int = 16, inner: int = 128, depth: int = 4) -> Half:
    """That of ip-adapter-plus_sd15: a resampler with heads of 64."""
    shapes: list[tuple[str, tuple[int, ...]]] = [("latents", (1, tokens, inner))]
    shapes += [*linear("proj_in", inner, reads), *linear("proj_out", width, inner), *norm("norm_out", width)]
    for layer in (f"layers.{number}" for number in range(depth)):
        shapes += [*norm(f"{layer}.0.norm1", inner), *norm(f"{layer}.0.norm2", inner)]
        shapes += [(f"{layer}.0.to_q.weight", (inner, inner)), (f"{layer}.0.to_kv.weight", (2 * inner, inner))]
        shapes += [(f"{layer}.0.to_out.weight", (inner, inner)), *norm(f"{layer}.1.0", inner)]
        shapes += [(f"{layer}.1.1.weight", (4 * inner, inner)), (f"{layer}.1.3.weight", (inner, 4 * inner))]
    return drawn(shapes, 3)


def layers(attentions: list[int], width: int, seed: int = 4) -> Half:
    """The key and value layers: odd numbers, since the even ones are self attentions'."""
    names = [
        (f"{2 * number + 1}.to_{part}_ip.weight", outputs) for number, outputs in enumerate(attentions) for part in "kv"
    ]
    return drawn([(name, (outputs, width)) for name, outputs in names], seed)


def whole(projection: Half, own: Half) -> Half:
    """A file of both."""
    return {f"image_proj.{name}": it for name, it in projection.items()} | {
        f"ip_adapter.{name}": it for name, it in own.items()
    }


def halves(file: Half) -> dict[str, Half]:
    """The same as a pickle holds it."""
    return {
        half: {name.removeprefix(f"{half}."): it for name, it in file.items() if name.startswith(f"{half}.")}
        for half in ("image_proj", "ip_adapter")
    }


def of_kind(kind: str, unet: UNet2DConditionModel, reads: int, seed: int = 4) -> Half:
    """A file for ``unet``."""
    width = unet.config.cross_attention_dim
    projection = {"base": base, "full": full, "plus": plus}[kind](width, reads)
    return whole(projection, layers(widths(unet), width, seed))


def reference(config: UNetConfig, weights: dict[str, Tensor], *files: Half) -> UNet2DConditionModel:
    """diffusers' UNet of those weights, with its own reading of the adapters."""
    unet = UNet2DConditionModel(**unet_arguments(config))
    unet.load_state_dict(weights)
    if files:
        unet._load_ip_adapter_weights([halves(file) for file in files], low_cpu_mem_usage=False)
    return unet.requires_grad_(False).eval()


def scale(unet: UNet2DConditionModel, *scales: float) -> None:
    """The weight of each of its adapters."""
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = list(scales)


def seeing(unet: UNet2DConditionModel, toward: list[Tensor], away: list[Tensor]) -> Any:
    """``unet`` as a network that sees pictures [n,...] by each adapter: all of them in every sample, ``away`` in the second half."""

    def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        half = len(x) // 2
        embeds = [
            torch.cat([t[None].expand(half, *t.shape), a[None].expand(half, *a.shape)])
            for t, a in zip(toward, away, strict=True)
        ]
        added = {"image_embeds": embeds}
        out: Tensor = unet(x, timestep, context, added_cond_kwargs=added, return_dict=False, **inputs)[0]
        return out

    return network
