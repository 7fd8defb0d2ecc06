"""Models whose answers are known: the clean data is Gaussian, so the best denoiser has a formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nodes.diffusion.noise import StepNoise, step_noise
from nodes.diffusion.samplers import Sampler, State, VarianceExploding, make_sampler
from nodes.diffusion.samplers.laws import Law

Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class GaussianData:
    """Clean data of mean ``mean`` and standard deviation ``std``, noised by ``x = alpha x0 + sigma n``."""

    std: float = 0.5
    mean: float = 0.0
    law: Law = field(default_factory=VarianceExploding)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The expected clean data given ``x``; ``sigma`` is [B]."""
        level = sigma.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        alpha = self.law.alpha(level)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + level**2)
        return self.mean + gain * (x - alpha * self.mean)

    def exact(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Where the probability flow takes ``x`` from sigma ``start`` to sigma ``end`` (variance exploding)."""
        shrink = ((self.std**2 + end.double() ** 2) / (self.std**2 + start.double() ** 2)) ** 0.5
        return self.mean + (x - self.mean) * shrink


def curved(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser that is no line in ``x``, so that solvers that confuse two points do not get away with it."""
    level = sigma.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return torch.tanh(1.5 * x / (1 + level**2) ** 0.5 + 0.3 * torch.sin(3 * level)) * (1 + 0.1 * level)


def run(sampler: Sampler, state: State, denoise: Denoise) -> list[State]:
    """All states after ``state``, to the end."""
    states = []
    while not state.done:
        state = sampler.advance(state, denoise(*sampler.query(state)))
        states.append(state)
    return states


def sampled(
    name: str, x: Tensor, sigmas: Tensor, denoise: Denoise, law: Law | None = None, noise: StepNoise | None = None
) -> Tensor:
    """The end of sampling ``x`` with seed 42."""
    sampler = make_sampler(name, law or VarianceExploding())
    return run(sampler, sampler.start(x, sigmas, noise or step_noise(name, 42, sigmas, "cpu")), denoise)[-1].x
