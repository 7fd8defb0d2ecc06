"""How much each transformer of a UNet is told of a picture: the weight types of IP-Adapters.

Transformers are numbered in the order in which they compute: on the way down, in the middle, on the way up. What style and what
composition come from is known for Stable Diffusion 1 and 2 with 16 of them, and for SDXL with 11 (Wang et al. 2024, "InstantStyle").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from engine.errors import InputError
from nodes.diffusion.configs import UNetConfig

Place = Literal["input", "middle", "output"]

STYLE_PRECISE: Final = "style transfer precise"
COMPOSITION_PRECISE: Final = "composition precise"
STRONG_BOTH: Final = "strong style and composition"
BOTH: Final = "style and composition"

_WEAK: Final = 0.2
_FLOOR: Final = 0.05
"""What is left of the weight where an easing is at its least."""
_FAINT: Final = 0.1


@dataclass(frozen=True, slots=True)
class _Roles:
    """What transformers do: those that style comes from, and how much those of composition count."""

    style: frozenset[int]
    composition: Mapping[int, float]


_ROLES: Final[Mapping[int, _Roles]] = {
    16: _Roles(frozenset({0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15}), {4: 0.25, 5: 1.0}),
    11: _Roles(frozenset({6}), {3: 1.0}),
}
"""By the number of transformers."""

_EASED: Final[Mapping[str, Callable[[float], float]]] = {
    "ease in": lambda part: 1 - part,
    "ease out": lambda part: part,
    "ease in-out": lambda part: 1 - abs(2 * part - 1),
    "reverse in-out": lambda part: abs(2 * part - 1),
}
"""How much counts at ``part`` of the way through the UNet."""

_WEAKENED: Final[Mapping[str, frozenset[Place]]] = {
    "weak input": frozenset({"input"}),
    "weak middle": frozenset({"middle"}),
    "weak output": frozenset({"output"}),
    "strong middle": frozenset({"input", "output"}),
}

Weights = list[list[float]]
"""For each transformer: one weight for all samples, or one for each."""


@dataclass(frozen=True, slots=True)
class Weighing:
    """What a node is told of weights. ``weight`` holds one for all samples of a batch, or one for each.

    ``composition`` is for types of style and composition. The boosts, of precise types, weigh what is not followed. ``layers``, such as
    ``0:0.5, 3:1``, weighs some transformers by number and leaves the others out.
    """

    weight: tuple[float, ...]
    type: str = "linear"
    composition: float = 1.0
    style_boost: float | None = None
    composition_boost: float | None = None
    layers: str = ""

    def of(self, config: UNetConfig) -> Weights:
        """The weights of the transformers of a UNet. Raises InputError for layers that are no numbers or that it does not have, and for
        types that mean nothing in it."""
        places = transformers(config)
        if self.layers.strip():
            factors = _parsed(self.layers, len(places))
            return [self._times(factors.get(number, 0.0)) for number in range(len(places))]
        if self.type in _EASED:
            curve = _EASED[self.type]
            return [self._times(_FLOOR + (1 - _FLOOR) * curve(number / len(places))) for number in range(len(places))]
        if self.type in ("linear", *_WEAKENED):
            weak = _WEAKENED.get(self.type, frozenset())
            return [self._times(_WEAK if place in weak else 1.0) for place in places]
        return self._by_role(self._roles(config))

    def reversed(self, config: UNetConfig) -> list[int]:
        """The transformers in which a picture is led away from instead, so that the others alone follow it."""
        if self.type not in (STYLE_PRECISE, COMPOSITION_PRECISE):
            return []
        composed = self._roles(config).composition
        return [n for n in range(len(transformers(config))) if (n in composed) == (self.type == STYLE_PRECISE)]

    def _times(self, factor: float) -> list[float]:
        return [factor * weight for weight in self.weight]

    def _roles(self, config: UNetConfig) -> _Roles:
        count = len(transformers(config))
        if count not in _ROLES:
            known = " or ".join(map(str, _ROLES))
            raise InputError(
                f"expected a model with {known} transformers for the weight type {self.type}, found one with {count}; choose linear",
                input="weight_type",
            )
        return _ROLES[count]

    def _by_role(self, roles: _Roles) -> Weights:
        count = next(number for number, known in _ROLES.items() if known is roles)
        return [self._of_role(roles, number) for number in range(count)]

    def _of_role(self, roles: _Roles, number: int) -> list[float]:
        """The weight of one transformer, by what it does."""
        part = roles.composition.get(number)
        styled = number in roles.style
        match self.type:
            case "style transfer":
                return self._times(float(styled))
            case "composition":
                return self._times(part or 0.0)
            case "strong style transfer":
                return self._times(float(part is None))
            case "strong style and composition":
                return [self.composition] if part else self._times(1.0)
            case "style and composition":
                return [part * self.composition] if part else self._times(float(styled))
            case "style transfer precise":
                return _boosted(self.style_boost, self.weight, part) if part else self._times(float(styled))
            case "composition precise":
                factor = 1.0 if styled else _FAINT
                return self._times(part) if part else _boosted(self.composition_boost, self.weight, factor)
        raise InputError(f"expected a known weight type, found {self.type}", input="weight_type")


def _boosted(boost: float | None, weight: Sequence[float], factor: float) -> list[float]:
    return [factor * value for value in (weight if boost is None else (boost,))]


def transformers(config: UNetConfig) -> list[Place]:
    """Where each transformer of a UNet is."""
    down = sum(depth > 0 for depths in config.down_depths for depth in depths)
    up = sum(depth > 0 for depths in config.up_depths for depth in depths)
    middle = 1 if config.mid_depth else 0
    places: list[Place] = ["input"] * down
    places += ["middle"] * middle
    places += ["output"] * up
    return places


def _parsed(text: str, count: int) -> dict[int, float]:
    factors = {}
    for item in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        number, _, factor = item.partition(":")
        try:
            factors[int(number)] = float(factor)
        except ValueError as error:
            raise InputError(
                f"expected layer weights such as 0:0.5, 3:1, found {item!r}", input="layer_weights"
            ) from error
        if not 0 <= int(number) < count:
            raise InputError(
                f"expected layers from 0 to {count - 1}, which this model has, found {number}", input="layer_weights"
            )
    return factors
