"""Caches between the steps of a sampling: the same pictures, nearly, in less time."""

from __future__ import annotations

from typing import Annotated, Any

from engine.models import ModelRef
from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Model

Share = Annotated[float, Range(0.0, 1.0, step=0.01)]
Steps = Annotated[int, Range(0, 1000, step=1)]


def _cached(model: ModelRef, name: str, **values: Any) -> ModelRef:
    return diffusion.listed.with_option(model, diffusion.options.CACHES, name, **values)


@node("DeepCache", title="Deep Cache", category="loaders", outputs=[Output("MODEL")])
def deep_cache(
    model: Model,
    cache_interval: Annotated[int, Range(1, 1000, step=1)] = 5,
    cache_depth: Annotated[int, Range(0, 12, step=1)] = 3,
    start_step: Steps = 0,
    end_step: Steps = 1000,
) -> ModelRef:
    """A UNet of which most calls compute the outer blocks alone, up to number cache_depth on the way down, and one in cache_interval all.

    start_step and end_step count the thousand steps of the training, from pure noise on.
    """
    return _cached(model, "DeepCache", interval=cache_interval, depth=cache_depth, start=start_step, end=end_step)


@node("ApplyFBCacheOnModel", title="Apply First Block Cache", category="wavespeed", outputs=[Output("MODEL")])
def apply_fb_cache_on_model(
    *,
    model: Model,
    object_to_patch: str = "diffusion_model",
    residual_diff_threshold: Annotated[float, Range(0.0, 1.0, step=0.001)] = 0.0,
    start: Share = 0.0,
    end: Share = 1.0,
    max_consecutive_cache_hits: Annotated[int, Range(-1, 1000, step=1)] = -1,
) -> ModelRef:
    """A model of which only the first block is computed while that does much the same as before; the greater the threshold, the more often.

    0 changes nothing. Of object_to_patch there is only the diffusion_model.
    """
    diffusion.options.check_patched(object_to_patch)
    return _cached(
        model,
        "First Block Cache",
        threshold=residual_diff_threshold,
        start=start,
        end=end,
        most=max_consecutive_cache_hits,
    )
