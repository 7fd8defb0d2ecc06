"""Prompts combined, placed in the picture and in time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from engine.run.context import NodeContext
from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Conditioning, Mask
from nodes.widgets import Percent

Strength = Annotated[float, Range(0.0, 10.0, step=0.01)]
AreaSide = Annotated[int, Range(64, 16384, step=8)]
Position = Annotated[int, Range(0, 16384, step=8)]
Fraction = Annotated[float, Range(0.0, 1.0, step=0.01)]

_CONDITIONING = [Output("CONDITIONING")]


@node("ConditioningCombine", title="Conditioning (Combine)", category="conditioning", outputs=_CONDITIONING)
def conditioning_combine(conditioning_1: Conditioning, conditioning_2: Conditioning) -> list[Any]:
    """Both prompts at once: what the model predicts under each is averaged, by their strengths and areas."""
    return [*conditioning_1, *conditioning_2]


@node("ConditioningConcat", title="Conditioning (Concat)", category="conditioning", outputs=_CONDITIONING)
def conditioning_concat(ctx: NodeContext, conditioning_to: Conditioning, conditioning_from: Conditioning) -> list[Any]:
    """One long prompt: the tokens of the second behind those of the first."""
    return diffusion.entries.concatenated(conditioning_to, conditioning_from, ctx.warn)


@node("ConditioningAverage", category="conditioning", outputs=_CONDITIONING)
def conditioning_average(
    ctx: NodeContext,
    conditioning_to: Conditioning,
    conditioning_from: Conditioning,
    conditioning_to_strength: Annotated[float, Range(0.0, 1.0, step=0.01)] = 1.0,
) -> list[Any]:
    """A prompt between two: this much of the one, the rest of the other."""
    return diffusion.entries.averaged(conditioning_to, conditioning_from, conditioning_to_strength, ctx.warn)


@node("ConditioningSetArea", title="Conditioning (Set Area)", category="conditioning", outputs=_CONDITIONING)
def conditioning_set_area(
    *,
    conditioning: Conditioning,
    width: AreaSide = 64,
    height: AreaSide = 64,
    x: Position = 0,
    y: Position = 0,
    strength: Strength = 1.0,
) -> list[Any]:
    """The prompt holds in a rectangle of the picture, in pixels. What reaches beyond the picture is cut off."""
    options = {
        "area": (height // 8, width // 8, y // 8, x // 8),
        "strength": strength,
        "set_area_to_bounds": False,
    }
    return diffusion.entries.with_options(conditioning, options)


@node(
    "ConditioningSetAreaPercentage",
    title="Conditioning (Set Area with Percentage)",
    category="conditioning",
    outputs=_CONDITIONING,
)
def conditioning_set_area_percentage(
    *,
    conditioning: Conditioning,
    width: Fraction = 1.0,
    height: Fraction = 1.0,
    x: Fraction = 0,
    y: Fraction = 0,
    strength: Strength = 1.0,
) -> list[Any]:
    """The prompt holds in a rectangle of the picture, in fractions of its sides."""
    options = {"area": ("percentage", height, width, y, x), "strength": strength, "set_area_to_bounds": False}
    return diffusion.entries.with_options(conditioning, options)


@node("ConditioningSetAreaStrength", category="conditioning", outputs=_CONDITIONING)
def conditioning_set_area_strength(conditioning: Conditioning, strength: Strength = 1.0) -> list[Any]:
    """How much the prompt counts where it meets others."""
    return diffusion.entries.with_options(conditioning, {"strength": strength})


@node("ConditioningSetMask", title="Conditioning (Set Mask)", category="conditioning", outputs=_CONDITIONING)
def conditioning_set_mask(
    *,
    conditioning: Conditioning,
    mask: Mask,
    strength: Strength = 1.0,
    set_cond_area: Literal["default", "mask bounds"],
) -> list[Any]:
    """The prompt holds as far as the mask says. With mask bounds the model sees the rectangle around the mask alone."""
    options = {
        "mask": diffusion.masks.checked(mask),
        "set_area_to_bounds": set_cond_area == "mask bounds",
        "mask_strength": strength,
    }
    return diffusion.entries.with_options(conditioning, options)


@node("ConditioningZeroOut", category="advanced/conditioning", outputs=_CONDITIONING)
def conditioning_zero_out(conditioning: Conditioning) -> list[Any]:
    """Zeros in place of the prompt: the model is told nothing."""
    return diffusion.entries.zeroed(conditioning)


@node("ConditioningSetTimestepRange", category="advanced/conditioning", outputs=_CONDITIONING)
def conditioning_set_timestep_range(conditioning: Conditioning, start: Percent = 0.0, end: Percent = 1.0) -> list[Any]:
    """The prompt holds from this part of the sampling to that one: 0 is pure noise, 1 the finished picture."""
    return diffusion.entries.with_options(conditioning, {"start_percent": start, "end_percent": end})
