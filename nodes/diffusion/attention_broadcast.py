"""Pyramid Attention Broadcast (Zhao et al. 2024, "Real-Time Video Generation with Pyramid Attention Broadcast"): attention changes little
in the middle of a run, that to the text least, so it is computed in some calls and broadcast to those that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from nodes.diffusion import attention_outputs
from nodes.diffusion.alterations import Moment, Wiring
from nodes.diffusion.attention_outputs import Place, attentions
from nodes.diffusion.recall import Call

_OUTPUTS: Final = "broadcast"
_COUNT: Final = "broadcast_count"


@dataclass(slots=True)
class _Policy:
    call: Call
    spared: frozenset[str]
    """The kinds that are taken from an earlier call."""

    def served(self, place: Place) -> tuple[Tensor, ...] | None:
        outputs = attention_outputs.found(self.call, self._name(place))
        if place.kind not in self.spared or not outputs:
            return None
        attention_outputs.keep(self.call, self._name(place), outputs)
        return outputs

    def computed(self, place: Place, outputs: tuple[Tensor, ...]) -> None:
        attention_outputs.keep(self.call, self._name(place), outputs)

    def _name(self, place: Place) -> str:
        return f"{_OUTPUTS}.{place.number}"


@dataclass(frozen=True, slots=True)
class AttentionBroadcast:
    """Between two parts of a run, ``start`` and ``end`` (0..1), self attention is computed in every ``own``-th call and cross attention in
    every ``cross``-th, counted from the first call on. 1 leaves it as it is.
    """

    own: int
    cross: int
    start: float
    end: float

    def install(self, wiring: Wiring, moment: Moment) -> None:
        if (call := moment.call) is None:
            return
        count = int((call.numbers(_COUNT) or [0])[0])
        call.keep_numbers(_COUNT, moment.batch, count + 1)
        every = {"self": self.own, "cross": self.cross}
        within = moment.within(self.start, self.end)
        spared = frozenset(kind for kind, interval in every.items() if within and count % interval)
        attention_outputs.install(wiring, _Policy(call, spared), lambda place: every[place.kind] > 1)


def attention_broadcast(network: Any, own: int, cross: int, start: float, end: float) -> AttentionBroadcast:
    """Raises InputError for a network without attention."""
    attentions(network)
    return AttentionBroadcast(own, cross, start, end)
