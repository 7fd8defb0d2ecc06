"""An autoencoder layer by layer: each layer goes through the whole picture in tiles before the next one begins.

A network in tiles is another function than the whole one: group norms (Wu and He 2018) take their mean and variance, and attention
looks around, over what a tile shows. Between layers, though, the statistics of the whole are known, and a convolution needs but the cells
beside a tile. So the layers' outputs stay whole, in main memory, and on the device there is never more than a tile of one layer: the result
is that of the whole network but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, pad, scaled_dot_product_attention, silu

from nodes.diffusion.tiles import Box

MAPS: Final = 3
"""Layer outputs of the widest layer that are in main memory at once."""

_AROUND: Final = 2
"""Cells around a tile that are shown with it: a convolution needs one, one over every second cell an even number."""
_FEW: Final = 64
"""Layers of fewer channels are cut as if they had as many: there is more to a tile than what it begins with."""
_LAYERS: Final = {"ResnetBlock2D": 2, "Attention": 1, "Upsample2D": 1, "Downsample2D": 1}


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of each group of channels over a whole layer, float64 [groups] on the CPU, and of how many numbers."""

    mean: Tensor
    variance: Tensor
    count: int

    def beside(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances")."""
        count = self.count + other.count
        share = other.count / count
        apart = other.mean - self.mean
        variance = self.variance * (1 - share) + other.variance * share + apart**2 * share * (1 - share)
        return Moments(self.mean + apart * share, variance, count)


def moments_of(layer: Tensor, groups: int) -> Moments:
    """Of ``layer`` [1,C,h,w] on any device."""
    grouped = layer.float().reshape(groups, -1)
    variance, mean = torch.var_mean(grouped, dim=1, correction=0)
    return Moments(mean.double().cpu(), variance.double().cpu(), grouped.shape[1])


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's output for the whole picture, [1,C,h,w] in main memory, and its moments, where a norm comes next."""

    cells: Tensor
    moments: Moments | None = None


Run = Callable[[Tensor], Tensor]


class Layers:
    """Runs layers one after the other on ``device`` in ``dtype``, in tiles of at most ``numbers`` numbers; calls ``tell`` after each tile
    with how many layers are done."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, groups: int, numbers: int, tell: Callable[[int], None]
    ) -> None:
        self.device, self.dtype, self.groups, self.numbers = device, dtype, groups, numbers
        self._done = 0
        self._tell = tell

    def each(
        self,
        cells: Tensor,
        run: Run,
        *,
        beside: tuple[Tensor, Run] | None = None,
        grow: int = 1,
        shrink: int = 1,
        norm_next: bool = False,
    ) -> Layer:
        """``run`` over ``cells`` [1,C,h,w], tile by tile with some cells around it, of which the result is cut free again.

        ``beside`` is another layer of the result's size, and what is made of each cell of it to be added.
        """
        height, width = cells.shape[-2:]
        result: Tensor | None = None
        moments: Moments | None = None
        for tile in tiles(height, width, self._side(cells.shape[1], grow)):
            around = tile.grown(_AROUND, height, width)
            seen = run(around.of(cells).to(self.device, self.dtype))
            made = tile.beside(around).scaled(grow, shrink).of(seen)
            place = tile.scaled(grow, shrink)
            if beside is not None:
                made = made + beside[1](place.of(beside[0]).to(self.device, self.dtype))
            if norm_next:
                found = moments_of(made, self.groups)
                moments = found if moments is None else moments.beside(found)
            if result is None:
                result = torch.empty(
                    1, made.shape[1], height * grow // shrink, width * grow // shrink, dtype=self.dtype
                )
            place.of(result).copy_(made)
            self._tell(self._done)
        assert result is not None
        self._done += 1
        self._tell(self._done)
        return Layer(result, moments)

    def _side(self, channels: int, grow: int) -> int:
        side = max(8, math.isqrt(self.numbers // max(channels, _FEW)) // grow)
        return side - side % 2

    def normed(self, norm: nn.GroupNorm, moments: Moments | None) -> Run:
        """A group norm with the moments of the whole layer, and the activation after it."""
        return lambda tile: silu(self._norm(norm, moments)(tile))

    def _norm(self, norm: nn.GroupNorm, moments: Moments | None) -> Run:
        assert moments is not None
        each = norm.num_channels // norm.num_groups
        mean, variance = (it.float().repeat_interleave(each).to(self.device) for it in (moments.mean, moments.variance))
        weight, bias = norm.weight.float(), norm.bias.float()

        def run(tile: Tensor) -> Tensor:
            return batch_norm(tile.float(), mean, variance, weight, bias, False, 0.0, norm.eps).to(tile.dtype)

        return run

    def resnet(self, block: Any, layer: Layer) -> Layer:
        """A residual block (He et al. 2016) of diffusers: two convolutions, each after a norm, beside a shortcut."""
        first, second = self.normed(block.norm1, layer.moments), block.conv1
        inner = self.each(layer.cells, lambda tile: second(first(tile)), norm_next=True)
        third = self.normed(block.norm2, inner.moments)
        beside = layer.cells, block.conv_shortcut or _as_it_is
        return self.each(inner.cells, lambda tile: block.conv2(third(tile)), beside=beside, norm_next=True)

    def attention(self, block: Any, layer: Layer) -> Layer:
        """Self attention of one head over all cells: keys and values of the whole, queries of a tile at a time."""
        norm = self._norm(block.group_norm, layer.moments)

        def rows(linear: nn.Module) -> Callable[[Tensor], Tensor]:
            return lambda tile: linear(norm(tile).flatten(2).transpose(1, 2))

        cells = layer.cells
        whole = cells.to(self.device, self.dtype)
        keys, values = rows(block.to_k)(whole), rows(block.to_v)(whole)
        del whole

        def run(tile: Tensor) -> Tensor:
            height, width = tile.shape[-2:]
            queries = rows(block.to_q)(tile)
            share = max(1, self.numbers // keys.shape[1])
            looked = [scaled_dot_product_attention(part, keys, values) for part in queries.split(share, 1)]
            found: Tensor = block.to_out[0](torch.cat(looked, 1))
            return found.transpose(1, 2).reshape(1, -1, height, width)

        return self.each(cells, run, beside=(cells, _as_it_is), norm_next=True)

    def middle(self, block: Any, layer: Layer) -> Layer:
        """The middle of both halves: a residual block, attention, a residual block."""
        layer = self.resnet(block.resnets[0], layer)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            if attention is not None:
                layer = self.attention(attention, layer)
            layer = self.resnet(resnet, layer)
        return layer

    def decode(self, vae: Any, latent: Tensor) -> Tensor:
        """Pictures [1,3,H,W] of unscaled latents [1,C,h,w], in main memory."""
        decoder = vae.decoder
        start = latent if vae.post_quant_conv is None else self.each(latent, vae.post_quant_conv).cells
        layer = self.middle(decoder.mid_block, self.each(start, decoder.conv_in, norm_next=True))
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                layer = self.resnet(resnet, layer)
            for upsampler in block.upsamplers or ():
                layer = self.each(layer.cells, upsampler, grow=2, norm_next=True)
        return self._ended(decoder, layer)

    def encode(self, vae: Any, pictures: Tensor) -> Tensor:
        """Mean and log variance of latents [1,2C,h,w] for pictures [1,3,H,W] in -1..1, in main memory."""
        encoder = vae.encoder
        layer = self.each(pictures, encoder.conv_in, norm_next=True)
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                layer = self.resnet(resnet, layer)
            for downsampler in block.downsamplers or ():
                layer = self.each(layer.cells, _halving(downsampler), shrink=2, norm_next=True)
        ended = self._ended(encoder, self.middle(encoder.mid_block, layer))
        return ended if vae.quant_conv is None else self.each(ended, vae.quant_conv).cells

    def _ended(self, half: Any, layer: Layer) -> Tensor:
        norm = self.normed(half.conv_norm_out, layer.moments)
        return self.each(layer.cells, lambda tile: half.conv_out(norm(tile))).cells


def _halving(downsampler: Any) -> Run:
    """A convolution over every second cell; it looks one cell beyond the right and the lower edge, where there is nothing."""
    conv = downsampler.conv
    return lambda tile: conv2d(pad(tile, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2)


def _as_it_is(cells: Tensor) -> Tensor:
    return cells


def layer_count(half: nn.Module, quant: nn.Module | None) -> int:
    """How many layers a half of an autoencoder has, as ``Layers`` counts them."""
    found = sum(_LAYERS.get(type(module).__name__, 0) for module in half.modules())
    return found + 2 + (quant is not None)


def is_known(vae: Any) -> bool:
    """Whether the autoencoder is made of nothing but what ``Layers`` runs, and its weights are where they belong."""
    attentions = [module for module in vae.modules() if type(module).__name__ == "Attention"]
    return all(it.heads == 1 for it in attentions) and not any(it.is_meta for it in vae.parameters())


def tiles(height: int, width: int, side: int) -> Iterator[Box]:
    """Tiles that cover so many cells without overlapping, each at most ``side`` high and wide."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Box(top, min(top + side, height), left, min(left + side, width))
