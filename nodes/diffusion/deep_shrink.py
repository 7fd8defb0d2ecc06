"""Deep shrink (Kohya 2023): a part of the UNet works on a smaller picture while there is much noise.

What is composed then is composed at a size the model knows, so that a large picture does not show the same thing twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Size, Tensor

from nodes.diffusion.alterations import Arguments, Hooks, Moment
from nodes.diffusion.resize import resize
from nodes.diffusion.unet_blocks import after_input, input_blocks, output_blocks


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

    def install(self, hooks: Hooks, moment: Moment) -> None:
        blocks = input_blocks(hooks.network)
        if self.block >= len(blocks) or not moment.within(self.start, self.end):
            return
        following = [block.first for block in blocks[1:]] + [after_input(hooks.network)]
        if self.after_skip:
            hooks.before(following[self.block], self._smaller)
        else:
            hooks.after(blocks[self.block].last, self._smaller)
        sizes: list[Size] = []
        """Of what is handed over and not yet taken in."""

        def noted(features: Tensor) -> Tensor:
            sizes.append(features.shape[-2:])
            return features

        for block in blocks:
            hooks.after(block.last, noted)
        self._fit_to(sizes, hooks)

    def _smaller(self, features: Tensor) -> Tensor:
        height, width = (max(1, round(side / self.factor)) for side in features.shape[-2:])
        return resize(features, width, height, self.down)

    def _fit_to(self, sizes: list[Size], hooks: Hooks) -> None:
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

        hooks.before(hooks.network.up_blocks[0], fitted)
        for block in output_blocks(hooks.network):
            if block.upsampler is None:
                hooks.after(block.last, fitted_to_next)
            else:
                hooks.after(block.last, taken)
                hooks.rewire(block.upsampler, doubled)
