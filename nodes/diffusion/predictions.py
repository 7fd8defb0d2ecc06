"""What a network predicts, and what that says about the clean latent ``x0``.

``sigma`` is broadcastable against ``x`` (0-dim, or [B,1,1,1]). For epsilon and velocity models ``x = x0 + sigma * n``
and the network was trained on ``x / sqrt(sigma^2 + 1)``, whose variance is that of the data; for flow models ``x = (1 -
sigma) * x0 + sigma * n``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
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
    data: float = 1.0
    """The standard deviation that the data is taken to have."""

    def model_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (sigma**2 + self.data**2) ** 0.5

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
        variance = sigma**2 + self.data**2
        return x * self.data**2 / variance - out * sigma * self.data / variance**0.5


@dataclass(frozen=True, slots=True)
class Edm(_VarianceExploding):
    """The network of Karras et al. 2022, eq. 7: ``c_skip x + c_out out``, a velocity of the other sign."""

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        variance = sigma**2 + self.data**2
        return x * self.data**2 / variance + out * sigma * self.data / variance**0.5


@dataclass(frozen=True, slots=True)
class Clean(_VarianceExploding):
    """The network predicts ``x0`` itself."""

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        return out


@dataclass(frozen=True, slots=True)
class ImageToImage(Clean):
    """The network makes a picture of a picture: it is shown the sample as it is."""

    def model_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x


@dataclass(frozen=True, slots=True)
class Consistency(_VarianceExploding):
    """Luo et al. 2023, "Latent Consistency Models", eq. 8 and appendix: ``c_skip x + c_out x0`` of an epsilon network, with
    sigma_data 1/2 and ten times the timestep. ``table`` and ``stride`` say which timestep a sigma is of."""

    table: tuple[float, ...] = ()
    stride: int = 1

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        levels = torch.tensor(self.table, device=sigma.device).log()
        timestep = (sigma.log()[..., None] - levels).abs().argmin(-1) * self.stride + self.stride - 1
        scaled = timestep * 10.0
        total = scaled**2 + 0.25
        return scaled / total**0.5 * (x - out * sigma) + 0.25 / total * x


@dataclass(frozen=True, slots=True)
class CosmosFlow(_VarianceExploding):
    """The network predicts the flow at time ``t = sigma / (sigma + 1)`` and sees the sample in the flow's scale."""

    def model_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (sigma + 1)

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        return (x - out * sigma) / (sigma + 1)

    def noised(self, latent: Tensor, noise: Tensor, sigma: Tensor, *, full: bool = False) -> Tensor:
        return noise * sigma + latent


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
