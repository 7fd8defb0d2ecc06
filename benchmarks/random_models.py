"""Checkpoints of random weights for every family of models, in the true layouts, at the true size or much smaller.

    python -m benchmarks.random_models FAMILY FILE [--small] [--dtype float32|float16]

The layouts are spelled out here on their own, so that they can also serve as a check of the code that reads such files.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from benchmarks.random_sd15 import (
    CODES,
    Named,
    Shape,
    Sizes,
    layer,
    text,
    transformer,
    unet_resnet,
    vae,
    write_shapes,
)

UNET: Final = "model.diffusion_model."
VAE: Final = "first_stage_model."


@dataclass(frozen=True, slots=True)
class UNet:
    """A UNet: transformer blocks behind each residual block, level by level down, and from the coarsest up."""

    down: tuple[tuple[int, ...], ...]
    up: tuple[tuple[int, ...], ...]
    middle: int | None
    """Transformer blocks in the middle; 0 is one residual block alone, None nothing."""
    mult: tuple[int, ...]
    context: int
    channels: int = 320
    inputs: int = 4
    vector: int | None = None
    linear: bool = False
    classes: int | None = None
    """Noise levels of a picture beside the latent."""
    text_alone: tuple[bool, ...] = ()
    """Levels whose attention reads the text alone."""

    def named(self) -> Named:
        base, embedding = self.channels, 4 * self.channels
        yield from layer("time_embed.0", embedding, base)
        yield from layer("time_embed.2", embedding, embedding)
        if self.vector is not None:
            yield from layer("label_emb.0.0", embedding, self.vector)
            yield from layer("label_emb.0.2", embedding, embedding)
        yield from layer("input_blocks.0.0", base, self.inputs, 3, 3)
        if self.classes is not None:
            yield "label_emb.weight", (self.classes, embedding)
        skips, block, width = [base], 1, base
        for level, depths in enumerate(self.down):
            for depth in depths:
                yield from unet_resnet(f"input_blocks.{block}.0", width, base * self.mult[level], embedding)
                width = base * self.mult[level]
                if depth:
                    yield from self._transformer(f"input_blocks.{block}.1", width, depth, level)
                skips.append(width)
                block += 1
            if level < len(self.mult) - 1:
                yield from layer(f"input_blocks.{block}.0.op", width, width, 3, 3)
                skips.append(width)
                block += 1
        yield from self._middle(width, embedding)
        yield from self._up(skips, width, embedding)
        yield from layer("out.0", base)
        yield from layer("out.2", 4, base, 3, 3)

    def _transformer(self, name: str, width: int, depth: int, level: int) -> Named:
        alone = bool(self.text_alone) and self.text_alone[level]
        yield from transformer(name, width, self.context, self.linear, depth, text_alone=alone)

    def _middle(self, width: int, embedding: int) -> Named:
        if self.middle is None:
            return
        yield from unet_resnet("middle_block.0", width, width, embedding)
        if self.middle:
            yield from transformer("middle_block.1", width, self.context, self.linear, self.middle)
            yield from unet_resnet("middle_block.2", width, width, embedding)

    def _up(self, skips: list[int], width: int, embedding: int) -> Named:
        block = 0
        for level, depths in zip(reversed(range(len(self.mult))), self.up, strict=True):
            after = self.channels * self.mult[level]
            for number, depth in enumerate(depths):
                yield from unet_resnet(f"output_blocks.{block}.0", width + skips.pop(), after, embedding)
                width = after
                if depth:
                    yield from self._transformer(f"output_blocks.{block}.1", width, depth, level)
                if level and number == len(depths) - 1:
                    yield from layer(f"output_blocks.{block}.{2 if depth else 1}.conv", width, width, 3, 3)
                block += 1


@dataclass(frozen=True, slots=True)
class OpenClip:
    """A text tower in the layout of open_clip."""

    width: int
    layers: int
    vocabulary: int = 49408

    def named(self) -> Named:
        yield "positional_embedding", (77, self.width)
        yield "text_projection", (self.width, self.width)
        yield "logit_scale", (1,)
        yield "token_embedding.weight", (self.vocabulary, self.width)
        for number in range(self.layers):
            name = f"transformer.resblocks.{number}"
            yield f"{name}.attn.in_proj_weight", (3 * self.width, self.width)
            yield f"{name}.attn.in_proj_bias", (3 * self.width,)
            yield from layer(f"{name}.attn.out_proj", self.width, self.width)
            yield from layer(f"{name}.ln_1", self.width)
            yield from layer(f"{name}.ln_2", self.width)
            yield from layer(f"{name}.mlp.c_fc", 4 * self.width, self.width)
            yield from layer(f"{name}.mlp.c_proj", self.width, 4 * self.width)
        yield from layer("ln_final", self.width)


@dataclass(frozen=True, slots=True)
class Clip:
    """A text tower in the layout of transformers, with the projection that newer files hold."""

    width: int
    layers: int
    vocabulary: int = 49408
    is_projected: bool = False

    def named(self) -> Named:
        sizes = Sizes(width=self.width, layers=self.layers, vocabulary=self.vocabulary)
        for name, shape in text(sizes):
            yield f"text_model.{name}", shape
        if self.is_projected:
            yield "text_projection.weight", (self.width, self.width)


@dataclass(frozen=True, slots=True)
class T5:
    """T5's encoder, version 1.1."""

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int = 32128

    def named(self) -> Named:
        yield "shared.weight", (self.vocabulary, self.width)
        for number in range(self.layers):
            name = f"encoder.block.{number}.layer"
            for part in ("q", "k", "v"):
                yield f"{name}.0.SelfAttention.{part}.weight", (64 * self.heads, self.width)
            yield f"{name}.0.SelfAttention.o.weight", (self.width, 64 * self.heads)
            if number == 0:
                yield f"{name}.0.SelfAttention.relative_attention_bias.weight", (32, self.heads)
            yield f"{name}.0.layer_norm.weight", (self.width,)
            yield f"{name}.1.DenseReluDense.wi_0.weight", (self.inner, self.width)
            yield f"{name}.1.DenseReluDense.wi_1.weight", (self.inner, self.width)
            yield f"{name}.1.DenseReluDense.wo.weight", (self.width, self.inner)
            yield f"{name}.1.layer_norm.weight", (self.width,)
        yield "encoder.final_layer_norm.weight", (self.width,)


@dataclass(frozen=True, slots=True)
class Transformer:
    """Stable Diffusion 3's transformer (Esser et al. 2024): as wide as 64 times its layers."""

    layers: int
    context: int = 4096
    pooled: int = 2048
    positions: int = 192
    dual: int = 0
    """Layers, from the first, that attend to the picture a second time."""
    is_normed: bool = False
    """Whether queries and keys are normed."""
    channels: int = 16

    def named(self) -> Named:
        width = 64 * self.layers
        yield "pos_embed", (1, self.positions**2, width)
        yield from layer("x_embedder.proj", width, self.channels, 2, 2)
        yield from layer("t_embedder.mlp.0", width, 256)
        yield from layer("t_embedder.mlp.2", width, width)
        yield from layer("y_embedder.mlp.0", width, self.pooled)
        yield from layer("y_embedder.mlp.2", width, width)
        yield from layer("context_embedder", width, self.context)
        for number in range(self.layers):
            yield from self._side(f"joint_blocks.{number}.context_block", is_last=number == self.layers - 1)
            yield from self._side(f"joint_blocks.{number}.x_block", is_dual=number < self.dual)
        yield from layer("final_layer.linear", 4 * self.channels, width)
        yield from layer("final_layer.adaLN_modulation.1", 2 * width, width)

    def _side(self, name: str, *, is_last: bool = False, is_dual: bool = False) -> Named:
        width = 64 * self.layers
        for attention in ("attn", "attn2") if is_dual else ("attn",):
            yield from layer(f"{name}.{attention}.qkv", 3 * width, width)
            if not is_last:
                yield from layer(f"{name}.{attention}.proj", width, width)
            for part in ("ln_q", "ln_k") if self.is_normed else ():
                yield f"{name}.{attention}.{part}.weight", (64,)
        yield from layer(f"{name}.adaLN_modulation.1", (2 if is_last else 9 if is_dual else 6) * width, width)
        if not is_last:
            yield from layer(f"{name}.mlp.fc1", 4 * width, width)
            yield from layer(f"{name}.mlp.fc2", width, 4 * width)


Network = UNet | Transformer
Texts = Mapping[str, OpenClip | Clip | T5]
"""By prefix."""


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint."""

    network: Network
    texts: Texts
    sizes: Sizes = field(default_factory=Sizes)
    """The autoencoder's."""

    def shapes(self) -> dict[str, Shape]:
        """Name and shape of every tensor."""
        parts = {UNET: self.network.named(), VAE: vae(self.sizes)}
        parts |= {prefix: tower.named() for prefix, tower in self.texts.items()}
        return {prefix + name: shape for prefix, named in parts.items() for name, shape in named}


_SD = "cond_stage_model.transformer."
_OPEN = "cond_stage_model.model."
_XL_L, _XL_G, _REFINER_G = (
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.1.model.",
    "conditioner.embedders.0.model.",
)
_SD3_L, _SD3_G, _SD3_T5 = (f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl"))


def even(depths: tuple[int, ...], blocks: int = 2) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Depths of the way down and of the way up where all blocks of a level have as many."""
    return tuple((depth,) * blocks for depth in depths), tuple((depth,) * (blocks + 1) for depth in reversed(depths))


def _models(*, small: bool) -> dict[str, Model]:
    """Every family; ``small`` keeps what tells them apart and shrinks all else."""
    base = 64 if small else 320
    wide = (1, 2, 2, 2) if small else (1, 2, 4, 4)
    xl = (1, 2, 2) if small else (1, 2, 4)
    l_width, h_width, g_width = (64, 128, 64) if small else (768, 1024, 1280)
    depth = 3 if small else 0
    words = 49408
    sizes = Sizes(vae_channels=32, vae_mult=(1, 1, 1, 1), vae_blocks=1) if small else Sizes()
    clip_l = Clip(l_width, depth or 12, words)
    big_g = OpenClip(g_width, depth or 32, words)
    both = l_width + g_width
    one = even((1, 1, 1, 0))
    sd1 = Model(UNet(*one, middle=1, mult=wide, context=l_width, channels=base), {_SD: clip_l}, sizes)
    sd2 = Model(
        UNet(*one, middle=1, mult=wide, context=h_width, channels=base, linear=True),
        {_OPEN: OpenClip(h_width, depth or 24, words)},
        sizes,
    )
    deep = (0, 2, 3 if small else 10)
    vector = g_width + 6 * 256
    sdxl = Model(
        UNet(*even(deep), middle=deep[-1], mult=xl, context=both, channels=base, vector=vector, linear=True),
        {_XL_L: clip_l, _XL_G: big_g},
        sizes,
    )
    refined = even((0, 2 if small else 4, 2 if small else 4, 0))
    refiner = UNet(
        *refined,
        middle=2 if small else 4,
        mult=wide,
        context=g_width,
        channels=base if small else 384,
        vector=g_width + 5 * 256,
        linear=True,
    )
    bk = even((1, 1, 1, 1), 1)
    base_up = even((1, 1, 1, 0), 1)

    def unet(model: Model, **changes: object) -> Model:
        assert isinstance(model.network, UNet)
        return replace(model, network=replace(model.network, **changes))  # type: ignore[arg-type]

    ssd_down, ssd_up = ((0, 0), (2, 2), (4, 4)), ((4, 4, 10), (2, 1, 1), (0, 0, 0))
    vega_down, vega_up = ((0, 0), (1, 1), (2, 2)), ((2, 2, 2), (1, 1, 1), (0, 0, 0))
    return {
        "sd15": sd1,
        "sd15-inpainting": unet(sd1, inputs=9),
        "sd15-pix2pix": unet(sd1, inputs=8),
        "bk-sdm-base": unet(sd1, down=base_up[0], up=base_up[1]),
        "bk-sdm-small": unet(sd1, down=base_up[0], up=base_up[1], middle=None),
        "bk-sdm-tiny": unet(sd1, down=bk[0][:3], up=bk[1][1:], middle=None, mult=wide[:3]),
        "sd2": sd2,
        "sd2-inpainting": unet(sd2, inputs=9),
        "sd2-depth": unet(sd2, inputs=5),
        "x4-upscaler": Model(
            UNet(
                *even((0, 1, 1, 1)),
                middle=1,
                mult=(1, 2, 2, 4),
                context=h_width,
                channels=32 if small else 256,
                inputs=7,
                linear=True,
                classes=1000,
                text_alone=(False, True, True, False),
            ),
            {_OPEN: OpenClip(h_width, depth or 24, words)},
            replace(sizes, vae_mult=(1, 1, 1) if small else (1, 2, 4)),
        ),
        "sdxl": sdxl,
        "sdxl-inpainting": unet(sdxl, inputs=9),
        "refiner": Model(refiner, {_REFINER_G: big_g}, sizes),
        "ssd-1b": unet(sdxl, down=ssd_down, up=ssd_up, middle=0),
        "vega": unet(sdxl, down=vega_down, up=vega_up, middle=0),
        **_transformers(
            replace(clip_l, is_projected=True), Clip(g_width, depth or 32, words, True), sizes, small=small
        ),
    }


def _transformers(clip_l: Clip, clip_g: Clip, sizes: Sizes, *, small: bool) -> dict[str, Model]:
    """Stable Diffusion 3's."""
    latent16 = replace(sizes, latent=16, quant_convs=False)
    medium = Transformer(2, context=256, pooled=clip_l.width + clip_g.width, positions=16) if small else Transformer(24)
    texts: Texts = {_SD3_L: clip_l, _SD3_G: clip_g}
    all_texts: Texts = {**texts, _SD3_T5: T5(256, 2, 2, 128, 300) if small else T5(4096, 24, 64, 10240)}
    normed = replace(medium, layers=3 if small else 24, positions=24 if small else 384, is_normed=True)
    return {
        "sd3": Model(medium, texts, latent16),
        "sd3-t5": Model(medium, all_texts, latent16),
        "sd35-medium": Model(replace(normed, dual=2 if small else 13), all_texts, latent16),
        "sd35-large": Model(
            replace(normed, layers=3 if small else 38, positions=medium.positions), all_texts, latent16
        ),
    }


TRUE: Final = _models(small=False)
"""At the size of the released models."""
SMALL: Final = _models(small=True)
"""A few megabytes each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=TRUE)
    parser.add_argument("file", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--dtype", choices=CODES, default="float32")
    arguments = parser.parse_args()
    shapes = (SMALL if arguments.small else TRUE)[arguments.family].shapes()
    write_shapes(arguments.file, shapes, arguments.dtype)
    print(
        f"{arguments.file}: {sum(map(math.prod, shapes.values())):,} numbers, {arguments.file.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    main()
