"""Write a Stable Diffusion 1.5 checkpoint of random weights, in the true layout and at the true size.

    python -m benchmarks.random_sd15 FILE [--dtype float32|float16]

The layout is spelled out here on its own, from the networks' papers, so that it can also serve as a check of the code that
reads such files. With other widths the same functions give a checkpoint of any size.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import numpy as np

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]
FloatType = Literal["float32", "float16"]

CODES: Final[Mapping[FloatType, str]] = {"float32": "F32", "float16": "F16"}
_BLOCK: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Sizes:
    """Widths and depths; the defaults are those of Stable Diffusion 1.5."""

    channels: int = 320
    mult: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)
    vae_channels: int = 128
    vae_mult: tuple[int, ...] = (1, 2, 4, 4)
    vae_blocks: int = 2
    width: int = 768
    layers: int = 12
    vocabulary: int = 49408
    latent: int = 4
    linear: bool = False
    """Whether the transformers' projections are linear layers, not 1x1 convolutions."""
    quant_convs: bool = True


def layer(name: str, *shape: int) -> Named:
    """A weight of this shape and the bias beside it."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def unet_resnet(name: str, before: int, after: int, embedding: int) -> Named:
    yield from layer(f"{name}.in_layers.0", before)
    yield from layer(f"{name}.in_layers.2", after, before, 3, 3)
    yield from layer(f"{name}.emb_layers.1", after, embedding)
    yield from layer(f"{name}.out_layers.0", after)
    yield from layer(f"{name}.out_layers.3", after, after, 3, 3)
    if before != after:
        yield from layer(f"{name}.skip_connection", after, before, 1, 1)


def attention(name: str, width: int, context: int) -> Named:
    yield f"{name}.to_q.weight", (width, width)
    yield f"{name}.to_k.weight", (width, context)
    yield f"{name}.to_v.weight", (width, context)
    yield from layer(f"{name}.to_out.0", width, width)


def transformer(
    name: str, width: int, context: int, linear: bool, depth: int = 1, *, text_alone: bool = False
) -> Named:
    projection = (width, width) if linear else (width, width, 1, 1)
    yield from layer(f"{name}.norm", width)
    yield from layer(f"{name}.proj_in", *projection)
    for block in (f"{name}.transformer_blocks.{number}" for number in range(depth)):
        yield from attention(f"{block}.attn1", width, context if text_alone else width)
        yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from layer(f"{block}.ff.net.2", width, 4 * width)
        yield from attention(f"{block}.attn2", width, context)
        for number in (1, 2, 3):
            yield from layer(f"{block}.norm{number}", width)
    yield from layer(f"{name}.proj_out", *projection)


def unet(sizes: Sizes) -> Named:
    """The UNet of Rombach et al. 2022, without its prefix."""
    base, embedding = sizes.channels, 4 * sizes.channels
    yield from layer("time_embed.0", embedding, base)
    yield from layer("time_embed.2", embedding, embedding)
    yield from layer("input_blocks.0.0", base, sizes.latent, 3, 3)
    skips, block, width = [base], 1, base
    for level, mult in enumerate(sizes.mult):
        for _ in range(sizes.blocks):
            yield from unet_resnet(f"input_blocks.{block}.0", width, base * mult, embedding)
            width = base * mult
            if sizes.attention[level]:
                yield from transformer(f"input_blocks.{block}.1", width, sizes.width, sizes.linear)
            skips.append(width)
            block += 1
        if level < len(sizes.mult) - 1:
            yield from layer(f"input_blocks.{block}.0.op", width, width, 3, 3)
            skips.append(width)
            block += 1
    yield from unet_resnet("middle_block.0", width, width, embedding)
    yield from transformer("middle_block.1", width, sizes.width, sizes.linear)
    yield from unet_resnet("middle_block.2", width, width, embedding)
    yield from unet_up(sizes, skips, width)
    yield from layer("out.0", base)
    yield from layer("out.2", sizes.latent, base, 3, 3)


def unet_up(sizes: Sizes, skips: list[int], width: int) -> Named:
    """The way up: every block takes the output of one block of the way down beside its own."""
    block = 0
    for level in reversed(range(len(sizes.mult))):
        for number in range(sizes.blocks + 1):
            name, after = f"output_blocks.{block}", sizes.channels * sizes.mult[level]
            yield from unet_resnet(f"{name}.0", width + skips.pop(), after, 4 * sizes.channels)
            width = after
            if sizes.attention[level]:
                yield from transformer(f"{name}.1", width, sizes.width, sizes.linear)
            if level and number == sizes.blocks:
                yield from layer(f"{name}.{1 + sizes.attention[level]}.conv", width, width, 3, 3)
            block += 1


def vae_resnet(name: str, before: int, after: int) -> Named:
    yield from layer(f"{name}.norm1", before)
    yield from layer(f"{name}.conv1", after, before, 3, 3)
    yield from layer(f"{name}.norm2", after)
    yield from layer(f"{name}.conv2", after, after, 3, 3)
    if before != after:
        yield from layer(f"{name}.nin_shortcut", after, before, 1, 1)


def vae_middle(name: str, width: int) -> Named:
    yield from vae_resnet(f"{name}.block_1", width, width)
    yield from layer(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from layer(f"{name}.attn_1.{part}", width, width, 1, 1)
    yield from vae_resnet(f"{name}.block_2", width, width)


def vae(sizes: Sizes) -> Named:
    """The autoencoder, without its prefix."""
    widths = [sizes.vae_channels * mult for mult in sizes.vae_mult]
    yield from layer("encoder.conv_in", widths[0], 3, 3, 3)
    for level, (before, after) in enumerate(pairwise([widths[0], *widths])):
        for number in range(sizes.vae_blocks):
            yield from vae_resnet(f"encoder.down.{level}.block.{number}", after if number else before, after)
        if level < len(widths) - 1:
            yield from layer(f"encoder.down.{level}.downsample.conv", after, after, 3, 3)
    yield from vae_middle("encoder.mid", widths[-1])
    yield from layer("encoder.norm_out", widths[-1])
    yield from layer("encoder.conv_out", 2 * sizes.latent, widths[-1], 3, 3)
    yield from layer("decoder.conv_in", widths[-1], sizes.latent, 3, 3)
    yield from vae_middle("decoder.mid", widths[-1])
    for level, (before, after) in zip(reversed(range(len(widths))), pairwise([widths[-1], *widths[::-1]]), strict=True):
        for number in range(sizes.vae_blocks + 1):
            yield from vae_resnet(f"decoder.up.{level}.block.{number}", after if number else before, after)
        if level:
            yield from layer(f"decoder.up.{level}.upsample.conv", after, after, 3, 3)
    yield from layer("decoder.norm_out", widths[0])
    yield from layer("decoder.conv_out", 3, widths[0], 3, 3)
    if sizes.quant_convs:
        yield from layer("quant_conv", 2 * sizes.latent, 2 * sizes.latent, 1, 1)
        yield from layer("post_quant_conv", sizes.latent, sizes.latent, 1, 1)


def text(sizes: Sizes) -> Named:
    """CLIP's text tower, without its prefix."""
    yield "embeddings.token_embedding.weight", (sizes.vocabulary, sizes.width)
    yield "embeddings.position_embedding.weight", (77, sizes.width)
    for number in range(sizes.layers):
        name = f"encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from layer(f"{name}.self_attn.{part}", sizes.width, sizes.width)
        yield from layer(f"{name}.layer_norm1", sizes.width)
        yield from layer(f"{name}.layer_norm2", sizes.width)
        yield from layer(f"{name}.mlp.fc1", 4 * sizes.width, sizes.width)
        yield from layer(f"{name}.mlp.fc2", sizes.width, 4 * sizes.width)
    yield from layer("final_layer_norm", sizes.width)


def checkpoint(sizes: Sizes) -> dict[str, Shape]:
    """Name and shape of every tensor of a checkpoint."""
    parts = {
        "model.diffusion_model.": unet(sizes),
        "first_stage_model.": vae(sizes),
        "cond_stage_model.transformer.text_model.": text(sizes),
    }
    return {prefix + name: shape for prefix, named in parts.items() for name, shape in named}


def write(path: Path, sizes: Sizes, dtype: FloatType, seed: int = 0) -> None:
    """Write a checkpoint of random weights."""
    write_shapes(path, checkpoint(sizes), dtype, seed)


def write_shapes(path: Path, shapes: Mapping[str, Shape], dtype: FloatType, seed: int = 0) -> None:
    """Write a file of random weights, scaled so that activations neither vanish nor overflow."""
    item = np.dtype(dtype).itemsize
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        end = position + math.prod(shape) * item
        header[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = np.random.default_rng(seed).standard_normal(_BLOCK, dtype=np.float32)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            for part in values(name, shape, noise):
                file.write(part.astype(dtype).tobytes())


def values(
    name: str, shape: Shape, noise: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """The numbers of one tensor: ones for a norm, nearly nothing for a bias, noise by fan-in for all else."""
    count = math.prod(shape)
    scale = 1 / math.sqrt(count / shape[0]) if len(shape) > 1 else 0.02
    offset = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
    for start in range(0, count, _BLOCK):
        yield noise[: min(_BLOCK, count - start)] * np.float32(scale) + np.float32(offset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--dtype", choices=CODES, default="float32")
    arguments = parser.parse_args()
    write(arguments.file, Sizes(), arguments.dtype)
    print(f"{arguments.file}: {arguments.file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
