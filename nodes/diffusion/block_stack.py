"""The blocks of a network as a stack that a call may do without: all of them, or all but the first.

What is in a stack and what it puts out has the same shape: a transformer's image tokens, or a UNet's finest level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from nodes.diffusion.alterations import Wiring
from nodes.diffusion.spared import InPlace, Instead, Spared, corner

Begun = Callable[[Tensor], None]
"""Told what goes into the first block, before it computes."""


class Course(Protocol):
    """What is found out in a call, and decided."""

    spares: bool
    """The blocks that are still to come are not computed."""

    def ended(self, last: Tensor) -> None:
        """What the last block put out, where all were computed."""
        ...

    def guessed(self) -> Tensor:
        """What the last block would put out, where they are spared."""
        ...


class Whole(Course, Protocol):
    """One that decides before the first block."""

    def begun(self, first: Tensor) -> None:
        """``first`` goes into the first block."""
        ...


def install(wiring: Wiring, course: Whole) -> None:
    """All blocks of a transformer or UNet as ``course`` decides."""
    if is_transformer(wiring.network):
        spare_layers(wiring, course, 0, course.begun)
        return
    unet = wiring.network

    def noted(x: Tensor) -> Tensor:
        course.begun(x)
        return x

    wiring.after(unet.conv_in, noted)
    spare_levels(wiring, course, 0)


def is_transformer(network: Any) -> bool:
    """Whether its blocks are in a row."""
    return hasattr(network, "transformer_blocks")


class Layer(InPlace):
    """A transformer's block, which is spared, or not; ``is_last`` gives what all of them would."""

    def __init__(self, module: nn.Module, course: Course, *, is_last: bool, begun: Begun | None = None) -> None:
        super().__init__(module)
        self.course, self.is_last, self.begun = course, is_last, begun

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, **kwargs: Any) -> Any:
        if self.begun is not None:
            self.begun(hidden_states)
        if self.course.spares:
            return encoder_hidden_states, self.course.guessed() if self.is_last else hidden_states
        text, states = self.module(hidden_states=hidden_states, encoder_hidden_states=encoder_hidden_states, **kwargs)
        if self.is_last:
            self.course.ended(states)
        return text, states


def spare_layers(wiring: Wiring, course: Course, first: int, begun: Begun | None = None) -> None:
    """A transformer's blocks from number ``first`` on."""
    blocks = wiring.network.transformer_blocks
    for number in range(first, len(blocks)):
        told = begun if number == first else None
        is_last = number == len(blocks) - 1
        wiring.swap(blocks, str(number), Layer(blocks[number], course, is_last=is_last, begun=told))


def spare_levels(wiring: Wiring, course: Course, first: int) -> None:
    """A UNet's levels from number ``first`` of the way down on, its middle, and all of the way up."""
    unet = wiring.network
    for number in range(first, len(unet.down_blocks)):
        level = unet.down_blocks[number]
        wiring.swap(unet.down_blocks, str(number), Spared(level, _handing_over(level), lambda: course.spares))
    if unet.mid_block is not None:
        wiring.swap(unet, "mid_block", Spared(unet.mid_block, corner, lambda: course.spares))
    last = len(unet.up_blocks) - 1
    for number in range(last):
        wiring.swap(unet.up_blocks, str(number), Spared(unet.up_blocks[number], corner, lambda: course.spares))

    def ended(x: Tensor) -> Tensor:
        course.ended(x)
        return x

    level = unet.up_blocks[last]
    wiring.after(level, ended)
    wiring.swap(unet.up_blocks, str(last), Spared(level, lambda x: course.guessed(), lambda: course.spares))


def _handing_over(level: Any) -> Instead:
    """What a level on the way down puts out when it is spared, with as much to hand over as ever."""
    count = len(level.resnets) + len(level.downsamplers or ())
    return lambda x: (corner(x), (corner(x),) * count)
