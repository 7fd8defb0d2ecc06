"""Taylor expansions of what a module puts out, over the steps of a run (Liu et al. 2025, "From Reusing to Forecasting: Accelerating
Diffusion Models with TaylorSeers", section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def expanded(features: Tensor, known: Sequence[Tensor], distance: int, order: int) -> list[Tensor]:
    """``features`` and their differences up to ``order``, by those ``known`` from ``distance`` steps ago.

    Differences of another shape, or of a later step, count for nothing; those of the same step stay.
    """
    if distance < 0 or not known or known[0].shape != features.shape:
        return [features]
    if distance == 0:
        return [features, *known[1:]]
    found = [features]
    for before in known[:order]:
        found.append((found[-1] - before) / distance)
    return found


def predicted(differences: Sequence[Tensor], distance: int) -> Tensor:
    """The features ``distance`` steps behind those that ``differences`` begin with."""
    total = differences[0]
    for order, difference in enumerate(differences[1:], 1):
        total = total + difference * (distance**order / math.factorial(order))
    return total
