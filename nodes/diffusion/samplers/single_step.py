"""Solvers with one evaluation a step and no memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nodes.diffusion.resize import resize
from nodes.diffusion.samplers.laws import AncestralStep, Law
from nodes.diffusion.samplers.state import Solver, State


def slope(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """``dx/dsigma`` of the probability flow (Karras et al. 2022, eq. 3): for epsilon models, the predicted noise."""
    return (x - denoised) / sigma


def renoised(
    state: State, x: Tensor, step: AncestralStep, s_noise: float = 1.0, history: tuple[Tensor, ...] = ()
) -> State:
    """The state after an ancestral step that came down to ``x``; the noise is ``s_noise`` times the step's."""
    if not bool(step.up > 0):
        return state.stepped(x * step.scale, history=history)
    noise, source = state.draw()
    return state.stepped(x * step.scale + noise * (step.up * s_noise), noise=source, history=history)


@dataclass(frozen=True, slots=True)
class Euler(Solver):
    """Karras et al. 2022, alg. 1 without its correction; for epsilon models DDIM with eta 0 (Song et al. 2021)."""

    def advance(self, state: State, denoised: Tensor) -> State:
        d = slope(state.x, state.sigma, denoised)
        return state.stepped(state.x + d * (state.sigma_next - state.sigma))


@dataclass(frozen=True, slots=True)
class EulerAncestral(Solver):
    """An Euler step down, then noise up: ancestral sampling (Song et al. 2021, "Score-Based Generative Modeling", app.
    F)."""

    law: Law
    eta: float = 1.0
    s_noise: float = 1.0

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.ends_clean:
            return state.stepped(denoised)
        step = self.law.ancestral(state.sigma, state.sigma_next, self.eta)
        d = slope(state.x, state.sigma, denoised)
        return renoised(state, state.x + d * (step.down - state.sigma), step, self.s_noise)


@dataclass(frozen=True, slots=True)
class Ddpm(Solver):
    """Ho et al. 2020, "Denoising Diffusion Probabilistic Models", alg. 2, with ``abar = 1 / (sigma^2 + 1)``."""

    def advance(self, state: State, denoised: Tensor) -> State:
        sigma, sigma_next = state.sigma, state.sigma_next
        abar, abar_next = 1 / (sigma**2 + 1), 1 / (sigma_next**2 + 1)
        alpha = abar / abar_next
        eps = slope(state.x, sigma, denoised)
        mean = (state.x * abar**0.5 - (1 - alpha) * eps / (1 - abar) ** 0.5) / alpha**0.5
        if state.ends_clean:
            return state.stepped(mean)
        noise, source = state.draw()
        sample = mean + ((1 - alpha) * (1 - abar_next) / (1 - abar)) ** 0.5 * noise
        return state.stepped(sample / abar_next**0.5, noise=source)


@dataclass(frozen=True, slots=True)
class LcmUpscale(Solver):
    """``Lcm`` for variance exploding models that enlarges the prediction on its way, evenly to ``scale`` times its first
    sides over the first ``steps`` steps (-1: half of them)."""

    scale: float = 1.0
    steps: int = -1
    method: str = "bislerp"

    def advance(self, state: State, denoised: Tensor) -> State:
        x = denoised
        count = max(len(state.sigmas) // 2, 1) if self.steps < 0 else min(self.steps, len(state.sigmas))
        sides = state.extra.get("sides", torch.tensor(state.x.shape[-2:]))
        if state.step < count:
            factor = 1 + (self.scale - 1) * (state.step + 1) / count
            height, width = (round(int(side) * factor) for side in sides)
            x = resize(x, width, height, self.method)
        larger = replace(state, x=x, extra={"sides": sides})
        if state.ends_clean:
            return larger.stepped(x)
        noise, source = larger.draw()
        return larger.stepped(x + noise * state.sigma_next, noise=source)


@dataclass(frozen=True, slots=True)
class Lcm(Solver):
    """Luo et al. 2023, "Latent Consistency Models", alg. 3: jump to the prediction, noise it to the next level."""

    law: Law

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.ends_clean:
            return state.stepped(denoised)
        noise, source = state.draw()
        return state.stepped(noise * state.sigma_next + denoised * self.law.alpha(state.sigma_next), noise=source)
