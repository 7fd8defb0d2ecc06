"""UniPC: a predictor and a corrector of one order that share their evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor

from nodes.diffusion.noise import StepNoise
from nodes.diffusion.samplers.state import Solver, State

LOWEST: Final = 0.001
"""UniPC works in log sigma and cannot reach 0: it ends here instead."""


@dataclass(frozen=True, slots=True)
class UniPc(Solver):
    """Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework", alg. 1 to 4 (data prediction), order 3.

    ``bh1`` is B(h) = h, ``bh2`` is B(h) = e^h - 1. The orders rise 1, 2, 3 and fall again at the end. In ``x / alpha``
    the model's alpha and sigma disappear from the formulas and only lambda = -log sigma is left.

    ``State.x`` is the predicted sample at ``sigmas[step]``; the evaluation there corrects it and goes into the next
    prediction. No order exceeds the number of steps less one: a single step is of order 0 and moves nothing but ``alpha``, so that
    ``alpha x`` stays, as in ComfyUI."""

    variant: Literal["bh1", "bh2"] = "bh1"
    order: int = 3

    def start(self, x: Tensor, sigmas: Tensor, noise: StepNoise) -> State:
        lowest = sigmas.new_tensor(LOWEST)
        return Solver.start(self, x, torch.where(sigmas == 0, lowest, sigmas), noise)

    def advance(self, state: State, denoised: Tensor) -> State:
        if state.steps == 1:
            return state.stepped(state.x * _alpha(state.sigma) / _alpha(state.sigma_next))
        corrected = self._corrected(state, denoised) if state.history else state.x
        known = (denoised, *state.history)
        last = replace(state, x=corrected)
        x = self._predicted(last, known)
        return last.stepped(x, history=known[: self.order])

    def _order(self, state: State, step: int) -> int:
        """The order with which ``sigmas[step]`` is reached."""
        return max(min(self.order, state.steps - 1, step, state.steps + 1 - step), 1)

    def _predicted(self, state: State, known: Sequence[Tensor]) -> Tensor:
        """Alg. 2 and 4 from ``sigmas[step]`` to the next, with the predictions ``known``, newest first."""
        order = self._order(state, state.step + 1)
        rule = _Rule.between(state.sigmas, state.step, order, self.variant)
        plain = torch.exp(-rule.h) * state.x - torch.expm1(-rule.h) * known[0]
        return plain - rule.B * rule.difference(rule.predictor(), known) if order > 1 else plain

    def _corrected(self, state: State, denoised: Tensor) -> Tensor:
        """Alg. 1 and 3: the predicted ``x`` with the terms of the prediction made at ``x`` itself.

        Predictor and corrector differ only in the weights of the differences, so the sample before is not needed.
        """
        known = state.history
        order = self._order(state, state.step)
        rule = _Rule.between(state.sigmas, state.step - 1, order, self.variant)
        weights = rule.corrector()
        change = weights[-1] * (denoised - known[0])
        if order > 1:
            change = change + rule.difference(weights[:-1] - rule.predictor(), known)
        return state.x - rule.B * change


def _alpha(sigma: Tensor) -> Tensor:
    """Of a sample whose variance stays that of the data."""
    return (1 + sigma**2) ** -0.5


@dataclass(frozen=True, slots=True, eq=False)
class _Rule:
    """The weights of one step: width ``h`` in lambda, the ``nodes`` r_k (of earlier points, then 1) and B(h)."""

    h: Tensor
    B: Tensor
    nodes: Tensor

    @classmethod
    def between(cls, sigmas: Tensor, step: int, order: int, variant: str) -> _Rule:
        lam = -sigmas.double().log()
        h = lam[step + 1] - lam[step]
        earlier = (lam[step - order + 1 : step].flip(0) - lam[step]) / h
        return cls(h, -h if variant == "bh1" else torch.expm1(-h), torch.cat([earlier, earlier.new_ones(1)]))

    def _system(self) -> tuple[Tensor, Tensor]:
        """R and b of eq. 12 for data prediction (appendix A.2), with phi_k of -h."""
        order = len(self.nodes)
        R = torch.stack([self.nodes**i for i in range(order)])
        phi, factorial, b = torch.expm1(-self.h) / -self.h - 1, 1, []
        for i in range(1, order + 1):
            b.append(phi * factorial / self.B)
            factorial *= i + 1
            phi = phi / -self.h - 1 / factorial
        return R, torch.stack(b)

    def predictor(self) -> Tensor:
        """Weights of the earlier differences; for order 2 the paper takes 1/2, which keeps the order."""
        if len(self.nodes) == 2:
            return self.nodes.new_tensor([0.5])
        R, b = self._system()
        weights: Tensor = torch.linalg.solve(R[:-1, :-1], b[:-1])
        return weights

    def corrector(self) -> Tensor:
        """Weights of the earlier differences and, last, of the new one; for order 1 the paper takes 1/2."""
        if len(self.nodes) == 1:
            return self.nodes.new_tensor([0.5])
        weights: Tensor = torch.linalg.solve(*self._system())
        return weights

    def difference(self, weights: Tensor, known: Sequence[Tensor]) -> Tensor:
        """The weighted sum of ``(known[k] - known[0]) / r_k``."""
        terms = [
            (weight / node) * (earlier - known[0])
            for weight, node, earlier in zip(weights, self.nodes[:-1], known[1:], strict=False)
        ]
        return torch.stack(terms).sum(0)
