"""Guiders between more than two sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nodes.diffusion.conditioning import Entry, at_sigma, matched
from nodes.diffusion.denoiser import Denoiser, per_sample
from nodes.diffusion.guidance import NOTHING, Guidance, Memory, averaged, guided, predictions
from nodes.diffusion.steering import Seen, combined, finished, perpendicular


def side_by_side(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sides: Sequence[Sequence[Entry]], most: int | None = None
) -> list[Tensor]:
    """The prediction of each side for ``x`` [B,C,h,w], all made together."""
    level = float(sigma[0])
    active = [at_sigma(side, level, x) for side in sides]
    outputs = predictions(denoiser, x, sigma, [entry for side in active for entry in side], most)
    found, first = [], 0
    for side in active:
        found.append(averaged(x, side, outputs[first : first + len(side)]))
        first += len(side)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class DualCfgGuider:
    """Two conditions and a negative (Brooks et al. 2023, "InstructPix2Pix", eq. 3): from the negative to ``second`` by
    ``outer``, and from there to ``first`` by ``inner``. ``nested`` guides to the inner result instead."""

    denoiser: Denoiser
    first: tuple[Entry, ...]
    second: tuple[Entry, ...]
    negative: tuple[Entry, ...]
    inner: float
    outer: float
    nested: bool = False

    @classmethod
    def between(
        cls,
        denoiser: Denoiser,
        first: Sequence[Entry],
        second: Sequence[Entry],
        negative: Sequence[Entry],
        inner: float,
        outer: float,
        nested: bool = False,
    ) -> DualCfgGuider:
        """With the areas of each side made known to the others."""
        one, two, three = matched(first, second, negative)
        return cls(denoiser, one, two, three, inner, outer, nested)

    def look(self, x: Tensor, sigma: Tensor, memory: Memory = NOTHING, *, apart: bool = False) -> Guidance:
        if not (self.nested or apart) and math.isclose(self.outer, 1.0):
            return self._without_negative(x, sigma, memory)
        first, second, away = side_by_side(self.denoiser, x, sigma, (self.first, self.second, self.negative))
        options, level = self.denoiser.options, per_sample(sigma, x)
        if self.nested:
            inner = combined(options, Seen(x, level, first, second, self.inner, memory))
            return Guidance(guided(inner, away, self.outer), away, memory)
        outer = combined(options, Seen(x, level, second, away, self.outer, memory))
        return Guidance(outer + (first - second) * self.inner, away, memory)

    def _without_negative(self, x: Tensor, sigma: Tensor, memory: Memory) -> Guidance:
        """At ``outer`` 1 the negative side cancels, and at ``inner`` 1 the second one too."""
        if math.isclose(self.inner, 1.0):
            (first,) = side_by_side(self.denoiser, x, sigma, (self.first,))
            second = first
        else:
            first, second = side_by_side(self.denoiser, x, sigma, (self.first, self.second))
        outer = combined(self.denoiser.options, Seen(x, per_sample(sigma, x), second, None, self.outer, memory))
        return Guidance(outer + (first - second) * self.inner, second, memory)


@dataclass(frozen=True, slots=True, eq=False)
class PerpNegGuider:
    """``steering.perpendicular`` between the sides; ``empty`` is what the model predicts without a prompt."""

    denoiser: Denoiser
    positive: tuple[Entry, ...]
    negative: tuple[Entry, ...]
    empty: tuple[Entry, ...]
    scale: float
    negative_scale: float

    @classmethod
    def between(
        cls,
        denoiser: Denoiser,
        positive: Sequence[Entry],
        negative: Sequence[Entry],
        empty: Sequence[Entry],
        scale: float,
        negative_scale: float,
    ) -> PerpNegGuider:
        """With the areas of each side made known to the others."""
        one, two, three = matched(positive, negative, empty)
        return cls(denoiser, one, two, three, scale, negative_scale)

    def look(self, x: Tensor, sigma: Tensor, memory: Memory = NOTHING, *, apart: bool = False) -> Guidance:
        sides = (self.positive, self.negative, self.empty)
        toward, away, empty = side_by_side(self.denoiser, x, sigma, sides)
        seen = Seen(x, per_sample(sigma, x), toward, away, self.scale, memory, empty)
        result = perpendicular(seen, self.negative_scale)
        return Guidance(finished(self.denoiser.options, seen, result), away, memory)
