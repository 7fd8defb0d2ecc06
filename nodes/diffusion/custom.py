"""Samplings put together from parts: recipes of samplers, noises and guiders made into what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engine.errors import InputError
from engine.models import ModelRef, Recipe
from nodes.diffusion.conditioning import Conditioning
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.guidance import Guider, entries_for
from nodes.diffusion.guiders import DualCfgGuider, PerpNegGuider
from nodes.diffusion.noise import NoiseDevice, initial_noise
from nodes.diffusion.sample import NO_CALLBACKS, Callbacks, Walk, cfg_guider, walk
from nodes.diffusion.samplers import make_sampler


def sampler(name: str, **options: Any) -> Recipe:
    """A sampler of ``samplers.SAMPLERS`` or ``IN_PARTS`` by name, with fields of its solver."""
    return Recipe("sampler", {"name": name, "options": options})


def noise(seed: int | None) -> Recipe:
    """The noise of a seed; of None, no noise at all, and steps that draw from seed 0."""
    return Recipe("noise", {"seed": seed})


def guider(kind: str, model: ModelRef, sides: Mapping[str, Conditioning], **numbers: Any) -> Recipe:
    """How ``model`` is guided between ``sides``: kind basic, cfg, dual_cfg or perp_neg."""
    return Recipe("guider", {"guidance": kind, "model": model, "sides": dict(sides), "numbers": numbers})


def make_guider(
    recipe: Recipe, denoiser: Denoiser, clean: Tensor, noise_mask: Tensor | None = None, seed: int = 0
) -> Guider:
    """The guider of a recipe for the latent ``clean`` [B,C,h,w], model space."""
    given, numbers = recipe.parts["sides"], recipe.parts["numbers"]
    if recipe.parts["guidance"] in ("basic", "cfg"):
        scale = numbers.get("scale", 1.0)
        return cfg_guider(denoiser, given["positive"], given.get("negative", []), scale, clean, noise_mask, seed)
    sides = {name: entries_for(denoiser, side, clean, name, noise_mask, seed) for name, side in given.items()}
    match recipe.parts["guidance"]:
        case "dual_cfg":
            return DualCfgGuider.between(denoiser, sides["first"], sides["second"], sides["negative"], **numbers)
        case "perp_neg":
            return PerpNegGuider.between(denoiser, sides["positive"], sides["negative"], sides["empty"], **numbers)
    raise InputError(f"guider must be basic, cfg, dual_cfg or perp_neg; found {recipe.parts['guidance']!r}")


def sample(
    denoiser: Denoiser,
    sampler: Recipe,
    sigmas: Tensor,
    noise: Recipe,
    guider: Recipe,
    latent: Mapping[str, Any],
    *,
    step_seed: int | None = None,
    noise_device: NoiseDevice = "model",
    callbacks: Callbacks = NO_CALLBACKS,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A LATENT value sampled along ``sigmas`` [n + 1], and the last prediction of the clean latent.

    Step noise is drawn from ``step_seed``, by default the seed of ``noise``."""
    seed = noise.parts["seed"]
    name = sampler.parts["name"]
    way = Walk(
        name=name,
        sampler=make_sampler(name, denoiser.law, denoiser.schedule, **sampler.parts["options"]),
        sigmas=sigmas.float(),
        seed=next((number for number in (step_seed, seed) if number is not None), 0),
        add_noise=seed is not None,
        noise_device=noise_device,
    )
    return walk(
        denoiser,
        way,
        lambda clean: make_guider(guider, denoiser.along(way.sigmas), clean, latent.get("noise_mask"), way.seed),
        latent,
        callbacks,
    )


def add_noise(denoiser: Denoiser, noise: Recipe, sigmas: Tensor, latent: Mapping[str, Any]) -> dict[str, Any]:
    """A LATENT value at the noise level between the first and the last of ``sigmas``."""
    if len(sigmas) == 0:
        return dict(latent)
    samples = denoiser.latent_format.widened(latent["samples"]).float()
    seed = noise.parts["seed"]
    drawn = torch.zeros_like(samples) if seed is None else initial_noise(samples, seed, latent.get("batch_index"))
    level = (sigmas[0] - sigmas[-1]).abs() if len(sigmas) > 1 else sigmas[0]
    noisy = denoiser.prediction.noised(denoiser.latent_format.into_model(samples), drawn, level)
    result = denoiser.latent_format.from_model(noisy)
    return {**latent, "samples": torch.nan_to_num(result, nan=0.0, posinf=0.0, neginf=0.0)}
