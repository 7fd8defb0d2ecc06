"""Deep shrink (Kohya 2023): a part of the UNet works on a smaller picture while there is much noise.

What is composed then is composed at a size the model knows, so that a large picture does not show the same thing twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Size, Tensor

from nodes.diffusion.alterations import Arguments, Moment, Wiring
from nodes.diffusion.controlled import DOWN, MID, WITHIN
from nodes.diffusion.resize import resize
from nodes.diffusion.unet_blocks import adapted_blocks, after_input, input_blocks, output_blocks


@dataclass(frozen=True, slots=True)
class DeepShrink:
    """Behind the input block number ``block`` everything is ``factor`` (0.1..9) times smaller, until the way up gets back there.

    That holds between two parts of a run, ``start`` and ``end`` (0..1). ``after_skip``: what the block hands over to the way up
    is not made smaller. ``down`` and ``up`` are methods of ``resize``.
    """

    block: int
    factor: float
    start: float
    end: float
    after_skip: bool
    down: str
    up: str

    def install(self, wiring: Wiring, moment: Moment) -> None:
        blocks = input_blocks(wiring.network)
        if self.block >= len(blocks) or not moment.within(self.start, self.end):
            return
        following = [block.first for block in blocks[1:]] + [after_input(wiring.network)]
        if self.after_skip:
            wiring.before(following[self.block], self._smaller)
        else:
            wiring.after(blocks[self.block].last, self._smaller)
        sizes: list[Size] = []
        """Of what is handed over and not yet taken in."""

        def noted(features: Tensor) -> Tensor:
            sizes.append(features.shape[-2:])
            return features

        for block in blocks:
            wiring.after(block.last, noted)
        self._fit_to(sizes, wiring)
        wiring.rewire(wiring.network, partial(self._steered, wiring.network))

    def _steered(self, unet: Any, x: Tensor, *args: Any, **inputs: Any) -> Arguments:
        """What steers the UNet from inside is made as small as what it is added to."""
        if not inputs.keys() & {DOWN, WITHIN}:
            return (x, *args), inputs
        sizes, below = self._sizes(unet, *x.shape[-2:])
        if DOWN in inputs:
            inputs[DOWN] = tuple(_sized(it, size) for it, size in zip(inputs[DOWN], sizes, strict=True))
            inputs[MID] = _sized(inputs[MID], below)
        if WITHIN in inputs:
            # adapters for SDXL have one level more, for the middle
            places = [sizes[place] for place in adapted_blocks(unet)] + [below]
            inputs[WITHIN] = [_sized(it, size) for it, size in zip(inputs[WITHIN], places, strict=False)]
        return (x, *args), inputs

    def _sizes(self, unet: Any, height: int, width: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
        """Rows and columns of what each input block gives, as it is handed over, and of what reaches the middle."""
        found = []
        for number, block in enumerate(input_blocks(unet)):
            if "Downsample" in type(block.last).__name__:
                height, width = -(-height // 2), -(-width // 2)
            full = height, width
            if number == self.block:
                height, width = self._side(height), self._side(width)
            found.append(full if self.after_skip else (height, width))
        return found, (height, width)

    def _side(self, cells: int) -> int:
        return max(1, round(cells * (1.0 / self.factor)))  # not cells / factor: halves go where they go in ComfyUI

    def _smaller(self, features: Tensor) -> Tensor:
        height, width = map(self._side, features.shape[-2:])
        return resize(features, width, height, self.down)

    def _fit_to(self, sizes: list[Size], wiring: Wiring) -> None:
        """What comes from below gets the size of what it meets."""

        def fitted(features: Tensor) -> Tensor:
            height, width = sizes[-1]
            return resize(features, width, height, self.up)

        def fitted_to_next(features: Tensor) -> Tensor:
            sizes.pop()
            return fitted(features) if sizes else features

        def taken(features: Tensor) -> Tensor:
            sizes.pop()
            return features

        def doubled(features: Tensor, *_size: Size | None) -> Arguments:
            # the upsampler itself can go to any size
            return (features, sizes[-1]), {}

        wiring.before(wiring.network.up_blocks[0], fitted)
        for block in output_blocks(wiring.network):
            if block.upsampler is None:
                wiring.after(block.last, fitted_to_next)
            else:
                wiring.after(block.last, taken)
                wiring.rewire(block.upsampler, doubled)


def _sized(residual: Tensor, size: tuple[int, int]) -> Tensor:
    """``residual`` [B,C,h,w] of this size; one number for all cells is left."""
    height, width = size
    return residual if residual.shape[-2:] == (1, 1) else resize(residual, width, height, "bilinear")
