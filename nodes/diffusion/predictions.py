"""What a network predicts, and what that says about the clean latent ``x0``.

``sigma`` is broadcastable against ``x`` (0-dim, or [B,1,1,1]). For epsilon and velocity models ``x = x0 + sigma * n``
and the network was trained on ``x / sqrt(sigma^2 + 1)``, whose variance is that of the data; for flow models ``x = (1 -
sigma) * x0 + sigma * n``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

PredictionName = Literal["eps", "v", "flow"]


class Prediction(Protocol):
    """Converts between the sampler's space and the network's."""

    def model_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What the network sees for ``x``."""
        ...

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        """``x0`` from the network's output ``out`` at ``x``."""
        ...

    def noised(self, latent: Tensor, noise: Tensor, sigma: Tensor, *, full: bool = False) -> Tensor:
        """``latent`` at noise level ``sigma``; ``full`` where that is the level of pure noise."""
        ...

    def finished(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The latent for ``x`` at the level ``sigma`` where sampling ended."""
        ...


@dataclass(frozen=True, slots=True)
class _VarianceExploding:
    def model_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (sigma**2 + 1) ** 0.5

    def noised(self, latent: Tensor, noise: Tensor, sigma: Tensor, *, full: bool = False) -> Tensor:
        # At the top the network was trained on a sample of variance sigma^2 + 1, whatever is in the latent.
        return noise * (1 + sigma**2) ** 0.5 + latent if full else noise * sigma + latent

    def finished(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x


@dataclass(frozen=True, slots=True)
class Epsilon(_VarianceExploding):
    """The network predicts the noise (Ho et al. 2020): ``x0 = x - sigma * out``."""

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        return x - out * sigma


@dataclass(frozen=True, slots=True)
class Velocity(_VarianceExploding):
    """The network predicts ``v`` (Salimans and Ho 2022): ``x0 = x / (sigma^2 + 1) - out * sigma / sqrt(sigma^2 +
    1)``."""

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        variance = sigma**2 + 1
        return x / variance - out * sigma / variance**0.5


@dataclass(frozen=True, slots=True)
class Flow:
    """The network predicts ``n - x0`` along a straight path (Lipman et al. 2023, Liu et al. 2023): ``x0 = x - sigma *
    out``."""

    def model_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        return x - out * sigma

    def noised(self, latent: Tensor, noise: Tensor, sigma: Tensor, *, full: bool = False) -> Tensor:
        return sigma * noise + (1 - sigma) * latent

    def finished(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 - sigma)


def prediction(name: PredictionName) -> Prediction:
    """The prediction of a model family by its name."""
    match name:
        case "eps":
            return Epsilon()
        case "v":
            return Velocity()
        case "flow":
            return Flow()
