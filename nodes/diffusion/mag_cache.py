"""MagCache (Ma et al. 2025, "MagCache: Fast Video Generation with Magnitude-Aware Cache"): all blocks are spared, and taken to add what
they last did, for as long as the magnitude of what they add is known to stay much the same.

How that magnitude changes from step to step is measured once for a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from torch import Tensor
from torch.linalg import vector_norm

from engine.errors import InputError
from nodes.diffusion import block_stack
from nodes.diffusion.alterations import Moment, Wiring
from nodes.diffusion.block_stack import is_transformer
from nodes.diffusion.recall import Call

_ADDED: Final = "mag_cache.added"
_TALLY: Final = "mag_cache.tally"


class Tally(NamedTuple):
    """What has come together since the last whole call, up to ``step``: the ``ratio`` of magnitudes, the ``error``, which is the sum of
    how far that was from 1, and how many calls were ``spared``."""

    step: int
    ratio: float = 1.0
    error: float = 0.0
    spared: int = 0

    def after(self, step: int, ratio: float) -> Tally:
        """One more call, at ``step``, whose magnitude is ``ratio`` times that of the step before."""
        whole = self.ratio * (ratio if step != self.step else 1.0)
        return Tally(step, whole, self.error + abs(1 - whole), self.spared + 1)


@dataclass(slots=True)
class _Course:
    call: Call
    batch: int
    tally: Tally
    may_spare: bool
    spares: bool = False
    first: Tensor | None = None

    def begun(self, first: Tensor) -> None:
        added = self.call.found.get(_ADDED)
        self.first = first
        self.spares = self.may_spare and added is not None and added.shape == first.shape
        tally = self.tally if self.spares else Tally(self.tally.step)
        self.call.keep_numbers(_TALLY, self.batch, *tally)
        if self.spares and added is not None:
            self.call.kept[_ADDED] = added

    def ended(self, last: Tensor) -> None:
        if self.first is not None and self.first.shape == last.shape:
            self.call.kept[_ADDED] = last - self.first

    def guessed(self) -> Tensor:
        assert self.first is not None
        return self.first + self.call.kept[_ADDED]


@dataclass(frozen=True, slots=True)
class MagCache:
    """All blocks are spared while the error that comes together is below ``threshold``, at most ``most`` times in a row, and never in
    the first part ``retained`` (0..1) of the steps. ``ratios`` are those of a run of any number of steps.
    """

    ratios: tuple[float, ...]
    threshold: float
    most: int
    retained: float

    def install(self, wiring: Wiring, moment: Moment) -> None:
        if (call := moment.call) is None or moment.steps == 0:
            return
        block_stack.install(wiring, self._course(call, moment))

    def _course(self, call: Call, moment: Moment) -> _Course:
        if moment.step < int(self.retained * moment.steps + 0.5):
            return _Course(call, moment.batch, Tally(moment.step), may_spare=False)
        tally = known(call, moment.step).after(moment.step, self.ratio(moment.step, moment.steps))
        may_spare = tally.error < self.threshold and tally.spared <= self.most
        return _Course(call, moment.batch, tally, may_spare)

    def ratio(self, step: int, steps: int) -> float:
        """The one measured nearest to where ``step`` of ``steps`` is."""
        last = len(self.ratios) - 1
        return self.ratios[last if steps == 1 else round(step * last / (steps - 1))]


def known(call: Call, step: int) -> Tally:
    """That of the call before; an empty one where there was none."""
    match call.numbers(_TALLY):
        case [before, ratio, error, spared]:
            return Tally(int(before), ratio, error, int(spared))
    return Tally(step)


def mag_cache(network: Any, ratios: Sequence[float], threshold: float, most: int, retained: float) -> MagCache:
    """For any network that has blocks."""
    return MagCache(tuple(ratios), threshold, most, retained)


@dataclass(slots=True)
class _Measured:
    """A whole call, whose magnitudes are compared with those of the step before."""

    call: Call
    moment: Moment
    found: list[float]
    dim: int
    spares: bool = False
    first: Tensor | None = None

    def begun(self, first: Tensor) -> None:
        self.first = first

    def ended(self, last: Tensor) -> None:
        assert self.first is not None
        added, before = last - self.first, self.call.found.get(_ADDED)
        step = self.moment.step
        if before is not None and before.shape == added.shape and known(self.call, step).step < step:
            new, old = (vector_norm(it.float(), dim=self.dim) for it in (added, before))
            self.found.append(float((new / (old + 1e-8)).mean()))
        self.call.kept[_ADDED] = added
        self.call.keep_numbers(_TALLY, self.moment.batch, *Tally(step))

    def guessed(self) -> Tensor:
        raise AssertionError("a call that is measured is whole")


@dataclass(frozen=True, slots=True, eq=False)
class Magnitudes:
    """Measures in whole calls how the magnitude of what all blocks add changes from step to step; ``found`` has what was measured by the
    number of the step."""

    found: dict[int, list[float]] = field(default_factory=dict)

    def install(self, wiring: Wiring, moment: Moment) -> None:
        if (call := moment.call) is None:
            return
        for step in range(moment.steps):
            self.found.setdefault(step, [])
        dim = -1 if is_transformer(wiring.network) else 1
        block_stack.install(wiring, _Measured(call, moment, self.found[moment.step], dim))

    def ratios(self) -> list[float]:
        """For each step the mean of all that was measured there; 1 where that is nothing, as in the first."""
        return [math.fsum(each) / len(each) if each else 1.0 for _, each in sorted(self.found.items())]


def parsed(text: str) -> list[float]:
    """Ratios as they are written: numbers, between them commas or spaces, around them brackets or none.

    Raises InputError where there is none, or one is no positive number.
    """
    words = text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    if not words:
        raise InputError(
            "expected the magnitude ratios of the model, one for each step, found none; MagCacheRatios measures them",
            input="ratios",
        )
    for word in words:
        if not _is_ratio(word):
            raise InputError(f"expected positive numbers, found {word!r}", input="ratios")
    return [float(word) for word in words]


def _is_ratio(word: str) -> bool:
    try:
        return 0 < float(word) < math.inf
    except ValueError:
        return False


def written(ratios: Sequence[float]) -> str:
    """As ``parsed`` reads them."""
    return json.dumps([round(ratio, 5) for ratio in ratios])
