"""Noise levels of Chen et al. 2024, "On the Trajectory Regularity of ODE-based Diffusion Sampling" (GITS, section 4).

A teacher walks a hundred even timesteps of Stable Diffusion. For a number of steps, dynamic programming finds which of the levels on its
way are to be kept, so that the trajectory is bent least; the greater a coefficient, the more the errors of later steps count. The levels
and the ways are those that the authors published. They are in ``gits.json`` beside this file: of each coefficient one way for 2, 3, ...
20 steps, as numbers of the levels between the first and the last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from engine.errors import InputError

Levels = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The ``levels`` that ways lead over, from noise on, and for each coefficient its ways, from the fewest steps on, as places there."""

    levels: Levels
    ways: Mapping[float, tuple[tuple[int, ...], ...]]


@cache
def table() -> Table:
    """What was published: 98 levels, and 19 ways for each of 15 coefficients."""
    read = json.loads(files("nodes.diffusion").joinpath("gits.json").read_text(encoding="utf-8"))
    levels = tuple(read["levels"])
    last = len(levels) - 1
    ways = {
        float(coeff): tuple((0, *map(int, way.split()), last) for way in listed)
        for coeff, listed in read["ways"].items()
    }
    return Table(levels, ways)


def published(coeff: float, steps: int) -> Levels:
    """The ``steps + 1`` levels for ``coeff`` (0.80, 0.85, ... 1.50) and ``steps`` from 2; those of 20 for more.

    Raises InputError for another coefficient.
    """
    known = table()
    # 17 times 0.05 is not 0.85 to the last bit, and files hold the former.
    ways = known.ways.get(round(coeff, 2))
    if ways is None:
        nearest = sorted(sorted(known.ways, key=lambda it: abs(it - coeff))[:2])
        raise InputError(
            f"expected one of the coefficients {min(known.ways):.2f}, {min(known.ways) + 0.05:.2f}, ... "
            f"{max(known.ways):.2f}, found {coeff}; {nearest[0]:.2f} and {nearest[1]:.2f} are the nearest",
            input="coeff",
        )
    return tuple(known.levels[place] for place in ways[min(steps, len(ways) + 1) - 2])
