"""Sampling with a sampler, sigmas, noise and guider of one's own choice."""

from __future__ import annotations

from engine.models import Recipe
from engine.run.context import NodeContext
from engine.spec import Output, node
from nodes import diffusion
from nodes.sampling import leased
from nodes.sockets import Conditioning, Guider, Latent, LatentDict, Model, Noise, Sampler, Sigmas, Tensor
from nodes.widgets import Cfg, SeedInt

CATEGORY = "sampling/custom_sampling"
OUTPUTS = (Output("LATENT", "output"), Output("LATENT", "denoised_output"))


def _sample(
    ctx: NodeContext,
    guider: Recipe,
    sampler: Recipe,
    sigmas: Tensor,
    noise: Recipe,
    latent: LatentDict,
    seed: int | None = None,
) -> tuple[LatentDict, LatentDict]:
    with leased(ctx, guider.parts["model"], latent, guider.parts["sides"]) as (denoiser, callbacks, _):
        sampled = diffusion.custom.sample(
            denoiser,
            sampler,
            sigmas,
            noise,
            guider,
            latent,
            step_seed=seed,
            noise_device=diffusion.unet.noise_device(ctx.settings),
            callbacks=callbacks,
        )
    return {**latent, "samples": sampled[0]["samples"]}, {**latent, "samples": sampled[1]["samples"]}


@node("SamplerCustom", category=CATEGORY, outputs=OUTPUTS, version=3)
def sampler_custom(
    ctx: NodeContext,
    *,
    model: Model,
    add_noise: bool = True,
    noise_seed: SeedInt = 0,
    cfg: Cfg = 8.0,
    positive: Conditioning,
    negative: Conditioning,
    sampler: Sampler,
    sigmas: Sigmas,
    latent_image: Latent,
) -> tuple[LatentDict, LatentDict]:
    """Sample along the sigmas given. The second output is the last prediction of the clean latent."""
    guider = diffusion.custom.guider("cfg", model, {"positive": positive, "negative": negative}, scale=cfg)
    noise = diffusion.custom.noise(noise_seed if add_noise else None)
    return _sample(ctx, guider, sampler, sigmas, noise, latent_image, noise_seed)


@node("SamplerCustomAdvanced", category=CATEGORY, outputs=OUTPUTS, version=3)
def sampler_custom_advanced(
    ctx: NodeContext, *, noise: Noise, guider: Guider, sampler: Sampler, sigmas: Sigmas, latent_image: Latent
) -> tuple[LatentDict, LatentDict]:
    """Sample along the sigmas given, as the guider guides. The second output is the last prediction of the clean latent."""
    return _sample(ctx, guider, sampler, sigmas, noise, latent_image)
