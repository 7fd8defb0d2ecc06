"""Solvers with up to three evaluations a step that build on each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nodes.diffusion.noise import StepNoise
from nodes.diffusion.samplers.single_step import slope
from nodes.diffusion.samplers.state import LawSolver, Solver, State


@dataclass(frozen=True, slots=True)
class HeunPlusPlus(Solver):
    """Heun++ (Carzit 2023, published as code): the slope of a step is the weighted mean of the slopes at its start, at
    its end, and at the end of the step behind it, with weights that fall with sigma.

    The last step but one looks no further than its end, the last is Euler's."""

    def advance(self, state: State, denoised: Tensor) -> State:
        at = state.x if state.pending is None else state.pending.x
        seen = () if state.pending is None else state.pending.evaluated
        points = state.sigmas[:-1][state.step : state.step + 3]
        slopes = (*seen, slope(at, points[len(seen)], denoised))
        if len(slopes) < len(points):
            x = at + slopes[-1] * (points[len(slopes)] - points[len(seen)])
            return state.waiting(x, points[len(slopes)], *slopes)
        later = [sigma / (len(slopes) * state.sigmas[0]) for sigma in points[1 : len(slopes)]]
        mean = slopes[0] * (1 - sum(later, torch.zeros(())))
        for weight, d in zip(later, slopes[1:], strict=True):
            mean = mean + weight * d
        return state.stepped(state.x + mean * (state.sigma_next - state.sigma))


@dataclass(frozen=True, slots=True)
class Seeds(LawSolver):
    """SEEDS-2 and SEEDS-3 (Gonzalez et al. 2023, "SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling from
    Diffusion Models", alg. 3 and 4, data prediction): exponential Runge-Kutta for the reverse SDE.

    ``parts`` are where the stages lie in lambda: (1/2) or (1/3, 2/3). The noise of a stage is carried on to the next, so
    that it is the same path that all of them see; it is kept in ``State.history``."""

    parts: tuple[float, ...] = (0.5,)
    eta: float = 1.0
    s_noise: float = 1.0

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.ends_clean:
            return state.stepped(denoised)
        asked = state.sigma if state.pending is None else state.pending.sigma
        seen = (*(() if state.pending is None else state.pending.evaluated), denoised)
        before, end = (0.0, *self.parts, 1.0)[len(seen) - 1 : len(seen) + 1]
        lam, lam_next = self.law.lam(state.sigma), self.law.lam(state.sigma_next)
        sigma = state.sigma_next if end == 1 else self.law.sigma(lam.lerp(lam_next, end))
        h = (lam_next - lam).double()
        x = self._moved(state, sigma, h, before, end, seen)
        source, carried = state.noise, state.history
        if self.eta > 0 and self.s_noise > 0:
            noise, source = state.draw(asked, sigma)
            gap = (end - before) * h * self.eta
            noise = noise * (-torch.expm1(-2 * gap)).sqrt()
            carried = (noise + carried[0] * (-gap).exp() if carried else noise,)
            x = x + carried[0] * (sigma * self.s_noise)
        if end == 1:
            return state.stepped(x, noise=source)
        return replace(state.waiting(x, sigma, *seen, noise=source), history=carried)

    def _moved(
        self, state: State, sigma: Tensor, h: Tensor, before: float, end: float, seen: tuple[Tensor, ...]
    ) -> Tensor:
        """The sample at ``sigma``, ``end`` of the step, without noise: exact for the first prediction seen, and for a
        change from there through the last, made at ``before``."""
        first, last = seen[0], seen[-1]
        wide = end * h * (1 + self.eta)
        alpha = self.law.alpha(sigma)
        kept = sigma / state.sigma * (-end * h * self.eta).exp()
        x = kept * state.x - alpha * torch.expm1(-wide) * first
        if before == 0:
            return x
        # With one stage the change is weighed by phi_1 / (2 r), with two by phi_2 / r (order 3).
        weight = -torch.expm1(-wide) / 2 if len(self.parts) == 1 else end * (1 + torch.expm1(-wide) / wide)
        return x + alpha * weight / before * (last - first)


def _noise_scale(lam: Tensor, kind: str, eta: float) -> Tensor:
    """Cui et al. 2023, eq. 30 (their best, ``ER-SDE``), or ``lam^(1 + eta)``: the reverse SDE of that eta, and the ODE."""
    return lam * ((lam**0.3).exp() + 10) if kind == "ER-SDE" else lam ** (1 + eta)


@dataclass(frozen=True, slots=True)
class ErSde(LawSolver):
    """Extended reverse-time SDE solver of order 1 to 3 (Cui et al. 2023, "Elucidating the Solution Space of Extended
    Reverse-Time SDE for Diffusion Models", alg. 2 and eq. 24 to 26), with ``lam = sigma / alpha``.

    The integrals of order 2 and 3 are sums over ``points`` points, as in the paper's code. ``kind``: "ER-SDE",
    "Reverse-time SDE" (of ``eta``) or "ODE"."""

    kind: str = "ER-SDE"
    max_stage: int = 3
    eta: float = 1.0
    s_noise: float = 1.0
    points: int = 200

    @property
    def _drift(self) -> bool:
        """Whether there is no noise."""
        return self.kind == "ODE" or (self.kind == "Reverse-time SDE" and self.eta == 0)

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.ends_clean:
            return state.stepped(denoised)
        eta = 0.0 if self._drift else self.eta
        first = max(state.step - 2, 0)
        lam = (-self.law.lam(state.sigmas[first : state.step + 2]).double()).exp()
        here, there = lam[-2], lam[-1]
        alpha, alpha_next = self.law.alpha(state.sigma), self.law.alpha(state.sigma_next)
        end = _noise_scale(there, self.kind, eta)
        r = end / _noise_scale(here, self.kind, eta)
        x = alpha_next / alpha * r * state.x + alpha_next * (1 - r) * denoised
        changes: list[Tensor] = []
        order = min(self.max_stage, state.step + 1)
        if order >= 2:
            changes = [(denoised - state.history[0]) / (here - lam[-3])]
        if order >= 3:
            changes.append((changes[0] - state.history[1]) / ((here - lam[-4]) / 2))
        width = (here - there) / self.points
        at = there + torch.arange(self.points, dtype=torch.float64) * width
        for power, change in enumerate(changes, 1):
            weights = (at - here) ** (power - 1) / _noise_scale(at, self.kind, eta)
            x = x + alpha_next * ((there - here) ** power / power + weights.sum() * width * end) * change
        x, source = self._noised(state, x, alpha_next * (there**2 - here**2 * r**2).clamp(min=0).sqrt())
        # The first change is made one step before it is needed.
        return state.stepped(x, noise=source, history=(denoised, *changes[:1]))

    def _noised(self, state: State, x: Tensor, std: Tensor) -> tuple[Tensor, StepNoise]:
        if self._drift or self.s_noise <= 0:
            return x, state.noise
        noise, source = state.draw()
        return x + noise * (std * self.s_noise), source


@dataclass(frozen=True, slots=True)
class SaSolver(LawSolver):
    """Stochastic Adams solver (Xue et al. 2023, "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion
    Models", alg. 1, data prediction), tau constant over a step: ``eta`` where sigma lies in ``interval`` (high, low), else 0.

    With ``pece`` the model is asked again at the corrected sample. ``State.x`` is the predicted sample; as the corrector
    adds the noise that the predictor drew, both differ only in their weights. With ``simple`` the weights of order 2 are
    those of the paper's appendix D."""

    interval: tuple[float, float]
    predictor: int = 3
    corrector: int = 4
    pece: bool = False
    simple: bool = False
    eta: float = 1.0
    s_noise: float = 1.0

    def advance(self, state: State, denoised: Tensor) -> State:
        known = (denoised, *state.history)[: max(self.predictor, self.corrector)]
        x = state.x
        if state.pending is not None:
            x = state.pending.x
        elif self._corrector_order(state, len(known)) > 0:
            x = self._corrected(state, known)
            if self.pece:
                return state.waiting(x, state.sigma, denoised)
        if state.ends_clean:
            return state.stepped(denoised)
        return self._predicted(replace(state, x=x), known)

    def _tau(self, state: State, step: int) -> float:
        """Of the step that ends at ``sigmas[step]``."""
        high, low = self.interval
        return self.eta if low <= float(state.sigmas[step]) <= high else 0.0

    def _predictor_order(self, state: State, step: int, known: int) -> int:
        """Of the step from ``sigmas[step]``; lower near a clean end."""
        order = min(self.predictor, known)
        return min(order, state.steps - 1 - step) if state.sigmas[-1] == 0 else order

    def _corrector_order(self, state: State, known: int) -> int:
        if state.step == 0 or (state.ends_clean and not self.pece):
            return 0
        order = min(self.corrector, known)
        return min(order, state.steps - state.step) if state.sigmas[-1] == 0 else order

    def _predicted(self, state: State, known: tuple[Tensor, ...]) -> State:
        tau = self._tau(state, state.step + 1)
        order = self._predictor_order(state, state.step, len(known))
        h = self.law.lam(state.sigma_next).double() - self.law.lam(state.sigma).double()
        x = state.sigma_next / state.sigma * (-(tau**2) * h).exp() * state.x
        for weight, prediction in zip(self._weights(state, state.step, order), known, strict=False):
            x = x + weight * prediction
        source = state.noise
        if tau > 0 and self.s_noise > 0:
            noise, source = state.draw()
            x = x + noise * (state.sigma_next * (-torch.expm1(-2 * tau**2 * h)).sqrt() * self.s_noise)
        return state.stepped(x, noise=source, history=known)

    def _corrected(self, state: State, known: tuple[Tensor, ...]) -> Tensor:
        order = self._predictor_order(state, state.step - 1, len(state.history))
        x = state.x
        for weight, prediction in zip(self._weights(state, state.step - 1, order), state.history, strict=False):
            x = x - weight * prediction
        order = self._corrector_order(state, len(known))
        for weight, prediction in zip(self._weights(state, state.step - 1, order, new=1), known, strict=False):
            x = x + weight * prediction
        return x

    def _weights(self, state: State, step: int, order: int, new: int = 0) -> Tensor:
        """Of the last ``order`` predictions, newest first, in the step from ``sigmas[step]``: the integrals of
        ``(1 + tau^2) e^((1 + tau^2) (l - l_end))`` times their Lagrange polynomials (eq. 15 and 18). ``new`` is 1 where
        the newest prediction is the one at the step's end."""
        lam = self.law.lam(state.sigmas[: step + 2]).double()
        tau = self._tau(state, step + 1)
        rate, h = 1 + tau**2, lam[-1] - lam[-2]
        alpha = self.law.alpha(state.sigmas[step + 1]).double()
        whole = -torch.expm1(-rate * h)
        nodes = (lam[: step + 1 + new].flip(0) - lam[-1])[:order]
        if self.simple and order == 2:
            second = rate * h / 2 if new else rate * h**2 / 2 / (nodes[1] - nodes[0])
            return alpha * torch.stack([second, whole - second] if new else [whole - second, second])
        integrals = [whole]
        for power in range(1, order):
            integrals.append(-torch.exp(-rate * h) * (-h) ** power - power / rate * integrals[-1])
        powers = torch.stack([nodes**power for power in range(order)])
        weights: Tensor = torch.linalg.solve(powers, torch.stack(integrals))
        return alpha * weights
