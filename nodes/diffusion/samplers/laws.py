"""How much signal and noise a sample holds at each sigma: ``x = alpha(sigma) * x0 + sigma * n``.

The solvers that add noise need it to put back exactly what they took. ``lam`` is half the log signal-to-noise ratio,
``log(alpha / sigma)`` (Lu et al. 2022, "DPM-Solver", section 3). Sigmas and lambdas are 0-dim float32 on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class AncestralStep(NamedTuple):
    """Go down to ``down`` without noise, multiply by ``scale``, then add noise of standard deviation ``up``."""

    down: Tensor
    scale: Tensor
    up: Tensor


class Law(Protocol):
    """The amounts of signal and noise along a path."""

    def alpha(self, sigma: Tensor) -> Tensor: ...

    def lam(self, sigma: Tensor) -> Tensor: ...

    def sigma(self, lam: Tensor) -> Tensor:
        """The inverse of ``lam``."""
        ...

    def ancestral(self, sigma: Tensor, sigma_next: Tensor, eta: float = 1.0) -> AncestralStep:
        """How to reach ``sigma_next`` with fresh noise: none at ``eta`` 0, at 1 as much as the forward process would have
        added on the way."""
        ...

    def solvable(self, sigmas: Tensor) -> Tensor:
        """The sigmas with every ``lam`` but the last finite."""
        ...


@dataclass(frozen=True, slots=True)
class VarianceExploding:
    """``x = x0 + sigma * n``: epsilon and velocity models."""

    def alpha(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def lam(self, sigma: Tensor) -> Tensor:
        return -sigma.log()

    def sigma(self, lam: Tensor) -> Tensor:
        return (-lam).exp()

    def ancestral(self, sigma: Tensor, sigma_next: Tensor, eta: float = 1.0) -> AncestralStep:
        """Song et al. 2021, "Score-Based Generative Modeling through SDEs", appendix F: the posterior's variance."""
        up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
        # From infinite noise, or upwards, the formula has no value: then all of the noise is fresh.
        up = torch.fmin(sigma_next, eta * up)
        return AncestralStep((sigma_next**2 - up**2) ** 0.5, torch.ones_like(up), up)

    def solvable(self, sigmas: Tensor) -> Tensor:
        return sigmas


@dataclass(frozen=True, slots=True)
class StraightPath:
    """``x = (1 - sigma) * x0 + sigma * n``: flow models. At sigma 1 there is no signal and ``lam`` is infinite, so
    solvers that need it begin at ``first`` instead."""

    first: float = 0.9999

    def alpha(self, sigma: Tensor) -> Tensor:
        return 1 - sigma

    def lam(self, sigma: Tensor) -> Tensor:
        return -torch.logit(sigma)

    def sigma(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-lam)

    def ancestral(self, sigma: Tensor, sigma_next: Tensor, eta: float = 1.0) -> AncestralStep:
        """Down to ``sigma_next^2 / sigma`` for eta 1; the scale restores the signal, the noise the variance of
        ``sigma_next``."""
        down = sigma_next * (1 + (sigma_next / sigma - 1) * eta)
        scale = (1 - sigma_next) / (1 - down)
        return AncestralStep(down, scale, (sigma_next**2 - (down * scale) ** 2) ** 0.5)

    def solvable(self, sigmas: Tensor) -> Tensor:
        return torch.where(sigmas >= 1, sigmas.new_tensor(self.first), sigmas)
