"""A leased UNet as a denoiser, what it needs beside its weights, and the previews of its latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Final

from torch import Tensor

from engine.models import ModelRef, ModelStore
from nodes.diffusion.denoiser import Denoiser, LatentFormat
from nodes.diffusion.model_sampling import Sampling, chosen
from nodes.diffusion.noise import NoiseDevice
from nodes.diffusion.predictions import prediction
from nodes.diffusion.preview import PreviewMap, fit, preview_jpeg
from nodes.diffusion.schedules import DiscreteSchedule, ModelSigmas, stable_diffusion
from nodes.diffusion.steering import options_of

if TYPE_CHECKING:
    from engine.run.settings import DeviceSettings
    from nodes.diffusion.store import LoadedModel

_BYTES_PER_CELL: Final = 320 * 4 * 64
"""Activations alive at once for a latent cell, in bytes: 320 channels of float32, some sixty maps deep; both sides of guidance."""


def denoiser(unet: LoadedModel) -> Denoiser:
    """The denoiser of a leased UNet; it is good for as long as the lease is."""
    facts = unet.facts
    beta_start, beta_end = facts.schedule.betas

    def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        out: Tensor = unet.module(x, timestep, context, return_dict=False, **inputs)[0]
        return out

    def table(zero_terminal_snr: bool) -> DiscreteSchedule:
        return stable_diffusion(
            beta_start=beta_start, beta_end=beta_end, steps=facts.schedule.steps, zero_terminal_snr=zero_terminal_snr
        )

    own = Sampling(
        schedule=table(facts.schedule.zero_terminal_snr),
        prediction=prediction("v" if facts.schedule.prediction == "v_prediction" else "eps"),
        latent_format=LatentFormat(scale=facts.scale_factor, channels=facts.latent_channels),
    )
    way = chosen(unet.ref, own, table)
    return Denoiser(
        network=network,
        schedule=way.schedule,
        prediction=way.prediction,
        dtype=unet.dtype,
        device=unet.device,
        latent_format=way.latent_format,
        options=options_of(unet.ref),
    )


def levels(model: ModelRef, store: ModelStore) -> ModelSigmas:
    """The noise levels of a model."""
    with store.lease(model) as loaded:
        return denoiser(loaded).schedule


def working_bytes(latent_shape: Sequence[int]) -> int:
    """Room, in bytes, for one step on latents of this shape [B,C,h,w] with guidance."""
    batch, _, height, width = latent_shape
    return 2 * batch * height * width * _BYTES_PER_CELL


def noise_device(settings: DeviceSettings) -> NoiseDevice:
    """Where step noise is drawn."""
    return "cpu" if settings.noise_device == "cpu" else "model"


def previewer(model: ModelRef, store: ModelStore) -> Callable[[Tensor], bytes]:
    """Makes JPEG previews of ``model``'s latents (model space, [B,C,h,w]; the first is shown).

    The map to colours is fitted to the VAE that came with the model when the first preview is asked for, once for all samplings.
    """
    vae = replace(model, part="vae", patches=(), settings=())

    @cache
    def fitted() -> tuple[PreviewMap, LatentFormat]:
        return _fit(vae, store)

    def preview(denoised: Tensor) -> bytes:
        mapping, latent_format = fitted()
        return preview_jpeg(latent_format.from_model(denoised[0]), mapping)

    return preview


def _fit(vae: ModelRef, store: ModelStore) -> tuple[PreviewMap, LatentFormat]:
    with store.lease(vae) as loaded:
        facts = loaded.facts

        def decode(latents: Tensor) -> Tensor:
            pictures: Tensor = loaded.module.decode(latents.to(loaded.device, loaded.dtype), return_dict=False)[0]
            return pictures

        mapping = loaded.derived.get("preview")
        if mapping is None:
            mapping = fit(decode, facts.latent_channels, facts.scale_factor, device=loaded.device)
            loaded.derived["preview"] = mapping
    return mapping, LatentFormat(scale=facts.scale_factor, channels=facts.latent_channels)
