"""Noise levels: the sigmas a model was trained with, and the falling sequences that samplers walk.

Sigma is the standard deviation of the noise in Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
Generative Models": ``x = x0 + sigma * n`` for epsilon and velocity models. For flow models it is the time of the
straight path ``x = (1 - sigma) * x0 + sigma * n``. Everything here is numpy; torch is not imported.

Tables are interpolated and searched in float32, one rounding for each operation: a sigma half-way between two timesteps then goes to the
one that it goes to in ComfyUI."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from nodes.diffusion.names import (
    DIFFUSERS_PREFIX,
    DIFFUSERS_TWO_EVALUATIONS,
    DROPS_PENULTIMATE,
    SCHEDULER_NAMES,
    TWO_EVALUATIONS,
)

Floats = NDArray[np.float64]
Sigmas = NDArray[np.float32]

BEYOND_NOISE: Final = 999999999.9
"""The sigma of percent 0: above every level, so that a range that begins at 0 holds for the first step too."""


class ModelSigmas(Protocol):
    """The noise levels of a model. ``table`` rises, float64 [N], its values rounded to float32."""

    @property
    def table(self) -> Floats: ...

    @property
    def flow(self) -> bool:
        """Whether the path is the straight one of flow matching."""
        ...

    def sigma(self, t: Floats) -> Floats:
        """Sigma at (real) timesteps ``t``, any shape."""
        ...

    def timestep(self, sigma: Floats) -> Floats:
        """The timestep the model is told for ``sigma``, any shape."""
        ...

    def percent_to_sigma(self, percent: float) -> float:
        """Sigma after ``percent`` (0..1) of the timesteps."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Sigmas at places 0..N-1, float64 rounded to float32, and their logarithms, float32."""

    table: Floats
    logs: Sigmas

    @classmethod
    def of(cls, sigmas: Floats) -> Levels:
        return cls(sigmas.astype(np.float32).astype(np.float64), np.log(sigmas).astype(np.float32))

    def at(self, place: Floats) -> Floats:
        """Sigmas at (real) places, interpolated in log sigma."""
        within = np.clip(place.astype(np.float32), 0, len(self.logs) - 1)
        below = np.floor(within)
        share = within - below
        low, high = self.logs[below.astype(np.int64)], self.logs[np.ceil(within).astype(np.int64)]
        log = (np.float32(1) - share) * low + share * high
        return np.exp(log.astype(np.float64)).astype(np.float32).astype(np.float64)

    def nearest(self, sigma: Floats) -> NDArray[np.int64]:
        """The places of the sigmas that are nearest in log sigma; of two equally near ones the first."""
        log = np.log(sigma).astype(np.float32)
        places: NDArray[np.int64] = np.abs(log[..., None] - self.logs).argmin(axis=-1)
        return places


@dataclass(frozen=True, slots=True, eq=False)
class DiscreteSchedule:
    """A table of sigmas at timesteps 0..N-1."""

    levels: Levels
    flow: bool = False

    @property
    def table(self) -> Floats:
        return self.levels.table

    def sigma(self, t: Floats) -> Floats:
        return self.levels.at(t)

    def timestep(self, sigma: Floats) -> Floats:
        return self.levels.nearest(sigma).astype(np.float64)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0:
            return BEYOND_NOISE
        if percent >= 1:
            return 0.0
        return float(self.sigma(np.array([(1 - percent) * (len(self.table) - 1)]))[0])


@dataclass(frozen=True, slots=True)
class FlowSchedule:
    """Straight path with shifted time: ``sigma = a u / (1 + (a - 1) u)``, u = t / 1000 (Esser et al. 2024, eq. 23).

    ``steps`` are the levels of the table, ``multiplier`` is the t of the last."""

    shift: float = 3.0
    steps: int = 1000
    multiplier: float = 1000.0

    @property
    def flow(self) -> bool:
        return True

    @property
    def table(self) -> Floats:
        times = np.arange(1, self.steps + 1, dtype=np.float64) / self.steps * self.multiplier
        return self.sigma(times).astype(np.float32).astype(np.float64)

    def sigma(self, t: Floats) -> Floats:
        u = t / self.multiplier
        return self.shift * u / (1 + (self.shift - 1) * u)

    def timestep(self, sigma: Floats) -> Floats:
        """The model is told ``1000 sigma``: it was trained on shifted times, so the shift is not undone."""
        return sigma * self.multiplier

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0:
            return 1.0
        if percent >= 1:
            return 0.0
        return float(self.sigma(np.array([(1 - percent) * self.multiplier]))[0])


@lru_cache(maxsize=8)
def stable_diffusion(
    *, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000, zero_terminal_snr: bool = False
) -> DiscreteSchedule:
    """The "scaled linear" betas of Rombach et al. 2022, as sigmas.

    ``zero_terminal_snr`` shifts and scales ``sqrt(alphas_cumprod)`` so that the last is 0 (Lin et al. 2023, "Common
    Diffusion Noise Schedules and Sample Steps are Flawed", alg. 1); the last is then set to 4.897e-8 to keep sigma
    finite."""
    betas = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), steps) ** 2
    alphas_cumprod = np.cumprod(1 - betas)
    if zero_terminal_snr:
        root = np.sqrt(alphas_cumprod)
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        alphas_cumprod = root**2
        alphas_cumprod[-1] = 4.8973451890853435e-08
    return DiscreteSchedule(Levels.of(np.sqrt((1 - alphas_cumprod) / alphas_cumprod)))


def _closed(sigmas: Floats | list[float]) -> Floats:
    return np.append(np.asarray(sigmas, dtype=np.float64), 0.0)


def simple(model: ModelSigmas, n: int) -> Floats:
    """Every N/n-th level of the table, from the top."""
    table = model.table
    k = np.arange(n)
    return _closed(table[len(table) - 1 - (k * (len(table) / n)).astype(np.int64)])


def _timestep_bounds(model: ModelSigmas) -> tuple[float, float]:
    top, bottom = model.timestep(model.table[[-1, 0]])
    return float(top), float(bottom)


def _evenly(start: float, end: float, n: int) -> Floats:
    """``n`` numbers from ``start`` to ``end``, each counted from the nearer end by a step of float32 and rounded once, as torch does."""
    first, last, i = np.float32(start), np.float32(end), np.arange(n)
    step = np.float64((last - first) / np.float32(max(n - 1, 1)))
    counted = np.where((i < n // 2) | (n == 1), first + step * i, last - step * (n - 1 - i))
    return counted.astype(np.float32).astype(np.float64)


def normal(model: ModelSigmas, n: int) -> Floats:
    """Evenly spaced timesteps, both ends included."""
    top, bottom = _timestep_bounds(model)
    if abs(float(model.sigma(np.array([bottom]))[0])) < 1e-5:
        return model.sigma(_evenly(top, bottom, n + 1))
    return _closed(model.sigma(_evenly(top, bottom, n)))


def sgm_uniform(model: ModelSigmas, n: int) -> Floats:
    """Evenly spaced timesteps without the last ("trailing" in Lin et al. 2023)."""
    top, bottom = _timestep_bounds(model)
    return _closed(model.sigma(_evenly(top, bottom, n + 1)[:-1]))


def karras(model: ModelSigmas, n: int, rho: float = 7.0) -> Floats:
    """Karras et al. 2022, eq. 5."""
    low, high = model.table[0] ** (1 / rho), model.table[-1] ** (1 / rho)
    return _closed((high + np.linspace(0, 1, n) * (low - high)) ** rho)


def exponential(model: ModelSigmas, n: int) -> Floats:
    """Evenly spaced in log sigma."""
    return _closed(np.exp(np.linspace(math.log(model.table[-1]), math.log(model.table[0]), n)))


def ddim_uniform(model: ModelSigmas, n: int) -> Floats:
    """Every q-th level from index 1 upwards (Song et al. 2021, "DDIM", appendix D.3); its length is not always n +
    1."""
    table = model.table
    reaches_zero = abs(table[1]) < 1e-5
    stride = max(len(table) // (n + 1 if reaches_zero else n), 1)
    falling = table[1::stride][::-1]
    return falling.copy() if reaches_zero else _closed(falling)


def beta(model: ModelSigmas, n: int, a: float = 0.6, b: float = 0.6) -> Floats:
    """Timesteps at quantiles of a beta distribution (Lee et al. 2024, "Beta Sampling is All You Need"); may be
    shorter."""
    from scipy.stats import beta as beta_distribution

    last = len(model.table) - 1
    indices = np.rint(beta_distribution.ppf(1 - np.arange(n) / n, a, b) * last).astype(np.int64)
    kept = np.append(True, np.diff(indices) != 0)
    return _closed(model.table[indices[kept]])


def linear_quadratic(model: ModelSigmas, n: int, threshold: float = 0.025) -> Floats:
    """Half the steps through the first ``threshold`` of the noise, then a parabola (Polyak et al. 2024, "Movie
    Gen")."""
    highest = model.table[-1]
    if n == 1:
        return np.array([highest, 0.0])
    linear = n // 2
    quadratic = n - linear
    gap = linear - threshold * n
    square = gap / (linear * quadratic**2)
    slope = threshold / linear - 2 * gap / quadratic**2
    i = np.arange(n)
    progress = np.where(i < linear, i * threshold / linear, square * i**2 + slope * i + square * linear**2)
    return _closed((1 - progress) * highest)


def kl_optimal(model: ModelSigmas, n: int) -> Floats:
    """Evenly spaced in arctan sigma (Sabour et al. 2024, "Align Your Steps", the optimum for a Gaussian)."""
    low, high = math.atan(model.table[0]), math.atan(model.table[-1])
    return _closed(np.tan(high + np.linspace(0, 1, n) * (low - high)))


SCHEDULERS: Final[Mapping[str, Callable[[ModelSigmas, int], Floats]]] = MappingProxyType(
    {
        "simple": simple,
        "sgm_uniform": sgm_uniform,
        "karras": karras,
        "exponential": exponential,
        "ddim_uniform": ddim_uniform,
        "beta": beta,
        "normal": normal,
        "linear_quadratic": linear_quadratic,
        "kl_optimal": kl_optimal,
    }
)


def scheduled(model: ModelSigmas, scheduler: str, steps: int) -> Sigmas:
    """``steps`` steps of a scheduler: falling sigmas, float32, usually [steps + 1], ending in 0.

    Raises InputError for an unknown scheduler or fewer than one step.
    """
    if scheduler not in SCHEDULERS:
        raise InputError(
            f"scheduler must be one of {', '.join(SCHEDULER_NAMES)}; found {scheduler!r}", input="scheduler"
        )
    if steps < 1:
        raise InputError(f"steps must be at least 1; found {steps}", input="steps")
    return SCHEDULERS[scheduler](model, steps).astype(np.float32)


def partly_denoised(full: Callable[[int], Sigmas], steps: int, denoise: float) -> Sigmas:
    """The end of a longer sequence: ``steps`` steps that begin where ``1 - denoise`` of the way is done.

    ``full(n)`` makes the whole sequence of n steps. Nothing is left (length 0) for ``denoise <= 0``.
    """
    if denoise <= 0:
        return np.empty(0, np.float32)
    if denoise > 0.9999:
        return full(steps)
    return full(int(steps / denoise))[-(steps + 1) :]


def cut(sigmas: Sigmas, start: int, end: int, *, leftover_noise: bool) -> Sigmas:
    """Steps ``start`` to ``end`` of a sequence. Unless noise may be left over, an early end is made to be sigma 0.

    Length 0 where the start lies at or behind the end: then there is nothing to sample.
    """
    kept = sigmas[: end + 1].copy()
    if len(kept) < len(sigmas) and len(kept) > 0 and not leftover_noise:
        kept[-1] = 0.0
    return kept[start:] if start < len(kept) - 1 else np.empty(0, np.float32)


def sampling_sigmas(
    model: ModelSigmas,
    sampler: str,
    scheduler: str,
    steps: int,
    *,
    denoise: float = 1.0,
    start: int = 0,
    end: int = 10_000,
    leftover_noise: bool = False,
) -> Sigmas:
    """The sigmas of one run, float32 [n + 1], or length 0 if there is nothing to do and the latent stays as it is.

    Raises InputError for an unknown scheduler or fewer than one step.
    """

    def full(n: int) -> Sigmas:
        if sampler not in DROPS_PENULTIMATE:
            return scheduled(model, scheduler, n)
        return np.delete(scheduled(model, scheduler, n + 1), -2)

    return cut(partly_denoised(full, steps, denoise), start, end, leftover_noise=leftover_noise)


def evaluations(sampler: str, sigmas: Sigmas) -> int:
    """How many times the model is evaluated on the way down ``sigmas``. Nobody knows it of ``dpm_adaptive``."""
    steps = max(len(sigmas) - 1, 0)
    clean = int(np.count_nonzero(sigmas[1:] == 0))
    if steps == 0:
        return 0
    if sampler in TWO_EVALUATIONS:
        return 2 * steps - clean
    match sampler:
        case "seeds_3":
            return 3 * steps - 2 * clean
        case "heunpp2":
            return max(3 * steps - 3, 1)
        case "sa_solver_pece":
            return 2 * steps - 1
    return steps


def planned_steps(
    sampler: str, scheduler: str, steps: int, *, denoise: float = 1.0, start: int = 0, end: int = 10_000
) -> int:
    """How many steps a run will report, known before any model is: every model has the same number of levels.

    A scheduler of diffusers reports each of its timesteps.
    """
    if sampler.startswith(DIFFUSERS_PREFIX):
        return _planned_by_diffusers(sampler.removeprefix(DIFFUSERS_PREFIX), 0 if denoise <= 0 else steps, start, end)
    sigmas = sampling_sigmas(stable_diffusion(), sampler, scheduler, steps, denoise=denoise, start=start, end=end)
    return reported_steps(sampler, len(sigmas) - 1)


def reported_steps(sampler: str, count: int) -> int:
    """How many steps a run over ``count + 1`` sigmas reports: ``dpm_fast`` makes fewer, of up to three evaluations each."""
    if count <= 0:
        return 0
    return count // 3 + 1 if sampler == "dpm_fast" else count


def _planned_by_diffusers(name: str, steps: int, start: int, end: int) -> int:
    order = 2 if name in DIFFUSERS_TWO_EVALUATIONS else 1
    # PNDM asks twice at its second timestep; a last step of second order is one of first.
    timesteps = steps + (name == "PNDMScheduler") if order == 1 else 2 * steps - 1
    return max(min(timesteps, end * order) - start * order, 0)
