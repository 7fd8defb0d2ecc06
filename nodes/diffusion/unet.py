"""A leased UNet as a denoiser, what it needs beside its weights, and the previews of its latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.models import ModelRef, ModelStore
from engine.numerics import precision
from nodes.diffusion import differential
from nodes.diffusion.compiled import compiled
from nodes.diffusion.conditioning import Entry, Hearing, Reader, no_control
from nodes.diffusion.configs import DiTConfig, Schedule, UNetConfig
from nodes.diffusion.control_nets import Nets
from nodes.diffusion.denoiser import Denoiser, LatentFormat, Network
from nodes.diffusion.devices import device_policy
from nodes.diffusion.extras import CONCAT, VECTOR, inputs_of
from nodes.diffusion.gligen import grounded
from nodes.diffusion.hooked import Hooked
from nodes.diffusion.ip_attention import image_prompts, telling_samples
from nodes.diffusion.leases import Lease, Leases, no_leases
from nodes.diffusion.model_sampling import Sampling, chosen
from nodes.diffusion.noise import NoiseDevice
from nodes.diffusion.options import alterations, draws, perturbations, rebuilding
from nodes.diffusion.predictions import PredictionName, prediction
from nodes.diffusion.preview import PreviewMap, fit, preview_jpeg, usual
from nodes.diffusion.schedules import DiscreteSchedule, FlowSchedule, ModelSigmas, stable_diffusion
from nodes.diffusion.sources import Facts, open_source
from nodes.diffusion.steering import options_of
from nodes.diffusion.store import COMPUTE_DTYPE, DTYPES
from nodes.diffusion.text_bias import biased
from nodes.diffusion.tiled_diffusion import windows
from nodes.diffusion.upscaling import LEVEL
from nodes.diffusion.vae import decoded

if TYPE_CHECKING:
    from engine.run.settings import DeviceSettings
    from nodes.diffusion.store import LoadedModel

_BYTES_PER_CELL: Final = 320 * 4 * 64
"""Activations alive at once for a latent cell, in bytes: 320 channels of float32, some sixty maps deep; both sides of guidance."""


def denoiser(unet: LoadedModel, beside: Leases | None = None) -> Denoiser:
    """The denoiser of a leased UNet or transformer; it is good for as long as the lease is.

    ``beside`` gives the models that its conditioning brings along, ControlNets for one.
    """
    way = sampling(unet.ref, unet.facts)
    pictures = image_prompts(unet)
    return Denoiser(
        network=_network(unet, unet.module),
        compiled=None if (faster := compiled(unet)) is None else _network(unet, faster),
        schedule=way.schedule,
        prediction=way.prediction,
        dtype=unet.dtype,
        device=unet.device,
        latent_format=way.latent_format,
        reader=_reader(unet, way.schedule, beside, tells_samples=bool(pictures)),
        differential=_strength(unet.ref),
        options=options_of(unet.ref),
        alterations=(*alterations(unet), *pictures),
        chance=torch.Generator("cpu") if draws(unet.ref) else None,
        perturbations=perturbations(unet),
        hooked=Hooked(unet, way.schedule),
        faster=rebuilding(unet),
        windows=windows(unet.ref, unet.facts.downscale),
    )


def _reader(unet: LoadedModel, schedule: ModelSigmas, beside: Leases | None, *, tells_samples: bool) -> Reader:
    told = partial(inputs_of, unet.config, unet.facts.family, statistics=unet.facts.statistics)
    return Reader(
        hearing=_hearing(unet),
        inputs_of=telling_samples(told) if tells_samples else told,
        control_of=no_control if beside is None else Nets(unet, schedule, beside),
        changes_of=partial(_with_changes, unet, beside or no_leases),
    )


def _with_changes(unet: LoadedModel, lease: Lease, entry: Entry, options: Mapping[str, Any]) -> Entry:
    """``entry`` with what its options ask of the network."""
    shared, own = grounded(unet, lease, options), biased(unet, options, entry.context.shape[1])
    return replace(entry, shared=shared, changes=own) if shared or own else entry


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
    joint = isinstance(config, DiTConfig)
    return Hearing(unet.facts.family.title, config.context_dim, takes_narrower=joint, joint=joint)


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
    def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Any) -> Tensor:
        beside, level = inputs.pop(CONCAT, None), inputs.pop(LEVEL, None)
        if level is not None:
            inputs[VECTOR] = level.flatten().round().long()
        seen = x if beside is None else torch.cat([x, beside], 1)
        out: Tensor = module(seen, timestep, context, return_dict=False, **inputs)[0]
        return out

    return network


def _transformer(module: Callable[..., Any], config: DiTConfig) -> Network:
    def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Any) -> Tensor:
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


def dtype(model: ModelRef, settings: DeviceSettings) -> torch.dtype:
    """What a lease of ``model`` computes in."""
    named = model.setting(COMPUTE_DTYPE)
    policy = device_policy(settings.device, precision(settings.dtype))
    return policy.dtype(model.part) if named is None else DTYPES[str(named)]


def noise_device(settings: DeviceSettings) -> NoiseDevice:
    """Where step noise is drawn."""
    return "cpu" if settings.noise_device == "cpu" else "model"


def previewer(unet: LoadedModel, store: ModelStore) -> Callable[[Tensor], bytes]:
    """Makes JPEG previews of the latents of ``unet`` (model space, [B,C,h,w]; the first is shown).

    The map to colours is fitted to the VAE that came with the model when the first preview is asked for, once for all samplings. A model
    that came without one is shown in the usual colours of its family.
    """

    def preview(denoised: Tensor) -> bytes:
        known = unet.derived.get(_PREVIEW)
        if known is None:
            known = unet.derived[_PREVIEW] = _preview_map(unet.ref, store)
        mapping, latent_format = known
        return preview_jpeg(latent_format.from_model(denoised[0]), mapping)

    return preview


_PREVIEW: Final = "preview"
"""Among what is derived of a UNet and of a VAE."""


def _preview_map(model: ModelRef, store: ModelStore) -> tuple[PreviewMap, LatentFormat]:
    description = open_source(model.location).description
    if "vae" in description.parts:
        return _fit(replace(model, part="vae", patches=(), settings=()), store)
    family = description.family
    return usual(family), LatentFormat(scale=family.scale, shift=family.shift, channels=family.channels)


def _fit(vae: ModelRef, store: ModelStore) -> tuple[PreviewMap, LatentFormat]:
    with store.lease(vae) as loaded:
        facts = loaded.facts

        def decode(latents: Tensor) -> Tensor:
            return decoded(loaded, latents)

        mapping = loaded.derived.get(_PREVIEW)
        if mapping is None:
            mapping = fit(decode, facts.latent_channels, facts.scale_factor, device=loaded.device)
            loaded.derived[_PREVIEW] = mapping
    return mapping, LatentFormat(scale=facts.scale_factor, shift=facts.shift, channels=facts.latent_channels)
