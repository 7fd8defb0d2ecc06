"""The one sampling loop, and the whole way from a latent to a sampled latent around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from engine.errors import Cancelled, InputError
from nodes.diffusion.conditioning import Conditioning, InputsOf, no_inputs, resolve
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.guidance import CfgGuider, Guider, InpaintGuider, latent_mask
from nodes.diffusion.names import DIFFUSERS_PREFIX, FRESH_INPAINT_NOISE
from nodes.diffusion.noise import NoiseDevice, StepNoise, initial_noise, step_noise
from nodes.diffusion.samplers import Sampler, State, make_sampler
from nodes.diffusion.schedules import sampling_sigmas

CHECK_EVERY: Final = 8
"""On a device the sample is looked at only every so many steps: looking waits for all that is queued there."""


@dataclass(frozen=True, slots=True, eq=False)
class StepInfo:
    """A finished step: ``step`` of ``total`` are done, ``sigma`` was its noise level. ``denoised`` is the last
    prediction of the clean latent, in the model's space."""

    step: int
    total: int
    sigma: float
    denoised: Tensor


OnStep = Callable[[StepInfo], None]
Save = Callable[[State], None]


def begin(
    denoiser: Denoiser, sampler: Sampler, sigmas: Tensor, noise: Tensor, latent: Tensor, steps_noise: StepNoise
) -> State:
    """The state before the first step: ``latent`` with ``noise`` (both [B,C,h,w], model space) at ``sigmas[0]``."""
    first, highest = float(sigmas[0]), denoiser.sigma_max
    full = first > highest or math.isclose(first, highest, rel_tol=1e-5)
    x = denoiser.prediction.noised(latent, noise, sigmas[0], full=full)
    return sampler.start(x, sigmas, steps_noise)


def sample(
    guider: Guider,
    sampler: Sampler,
    state: State,
    *,
    on_step: OnStep | None = None,
    save: Save | None = None,
    park: Save | None = None,
) -> State:
    """Runs ``state`` to its end.

    ``on_step`` is called after every step; what it raises ends the run. ``save`` is given every state that a run may be
    continued from, ``park`` the one at which the run was cancelled. Raises InputError when the latents are no longer finite."""
    with torch.no_grad():
        while not state.done:
            x, sigma = sampler.query(state)
            denoised = guider.guide(x, sigma)
            before, state = state, sampler.advance(state, denoised)
            if state.step > before.step:
                _check(state)
                if on_step is not None:
                    with _parking(state, park):
                        on_step(StepInfo(state.step, state.steps, float(before.sigma), denoised))
            if save is not None:
                save(state)
    return state


@contextmanager
def _parking(state: State, park: Save | None) -> Iterator[None]:
    """Whoever cancels at this step may come back to it."""
    try:
        yield
    except Cancelled:
        if park is not None and not state.done:
            park(state)
        raise


def _check(state: State) -> None:
    due = state.x.device.type == "cpu" or state.done or state.step % CHECK_EVERY == 0
    if due and not bool(state.x.isfinite().all()):
        raise InputError(
            f"latents must stay finite; found NaN or infinity after step {state.step} of {state.steps}: "
            "run the model in float32, lower cfg, or choose another sampler or scheduler"
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """What a sampling node is told. ``seed`` 0..2^64-1; ``denoise`` 0..1; steps ``start`` to ``end`` of the schedule
    are done."""

    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float = 1.0
    start: int = 0
    end: int = 10_000
    add_noise: bool = True
    leftover_noise: bool = False
    noise_device: NoiseDevice = "model"


def planned(denoiser: Denoiser, settings: Settings) -> tuple[Sampler, Tensor]:
    """The sampler and its sigmas, float32 [n + 1] on the CPU, or [0] if there is nothing to do."""
    rules: dict[str, Any] = {
        "denoise": settings.denoise,
        "start": settings.start,
        "end": settings.end,
        "leftover_noise": settings.leftover_noise,
    }
    if settings.sampler.startswith(DIFFUSERS_PREFIX):
        return _planned_by_diffusers(denoiser, settings, rules)
    sampler = make_sampler(settings.sampler, denoiser.law)
    sigmas = sampling_sigmas(denoiser.schedule, settings.sampler, settings.scheduler, settings.steps, **rules)
    return sampler, torch.from_numpy(sigmas)


def _planned_by_diffusers(denoiser: Denoiser, settings: Settings, rules: dict[str, Any]) -> tuple[Sampler, Tensor]:
    # The library takes seconds to import; only who names one of its schedulers waits for it.
    from nodes.diffusion.diffusers_adapter import plan_diffusers

    sampler, sigmas = plan_diffusers(settings.sampler, denoiser.schedule, settings.steps, **rules)
    return sampler, torch.from_numpy(sigmas)


def sample_latent(
    denoiser: Denoiser,
    settings: Settings,
    positive: Conditioning,
    negative: Conditioning,
    latent: Mapping[str, Any],
    *,
    inputs_of: InputsOf = no_inputs,
    on_step: OnStep | None = None,
    resume: State | None = None,
    save: Save | None = None,
    park: Save | None = None,
) -> dict[str, Any]:
    """A LATENT value sampled: its ``samples`` [B,C,h,w] in VAE space, float32 on the CPU, the rest as it was.

    With ``resume``, a state that ``save`` or ``park`` was given in a run of the same arguments, the run goes on from there.
    Raises InputError for unknown names, text or a latent of another model, or latents that stop being finite.
    """
    if (hearing := denoiser.hearing) is not None:
        for name, side in (("positive", positive), ("negative", negative)):
            for embedding, _ in side:
                hearing.check(embedding, name)
    sampler, sigmas = planned(denoiser, settings)
    samples = denoiser.latent_format.widened(latent["samples"])
    if len(sigmas) == 0:
        return {**latent, "samples": samples}
    noise = _noise(settings, samples, latent.get("batch_index"))
    clean = denoiser.latent_format.into_model(samples.float()).to(denoiser.device)
    mask = latent.get("noise_mask")
    entries = [
        resolve(side, clean, denoiser.schedule, inputs_of=inputs_of, noise_mask=mask, is_negative=side is negative)
        for side in (positive, negative)
    ]
    guider: Guider = CfgGuider.between(denoiser, entries[0], entries[1], settings.cfg)
    if mask is not None:
        guider = _inpainting(guider, denoiser, settings, mask, clean, noise)
    state = resume or begin(
        denoiser,
        sampler,
        sigmas,
        noise.to(denoiser.device),
        clean,
        step_noise(settings.sampler, settings.seed, sigmas, denoiser.device, settings.noise_device),
    )
    ended = sample(guider, sampler, state, on_step=on_step, save=save, park=park)
    result = denoiser.prediction.finished(ended.x, ended.sigmas[-1])
    return {**latent, "samples": denoiser.latent_format.from_model(result).float().cpu()}


def _noise(settings: Settings, samples: Tensor, batch_index: list[int] | None) -> Tensor:
    return initial_noise(samples, settings.seed, batch_index) if settings.add_noise else torch.zeros_like(samples)


def _inpainting(
    inner: Guider, denoiser: Denoiser, settings: Settings, mask: Tensor, clean: Tensor, noise: Tensor
) -> Guider:
    if settings.sampler in FRESH_INPAINT_NOISE:
        noise = initial_noise(noise, (settings.seed + 1) % 2**64)
    return InpaintGuider(inner, latent_mask(mask, clean), clean, noise.to(clean.device), denoiser.prediction)
