"""DPM-Solver (Lu et al. 2022, "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10
Steps"): exponential integrators of the predicted noise over t = -log sigma, with one to three evaluations a step.

They end at the lowest sigma above 0; what little noise is left there stays. ``Pending.evaluated`` holds the noise
predicted at the stages so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.noise import StepNoise
from nodes.diffusion.samplers.laws import VarianceExploding
from nodes.diffusion.samplers.single_step import slope
from nodes.diffusion.samplers.state import Solver, State

CLOSE: Final = 1e-5
"""So near to the end of t a run is there."""


class _Step(NamedTuple):
    """A step from ``x`` at sigma ``start`` to sigma ``end`` (float64); ``eps`` is the noise predicted so far."""

    x: Tensor
    start: Tensor
    end: Tensor
    eps: Sequence[Tensor]

    @property
    def h(self) -> Tensor:
        return (self.start / self.end).log()

    def at(self, part: float) -> Tensor:
        """Sigma after ``part`` of the step."""
        return self.start * (-part * self.h).exp()

    def first(self, part: float = 1.0) -> Tensor:
        """DPM-Solver-1 over ``part`` of the step (eq. 3.7)."""
        return self.x - self.at(part) * (part * self.h).expm1() * self.eps[0]

    def second(self, r: float = 0.5) -> Tensor:
        """DPM-Solver-2 with its stage at ``r`` (appendix B.1)."""
        return self.first() - self.end / (2 * r) * self.h.expm1() * (self.eps[1] - self.eps[0])

    def third(self, part: float = 1.0) -> Tensor:
        """DPM-Solver-3 with stages at 1/3 and 2/3 (alg. 2); over ``part`` 2/3, its second stage."""
        earlier, r = (1, 1 / 3) if part < 1 else (2, 2 / 3)
        h = part * self.h
        weight = self.at(part) * (part / r) * (h.expm1() / h - 1)
        return self.first(part) - weight * (self.eps[earlier] - self.eps[0])

    def stage(self, order: int) -> tuple[Tensor, Tensor]:
        """``x`` and sigma of the next evaluation of a step of this order, 2 or 3."""
        if order == 2:
            return self.first(1 / 2), self.at(1 / 2)
        return (self.first(1 / 3), self.at(1 / 3)) if len(self.eps) == 1 else (self.third(2 / 3), self.at(2 / 3))

    def end_of(self, order: int) -> Tensor:
        """The sample at the end of a step of this order."""
        return (self.first, self.second, self.third)[order - 1]()


def _lowest(sigmas: Tensor) -> Tensor:
    """Where the way down ``sigmas`` [n + 1] ends for these solvers."""
    return sigmas[-1] if sigmas[-1] > 0 else sigmas[-2]


def _predicted(state: State, denoised: Tensor, x: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
    """The noise predicted in this step, the newest last."""
    if state.pending is None:
        return (slope(x, sigma, denoised),)
    return (*state.pending.evaluated, slope(state.pending.x, state.pending.sigma, denoised))


@dataclass(frozen=True, slots=True)
class DpmFast(Solver):
    """DPM-Solver-fast (Lu et al. 2022, section 3.4): as many evaluations as there were steps, most of them in steps of
    third order, evenly spaced in log sigma."""

    def start(self, x: Tensor, sigmas: Tensor, noise: StepNoise) -> State:
        count = len(sigmas) - 1
        ends = sigmas[0].double().log(), _lowest(sigmas).double().log()
        ladder = torch.linspace(float(ends[0]), float(ends[1]), count // 3 + 2, dtype=torch.float64).exp()
        return replace(Solver.start(self, x, ladder, noise), note=str(count))

    def _order(self, state: State) -> int:
        """The order of this step; all orders add up to the number of evaluations."""
        rest = int(state.note) % 3
        left = state.steps - state.step
        if rest == 0:
            return min(left, 3)
        return rest if left == 1 else 3

    def advance(self, state: State, denoised: Tensor) -> State:
        eps = _predicted(state, denoised, state.x, state.sigma)
        step = _Step(state.x, state.sigma.double(), state.sigma_next.double(), eps)
        order = self._order(state)
        if len(eps) < order:
            x, sigma = step.stage(order)
            return state.waiting(x, sigma.float(), *eps)
        return state.stepped(step.end_of(order))


_NARROWEST: Final = 1e-6
"""Narrower steps in log sigma get nowhere in float32."""


@dataclass(frozen=True, slots=True)
class DpmAdaptive(Solver):
    """DPM-Solver with steps as wide as its error allows (Lu et al. 2022, appendix C: DPM-Solver-12 and -23), and noise
    for ``eta`` above 0.

    The error is that of two solvers of neighbouring orders, relative to ``max(atol, rtol |x|)``; a PID controller
    (Söderlind 2003, "Digital Filters in Adaptive Time-Stepping") makes the next width of it. A step counts as many of
    the given sigmas as it passes.
    """

    order: int = 3
    rtol: float = 0.05
    atol: float = 0.0078
    h_init: float = 0.05
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    accept_safety: float = 0.81
    eta: float = 0.0
    s_noise: float = 1.0

    def start(self, x: Tensor, sigmas: Tensor, noise: StepNoise) -> State:
        state = Solver.start(self, x, sigmas, noise)
        if bool((state.sigmas.diff() > 0).any()):
            raise InputError("dpm_adaptive needs sigmas that fall; found some that rise: choose another sampler")
        if max(self.rtol, self.atol) <= 0:
            raise InputError("dpm_adaptive needs an rtol or an atol above 0; found neither")
        if self.h_init < _NARROWEST:
            raise InputError(f"dpm_adaptive needs an h_init of at least {_NARROWEST}; found {self.h_init}")
        t = -state.sigma.double().log()
        extra = {"t": t, "h": torch.tensor(self.h_init, dtype=torch.float64)}
        return replace(state, history=(x,), extra=extra, step=_passed(state, t))

    def query(self, state: State) -> tuple[Tensor, Tensor]:
        if state.pending is not None:
            return Solver.query(self, state)
        return state.x, _sigma(state.extra["t"]).float().expand(len(state.x))

    def advance(self, state: State, denoised: Tensor) -> State:
        t = state.extra["t"]
        eps = _predicted(state, denoised, state.x, _sigma(t).float())
        target = torch.minimum(-_lowest(state.sigmas).double().log(), t + state.extra["h"])
        down = self._down(state, t, target)
        step = _Step(state.x, _sigma(t), _sigma(down), eps)
        if len(eps) < self.order:
            x, sigma = step.stage(self.order)
            return state.waiting(x, sigma.float(), *eps)
        low, high = (step.first(), step.second()) if self.order == 2 else (step.second(1 / 3), step.third())
        factor, errors = self._controlled(state, self._error(state, low, high))
        if factor < self.accept_safety:
            # the first error ever stands for those before it, also where its step is not taken
            known = {"errors": errors[1:], **state.extra}
            return replace(state, pending=None, extra={**known, "h": self._narrower(state, factor)})
        x, noise = self._noised(state, high, target, down)
        extra = {"t": target, "h": state.extra["h"] * factor, "errors": errors}
        # What is no number is for the caller to find, at once.
        passed = _passed(state, target) if math.isfinite(factor) else state.steps
        return replace(state, x=x, noise=noise, step=passed, history=(low,), pending=None, extra=extra)

    def _narrower(self, state: State, factor: float) -> Tensor:
        """The width after a step that is not taken."""
        width = state.extra["h"] * factor
        if width < _NARROWEST:
            raise InputError(
                f"dpm_adaptive found no step of at least {_NARROWEST} within its tolerance (rtol {self.rtol}, atol {self.atol}): "
                "raise one of them, or choose another sampler"
            )
        return width

    def _down(self, state: State, t: Tensor, target: Tensor) -> Tensor:
        """Where the step goes before noise is added."""
        if self.eta <= 0:
            return target
        down = VarianceExploding().ancestral(_sigma(t), _sigma(target), self.eta).down
        return torch.minimum(-_lowest(state.sigmas).double().log(), -down.log())

    def _noised(self, state: State, x: Tensor, target: Tensor, down: Tensor) -> tuple[Tensor, StepNoise]:
        if self.eta <= 0 or self.s_noise <= 0:
            return x, state.noise
        up = (_sigma(target) ** 2 - _sigma(down) ** 2) ** 0.5
        noise, source = state.draw(_sigma(state.extra["t"]).float(), _sigma(target).float())
        return x + noise * (up * self.s_noise), source

    def _error(self, state: State, low: Tensor, high: Tensor) -> float:
        allowed = (self.rtol * torch.maximum(low.abs(), state.history[0].abs())).clamp(min=self.atol)
        return float(torch.linalg.vector_norm((low - high) / allowed)) / math.sqrt(low.numel())

    def _controlled(self, state: State, error: float) -> tuple[float, Tensor]:
        """The factor for the next width, and the inverse errors of this step and the two accepted before it."""
        order = 1.5 if self.eta > 0 else self.order
        inverse = 1 / (error + 1e-8)
        before = state.extra["errors"].tolist()[:2] if "errors" in state.extra else [inverse, inverse]
        errors = [inverse, *before]
        powers = (self.pcoeff + self.icoeff + self.dcoeff, -(self.pcoeff + 2 * self.dcoeff), self.dcoeff)
        wanted = math.prod(each ** (power / order) for each, power in zip(errors, powers, strict=True))
        return 1 + math.atan(wanted - 1), torch.tensor(errors, dtype=torch.float64)


def _sigma(t: Tensor) -> Tensor:
    return (-t).exp()


def _passed(state: State, t: Tensor) -> int:
    """How many of the steps between ``state.sigmas`` are done at ``t``."""
    if t >= -_lowest(state.sigmas).double().log() - CLOSE:
        return state.steps
    reached = int((-state.sigmas[1:].double().log() <= t + CLOSE).sum())
    return min(reached, state.steps - 1)
