"""DeepCache (Ma et al. 2024, "DeepCache: Accelerating Diffusion Models for Free", section 3.3): most calls of a UNet compute its outer
blocks alone; what comes up to them from within is that of an earlier call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from torch import Tensor, nn

from engine.errors import InputError
from nodes.diffusion.alterations import Arguments, Moment, Wiring
from nodes.diffusion.recall import Call
from nodes.diffusion.spared import Instead, Spared, corner
from nodes.diffusion.unet_blocks import Slot, after_input, input_slots, output_blocks, output_slots

_FEATURES: Final = "deep_cache.features"
_NUMBERS: Final = "deep_cache.numbers"
_STEPS: Final = 1000
"""Of the training: the window of steps is counted in these."""


@dataclass(frozen=True, slots=True)
class DeepCache:
    """Every ``interval``-th call is whole; the others compute the input blocks up to number ``depth`` and as many output blocks.

    That holds from ``start`` to ``end`` (0..1000), counted in steps of the training from pure noise on. A call at a higher noise level
    than the one before, or of another size, begins anew.
    """

    interval: int
    depth: int
    start: int
    end: int

    def install(self, wiring: Wiring, moment: Moment) -> None:
        call = moment.call
        time = float(moment.schedule.timestep(np.array([moment.sigma]))[0])
        if call is None or not _STEPS - self.end <= time <= _STEPS - self.start:
            return
        count = self._count(call, time, moment)
        features = call.found.get(_FEATURES)
        call.keep_numbers(_NUMBERS, moment.batch, count, time, moment.height, moment.width)
        inner = len(output_blocks(wiring.network)) - self.depth - 1
        if count % self.interval and features is not None:
            call.kept[_FEATURES] = features
            self._spare(wiring, inner, features)
        else:
            wiring.after(self._source(wiring.network, inner), lambda found: self._noted(call, found), first=True)

    def _count(self, call: Call, time: float, moment: Moment) -> int:
        """How many calls came before since the first whole one."""
        match call.numbers(_NUMBERS):
            case [count, before, *size] if time <= before and size == [moment.height, moment.width]:
                return int(count) + 1
        return 0

    def _source(self, unet: Any, inner: int) -> nn.Module:
        """The module whose output comes up to the outer blocks: that of the block before the first of them."""
        if inner == 0:
            return after_input(unet)
        block = output_blocks(unet)[inner - 1]
        return block.upsampler or block.last

    def _noted(self, call: Call, features: Tensor) -> Tensor:
        call.kept[_FEATURES] = features
        return features

    def _spare(self, wiring: Wiring, inner: int, features: Tensor) -> None:
        """Put ``features`` where the inner output blocks end, and nothing in the place of all that comes before."""
        unet = wiring.network
        slots = [*_flat(input_slots(unet)[self.depth + 1 :]), *_flat(output_slots(unet)[:inner])]
        if unet.mid_block is not None:
            slots.insert(0, Slot(unet, "mid_block"))
        last = Slot(unet, "mid_block") if inner == 0 else output_slots(unet)[inner - 1][-1]
        for slot in slots:
            wiring.swap(slot.owner, slot.name, Spared(slot.module, _as_ever(features) if slot == last else corner))
        wiring.rewire(unet, self._without_inner_control)

    def _without_inner_control(self, *args: Any, **kwargs: Any) -> Arguments:
        """Blocks that are spared take nothing from a control network either."""
        more = kwargs.get("down_block_additional_residuals")
        if more is None:
            return args, kwargs
        kept = tuple(it if number <= self.depth else it.new_zeros(()) for number, it in enumerate(more))
        middle = kwargs["mid_block_additional_residual"].new_zeros(())
        return args, {**kwargs, "down_block_additional_residuals": kept, "mid_block_additional_residual": middle}


def _as_ever(features: Tensor) -> Instead:
    return lambda x: features


def _flat(blocks: Iterable[list[Slot]]) -> list[Slot]:
    return [slot for block in blocks for slot in block]


def deep_cache(unet: Any, interval: int, depth: int, start: int, end: int) -> DeepCache:
    """Raises InputError where nothing is within the outer blocks."""
    most = len(output_blocks(unet)) - (1 if unet.mid_block is not None else 2)
    if depth > most:
        raise InputError(
            f"expected a cache_depth of at most {most}, as this UNet has blocks, found {depth}; a smaller one spares more",
            input="model",
        )
    return DeepCache(interval, depth, start, end)
