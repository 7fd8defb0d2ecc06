"""A leased UNet as a denoiser, what it needs beside its weights, and the previews of its latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.models import ModelRef, ModelStore
from nodes.diffusion import differential
from nodes.diffusion.compiled import compiled
from nodes.diffusion.configs import DiTConfig, Schedule, UNetConfig
from nodes.diffusion.denoiser import Denoiser, Hearing, LatentFormat, Network
from nodes.diffusion.extras import CONCAT, inputs_of
from nodes.diffusion.ip_attention import image_prompts, telling_samples
from nodes.diffusion.model_sampling import Sampling, chosen
from nodes.diffusion.noise import NoiseDevice
from nodes.diffusion.options import alterations, perturbations
from nodes.diffusion.predictions import PredictionName, prediction
from nodes.diffusion.preview import PreviewMap, fit, preview_jpeg, usual
from nodes.diffusion.schedules import DiscreteSchedule, FlowSchedule, ModelSigmas, stable_diffusion
from nodes.diffusion.sources import Facts, open_source
from nodes.diffusion.steering import options_of
from nodes.diffusion.vae import decoded

if TYPE_CHECKING:
    from engine.run.settings import DeviceSettings
    from nodes.diffusion.store import LoadedModel

_BYTES_PER_CELL: Final = 320 * 4 * 64
"""Activations alive at once for a latent cell, in bytes: 320 channels of float32, some sixty maps deep; both sides of guidance."""


def denoiser(unet: LoadedModel) -> Denoiser:
    """The denoiser of a leased UNet or transformer; it is good for as long as the lease is."""
    way = sampling(unet.ref, unet.facts)
    told = partial(inputs_of, unet.config, unet.facts.family, statistics=unet.facts.statistics)
    pictures = image_prompts(unet)
    return Denoiser(
        network=_network(unet, unet.module),
        compiled=None if (faster := compiled(unet)) is None else _network(unet, faster),
        schedule=way.schedule,
        prediction=way.prediction,
        dtype=unet.dtype,
        device=unet.device,
        latent_format=way.latent_format,
        hearing=_hearing(unet),
        inputs_of=telling_samples(told) if pictures else told,
        differential=_strength(unet.ref),
        options=options_of(unet.ref),
        alterations=(*alterations(unet), *pictures),
        perturbations=perturbations(unet),
    )


def sampling(model: ModelRef, facts: Facts) -> Sampling:
    """How a model is sampled: as its family is, or as its recipe says."""
    schedule = facts.schedule
    own = Sampling(
        schedule=_sigmas(schedule, schedule.zero_terminal_snr),
        prediction=prediction(_PREDICTIONS[schedule.prediction]),
        latent_format=LatentFormat(scale=facts.scale_factor, shift=facts.shift, channels=facts.latent_channels),
    )
    return chosen(model, own, partial(_table, schedule))


def _hearing(unet: LoadedModel) -> Hearing:
    config = unet.config
    assert isinstance(config, UNetConfig | DiTConfig)
    return Hearing(unet.facts.family.title, config.context_dim, takes_narrower=isinstance(config, DiTConfig))


_PREDICTIONS: Final[Mapping[str, PredictionName]] = {"epsilon": "eps", "v_prediction": "v", "flow": "flow"}


def _sigmas(schedule: Schedule, zero_terminal_snr: bool) -> ModelSigmas:
    if schedule.prediction == "flow":
        return FlowSchedule(schedule.flow_shift)
    return _table(schedule, zero_terminal_snr)


def _table(schedule: Schedule, zero_terminal_snr: bool) -> DiscreteSchedule:
    beta_start, beta_end = schedule.betas
    return stable_diffusion(
        beta_start=beta_start, beta_end=beta_end, steps=schedule.steps, zero_terminal_snr=zero_terminal_snr
    )


def _network(unet: LoadedModel, module: Callable[..., Any]) -> Network:
    return _transformer(module, unet.config) if isinstance(unet.config, DiTConfig) else _unet(module)


def _unet(module: Callable[..., Any]) -> Network:
    def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        beside = inputs.pop(CONCAT, None)
        seen = x if beside is None else torch.cat([x, beside], 1)
        out: Tensor = module(seen, timestep, context, return_dict=False, **inputs)[0]
        return out

    return network


def _transformer(module: Callable[..., Any], config: DiTConfig) -> Network:
    def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        # without T5 the states of CLIP are all there is, and they may be narrower
        wide = pad(context, (0, config.context_dim - context.shape[-1]))
        out: Tensor = module(
            hidden_states=x, timestep=timestep, encoder_hidden_states=wide, return_dict=False, **inputs
        )[0]
        return out

    return network


def levels(model: ModelRef) -> ModelSigmas:
    """The noise levels of a model."""
    return sampling(model, open_source(model.location).facts).schedule


def _strength(model: ModelRef) -> float | None:
    """That of differential diffusion."""
    strength = model.setting(differential.SETTING)
    return None if strength is None else float(strength)


def working_bytes(latent_shape: Sequence[int]) -> int:
    """Room, in bytes, for one step on latents of this shape [B,C,h,w] with guidance."""
    batch, _, height, width = latent_shape
    return 2 * batch * height * width * _BYTES_PER_CELL


def noise_device(settings: DeviceSettings) -> NoiseDevice:
    """Where step noise is drawn."""
    return "cpu" if settings.noise_device == "cpu" else "model"


def previewer(model: ModelRef, store: ModelStore) -> Callable[[Tensor], bytes]:
    """Makes JPEG previews of ``model``'s latents (model space, [B,C,h,w]; the first is shown).

    The map to colours is fitted to the VAE that came with the model when the first preview is asked for, once for all samplings. A model
    that came without one is shown in the usual colours of its family.
    """
    vae = replace(model, part="vae", patches=(), settings=())

    @cache
    def fitted() -> tuple[PreviewMap, LatentFormat]:
        description = open_source(model.location).description
        if "vae" in description.parts:
            return _fit(vae, store)
        family = description.family
        return usual(family), LatentFormat(scale=family.scale, shift=family.shift, channels=family.channels)

    def preview(denoised: Tensor) -> bytes:
        mapping, latent_format = fitted()
        return preview_jpeg(latent_format.from_model(denoised[0]), mapping)

    return preview


def _fit(vae: ModelRef, store: ModelStore) -> tuple[PreviewMap, LatentFormat]:
    with store.lease(vae) as loaded:
        facts = loaded.facts

        def decode(latents: Tensor) -> Tensor:
            return decoded(loaded, latents)

        mapping = loaded.derived.get("preview")
        if mapping is None:
            mapping = fit(decode, facts.latent_channels, facts.scale_factor, device=loaded.device)
            loaded.derived["preview"] = mapping
    return mapping, LatentFormat(scale=facts.scale_factor, shift=facts.shift, channels=facts.latent_channels)
