"""Prompts with masks, hooks and a time of their own, one by one or a positive and a negative one together."""

from __future__ import annotations

from typing import Any, Final, Literal

from engine.models import Recipe
from engine.spec import Output, node
from nodes import diffusion
from nodes.conditioning import Strength
from nodes.sockets import Conditioning, Hooks, Mask, Tensor, TimestepsRange
from nodes.widgets import Percent

SINGLE: Final = "advanced/hooks/cond single"
PAIR: Final = "advanced/hooks/cond pair"

Bounds = Literal["default", "mask bounds"]

_CONDITIONING: Final = (Output("CONDITIONING"),)
_PAIR: Final = (Output("CONDITIONING", "positive"), Output("CONDITIONING", "negative"))


def _with_properties(
    conditioning: Conditioning,
    strength: float,
    bounds: Bounds,
    mask: Tensor | None,
    hooks: Recipe | None,
    timesteps: tuple[float, float] | None,
) -> list[Any]:
    """``conditioning`` under ``hooks``, under ``mask`` with its strength, and for the time given, as far as they are given."""
    options: dict[str, Any] = {}
    if mask is not None:
        checked = diffusion.masks.checked(mask)
        options |= {"mask": checked, "set_area_to_bounds": bounds == "mask bounds", "mask_strength": strength}
    if timesteps is not None:
        options |= {"start_percent": timesteps[0], "end_percent": timesteps[1]}
    hooked = diffusion.entries.with_hooks(conditioning, diffusion.weight_hooks.hooks_of(hooks))
    return diffusion.entries.with_options(hooked, options)


def _as_default(conditioning: Conditioning, hooks: Recipe | None) -> list[Any]:
    """``conditioning`` under ``hooks``, for what others leave uncovered."""
    hooked = diffusion.entries.with_hooks(conditioning, diffusion.weight_hooks.hooks_of(hooks))
    return diffusion.entries.with_options(hooked, {"default": True})


@node(
    "ConditioningTimestepsRange",
    title="Timesteps Range",
    category="advanced/hooks",
    outputs=[
        Output("TIMESTEPS_RANGE"),
        Output("TIMESTEPS_RANGE", "BEFORE_RANGE"),
        Output("TIMESTEPS_RANGE", "AFTER_RANGE"),
    ],
    experimental=True,
)
def conditioning_timesteps_range(
    start_percent: Percent = 0.0, end_percent: Percent = 1.0
) -> tuple[tuple[float, float], ...]:
    """A part of the sampling, what comes before it, and what comes after: 0 is pure noise, 1 the finished picture."""
    return (start_percent, end_percent), (0.0, start_percent), (end_percent, 1.0)


@node("ConditioningSetProperties", title="Cond Set Props", category=SINGLE, outputs=_CONDITIONING, experimental=True)
def conditioning_set_properties(
    *,
    cond_NEW: Conditioning,
    strength: Strength = 1.0,
    set_cond_area: Bounds,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: TimestepsRange | None = None,
) -> list[Any]:
    """A prompt for a part of the picture, with hooks, for a part of the sampling; the strength is the mask's."""
    return _with_properties(cond_NEW, strength, set_cond_area, mask, hooks, timesteps)


@node(
    "ConditioningSetPropertiesAndCombine",
    title="Cond Set Props Combine",
    category=SINGLE,
    outputs=_CONDITIONING,
    experimental=True,
)
def conditioning_set_properties_and_combine(
    *,
    cond: Conditioning,
    cond_NEW: Conditioning,
    strength: Strength = 1.0,
    set_cond_area: Bounds,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: TimestepsRange | None = None,
) -> list[Any]:
    """As Cond Set Props, beside another prompt."""
    return [*cond, *_with_properties(cond_NEW, strength, set_cond_area, mask, hooks, timesteps)]


@node("PairConditioningSetProperties", title="Cond Pair Set Props", category=PAIR, outputs=_PAIR, experimental=True)
def pair_conditioning_set_properties(
    *,
    positive_NEW: Conditioning,
    negative_NEW: Conditioning,
    strength: Strength = 1.0,
    set_cond_area: Bounds,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: TimestepsRange | None = None,
) -> tuple[list[Any], ...]:
    """As Cond Set Props, for both sides of guidance."""
    return tuple(
        _with_properties(side, strength, set_cond_area, mask, hooks, timesteps) for side in (positive_NEW, negative_NEW)
    )


@node(
    "PairConditioningSetPropertiesAndCombine",
    title="Cond Pair Set Props Combine",
    category=PAIR,
    outputs=_PAIR,
    experimental=True,
)
def pair_conditioning_set_properties_and_combine(
    *,
    positive: Conditioning,
    negative: Conditioning,
    positive_NEW: Conditioning,
    negative_NEW: Conditioning,
    strength: Strength = 1.0,
    set_cond_area: Bounds,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: TimestepsRange | None = None,
) -> tuple[list[Any], ...]:
    """As Cond Set Props, for both sides of guidance, each beside another prompt."""
    return tuple(
        [*known, *_with_properties(new, strength, set_cond_area, mask, hooks, timesteps)]
        for known, new in ((positive, positive_NEW), (negative, negative_NEW))
    )


@node("PairConditioningCombine", title="Cond Pair Combine", category=PAIR, outputs=_PAIR, experimental=True)
def pair_conditioning_combine(
    positive_A: Conditioning, negative_A: Conditioning, positive_B: Conditioning, negative_B: Conditioning
) -> tuple[list[Any], ...]:
    """Both prompts of each side at once."""
    return [*positive_A, *positive_B], [*negative_A, *negative_B]


@node(
    "ConditioningSetDefaultCombine",
    title="Cond Set Default Combine",
    category=SINGLE,
    outputs=_CONDITIONING,
    experimental=True,
)
def conditioning_set_default_combine(
    cond: Conditioning, cond_DEFAULT: Conditioning, hooks: Hooks | None = None
) -> list[Any]:
    """A prompt beside another, for what its masks and areas leave uncovered."""
    return [*cond, *_as_default(cond_DEFAULT, hooks)]


@node(
    "PairConditioningSetDefaultCombine",
    title="Cond Pair Set Default Combine",
    category=PAIR,
    outputs=_PAIR,
    experimental=True,
)
def pair_conditioning_set_default_combine(
    positive: Conditioning,
    negative: Conditioning,
    positive_DEFAULT: Conditioning,
    negative_DEFAULT: Conditioning,
    hooks: Hooks | None = None,
) -> tuple[list[Any], ...]:
    """As Cond Set Default Combine, for both sides of guidance."""
    return [*positive, *_as_default(positive_DEFAULT, hooks)], [*negative, *_as_default(negative_DEFAULT, hooks)]
