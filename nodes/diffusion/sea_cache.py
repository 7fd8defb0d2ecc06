"""SeaCache (Chung et al. 2026, "SeaCache: Spectral-Evolution-Aware Cache for Accelerating Diffusion Models"): all blocks are spared while
what there is of a picture in the sample changes little.

A sample holds the picture's coarse parts before it holds its fine ones. A filter that follows this takes the noise out of the comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from nodes.diffusion import block_stack
from nodes.diffusion.alterations import Moment, Wiring
from nodes.diffusion.recall import Call

_SEEN: Final = "sea_cache.seen"
_LATEST: Final = "sea_cache.latest"
_EARLIER: Final = "sea_cache.earlier"
_TALLY: Final = "sea_cache.tally"
_POWER: Final = 2.0
"""The spectrum of pictures falls with this power of the frequency; the paper takes 2 for pictures and 3 for videos."""
_TINY: Final = 1e-16


def scales(sigma: float, *, flow: bool) -> tuple[float, float]:
    """How much of a picture and how much noise of variance 1 there is in what a network is shown at ``sigma``."""
    if flow:
        kept = min(max(sigma, 1e-6), 1 - 1e-6)
        return 1 - kept, kept
    whole = math.hypot(1, sigma)
    return 1 / whole, sigma / whole


def filtered(x: Tensor, signal: float, noise: float, power: float = _POWER) -> Tensor:
    """``x`` [B,C,h,w] of a picture times ``signal`` and noise times ``noise``, by the best linear filter for pictures whose spectrum falls
    with ``power``, along each side; its mean gain is 1 (eq. 6 and 7)."""
    gain = torch.ones((), device=x.device)
    for side in (-2, -1):
        frequencies = torch.fft.fftfreq(x.shape[side], device=x.device)
        clean = 1 / (frequencies.abs() ** power + _TINY)
        along = signal * clean / (signal**2 * clean + noise**2 + _TINY)
        gain = gain * (along[:, None] if side == -2 else along)
    found: Tensor = torch.fft.ifft2(torch.fft.fft2(x.float()) * (gain / gain.mean())).real
    return found


def change(seen: Tensor, before: Tensor) -> float:
    """How much ``seen`` [B,...] differs from ``before``, in parts of it, on average over the samples."""
    inner = tuple(range(1, seen.ndim))
    return float(((seen - before).abs().mean(inner) / (before.abs().mean(inner) + _TINY)).mean())


class Tally(NamedTuple):
    """Up to ``step``: the ``change`` since the last whole call, how many calls were ``spared`` in a row, and the steps of the last two
    whole ones, -1 for none."""

    step: int
    change: float = 0.0
    spared: int = 0
    latest: int = -1
    earlier: int = -1

    def whole(self) -> Tally:
        """After a whole call at this step."""
        earlier = self.earlier if self.latest == self.step else self.latest
        return Tally(self.step, latest=self.step, earlier=earlier)


@dataclass(slots=True)
class _Course:
    """``tally`` is up to this call, and counts it as spared."""

    call: Call
    batch: int
    tally: Tally
    may_spare: bool
    extrapolates: bool
    spares: bool = False
    first: Tensor | None = None
    added: Tensor | None = None

    def begun(self, first: Tensor) -> None:
        self.first = first
        latest, earlier = self.call.found.get(_LATEST), self.call.found.get(_EARLIER)
        self.spares = self.may_spare and latest is not None and latest.shape == first.shape
        if self.spares and latest is not None:
            self.call.kept[_LATEST] = latest
            if earlier is not None:
                self.call.kept[_EARLIER] = earlier
            self.added = self._extended(latest, earlier)
        self.call.keep_numbers(_TALLY, self.batch, *(self.tally if self.spares else self.tally.whole()))

    def _extended(self, latest: Tensor, earlier: Tensor | None) -> Tensor:
        """What the last two whole calls added, on a straight line through both."""
        tally = self.tally
        between = tally.latest - tally.earlier
        if (
            not self.extrapolates
            or earlier is None
            or tally.earlier < 0
            or earlier.shape != latest.shape
            or not between
        ):
            return latest
        return latest + (latest - earlier) * ((tally.step - tally.latest) / between)

    def ended(self, last: Tensor) -> None:
        assert self.first is not None
        if self.first.shape != last.shape:
            return
        latest, earlier = self.call.found.get(_LATEST), self.call.found.get(_EARLIER)
        before = earlier if self.tally.latest == self.tally.step else latest
        self.call.kept[_LATEST] = last - self.first
        if before is not None:
            self.call.kept[_EARLIER] = before

    def guessed(self) -> Tensor:
        assert self.first is not None
        assert self.added is not None
        return self.first + self.added


@dataclass(frozen=True, slots=True)
class SeaCache:
    """All blocks are spared until the change that comes together reaches ``threshold`` (0..1), at most ``most`` times in a row, 0 for any
    number, and never in the ``first`` steps and the ``last`` ones. ``extrapolates``: what they add goes on as between the last two whole
    calls.
    """

    threshold: float
    most: int
    first: int
    last: int
    extrapolates: bool

    def install(self, wiring: Wiring, moment: Moment) -> None:
        if (call := moment.call) is None or moment.steps == 0:
            return
        network = wiring.network

        def shown(x: Tensor) -> Tensor:
            course.tally, course.may_spare = self._decided(call, moment, x[:, : network.config.out_channels])
            return x

        course = _Course(call, moment.batch, Tally(moment.step), may_spare=False, extrapolates=self.extrapolates)
        wiring.before(network, shown)
        block_stack.install(wiring, course)

    def _decided(self, call: Call, moment: Moment, x: Tensor) -> tuple[Tally, bool]:
        """The tally with this call in it, and whether it may be spared, for ``x`` as the network is shown it."""
        seen = filtered(x, *scales(moment.sigma, flow=moment.schedule.flow))
        before = call.found.get(_SEEN)
        call.kept[_SEEN] = seen
        tally = _known(call, moment.step)
        if before is None or before.shape != seen.shape or tally.step > moment.step:
            return Tally(moment.step), False
        moved = tally.change + change(seen, before)
        now = tally._replace(step=moment.step, change=moved, spared=tally.spared + 1)
        inner = self.first <= moment.step < moment.steps - self.last
        return now, inner and moved < self.threshold and (self.most == 0 or now.spared <= self.most)


def _known(call: Call, step: int) -> Tally:
    match call.numbers(_TALLY):
        case [before, moved, spared, latest, earlier]:
            return Tally(int(before), moved, int(spared), int(latest), int(earlier))
    return Tally(step)


def sea_cache(network: Any, threshold: float, most: int, first: int, last: int, extrapolates: bool) -> SeaCache:
    """For any network that has blocks."""
    return SeaCache(threshold, most, first, last, extrapolates)
