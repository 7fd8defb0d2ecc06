"""What the plain loops are, and what several of them need."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

Model = Callable[[Tensor, float], Tensor]
Draw = Callable[[float, float], Tensor]
Both = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""The guided and the unconditional prediction."""
Loop = Callable[[Model, Tensor, list[float], Draw], Tensor]


def ancestral(start: float, end: float) -> tuple[float, float]:
    up = end * math.sqrt(max(start**2 - end**2, 0)) / start
    return math.sqrt(end**2 - up**2), up
