"""CFG++ (Chung et al. 2024, "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models"): the guided
prediction says where the picture is, the unconditional one which noise is put back on the way there.

Where both are the same, each solver is the one whose name it carries, but for ``Dpmpp2sAncestralCfgpp``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nodes.diffusion.samplers.laws import Law, VarianceExploding
from nodes.diffusion.samplers.single_step import renoised, slope
from nodes.diffusion.samplers.state import Solver, State


class CfgPlusPlus(Solver):
    """A solver that takes both predictions."""

    def advance(self, state: State, denoised: Tensor) -> State:
        """Without a prediction of its own the unconditional side agrees with the guided one."""
        return self.advance_apart(state, denoised, denoised)

    def advance_apart(self, state: State, denoised: Tensor, unconditional: Tensor) -> State:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class EulerCfgpp(CfgPlusPlus):
    """Chung et al. 2024, alg. 2, with ancestral noise for ``eta`` above 0 (DDIM's stochastic form), in ``x / alpha``."""

    law: Law
    eta: float = 0.0
    s_noise: float = 1.0

    def advance_apart(self, state: State, denoised: Tensor, unconditional: Tensor) -> State:
        if state.ends_clean:
            return state.stepped(denoised)
        alpha, alpha_next = self.law.alpha(state.sigma), self.law.alpha(state.sigma_next)
        noise = slope(state.x, state.sigma, alpha * unconditional)
        level, level_next = state.sigma / alpha, state.sigma_next / alpha_next
        if self.eta <= 0:
            return state.stepped(alpha_next * denoised + state.sigma_next * noise)
        step = VarianceExploding().ancestral(level, level_next, self.eta)
        x = denoised + step.down * noise
        return renoised(state, alpha_next * x, step._replace(up=alpha_next * step.up), self.s_noise)


@dataclass(frozen=True, slots=True)
class EulerTwiceGuided(CfgPlusPlus):
    """An Euler step whose slope is taken from where the unconditional prediction would have the sample: the "alternative"
    of CFG++, which guides the last step too and so ends at ``2 c - u``."""

    def advance_apart(self, state: State, denoised: Tensor, unconditional: Tensor) -> State:
        d = slope(state.x - denoised + unconditional, state.sigma, denoised)
        return state.stepped(state.x + d * (state.sigma_next - state.sigma))


@dataclass(frozen=True, slots=True)
class Dpmpp2sAncestralCfgpp(CfgPlusPlus):
    """DPM-Solver++(2S) (Lu et al. 2022, "DPM-Solver++", alg. 1, r = 1/2) with ancestral noise and CFG++'s correction
    ``c - u`` of the sample in both stages: c is the step's first prediction, u the newest.

    Flow models are walked as if their path were the variance exploding one, as ComfyUI does."""

    eta: float = 1.0
    s_noise: float = 1.0

    def advance_apart(self, state: State, denoised: Tensor, unconditional: Tensor) -> State:
        if state.ends_clean:
            return state.stepped(denoised)
        step = VarianceExploding().ancestral(state.sigma, state.sigma_next, self.eta)
        if state.pending is None:
            middle = (state.sigma * step.down) ** 0.5
            kept = middle / state.sigma
            x = kept * (state.x + denoised - unconditional) + (1 - kept) * denoised
            return state.waiting(x, middle, denoised)
        kept = step.down / state.sigma
        x = kept * (state.x + state.pending.evaluated[0] - unconditional) + (1 - kept) * denoised
        return renoised(state, x, step, self.s_noise)


@dataclass(frozen=True, slots=True)
class Dpmpp2mCfgpp(CfgPlusPlus):
    """Lu et al. 2022, "DPM-Solver++", alg. 2, with the noise and the memory of the unconditional prediction."""

    def advance_apart(self, state: State, denoised: Tensor, unconditional: Tensor) -> State:
        kept = state.sigma_next / state.sigma
        x = denoised + kept * (state.x - unconditional)
        if state.history and not state.ends_clean:
            before = torch.log(state.sigmas[state.step - 1] / state.sigma)
            r = before / torch.log(state.sigma / state.sigma_next)
            x = x + (1 - kept) / (2 * r) * (denoised - state.history[0])
        return state.stepped(x, history=(unconditional,))


def second_order(state: State, eta: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """How much a step of RES keeps of the sample and takes of the last two predictions; None where the step is of first
    order.

    Zhang et al. 2023, "Improved Order Analysis and Design of Exponential Integrator for Diffusion Models Sampling", the
    multistep scheme of second order: ``b_1 = phi_1 - phi_2 / c``, ``b_2 = phi_2 / c``, phi of ``-h``, where ``c h`` is how
    far the earlier prediction lies back from where the last step had come without noise."""
    ancestral = VarianceExploding().ancestral
    down = ancestral(state.sigma, state.sigma_next, eta).down
    if not state.history or not bool(down > 0):
        return None
    before = ancestral(state.sigmas[state.step - 1], state.sigma, eta).down
    sigma, down, before = state.sigma.double(), down.double(), before.double()
    h = (sigma / down).log()
    c = (before / state.sigmas[state.step - 1].double()).log() / h
    phi_1 = -torch.expm1(-h) / h
    phi_2 = (1 - phi_1) / h
    return (-h).exp(), h * (phi_1 - phi_2 / c), h * phi_2 / c


@dataclass(frozen=True, slots=True)
class ResMultistep(Solver):
    """RES of second order (Zhang et al. 2023, "Improved Order Analysis and Design of Exponential Integrator for Diffusion
    Models Sampling"), with ancestral noise for ``eta`` above 0, also on the straight path that of a variance exploding one, as ComfyUI
    has it."""

    eta: float = 0.0
    s_noise: float = 1.0

    def advance(self, state: State, denoised: Tensor) -> State:
        return _res(self.eta, self.s_noise, state, denoised, denoised)


@dataclass(frozen=True, slots=True)
class ResMultistepCfgpp(CfgPlusPlus):
    """``ResMultistep`` that integrates the unconditional prediction from a sample moved by ``c - u``."""

    eta: float = 0.0
    s_noise: float = 1.0

    def advance_apart(self, state: State, denoised: Tensor, unconditional: Tensor) -> State:
        return _res(self.eta, self.s_noise, state, denoised, unconditional)


def _res(eta: float, s_noise: float, state: State, denoised: Tensor, unconditional: Tensor) -> State:
    if state.ends_clean:
        return state.stepped(denoised)
    step = VarianceExploding().ancestral(state.sigma, state.sigma_next, eta)
    weights = second_order(state, eta)
    if weights is None:
        x = denoised + slope(state.x, state.sigma, unconditional) * step.down
    else:
        kept, b1, b2 = weights
        x = kept * (state.x + denoised - unconditional) + b1 * unconditional + b2 * state.history[0]
    if eta <= 0:
        return state.stepped(x, history=(unconditional,))
    return renoised(state, x, step, s_noise, history=(unconditional,))


@dataclass(frozen=True, slots=True)
class GradientEstimation(Solver):
    """Permenter and Yuan 2023, "Interpreting and Improving Diffusion Models from an Optimization Perspective", alg. 2:
    Euler steps along ``gamma d + (1 - gamma) d_before``."""

    gamma: float = 2.0

    def advance(self, state: State, denoised: Tensor) -> State:
        return _estimated(self.gamma, state, denoised, denoised)


@dataclass(frozen=True, slots=True)
class GradientEstimationCfgpp(CfgPlusPlus):
    """``GradientEstimation`` along slopes of the unconditional prediction."""

    gamma: float = 2.0

    def advance_apart(self, state: State, denoised: Tensor, unconditional: Tensor) -> State:
        return _estimated(self.gamma, state, denoised, unconditional)


def _estimated(gamma: float, state: State, denoised: Tensor, unconditional: Tensor) -> State:
    if state.ends_clean:
        return state.stepped(denoised)
    d = slope(state.x, state.sigma, unconditional)
    x = denoised + d * state.sigma_next
    if state.history:
        x = x + (gamma - 1) * (d - state.history[0]) * (state.sigma_next - state.sigma)
    return replace(state.stepped(x), history=(d,))
