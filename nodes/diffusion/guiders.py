"""Guiders between more than two sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nodes.diffusion.conditioning import Entry, at_sigma
from nodes.diffusion.denoiser import Denoiser, per_sample
from nodes.diffusion.guidance import NOTHING, Guidance, Memory, Turn, guided
from nodes.diffusion.recall import Recalls
from nodes.diffusion.sides import matched
from nodes.diffusion.steering import Seen, combined, perpendicular


def side_by_side(
    turn: Turn, sides: Sequence[Sequence[Entry]], negative: int | None
) -> tuple[list[Sequence[Entry]], list[Tensor]]:
    """The entries of each side that count now, and its prediction, all made together; ``negative`` is the number of the side that
    guidance goes away from."""
    active = [at_sigma(side, turn.level, turn.x) for side in sides]
    return list(active), turn.sides(active, negative)


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
        turn = Turn(self.denoiser, x, sigma, recalls=Recalls(memory))
        wanted = apart or any(kind.needs_negative for kind in self.denoiser.perturbations)
        if not (self.nested or wanted) and math.isclose(self.outer, 1.0):
            return self._without_negative(turn, memory)
        sides = self.first, self.second, self.negative
        active, (first, second, away) = side_by_side(turn, sides, 1 if self.nested else 2)
        options, level = self.denoiser.options, per_sample(sigma, x)
        if self.nested:
            seen = Seen(x, level, first, second, self.inner, memory)
            inner = turn.steered(combined(options, seen), seen, active[0], active[1])
            # solvers that want the unconditional prediction are shown that of the inner guidance
            return Guidance(guided(inner, away, self.outer), second, turn.recalls.remembered(memory))
        seen = Seen(x, level, second, away, self.outer, memory)
        outer = turn.steered(combined(options, seen), seen, active[1], active[2])
        return Guidance(outer + (first - second) * self.inner, away, turn.recalls.remembered(memory))

    def _without_negative(self, turn: Turn, memory: Memory) -> Guidance:
        """At ``outer`` 1 the negative side cancels, and at ``inner`` 1 the second one too, but for what guides it further."""
        x, level = turn.x, per_sample(turn.sigma, turn.x)
        if math.isclose(self.inner, 1.0) and not self.denoiser.perturbations:
            active, (first,) = side_by_side(turn, (self.first,), None)
            seen = Seen(x, level, first, None, self.outer, memory)
            return Guidance(
                turn.steered(combined(self.denoiser.options, seen), seen, active[0], ()),
                first,
                turn.recalls.remembered(memory),
            )
        active, (first, second) = side_by_side(turn, (self.first, self.second), None)
        seen = Seen(x, level, second, None, self.outer, memory)
        outer = turn.steered(combined(self.denoiser.options, seen), seen, active[1], ())
        return Guidance(outer + (first - second) * self.inner, second, turn.recalls.remembered(memory))


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
        turn = Turn(self.denoiser, x, sigma, recalls=Recalls(memory))
        active, (toward, away, empty) = side_by_side(turn, (self.positive, self.negative, self.empty), 1)
        seen = Seen(x, per_sample(sigma, x), toward, away, self.scale, memory, empty)
        result = turn.steered(perpendicular(seen, self.negative_scale), seen, active[0], active[1])
        return Guidance(result, away, turn.recalls.remembered(memory))
