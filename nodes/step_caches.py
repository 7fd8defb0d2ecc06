"""Caches between the steps of a sampling: the same pictures, nearly, in less time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Multiline, Output, Range, node
from nodes import diffusion
from nodes.sampling import SamplerName, SchedulerName, ksampler_estimate, leased
from nodes.sockets import Conditioning, Latent, LatentDict, Model
from nodes.widgets import Cfg, SeedInt
from nodes.widgets import Steps as SamplingSteps

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


Threshold = Annotated[float, Range(0.0, 10.0, step=0.01)]
Few = Annotated[int, Range(0, 1000, step=1)]
Weight = Annotated[float, Range(0.0, 2.0, step=0.01)]
Interval = Annotated[int, Range(1, 1000, step=1)]


@node(
    "ApplyPABOnModel", title="Apply Pyramid Attention Broadcast", category="advanced/caches", outputs=[Output("MODEL")]
)
def apply_pab_on_model(
    model: Model,
    self_attention_interval: Interval = 2,
    cross_attention_interval: Interval = 4,
    start: Share = 0.2,
    end: Share = 0.9,
) -> ModelRef:
    """A model whose attention is computed in one of so many calls between start and end, and taken from there in the others.

    An interval of 1 leaves that kind as it is. A transformer of Stable Diffusion 3 has self attention alone, which is to the text, too.
    """
    values = {"own": self_attention_interval, "cross": cross_attention_interval, "start": start, "end": end}
    return _cached(model, "Pyramid Attention Broadcast", **values)


@node("ApplyFasterCacheOnModel", title="Apply FasterCache", category="advanced/caches", outputs=[Output("MODEL")])
def apply_faster_cache_on_model(
    model: Model,
    negative_interval: Interval = 5,
    negative_start: Share = 0.36,
    low_weight: Weight = 1.1,
    high_weight: Weight = 1.1,
    switch: Share = 0.7,
    attention_interval: Interval = 2,
    attention_start: Share = 0.32,
    attention_weight: Weight = 1.0,
) -> ModelRef:
    """A model whose negative side is computed in one of so many calls, and rebuilt from the positive one in the others.

    What it differs by grows by low_weight in its coarse parts until switch, then by high_weight in its fine ones. Self attention is
    computed in one of attention_interval calls, and goes on as it changed, the more the later: attention_weight at the end. An interval
    of 1 leaves that part as it is.
    """
    values = {"negative": negative_interval, "negative_start": negative_start, "low": low_weight, "high": high_weight}
    own = {"attention": attention_interval, "attention_start": attention_start, "weight": attention_weight}
    return _cached(model, diffusion.options.FASTER, **values, **own, switch=switch)


@node("ApplyTaylorSeerOnModel", title="Apply TaylorSeer", category="advanced/caches", outputs=[Output("MODEL")])
def apply_taylor_seer_on_model(
    model: Model,
    cache_interval: Interval = 3,
    max_order: Annotated[int, Range(0, 4, step=1)] = 1,
    first_steps: Few = 3,
    last_steps: Few = 1,
    predict: Literal["blocks", "attention"] = "blocks",
) -> ModelRef:
    """A model of which one step in cache_interval is computed, and foretells the others by how it changed up to now.

    The first and last steps are computed. An order of 0 takes what is known as it is, 1 goes on in a straight line. attention foretells
    each attention instead of all blocks at once: closer, but it spares less and keeps much more.
    """
    values = {"interval": cache_interval, "order": max_order, "first": first_steps, "last": last_steps}
    return _cached(model, "TaylorSeer", **values, attention_only=predict == "attention")


@node("ApplySeaCacheOnModel", title="Apply SeaCache", category="advanced/caches", outputs=[Output("MODEL")])
def apply_sea_cache_on_model(
    model: Model,
    threshold: Threshold = 0.25,
    max_skip_steps: Few = 2,
    first_steps: Few = 1,
    last_steps: Few = 1,
    extrapolate: bool = True,
) -> ModelRef:
    """A model whose blocks are spared until what there is of a picture in the sample has changed by threshold, in parts of it.

    At most max_skip_steps times in a row, 0 for any number, and never in the first and last steps. A threshold of 0 changes nothing.
    """
    values = {"threshold": threshold, "most": max_skip_steps, "first": first_steps, "last": last_steps}
    return _cached(model, "SeaCache", **values, extrapolates=extrapolate)


@node("ApplyMagCacheOnModel", title="Apply MagCache", category="advanced/caches", outputs=[Output("MODEL")])
def apply_mag_cache_on_model(
    model: Model,
    ratios: Annotated[str, Multiline()],
    threshold: Threshold = 0.06,
    max_skip_steps: Annotated[int, Range(1, 1000, step=1)] = 3,
    retention_ratio: Share = 0.2,
) -> ModelRef:
    """A model whose blocks are spared while the magnitude of what they add, by the ratios from step to step, stays within threshold.

    At most max_skip_steps times in a row, and not in the first part retention_ratio of the steps. MagCacheRatios measures the ratios.
    """
    numbers = diffusion.mag_cache.parsed(ratios)
    values = {"threshold": threshold, "most": max_skip_steps, "retained": retention_ratio}
    return _cached(model, "MagCache", ratios=numbers, **values)


@node(
    "MagCacheRatios",
    title="MagCache Ratios",
    category="advanced/caches",
    outputs=[Output("STRING", "ratios"), Output("LATENT")],
    estimate=ksampler_estimate,
)
def mag_cache_ratios(
    ctx: NodeContext,
    *,
    model: Model,
    seed: SeedInt = 0,
    steps: SamplingSteps = 20,
    cfg: Cfg = 8.0,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
) -> tuple[str, LatentDict]:
    """The ratios that MagCache needs of a model, measured while it samples as KSampler does. One prompt is enough for all others."""
    diffusion.options.check_uncached(model)
    settings = diffusion.sample.Settings(
        seed=seed, steps=steps, cfg=cfg, sampler=sampler_name, scheduler=scheduler,
        noise_device=diffusion.unet.noise_device(ctx.settings),
    )  # fmt: skip
    magnitudes = diffusion.mag_cache.Magnitudes()
    with leased(ctx, model, latent_image, {"positive": positive, "negative": negative}) as (
        denoiser,
        callbacks,
        network,
    ):
        measured = denoiser.changed(diffusion.alterations.altered(network, magnitudes))
        # What is measured is not in the states that a sampling may go on from, so that it is done from the beginning.
        whole = diffusion.sample.Callbacks(on_step=callbacks.on_step)
        sampled = diffusion.sample.sample_latent(measured, settings, positive, negative, latent_image, callbacks=whole)
    return diffusion.mag_cache.written(magnitudes.ratios()), {**latent_image, "samples": sampled["samples"]}
