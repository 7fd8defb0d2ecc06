"""FasterCache (Lv et al. 2024, "FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality"): what both sides of
guidance say differs alike from step to step, so most steps compute one of them; and attention goes on as it changed before.

The difference is kept apart in low and high frequencies. Early in a run the low ones grow, late the high ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from nodes.diffusion import attention_outputs
from nodes.diffusion.alterations import Altered, Moment, Wiring, altered
from nodes.diffusion.attention_outputs import Place, attentions, found, keep
from nodes.diffusion.recall import Call

_COUNT: Final = "faster.count"
_TOLD: Final = "faster.told"
_LOW: Final = "faster.low"
_HIGH: Final = "faster.high"


def low_frequencies(x: Tensor) -> Tensor:
    """Of maps [...,h,w] what swings at most as often along a diagonal as a fifth of the shorter side has cells."""
    height, width = x.shape[-2:]
    rows, columns = ((torch.fft.fftfreq(side, device=x.device) * side).round() for side in (height, width))
    within = rows[:, None] ** 2 + columns**2 <= (min(height, width) // 5) ** 2
    low: Tensor = torch.fft.ifft2(torch.fft.fft2(x.float()) * within).real
    return low


@dataclass(frozen=True, slots=True)
class FasterCache:
    """Of ``network``. Parts of a run are 0..1 of the timesteps, calls are evaluations of guidance.

    From ``negative_start`` on the negative side is computed in every ``negative``-th call and rebuilt in the others, where the difference
    to the positive one counts ``low`` times as much as in the call before in its low frequencies until ``switch``, and then ``high`` times
    in its high ones. From ``attention_start`` on self attention is computed in every ``attention``-th call and goes on from the last two
    in the others, by their difference times a weight that grows from 0 at the first step to ``weight`` at the last one. An interval of 1
    leaves either as it is.
    """

    network: nn.Module
    attention: int
    attention_start: float
    weight: float
    negative: int
    negative_start: float
    switch: float
    low: float
    high: float

    def plan(self, moment: Moment, call: Call, told: Sequence[str] | None) -> Plan:
        """For an evaluation that finds ``call``. ``told`` names what both sides are told; None where there is no negative one, or it has
        to be computed."""
        count = int((call.numbers(_COUNT) or [0])[0])
        call.keep_numbers(_COUNT, moment.batch, count + 1)
        mark = None if told is None or self.negative == 1 else float(zlib.crc32("\n".join(told).encode()))
        is_known = mark is not None and call.numbers(_TOLD) == [mark] and _LOW in call.found
        rebuilds = is_known and count % self.negative > 0 and moment.within(self.negative_start, 1.0)
        # what is computed for both sides at once is computed whole
        spares = mark is None or rebuilds
        goes_on = spares and count % self.attention > 0 and moment.within(self.attention_start, 1.0)
        weight = self.weight * moment.step / max(moment.steps - 1, 1) if goes_on else None
        changes = (altered(self.network, _Attention(weight)),) if self.attention > 1 else ()
        return Plan(self, moment, call, mark, rebuilds, changes)

    def growth(self, moment: Moment) -> tuple[float, float]:
        """What the low and the high frequencies of the difference are multiplied with."""
        return (self.low, 1.0) if moment.within(0.0, self.switch) else (1.0, self.high)


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one evaluation: whether the negative side is rebuilt, and what changes the network."""

    cache: FasterCache
    moment: Moment
    call: Call
    mark: float | None
    rebuilds: bool
    changes: tuple[Altered, ...]

    @property
    def forgets_negative(self) -> bool:
        """Whether calls for the negative side need not leave anything for later ones."""
        return self.mark is not None

    def rebuilt(self, positive: Tensor, gain: Tensor) -> Tensor:
        """The negative prediction for a ``positive`` one [B,C,h,w]; it grows with what the network puts out by ``gain``."""
        low, high = (
            self.call.found[name] * growth
            for name, growth in zip((_LOW, _HIGH), self.cache.growth(self.moment), strict=True)
        )
        self._keep(low, high)
        return positive + (low + high) * gain

    def computed(self, positive: Tensor, negative: Tensor, gain: Tensor) -> None:
        """Both were."""
        if self.mark is not None:
            difference = torch.where(gain == 0, 0, (negative - positive) / gain)
            low = low_frequencies(difference)
            self._keep(low, difference - low)

    def _keep(self, low: Tensor, high: Tensor) -> None:
        assert self.mark is not None
        self.call.kept |= {_LOW: low, _HIGH: high}
        self.call.keep_numbers(_TOLD, self.moment.batch, self.mark)


@dataclass(slots=True)
class _Policy:
    """``weight`` is None where all attention is computed."""

    call: Call
    weight: float | None

    def served(self, place: Place) -> tuple[Tensor, ...] | None:
        last, before = (found(self.call, name) for name in self._names(place))
        if self.weight is None or not last:
            return None
        for name, outputs in zip(self._names(place), (last, before), strict=True):
            keep(self.call, name, outputs)
        return tuple(new + (new - old) * self.weight for new, old in zip(last, before, strict=True))

    def computed(self, place: Place, outputs: tuple[Tensor, ...]) -> None:
        last, before = self._names(place)
        known = found(self.call, last)
        keep(self.call, last, outputs)
        is_alike = [it.shape for it in known] == [it.shape for it in outputs]
        keep(self.call, before, known if is_alike else outputs)

    def _names(self, place: Place) -> tuple[str, str]:
        return f"faster.{place.number}.last", f"faster.{place.number}.before"


@dataclass(frozen=True, slots=True)
class _Attention:
    weight: float | None

    def install(self, wiring: Wiring, moment: Moment) -> None:
        if moment.call is not None:
            policy = _Policy(moment.call, self.weight)
            attention_outputs.install(wiring, policy, lambda place: place.kind == "self")


def faster_cache(network: Any, *, attention: int, **values: Any) -> FasterCache:
    """Raises InputError for a network without attention, where that is to be spared."""
    if attention > 1:
        attentions(network)
    return FasterCache(network, attention, **values)
