"""TaylorSeer (Liu et al. 2025, "From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers"): most calls do not compute
what a Taylor expansion over the steps foretells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from nodes.diffusion import attention_outputs, block_stack
from nodes.diffusion.alterations import Moment, Wiring
from nodes.diffusion.attention_outputs import Place, attentions, found, keep
from nodes.diffusion.recall import Call
from nodes.diffusion.taylor import expanded, predicted

_NAME: Final = "taylor"
_STEP: Final = "taylor_step"


@dataclass(slots=True)
class _Expansions:
    """Of all that is foretold, by name: the differences, up to ``order``, at the step of the last whole call, ``distance`` steps ago."""

    call: Call
    moment: Moment
    order: int

    @property
    def distance(self) -> int:
        return self.moment.step - self.latest

    @property
    def latest(self) -> int:
        """The step of the last whole call, or this one."""
        before = self.call.numbers(_STEP)
        return int(before[0]) if before else self.moment.step

    def foretold(self, name: str) -> Tensor | None:
        differences = found(self.call, name)
        if not differences:
            return None
        keep(self.call, name, differences)
        self.call.keep_numbers(_STEP, self.moment.batch, self.latest)
        return predicted(differences, self.distance)

    def computed(self, name: str, features: Tensor) -> None:
        self.call.keep_numbers(_STEP, self.moment.batch, self.moment.step)
        keep(self.call, name, expanded(features, found(self.call, name), self.distance, self.order))


@dataclass(slots=True)
class _Stack:
    """For what all blocks put out."""

    expansions: _Expansions
    may_spare: bool
    spares: bool = False
    last: Tensor | None = None

    def begun(self, first: Tensor) -> None:
        if self.may_spare:
            self.last = self.expansions.foretold(_NAME)
        self.spares = self.last is not None and self.last.shape == first.shape

    def ended(self, last: Tensor) -> None:
        self.expansions.computed(_NAME, last)

    def guessed(self) -> Tensor:
        assert self.last is not None
        return self.last


@dataclass(slots=True)
class _Attention:
    """For what each attention puts out."""

    expansions: _Expansions
    may_spare: bool

    def served(self, place: Place) -> tuple[Tensor, ...] | None:
        if not self.may_spare:
            return None
        parts = self.expansions.foretold(self._name(place, 0)), self.expansions.foretold(self._name(place, 1))
        return tuple(part for part in parts if part is not None) or None

    def computed(self, place: Place, outputs: tuple[Tensor, ...]) -> None:
        for part, features in enumerate(outputs):
            self.expansions.computed(self._name(place, part), features)

    def _name(self, place: Place, part: int) -> str:
        return f"{_NAME}.{place.number}.{part}"


@dataclass(frozen=True, slots=True)
class TaylorSeer:
    """After ``first`` whole steps, one in ``interval`` is whole, and so are the ``last`` ones; between them all blocks, or with
    ``attention_only`` the attention in them, is foretold by an expansion up to ``order``.
    """

    interval: int
    order: int
    first: int
    last: int
    attention_only: bool

    def install(self, wiring: Wiring, moment: Moment) -> None:
        if (call := moment.call) is None or moment.steps == 0:
            return
        expansions = _Expansions(call, moment, self.order)
        # A later step than this one foretells nothing.
        may_spare = expansions.distance >= 0 and not self.is_whole(moment.step, moment.steps)
        if self.attention_only:
            attention_outputs.install(wiring, _Attention(expansions, may_spare))
        else:
            block_stack.install(wiring, _Stack(expansions, may_spare))

    def is_whole(self, step: int, steps: int) -> bool:
        """Whether ``step`` of ``steps`` is computed. Intervals are counted from the second step behind the first whole ones, as in
        diffusers."""
        return step < self.first or step >= steps - self.last or (step - self.first - 1) % self.interval == 0


def taylor_seer(network: Any, interval: int, order: int, first: int, last: int, attention_only: bool) -> TaylorSeer:
    """Raises InputError for a network without attention, where that is what is foretold."""
    if attention_only:
        attentions(network)
    return TaylorSeer(interval, order, first, last, attention_only)
