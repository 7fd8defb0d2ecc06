"""First Block Cache, known from ParaAttention and diffusers: where the first block changes its input much as it did in an earlier call, all
other blocks are taken to do so, too (after Liu et al. 2024, "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor, nn

from engine.errors import InputError
from nodes.diffusion.alterations import Moment, Wiring
from nodes.diffusion.block_stack import is_transformer, spare_layers, spare_levels
from nodes.diffusion.recall import Call
from nodes.diffusion.spared import InPlace, Spared, corner
from nodes.diffusion.unet_blocks import input_blocks, input_slots

_FIRST: Final = "first_block.change"
_OTHERS: Final = "first_block.others"
_HITS: Final = "first_block.hits"


@dataclass(slots=True)
class _Course:
    """What is found out in a call. ``first`` is what the first block put out."""

    call: Call
    batch: int
    threshold: float
    most: int
    may_spare: bool
    first: Tensor | None = None
    spares: bool = field(default=False)

    def decide(self, before: Tensor, after: Tensor) -> None:
        """``before`` and ``after`` the first block: are the others spared?"""
        self.first, change = after, after - before
        known, others = self.call.found.get(_FIRST), self.call.found.get(_OTHERS)
        hits = int((self.call.numbers(_HITS) or [0])[0])
        fits = known is not None and others is not None and known.shape == change.shape
        allowed = self.may_spare and fits and (self.most < 0 or hits < self.most)
        self.spares = allowed and known is not None and _distance(change, known) < self.threshold
        self.call.keep_numbers(_HITS, self.batch, hits + 1 if self.spares else 0)
        if self.spares and known is not None and others is not None:
            self.call.kept |= {_FIRST: known, _OTHERS: others}
        else:
            self.call.kept[_FIRST] = change

    def ended(self, last: Tensor) -> None:
        """What the last block put out, where all were computed."""
        assert self.first is not None
        self.call.kept[_OTHERS] = last - self.first

    def guessed(self) -> Tensor:
        """What the last block would put out."""
        assert self.first is not None
        return self.first + self.call.kept[_OTHERS]


def _distance(change: Tensor, known: Tensor) -> float:
    return float((change - known).abs().mean() / known.abs().mean())


@dataclass(frozen=True, slots=True)
class FirstBlockCache:
    """Between two parts of a run, ``start`` and ``end`` (0..1), all blocks but the first are spared while the change that it makes is
    within ``threshold`` (0..1) of that in the last whole call, in parts of it; no more than ``most`` times in a row, -1 for any number.
    """

    threshold: float
    start: float
    end: float
    most: int

    def install(self, wiring: Wiring, moment: Moment) -> None:
        if moment.call is None:
            return
        course = _Course(moment.call, moment.batch, self.threshold, self.most, moment.within(self.start, self.end))
        if is_transformer(wiring.network):
            _install_transformer(wiring, course)
        else:
            _install_unet(wiring, course)


class _FirstLayer(InPlace):
    """A transformer's first block, after which it is decided."""

    def __init__(self, module: nn.Module, course: _Course) -> None:
        super().__init__(module)
        self.course = course

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        text, states = self.module(hidden_states=hidden_states, **kwargs)
        self.course.decide(hidden_states, states)
        return text, states


def _install_transformer(wiring: Wiring, course: _Course) -> None:
    blocks = wiring.network.transformer_blocks
    wiring.swap(blocks, "0", _FirstLayer(blocks[0], course))
    spare_layers(wiring, course, 1)


def _install_unet(wiring: Wiring, course: _Course) -> None:
    """A UNet's first block is the first residual one, with its attention; the last one puts out what is as large."""
    unet = wiring.network
    stem, first = input_blocks(unet)[:2]
    before: list[Tensor] = []

    def noted(x: Tensor) -> Tensor:
        before[:] = [x]
        return x

    def decided(x: Tensor) -> Tensor:
        course.decide(before[0], x)
        return x

    wiring.after(stem.last, noted)
    wiring.after(first.last, decided)
    level = unet.down_blocks[0]
    for block in input_slots(unet)[2 : 1 + len(level.resnets) + len(level.downsamplers or ())]:
        for slot in block:
            wiring.swap(slot.owner, slot.name, Spared(slot.module, corner, lambda: course.spares))
    spare_levels(wiring, course, 1)


def first_block_cache(network: Any, threshold: float, start: float, end: float, most: int) -> FirstBlockCache:
    """Raises InputError where there is no second block."""
    blocks = getattr(network, "transformer_blocks", None)
    if blocks is not None and len(blocks) < 2:
        raise InputError(
            f"expected a transformer of at least 2 blocks for First Block Cache, found {len(blocks)}", input="model"
        )
    return FirstBlockCache(threshold, start, end, most)
