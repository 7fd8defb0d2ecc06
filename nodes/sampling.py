"""The samplers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.run.context import NodeContext
from engine.spec import Choices, Estimate, Output, Range, node
from nodes import diffusion
from nodes.diffusion.names import DIFFUSERS_NAMES, SAMPLER_NAMES, SCHEDULER_NAMES
from nodes.sockets import Conditioning, Latent, LatentDict, Model
from nodes.widgets import Cfg, SeedInt, Steps

if TYPE_CHECKING:
    from torch.nn import Module

    from nodes.diffusion.denoiser import Denoiser
    from nodes.diffusion.sample import Callbacks, Settings

SamplerName = Annotated[str, Choices(SAMPLER_NAMES + DIFFUSERS_NAMES)]
SchedulerName = Annotated[str, Choices(SCHEDULER_NAMES)]
Step = Annotated[int, Range(0, 10_000)]
Switch = Literal["enable", "disable"]


def _steps(steps: int | None, sampler_name: str | None, scheduler: str | None, **cut: Any) -> Estimate:
    """Sampling steps, as far as the literals say."""
    if not (steps and sampler_name and scheduler):
        return Estimate()
    known = {name: value for name, value in cut.items() if value is not None}
    return Estimate(steps=diffusion.schedules.planned_steps(sampler_name, scheduler, steps, **known))


def ksampler_estimate(**given: Any) -> Estimate:
    """The steps of a node with the inputs of KSampler."""
    return _steps(given["steps"], given["sampler_name"], given["scheduler"], denoise=given.get("denoise"))


def _advanced_estimate(**given: Any) -> Estimate:
    return _steps(
        given["steps"],
        given["sampler_name"],
        given["scheduler"],
        start=given["start_at_step"],
        end=given["end_at_step"],
    )


@contextmanager
def leased(
    ctx: NodeContext, model: Model, latent: LatentDict, sides: Mapping[str, Conditioning]
) -> Iterator[tuple[Denoiser, Callbacks, Module]]:
    """The denoiser of ``model`` with room to sample ``latent``, what a sampling tells ``ctx``: progress, previews, and states to go on
    from, and the network. ``sides`` are its conditioning by the names of inputs, whose hooks have to fit the model."""
    room = diffusion.unet.working_bytes(latent["samples"].shape)
    further = diffusion.sample.further_side(diffusion.steering.options_of(model))
    if hooked := diffusion.hooked.prepare(model, {**sides, "model": further}, ctx.warn):
        room += hooked * diffusion.unet.dtype(model, ctx.settings).itemsize
    with (
        ctx.models.lease(model, working_bytes=room) as loaded,
        diffusion.leases.leases(ctx.models, room) as beside,
    ):
        every = ctx.settings.checkpoint_seconds
        keeper = diffusion.resume.Keeper(ctx.checkpoint.load(), ctx.checkpoint.save, loaded.device, every=every)
        preview = diffusion.unet.previewer(loaded, ctx.models)

        def on_step(info: Any) -> None:
            ctx.progress(info.step, info.total, lambda: preview(info.denoised))

        ctx.check_cancelled()
        callbacks = diffusion.sample.Callbacks(on_step, keeper.found, keeper.keep, keeper.park)
        yield diffusion.unet.denoiser(loaded, beside), callbacks, loaded.module


def _sample(
    ctx: NodeContext,
    model: Model,
    settings: Settings,
    positive: Conditioning,
    negative: Conditioning,
    latent: LatentDict,
) -> LatentDict:
    with leased(ctx, model, latent, {"positive": positive, "negative": negative}) as (denoiser, callbacks, _):
        sampled = diffusion.sample.sample_latent(denoiser, settings, positive, negative, latent, callbacks=callbacks)
        return {**latent, "samples": sampled["samples"]}


@node("KSampler", category="sampling", outputs=[Output("LATENT")], estimate=ksampler_estimate, version=3)
def k_sampler(
    ctx: NodeContext,
    *,
    model: Model,
    seed: SeedInt = 0,
    steps: Steps = 20,
    cfg: Cfg = 8.0,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: Annotated[float, Range(0.0, 1.0, step=0.01)] = 1.0,
) -> LatentDict:
    """Work a picture out of noise. With denoise below 1 the latent's own picture shows through."""
    settings = diffusion.sample.Settings(
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler=sampler_name,
        scheduler=scheduler,
        denoise=denoise,
        noise_device=diffusion.unet.noise_device(ctx.settings),
    )
    return _sample(ctx, model, settings, positive, negative, latent_image)


@node(
    "KSamplerAdvanced",
    title="KSampler (Advanced)",
    category="sampling",
    outputs=[Output("LATENT")],
    estimate=_advanced_estimate,
    version=3,
)
def k_sampler_advanced(
    ctx: NodeContext,
    *,
    model: Model,
    add_noise: Switch,
    noise_seed: SeedInt = 0,
    steps: Steps = 20,
    cfg: Cfg = 8.0,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    start_at_step: Step = 0,
    end_at_step: Step = 10_000,
    return_with_leftover_noise: Literal["disable", "enable"],
) -> LatentDict:
    """Do some of the steps of a schedule: what one sampler leaves noisy, another may finish."""
    settings = diffusion.sample.Settings(
        seed=noise_seed,
        steps=steps,
        cfg=cfg,
        sampler=sampler_name,
        scheduler=scheduler,
        start=start_at_step,
        end=end_at_step,
        add_noise=add_noise == "enable",
        leftover_noise=return_with_leftover_noise == "enable",
        noise_device=diffusion.unet.noise_device(ctx.settings),
    )
    return _sample(ctx, model, settings, positive, negative, latent_image)
