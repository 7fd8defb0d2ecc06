"""Solvers with two evaluations a step: the second one is a stage of the state. A step that ends at sigma 0 takes
one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nodes.diffusion.noise import StepNoise
from nodes.diffusion.samplers.laws import Law, StraightPath, VarianceExploding
from nodes.diffusion.samplers.single_step import renoised, slope
from nodes.diffusion.samplers.state import LawSolver, Solver, State


def _euler(state: State, denoised: Tensor) -> State:
    return state.stepped(state.x + slope(state.x, state.sigma, denoised) * (state.sigma_next - state.sigma))


def _geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    return a.log().lerp(b.log(), 0.5).exp()


@dataclass(frozen=True, slots=True)
class Heun(Solver):
    """Karras et al. 2022, alg. 1: an Euler step, then the mean of the slopes at both ends."""

    def advance(self, state: State, denoised: Tensor) -> State:
        width = state.sigma_next - state.sigma
        if state.pending is not None:
            first = slope(state.x, state.sigma, state.pending.evaluated[0])
            second = slope(state.pending.x, state.sigma_next, denoised)
            return state.stepped(state.x + (first + second) / 2 * width)
        if state.ends_clean:
            return _euler(state, denoised)
        guess = state.x + slope(state.x, state.sigma, denoised) * width
        return state.waiting(guess, state.sigma_next, denoised)


@dataclass(frozen=True, slots=True)
class Dpm2(Solver):
    """The midpoint rule in log sigma: DPM-Solver-2 (Lu et al. 2022, alg. 1) with the slope of Karras et al. 2022."""

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.pending is not None:
            d = slope(state.pending.x, state.pending.sigma, denoised)
            return state.stepped(state.x + d * (state.sigma_next - state.sigma))
        if state.ends_clean:
            return _euler(state, denoised)
        middle = _geometric_mean(state.sigma, state.sigma_next)
        d = slope(state.x, state.sigma, denoised)
        return state.waiting(state.x + d * (middle - state.sigma), middle, denoised)


@dataclass(frozen=True, slots=True)
class Dpm2Ancestral(Solver):
    """``Dpm2`` down to less noise than the next level has, then noise up to it."""

    law: Law

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.ends_clean:
            return _euler(state, denoised)
        step = self.law.ancestral(state.sigma, state.sigma_next)
        if state.pending is None:
            middle = _geometric_mean(state.sigma, step.down)
            d = slope(state.x, state.sigma, denoised)
            return state.waiting(state.x + d * (middle - state.sigma), middle, denoised)
        d = slope(state.pending.x, state.pending.sigma, denoised)
        return renoised(state, state.x + d * (step.down - state.sigma), step)


@dataclass(frozen=True, slots=True)
class Dpmpp2sAncestral(Solver):
    """DPM-Solver++(2S) (Lu et al. 2022, "DPM-Solver++", alg. 1, r = 1/2) with ancestral noise.

    In ``x / alpha`` and ``sigma / alpha`` every diffusion is the variance exploding one, and its exact step under a
    constant prediction is the linear interpolation towards it; so one formula holds for straight paths too."""

    law: Law
    eta: float = 1.0
    s_noise: float = 1.0

    def _middle(self, sigma: Tensor, down: Tensor) -> Tensor:
        if isinstance(self.law, StraightPath) and sigma >= 1:
            return torch.full_like(sigma, 0.9999)
        return self.law.sigma((self.law.lam(sigma) + self.law.lam(down)) / 2)

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.ends_clean:
            return _euler(state, denoised)
        step = self.law.ancestral(state.sigma, state.sigma_next, self.eta)
        if not bool(step.down > 0):
            return renoised(state, denoised, step, self.s_noise)
        if state.pending is None:
            middle = self._middle(state.sigma, step.down)
            return state.waiting(_towards(denoised, state.x, middle / state.sigma), middle, denoised)
        return renoised(state, _towards(denoised, state.x, step.down / state.sigma), step, self.s_noise)


def _towards(denoised: Tensor, x: Tensor, kept: Tensor) -> Tensor:
    return kept * x + (1 - kept) * denoised


@dataclass(frozen=True, slots=True)
class DpmppSde(LawSolver):
    """SDE-DPM-Solver++ of second order in one step (Lu et al. 2022, "DPM-Solver++", section 5 and appendix C); the stage
    lies at ``r`` of the step in lambda.

    Both the part and the whole step are ancestral; the noise is the increment of one Brownian path, so that the part's
    noise is in the whole step's."""

    eta: float = 1.0
    s_noise: float = 1.0
    r: float = 0.5

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.ends_clean:
            return state.stepped(denoised)
        if state.pending is None:
            middle = self.law.sigma(self.law.lam(state.sigma).lerp(self.law.lam(state.sigma_next), self.r))
            x, source = self._ancestral(state, denoised, middle)
            return state.waiting(x, middle, denoised, noise=source)
        # With r = 1/2 the whole step is made with the prediction at its middle alone.
        mixed = state.pending.evaluated[0].lerp(denoised, 1 / (2 * self.r)) if self.r != 0.5 else denoised
        x, source = self._ancestral(state, mixed, state.sigma_next)
        return state.stepped(x, noise=source)

    def _ancestral(self, state: State, denoised: Tensor, end: Tensor) -> tuple[Tensor, StepNoise]:
        """The exact step to ``end`` for a constant prediction, in ``x / alpha``, where noise has ``exp(-lambda)``."""
        alpha, alpha_end = self.law.alpha(state.sigma), self.law.alpha(end)
        level, level_end = state.sigma / alpha, end / alpha_end
        down, _, up = VarianceExploding().ancestral(level, level_end, self.eta)
        x = alpha_end * _towards(denoised, state.x / alpha, down / level)
        if self.eta <= 0 or self.s_noise <= 0:
            return x, state.noise
        noise, source = state.draw(state.sigma, end)
        return x + noise * (alpha_end * up * self.s_noise), source
