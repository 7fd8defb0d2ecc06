"""Guidance away from a worse model: the same one, made worse for a call.

A ``Perturbation`` asks the network once more than classifier-free guidance does, under a change of it, and moves the guided prediction
away from what it then says. ``attention_guidance`` has the kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from nodes.diffusion.alterations import Altered
from nodes.diffusion.schedules import ModelSigmas

Side = Literal["positive", "negative"]

Notes = list[Tensor]
"""What was noted of the network while it predicted the negative side, call by call."""

Again = Callable[[Side, Tensor, tuple[Altered, ...]], Tensor]
"""What the network says under a side's conditioning for a sample [B,C,h,w], with further changes."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One evaluation of guidance: the sample ``x`` [B,C,h,w], its sigma, and the predictions of both sides; ``away`` is None
    where there is no negative one."""

    x: Tensor
    sigma: float
    schedule: ModelSigmas
    toward: Tensor
    away: Tensor | None
    again: Again
    notes: Notes


class Perturbation(Protocol):
    """A kind of guidance beside the classifier-free one."""

    needs_negative: ClassVar[bool]
    """The negative side must be predicted even where its scale leaves it out."""

    def on_negative(self, notes: Notes, sigma: float, schedule: ModelSigmas) -> Altered | None:
        """What changes the network while it predicts the negative side, or adds to ``notes`` what is to be known of it."""
        ...

    def steered(self, result: Tensor, look: Look) -> Tensor:
        """``result``, a guided prediction [B,C,h,w], guided further."""
        ...
