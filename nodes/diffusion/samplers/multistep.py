"""Solvers with one evaluation a step and a memory of earlier ones; ``State.history`` holds it, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nodes.diffusion.noise import StepNoise
from nodes.diffusion.samplers.laws import Law
from nodes.diffusion.samplers.single_step import slope
from nodes.diffusion.samplers.state import LawSolver, Solver, State

Floats = NDArray[np.float64]


def lagrange(nodes: Sequence[float] | Floats, j: int, at: Floats) -> Floats:
    """The polynomial that is 1 at ``nodes[j]`` and 0 at the others, at the points ``at``."""
    value = np.ones_like(at)
    for k, node in enumerate(nodes):
        if k != j:
            value = value * (at - node) / (nodes[j] - node)
    return value


def _combined(x: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    return x + sum((weight * d for weight, d in zip(weights, slopes, strict=True)), torch.zeros((), dtype=x.dtype))


@dataclass(frozen=True, slots=True)
class Lms(Solver):
    """Linear multistep (Adams-Bashforth) in sigma with uneven steps, order 4: the integral over the step of the
    polynomial through the last slopes. It is the solver that Karras et al. 2022 compare theirs with (table 2)."""

    order: int = 4

    def advance(self, state: State, denoised: Tensor) -> State:
        slopes = (slope(state.x, state.sigma, denoised), *state.history)[: self.order]
        x = denoised if state.ends_clean else _combined(state.x, self._weights(state, len(slopes)), slopes)
        return state.stepped(x, history=slopes[: self.order - 1])

    def _weights(self, state: State, order: int) -> list[float]:
        nodes = state.sigmas[: state.step + 1].double().numpy()[::-1][:order]
        start, end = float(state.sigma), float(state.sigma_next)
        # k Gauss points integrate a polynomial of degree 2k - 1 exactly.
        points, widths = np.polynomial.legendre.leggauss(max(4, order // 2 + 1))
        at = start + (end - start) * (points + 1) / 2
        return [float((widths * lagrange(nodes, j, at)).sum() * (end - start) / 2) for j in range(order)]


ADAMS_BASHFORTH: Final = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the newest slope and those before it, for orders 1 to 4 and even steps."""


@dataclass(frozen=True, slots=True)
class Ipndm(Solver):
    """Zhang and Chen 2023, "Fast Sampling of Diffusion Models with Exponential Integrator", iPNDM: the Adams-Bashforth
    weights of even steps, whatever the steps are, order 4."""

    def advance(self, state: State, denoised: Tensor) -> State:
        slopes = (slope(state.x, state.sigma, denoised), *state.history)[:4]
        width = state.sigma_next - state.sigma
        weights = [float(width * w) for w in ADAMS_BASHFORTH[len(slopes) - 1]]
        x = denoised if state.ends_clean else _combined(state.x, weights, slopes)
        return state.stepped(x, history=slopes[:3])


@dataclass(frozen=True, slots=True)
class IpndmV(Solver):
    """iPNDM of order 4 for uneven steps, as Zhou et al. 2024, "Fast ODE-based Sampling for Diffusion Models in Around 5
    Steps", publish it with their code.

    Its weights are those of Adams-Bashforth for even steps; for uneven ones they differ a little from the exact ones
    (``Lms`` has these), and pictures made with them are only met by the same weights."""

    def advance(self, state: State, denoised: Tensor) -> State:
        slopes = (slope(state.x, state.sigma, denoised), *state.history)[:4]
        width = float(state.sigma_next - state.sigma)
        weights = [width * w for w in self._weights(state, len(slopes))]
        x = denoised if state.ends_clean else _combined(state.x, weights, slopes)
        return state.stepped(x, history=slopes[:3])

    def _weights(self, state: State, order: int) -> Floats:
        """Of the newest slope and those before it."""
        widths = np.diff(state.sigmas[: state.step + 2].double().numpy())[::-1][:order]
        weights = np.zeros(order)
        weights[0] = 1
        if order >= 2:
            weights[:2] += widths[0] / widths[1] / 2 * np.array([1, -1])
        if order >= 3:
            weights[:3] += _third(*widths[:3])
        if order >= 4:
            weights += _fourth(*widths)
        return weights


def _third(h: float, h1: float, h2: float) -> Floats:
    """What the third slope adds to the weights; ``h`` is the step, ``h1`` and ``h2`` are those before it."""
    share = (1 - h / (3 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2
    return share * np.array([1, -1 - h1 / h2, h1 / h2])


def _fourth(h: float, h1: float, h2: float, h3: float) -> Floats:
    """What the fourth slope adds."""
    share = (1 - h / (3 * (h + h1))) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
    share *= h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    ratio, q = h1 / h2, h1 * (h1 + h2) / (h2 * (h2 + h3))
    return share * np.array([1, -1 - ratio - q, ratio + q * (1 + h2 / h3), -q * ratio])


@dataclass(frozen=True, slots=True)
class Deis(Solver):
    """Zhang and Chen 2023, "Fast Sampling of Diffusion Models with Exponential Integrator", tAB-DEIS, order 3.

    The slopes are interpolated by a polynomial in the time t of a variance preserving diffusion with linear beta, and
    integrated over sigma(t) (eq. 15). The diffusion is the one whose sigma is 0.002 at t = 0.001 and 80 at t = 1."""

    order: int = 3

    def advance(self, state: State, denoised: Tensor) -> State:
        slopes = (slope(state.x, state.sigma, denoised), *state.history)[: self.order]
        if state.ends_clean or len(slopes) == 1:
            x = state.x + slopes[0] * (state.sigma_next - state.sigma)
        else:
            x = _combined(state.x, self._weights(state, len(slopes)), slopes)
        return state.stepped(x, history=slopes[: self.order - 1])

    def _weights(self, state: State, order: int) -> list[float]:
        times = _vp_time(state.sigmas[: state.step + 2].double().numpy())
        nodes = times[:-1][::-1][:order]
        at = np.linspace(times[-2], times[-1], DEIS_POINTS)
        width = times[-1] - times[-2]
        return [float((_vp_sigma_rate(at) * lagrange(nodes, j, at)).mean() * width) for j in range(order)]


DEIS_POINTS: Final = 10_000
"""Points of the quadrature; with so many it is exact to about 1e-5."""


def _linear_beta(sigma_min: float = 0.002, sigma_max: float = 80.0, t_min: float = 1e-3) -> tuple[float, float]:
    """Slope and start of beta(t) with ``log(1 + sigma^2) = slope t^2 / 2 + start t`` through both ends (Karras et al.
    2022, table 1 and appendix C.1)."""
    low, high = np.log1p(sigma_min**2), np.log1p(sigma_max**2)
    gradient = 2 * (low / t_min - high) / (t_min - 1)
    return float(gradient), float(high - gradient / 2)


def _vp_time(sigma: Floats) -> Floats:
    gradient, start = _linear_beta()
    return (np.sqrt(start**2 + 2 * gradient * np.log1p(sigma**2)) - start) / gradient


def _vp_sigma_rate(t: Floats) -> Floats:
    """``d sigma / d t``, from ``sigma^2 = exp(gradient t^2 / 2 + start t) - 1``."""
    gradient, start = _linear_beta()
    grown = np.exp(gradient * t**2 / 2 + start * t)
    rate: Floats = (gradient * t + start) * grown / (2 * np.sqrt(grown - 1))
    return rate


@dataclass(frozen=True, slots=True)
class Dpmpp2m(Solver):
    """Lu et al. 2022, "DPM-Solver++", alg. 2, in ``x / alpha``; the last step, to sigma 0, is of first order."""

    def advance(self, state: State, denoised: Tensor) -> State:
        lam, lam_next = -state.sigma.log(), -state.sigma_next.log()
        h = lam_next - lam
        D = denoised
        if state.history and not state.ends_clean:
            r = (lam + state.sigmas[state.step - 1].log()) / h
            D = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * state.history[0]
        x = (state.sigma_next / state.sigma) * state.x - (-h).expm1() * D
        return state.stepped(x, history=(denoised,))


def _lambda_steps(law: Law, state: State, count: int) -> list[Tensor]:
    """The widths in lambda of this step and of up to ``count`` steps before it, newest first."""
    first = max(state.step - count, 0)
    lam = law.lam(state.sigmas[first : state.step + 2])
    return list((lam[1:] - lam[:-1]).flip(0))


def _noised(state: State, x: Tensor, h: Tensor, eta: float, s_noise: float) -> tuple[Tensor, StepNoise]:
    """``x`` with the noise that the reverse SDE adds over a step of width ``h`` in lambda."""
    if eta <= 0 or s_noise <= 0:
        return x, state.noise
    noise, source = state.draw()
    return x + noise * (state.sigma_next * (-(-2 * h * eta).expm1()).sqrt() * s_noise), source


@dataclass(frozen=True, slots=True)
class Dpmpp2mSde(LawSolver):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", eq. 19). The change of the prediction is weighed as in their
    alg. 2 (``midpoint``) or as the exponential integrator does (``heun``)."""

    solver: Literal["midpoint", "heun"] = "midpoint"
    eta: float = 1.0
    s_noise: float = 1.0

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.ends_clean:
            return state.stepped(denoised)
        h, *before = _lambda_steps(self.law, state, 1)
        wide = h * (1 + self.eta)
        alpha = self.law.alpha(state.sigma_next)
        gain = alpha * -(-wide).expm1()
        x = state.sigma_next / state.sigma * (-h * self.eta).exp() * state.x + gain * denoised
        if state.history:
            weight = 0.5 * gain if self.solver == "midpoint" else alpha * (1 + (-wide).expm1() / wide)
            x = x + weight * (h / before[0]) * (denoised - state.history[0])
        x, source = _noised(state, x, h, self.eta, self.s_noise)
        return state.stepped(x, noise=source, history=(denoised,))


@dataclass(frozen=True, slots=True)
class Dpmpp3mSde(LawSolver):
    """SDE-DPM-Solver++ with three points: the exponential integrator of Lu et al. 2022, "DPM-Solver++", appendix B, for
    the reverse SDE, with divided differences of the last three predictions."""

    eta: float = 1.0
    s_noise: float = 1.0

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.ends_clean:
            return state.stepped(denoised)
        h, *before = _lambda_steps(self.law, state, len(state.history))
        alpha = self.law.alpha(state.sigma_next)
        phi_1 = -(-h * (1 + self.eta)).expm1()
        x = state.sigma_next / state.sigma * (-h * self.eta).exp() * state.x + alpha * phi_1 * denoised
        x = x + alpha * self._correction(h, before, (denoised, *state.history)) if before else x
        x, source = _noised(state, x, h, self.eta, self.s_noise)
        return state.stepped(x, noise=source, history=(denoised, *state.history)[:2])

    def _correction(self, h: Tensor, before: list[Tensor], D: tuple[Tensor, ...]) -> Tensor:
        """The terms of the first and second derivative of the prediction in lambda."""
        wide = h * (1 + self.eta)
        phi_2 = 1 + (-wide).expm1() / wide
        r0 = before[0] / h
        d1_0 = (D[0] - D[1]) / r0
        if len(before) == 1:
            return phi_2 * d1_0
        phi_3 = phi_2 / wide - 0.5
        r1 = before[1] / h
        d1_1 = (D[1] - D[2]) / r1
        d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
        d2 = (d1_0 - d1_1) / (r0 + r1)
        return phi_2 * d1 - phi_3 * d2
