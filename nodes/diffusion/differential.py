"""Differential diffusion: a mask that says when each pixel may change, not only whether."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nodes.diffusion.schedules import ModelSigmas

SETTING = "differential_diffusion"
"""The setting of a recipe that holds the strength."""


@dataclass(frozen=True, slots=True, eq=False)
class ChangeMap:
    """The mask of inpainting over a run (Levin and Fried 2023, "Differential Diffusion: giving each pixel its strength").

    At timestep t what is at least ``(t - end) / (start - end)`` strong is repainted, from ``start`` where the run begins to ``end``
    where it ends: a mask of 1 from the first step on, one of 0.3 in the last 30 percent of the timesteps. ``strength`` (up to 1) mixes
    that with the mask as it is; ``over`` takes one of 0 for 1, as ComfyUI does.
    """

    schedule: ModelSigmas
    start: float
    end: float
    strength: float

    @classmethod
    def over(cls, schedule: ModelSigmas, sigmas: Tensor, strength: float) -> ChangeMap:
        """For a run along ``sigmas`` [n + 1], falling; its last timestep is the model's lowest where they end in 0."""
        last = max(float(sigmas[-1]), float(schedule.table[0]))
        return cls(schedule, _timestep(schedule, float(sigmas[0])), _timestep(schedule, last), strength or 1.0)

    def at(self, mask: Tensor, sigma: float) -> Tensor:
        """``mask`` ([B,1,h,w], 1 = repaint) as it is at ``sigma``."""
        t = _timestep(self.schedule, max(sigma, float(self.schedule.table[0])))
        # A run of one timestep, and a solver that looks above the first sigma, are at the beginning.
        passed = 1.0 if self.start == self.end else min(1.0, (t - self.end) / (self.start - self.end))
        return self.strength * (mask >= passed).to(mask.dtype) + (1 - self.strength) * mask


def _timestep(schedule: ModelSigmas, sigma: float) -> float:
    return float(schedule.timestep(np.array([sigma]))[0])
