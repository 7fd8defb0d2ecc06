"""The one sampling loop, and the whole way from a latent to a sampled latent around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from engine.errors import Cancelled, InputError
from nodes.diffusion.conditioning import Conditioning
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.differential import ChangeMap
from nodes.diffusion.guidance import CHANCE, CfgGuider, DrawingGuider, Guider, InpaintGuider, entries_for, latent_mask
from nodes.diffusion.names import DIFFUSERS_PREFIX, ENDS_ABOVE_ZERO, FRESH_INPAINT_NOISE, GOES_ON, RESIZING
from nodes.diffusion.noise import GeneratorNoise, NoiseDevice, StepNoise, initial_noise, step_noise
from nodes.diffusion.packed import unpacked
from nodes.diffusion.samplers import ApartSampler, Sampler, State, make_sampler
from nodes.diffusion.samplers.single_step import Euler
from nodes.diffusion.schedules import sampling_sigmas
from nodes.diffusion.steering import Option, combination

CHECK_EVERY: Final = 8
"""On a device the sample is looked at only every so many steps: looking waits for all that is queued there."""


@dataclass(frozen=True, slots=True, eq=False)
class StepInfo:
    """A finished step: ``step`` of ``total`` are done, ``sigma`` was its noise level. ``denoised`` is the clean latent as it
    was predicted there, in the model's space; what solvers of more stages ask for later in a step is not shown."""

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
            before, (state, first) = state, _advanced(guider, sampler, state)
            if state.step > before.step:
                _check(state)
                if on_step is not None:
                    with _parking(state, park):
                        on_step(StepInfo(state.step, state.steps, float(before.sigma), first))
            if save is not None:
                save(state)
    return state


def _advanced(guider: Guider, sampler: Sampler, state: State) -> tuple[State, Tensor]:
    """The state after one evaluation, and the first guided prediction of the step."""
    x, sigma = sampler.query(state)
    seen = guider.look(x, sigma, state.memory, apart=isinstance(sampler, ApartSampler))
    known = replace(state, memory=seen.memory)
    if isinstance(sampler, ApartSampler):
        after = sampler.advance_apart(known, seen.denoised, seen.unconditional)
    else:
        after = sampler.advance(known, seen.denoised)
    first = seen.denoised if state.first is None else state.first
    return replace(after, first=None if after.pending is None else first), first


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
        early = bool((state.sigmas[: state.step] == 0).any())
        advice = (
            "give a schedule that reaches a noise level of 0 at its end alone: this one begins a step there"
            if early
            else "run the model in float32, lower cfg, or choose another sampler or scheduler"
        )
        raise InputError(
            f"latents must stay finite; found NaN or infinity after step {state.step} of {state.steps}: {advice}"
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
    sampler = make_sampler(settings.sampler, denoiser.law, denoiser.schedule)
    sigmas = sampling_sigmas(denoiser.schedule, settings.sampler, settings.scheduler, settings.steps, **rules)
    return sampler, torch.from_numpy(sigmas)


def _planned_by_diffusers(denoiser: Denoiser, settings: Settings, rules: dict[str, Any]) -> tuple[Sampler, Tensor]:
    # The library takes seconds to import; only who names one of its schedulers waits for it.
    from nodes.diffusion.diffusers_adapter import plan_diffusers

    sampler, sigmas = plan_diffusers(settings.sampler, denoiser.schedule, settings.steps, **rules)
    return sampler, torch.from_numpy(sigmas)


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What a run tells and is told: see ``sample``. ``resume`` is a state that ``save`` or ``park`` was given in a run of
    the same arguments; the run goes on from there."""

    on_step: OnStep | None = None
    resume: State | None = None
    save: Save | None = None
    park: Save | None = None


NO_CALLBACKS: Final = Callbacks()


@dataclass(frozen=True, slots=True)
class Walk:
    """A way down: ``sampler``, which is called ``name``, along ``sigmas`` [n + 1] (float32, on the CPU)."""

    name: str
    sampler: Sampler
    sigmas: Tensor
    seed: int
    add_noise: bool = True
    noise_device: NoiseDevice = "model"


GuiderFor = Callable[[Tensor], Guider]
"""Makes the guider for a clean latent [B,C,h,w] of the model's space."""


def sample_latent(
    denoiser: Denoiser,
    settings: Settings,
    positive: Conditioning,
    negative: Conditioning,
    latent: Mapping[str, Any],
    *,
    callbacks: Callbacks = NO_CALLBACKS,
) -> dict[str, Any]:
    """A LATENT value sampled: its ``samples`` [B,C,h,w] in VAE space, float32 on the CPU, the rest as it was.

    Raises InputError for unknown names, text or a latent of another model, or latents that stop being finite.
    """
    sampler, sigmas = planned(denoiser, settings)
    on_way = denoiser.along(sigmas)

    def guider(clean: Tensor) -> Guider:
        mask = latent.get("noise_mask")
        return cfg_guider(on_way, positive, negative, settings.cfg, clean, mask, settings.seed)

    way = Walk(settings.sampler, sampler, sigmas, settings.seed, settings.add_noise, settings.noise_device)
    return walk(denoiser, way, guider, latent, callbacks)[0]


def cfg_guider(
    denoiser: Denoiser,
    positive: Conditioning,
    negative: Conditioning,
    scale: float,
    clean: Tensor,
    noise_mask: Tensor | None = None,
    seed: int = 0,
) -> CfgGuider:
    """Classifier-free guidance for the latent ``clean`` [B,C,h,w], model space, with what the model's options need."""
    sides = {"positive": positive, "negative": negative, "empty": further_side(denoiser.options)}
    first, second, third = (entries_for(denoiser, side, clean, name, noise_mask, seed) for name, side in sides.items())
    return CfgGuider.between(denoiser, first, second, scale, further=third)


def further_side(options: Sequence[Option]) -> Conditioning:
    """The conditioning that an option of guidance brings along, if one does."""
    option = combination(options)
    found: Conditioning = unpacked(option.numbers["empty"]) if option is not None and "empty" in option.numbers else []
    return found


def walk(
    denoiser: Denoiser, way: Walk, guider_for: GuiderFor, latent: Mapping[str, Any], callbacks: Callbacks
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A LATENT value sampled, and what the last step first predicted in its place; both the latent itself if there
    is nothing to do. Raises InputError as ``sample_latent`` does."""
    samples = denoiser.latent_format.widened(latent["samples"])
    if len(way.sigmas) == 0:
        unchanged = {**latent, "samples": samples}
        return unchanged, unchanged
    if way.name in RESIZING and latent.get("noise_mask") is not None:
        raise InputError(f"{way.name} cannot repaint a part; found a noise mask: sample without one")
    chance = torch.Generator("cpu").manual_seed(way.seed)
    noise = torch.zeros_like(samples)
    if way.add_noise:
        noise = initial_noise(samples, way.seed, latent.get("batch_index"), chance)
    kept_noise = noise
    if way.name in FRESH_INPAINT_NOISE:
        # drawn without a mask, too: what is random behind it goes on from here
        kept_noise = initial_noise(noise, (way.seed + 1) % 2**64, source=chance)
    clean = denoiser.latent_format.into_model(samples.float()).to(denoiser.device)
    guider = guider_for(clean)
    if latent.get("noise_mask") is not None:
        guider = _inpainting(guider, denoiser, way, latent["noise_mask"], clean, kept_noise)
    predicted: list[Tensor] = []

    def on_step(info: StepInfo) -> None:
        predicted[:] = [info.denoised]
        if callbacks.on_step is not None:
            callbacks.on_step(info)

    state = callbacks.resume or _begun(denoiser, way, noise.to(denoiser.device), clean, chance)
    if denoiser.chance is not None:
        guider = DrawingGuider(guider, denoiser.chance)
        state = callbacks.resume or replace(state, memory={**state.memory, CHANCE: chance.get_state()})
    ended = sample(guider, way.sampler, state, on_step=on_step, save=callbacks.save, park=callbacks.park)
    last = ended.sigmas if way.name in ENDS_ABOVE_ZERO else way.sigmas
    result = denoiser.prediction.finished(ended.x, last[-1])

    def shown(x: Tensor) -> dict[str, Any]:
        return {**latent, "samples": denoiser.latent_format.from_model(x).float().cpu()}

    return shown(result), shown(predicted[0] if predicted else result)


def _begun(denoiser: Denoiser, way: Walk, noise: Tensor, clean: Tensor, chance: torch.Generator) -> State:
    # A single sigma says how much noise there is to be; no solver is needed to stay there.
    sampler = way.sampler if len(way.sigmas) > 1 else Euler()
    name = way.name if len(way.sigmas) > 1 else ""
    source = step_noise(name, way.seed, way.sigmas, denoiser.device, way.noise_device)
    if name in GOES_ON and isinstance(source, GeneratorNoise) and source.device == "cpu":
        source = replace(source, position=chance.get_state())
    return begin(denoiser, sampler, way.sigmas, noise, clean, source)


def _inpainting(inner: Guider, denoiser: Denoiser, way: Walk, mask: Tensor, clean: Tensor, noise: Tensor) -> Guider:
    strength = denoiser.differential
    change = None if strength is None else ChangeMap.over(denoiser.schedule, way.sigmas, strength)
    return InpaintGuider(inner, latent_mask(mask, clean), clean, noise.to(clean.device), denoiser.prediction, change)
