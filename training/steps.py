"""What every training loop here needs: a learning rate's course, averaged weights, a line of progress now and then."""

from __future__ import annotations

import math
import time

import torch
from torch import nn


def cosine(step: int, total: int, warm: int, floor: float) -> float:
    """Share of the full learning rate: a ramp over `warm` steps, then half a cosine down to `floor`."""
    return min(1.0, (step + 1) / warm) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / total)))


class Average:
    """Exponential moving average of a module's trainable weights; short at first, `decay` in the long run."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._weights = [p for p in module.parameters() if p.requires_grad]
        self.values = [p.detach().clone() for p in self._weights]
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        keep = min(self._decay, self._steps / (self._steps + 20))
        torch._foreach_lerp_(self.values, [p.detach() for p in self._weights], 1 - keep)

    def restore(self, values: list[torch.Tensor], steps: int) -> None:
        """Go on from values saved after so many steps."""
        self.values, self._steps = values, steps

    @torch.no_grad()
    def apply(self) -> None:
        """Put the averaged weights into the module."""
        for weight, value in zip(self._weights, self.values, strict=True):
            weight.copy_(value)


class Meter:
    """Prints the mean of what it was told, with the time, every so many steps."""

    def __init__(self, name: str, every: int) -> None:
        self._name, self._every = name, every
        self._sums: dict[str, float] = {}
        self._steps, self._started = 0, time.monotonic()

    def note(self, **values: float) -> None:
        self._steps += 1
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        if self._steps % self._every == 0:
            means = ", ".join(f"{key} {total / self._every:.4f}" for key, total in self._sums.items())
            print(f"{self._name}: step {self._steps}, {time.monotonic() - self._started:.0f} s, {means}", flush=True)
            self._sums.clear()
