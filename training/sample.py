"""Sampling from the pieces in training: enough of it to watch and judge the model, in the conventions of KSampler.

Euler is Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (2022), algorithm 1 without
the second-order correction; dpmpp_2m is Lu et al., "DPM-Solver++" (2022), algorithm 2 in the data prediction form.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from training.unet import Unet, sigmas

Method = Literal["euler", "dpmpp_2m"]
Spacing = Literal["normal", "karras"]
SPACINGS: tuple[Spacing, ...] = ("normal", "karras")
Denoise = Callable[[Tensor, float], Tensor]


def course(steps: int, spacing: Spacing) -> list[float]:
    """`steps` noise strengths from the model's largest to its smallest, and 0."""
    known = sigmas()
    if spacing == "karras":
        low, high = float(known[0]) ** (1 / 7), float(known[-1]) ** (1 / 7)
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        return [*((high + ramp * (low - high)) ** 7).tolist(), 0.0]
    times = torch.linspace(len(known) - 1, 0, steps, dtype=torch.float64)
    below = times.floor().long()
    above = (below + 1).clamp(max=len(known) - 1)
    logs = torch.lerp(known.log()[below], known.log()[above], times - below)
    return [*logs.exp().tolist(), 0.0]


def guided(unet: Unet, states: Tensor, nothing: Tensor, guidance: float) -> Denoise:
    """The guided estimate of the clean latents as a function of noisy latents and their noise strength.

    states: (N, 77, 64) of the captions; nothing: (77, 64) of the empty caption.
    """
    both = torch.cat([nothing.expand_as(states), states])
    logs = sigmas().log()

    def denoise(noisy: Tensor, sigma: float) -> Tensor:
        time = (logs - torch.tensor(sigma, dtype=torch.float64).log()).abs().argmin().expand(len(both))
        scaled = (noisy / (sigma**2 + 1) ** 0.5).repeat(2, 1, 1, 1)
        without, with_ = unet(scaled, time, both, return_dict=False)[0].float().chunk(2)
        return noisy - sigma * torch.lerp(without, with_, guidance)

    return denoise


def euler(denoise: Denoise, noisy: Tensor, strengths: list[float]) -> Tensor:
    for now, then in pairwise(strengths):
        clean = denoise(noisy, now)
        noisy = clean + (then / now) * (noisy - clean)
    return noisy


def dpmpp_2m(denoise: Denoise, noisy: Tensor, strengths: list[float]) -> Tensor:
    """Steps are even in log sigma; each extrapolates the clean estimate from the one before."""
    before: tuple[Tensor, float] | None = None
    for now, then in pairwise(strengths):
        clean = denoise(noisy, now)
        blend = clean
        if before is not None and then > 0:
            step, last = torch.tensor([now / then, before[1] / now], dtype=torch.float64).log().tolist()
            blend = clean + (clean - before[0]) * (step / (2 * last))
        noisy = blend + (then / now) * (noisy - blend)
        before = (clean, now)
    return noisy


METHODS: dict[Method, Callable[[Denoise, Tensor, list[float]], Tensor]] = {"euler": euler, "dpmpp_2m": dpmpp_2m}


@torch.no_grad()
def sample(
    unet: Unet,
    states: Tensor,
    nothing: Tensor,
    *,
    width: int,
    seed: int,
    steps: int = 20,
    guidance: float = 5.0,
    method: Method = "dpmpp_2m",
    spacing: Spacing = "normal",
    batch: int = 25,
) -> Tensor:
    """(N, 4, width, width) scaled latents for N captions' states."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(states), 4, width, width, generator=generator)
    strengths = course(steps, spacing)
    parts = []
    for some, start in zip(states.split(batch), noise.split(batch), strict=True):
        denoise = guided(unet, some, nothing, guidance)
        parts.append(METHODS[method](denoise, start * (1 + strengths[0] ** 2) ** 0.5, strengths))
    return torch.cat(parts)
