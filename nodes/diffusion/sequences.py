"""Sigma sequences that are made of numbers alone, and what can be done to a sequence: float32 [n + 1] in and out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion import schedules
from nodes.diffusion.gits import published
from nodes.diffusion.schedules import Floats, ModelSigmas, Sigmas, partly_denoised, scheduled

ALIGN_YOUR_STEPS: Final[Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "SD1": (
            *(14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904),
            *(0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
        ),
        "SDXL": (
            *(14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289),
            *(0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
        ),
        "SVD": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
    }
)
"""The ten-step sequences of Sabour et al. 2024, "Align Your Steps: Optimizing Sampling Schedules in Diffusion Models"."""

TRAINED_STEPS: Final = 1000
"""Timesteps that the models here were trained with."""

SPACINGS: Final[Mapping[str, Callable[[Floats], Floats]]] = MappingProxyType(
    {
        "linear": lambda x: x,
        "cosine": lambda x: np.sin(x * math.pi / 2),
        "sine": lambda x: 1 - np.cos(x * math.pi / 2),
    }
)


def _tensor(sigmas: Floats | Sigmas) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(sigmas, dtype=np.float32))


def _closed(sigmas: Floats) -> Tensor:
    return _tensor(np.append(sigmas, 0.0))


def _above_zero(**numbers: float) -> None:
    for name, value in numbers.items():
        if value <= 0:
            raise InputError(f"{name} must be above 0; found {value}", input=name)


def of_model(model: ModelSigmas, scheduler: str, steps: int, denoise: float) -> Tensor:
    """``steps`` steps of a scheduler by its name; with ``denoise`` below 1, the end of a longer sequence. Never more than ``steps``:
    of a scheduler that makes more the first are left out."""
    return _tensor(partly_denoised(lambda n: scheduled(model, scheduler, n), steps, denoise)[-(steps + 1) :])


def beta(model: ModelSigmas, steps: int, a: float, b: float) -> Tensor:
    """``schedules.beta`` for a distribution of one's own."""
    _above_zero(alpha=a, beta=b)
    return _tensor(schedules.beta(model, steps, a, b))


def karras(steps: int, high: float, low: float, rho: float) -> Tensor:
    """Karras et al. 2022, eq. 5, and 0."""
    _above_zero(rho=rho)
    ends = high ** (1 / rho), low ** (1 / rho)
    return _closed((ends[0] + np.linspace(0, 1, steps) * (ends[1] - ends[0])) ** rho)


def polyexponential(steps: int, high: float, low: float, rho: float = 1.0) -> Tensor:
    """A power of an even ramp between both ends in log sigma, and 0; with ``rho`` 1 evenly spaced there."""
    _above_zero(sigma_max=high, sigma_min=low)
    ramp = np.linspace(1, 0, steps) ** rho
    return _closed(np.exp(ramp * (math.log(high) - math.log(low)) + math.log(low)))


def laplace(steps: int, high: float, low: float, mu: float, width: float) -> Tensor:
    """Quantiles of a Laplace distribution of log sigma (Hang et al. 2024, "Improved Noise Schedule for Diffusion
    Training", table 1), kept between both ends; [n], without a 0."""
    x = 0.5 - np.linspace(0, 1, steps)
    log_sigma = mu - width * np.sign(x) * np.log(1 - 2 * np.abs(x) + 1e-5)
    return _tensor(np.clip(np.exp(log_sigma), low, high))


def variance_preserving(steps: int, beta_d: float, beta_min: float, eps_s: float) -> Tensor:
    """Evenly spaced times of a variance preserving diffusion with linear beta (Karras et al. 2022, table 1), and 0."""
    t = np.linspace(1, eps_s, steps)
    return _closed(np.sqrt(np.expm1(beta_d * t**2 / 2 + beta_min * t)))


def turbo(model: ModelSigmas, steps: int, denoise: float) -> Tensor:
    """Some of the ten timesteps that SD Turbo was distilled at (Sauer et al. 2023, "Adversarial Diffusion
    Distillation")."""
    first = 10 - int(10 * denoise)
    timesteps = np.arange(10, 0, -1, dtype=np.float64)[first : first + steps] * 100 - 1
    return _closed(model.sigma(timesteps))


def align_your_steps(model: str, steps: int, denoise: float) -> Tensor:
    """Sabour et al. 2024 for ``model`` SD1, SDXL or SVD; other numbers of steps by interpolation in log sigma, as they
    propose. With ``denoise`` below 1 the end of the same sequence."""
    return _along(ALIGN_YOUR_STEPS[model], steps, denoise)


def gits(coeff: float, steps: int, denoise: float) -> Tensor:
    """Chen et al. 2024 for ``coeff`` 0.80, 0.85, ... 1.50 and 2 or more ``steps``; more than 20 by interpolation in log sigma. With
    ``denoise`` below 1 the end of the same sequence. Raises InputError for another coefficient."""
    return _along(published(coeff, steps), steps, denoise)


def _along(levels: Sequence[float], steps: int, denoise: float) -> Tensor:
    """The last ``denoise`` of ``steps`` even steps in log sigma along ``levels``, the last of which becomes 0."""
    if denoise <= 0:
        return torch.empty(0)
    known = np.log(levels)
    wanted = np.exp(np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(known)), known))
    wanted[-1] = 0
    return _tensor(wanted[-(round(steps * min(denoise, 1.0)) + 1) :])


def split(sigmas: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Down to ``step`` and from there on; both hold its sigma."""
    return sigmas[: step + 1].clone(), sigmas[step:].clone()


def split_by_denoise(sigmas: Tensor, denoise: float) -> tuple[Tensor, Tensor]:
    """The last ``denoise`` of the steps come second. Where that is none of them, there is nothing in the first part either:
    so does ComfyUI."""
    steps = max(len(sigmas) - 1, 0)
    low = round(steps * denoise)
    high, rest = split(sigmas, steps - low)
    return high if low else high[:0], rest


def split_by_noise(model: ModelSigmas, sigmas: Tensor, high_noise_frac: float) -> tuple[Tensor, Tensor]:
    """The steps that begin in the first ``high_noise_frac``, 0 to 1, of the timesteps a model was trained with, and the
    others: where an ensemble of expert denoisers (Balaji et al. 2022, "eDiff-I") hands over, and the meaning of ``denoising_end``
    and ``denoising_start`` in diffusers. Both hold the sigma between them."""
    handover = round(TRAINED_STEPS * (1 - high_noise_frac))
    starts = np.maximum(sigmas[:-1].double().numpy(), 1e-9)  # a sequence of one's own may touch 0 on its way
    # a timestep that is found by its sigma may lie a little beside the one meant
    return split(sigmas, int((model.timestep(starts) >= handover - 1e-3).sum()))


def flipped(sigmas: Tensor) -> Tensor:
    """From the end to the beginning. A sequence cannot begin at 0: it begins right above."""
    upwards = sigmas.flip(0)
    if len(upwards) and upwards[0] == 0:
        upwards[0] = 0.0001
    return upwards


def with_first(sigmas: Tensor, sigma: float) -> Tensor:
    """The sequence begun at ``sigma``."""
    changed = sigmas.clone()
    changed[:1] = sigma
    return changed


def extended(sigmas: Tensor, parts: int, start: float, end: float, spacing: str) -> Tensor:
    """Every step that begins between ``end`` and ``start`` (below 0: anywhere) cut into ``parts``."""
    top = math.inf if start < 0 else start
    share = SPACINGS[spacing](np.linspace(0, 1, parts + 1)[:-1])
    given = sigmas.double().numpy()
    found = [
        here + share * (there - here) if end <= here <= top else np.array([here])
        for here, there in itertools.pairwise(given)
    ]
    return _tensor(np.concatenate([*found, given[-1:]]))


def at_percent(model: ModelSigmas, percent: float, *, actual: bool) -> float:
    """Sigma after ``percent`` (0..1) of the way; ``actual`` names the model's own ends instead of what lies beyond."""
    if actual and percent in (0.0, 1.0):
        return float(model.table[-1 if percent == 0.0 else 0])
    return model.percent_to_sigma(percent)
