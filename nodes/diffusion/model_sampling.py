"""Another way to sample a model than its own: a setting of the recipe, which says what the network predicts and at which
noise levels it was trained."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError
from engine.models import ModelRef
from nodes.diffusion.denoiser import LatentFormat
from nodes.diffusion.predictions import (
    Clean,
    Consistency,
    CosmosFlow,
    Edm,
    Epsilon,
    Flow,
    ImageToImage,
    Prediction,
    Velocity,
)
from nodes.diffusion.schedules import BEYOND_NOISE, DiscreteSchedule, Floats, FlowSchedule, Levels, ModelSigmas

SETTING: Final = "model_sampling"
"""The setting of a model that says how it is sampled."""

DISTILLED_LEVELS: Final = 50
"""Of how many timesteps consistency models know the level (Luo et al. 2023, "Latent Consistency Models")."""


class Sampling(NamedTuple):
    """How a model is sampled."""

    schedule: ModelSigmas
    prediction: Prediction
    latent_format: LatentFormat


def with_sampling(model: ModelRef, kind: str, **numbers: Any) -> ModelRef:
    """``model`` sampled in the way ``kind``: discrete, edm, v, flow, flux or cascade."""
    return model.with_settings(**{SETTING: json.dumps({"kind": kind, **numbers}, sort_keys=True)})


def chosen(model: ModelRef, own: Sampling, table: Callable[[bool], DiscreteSchedule]) -> Sampling:
    """How ``model`` is sampled: as its setting says, or in its ``own`` way. ``table`` makes the levels that it was trained
    with, shifted to end without any signal or not."""
    setting = model.setting(SETTING)
    if setting is None:
        return own
    match json.loads(str(setting)):
        case {"kind": "discrete", "sampling": sampling, "zsnr": zsnr}:
            return _discrete(sampling, table(zsnr), own.latent_format)
        case {"kind": "edm", "sampling": sampling, "high": high, "low": low}:
            return _continuous(sampling, high, low, own.latent_format)
        case {"kind": "v", "high": high, "low": low}:
            return Sampling(LogLevels(low, high, "arctan"), Velocity(), own.latent_format)
        case {"kind": "flow" | "flux" as kind, "shift": shift, "multiplier": multiplier}:
            # The network is told a sigma by the rule chosen, also where it was trained with another.
            steps = 10_000 if kind == "flux" else 1000
            return Sampling(FlowSchedule(shift, steps, multiplier), Flow(), own.latent_format)
        case {"kind": "cascade", "shift": shift}:
            return Sampling(CosineLevels(shift), Epsilon(), own.latent_format)
    raise InputError(f"expected a way to sample that is known, found {setting!r}")


def flux_shift(max_shift: float, base_shift: float, width: int, height: int) -> float:
    """The shift of FLUX for a picture of this size in pixels: e to a line through ``base_shift`` at 256 tokens and
    ``max_shift`` at 4096; a token is 16 pixels wide and high (Black Forest Labs 2024)."""
    tokens = width * height / 256
    return math.exp(base_shift + (max_shift - base_shift) * (tokens - 256) / (4096 - 256))


def _discrete(sampling: str, table: DiscreteSchedule, latent_format: LatentFormat) -> Sampling:
    match sampling:
        case "lcm":
            distilled = DistilledSchedule.of(table)
            return Sampling(
                distilled, Consistency(table=tuple(distilled.table.tolist()), stride=distilled.stride), latent_format
            )
        case "v_prediction":
            return Sampling(table, Velocity(), latent_format)
        case "x0":
            return Sampling(table, Clean(), latent_format)
        case "img_to_img":
            return Sampling(table, ImageToImage(), latent_format)
    return Sampling(table, Epsilon(), latent_format)


def _continuous(sampling: str, high: float, low: float, latent_format: LatentFormat) -> Sampling:
    match sampling:
        case "v_prediction":
            return Sampling(LogLevels(low, high), Velocity(), latent_format)
        case "edm":
            return Sampling(LogLevels(low, high), Edm(0.5), latent_format)
        case "edm_playground_v2.5":
            return Sampling(LogLevels(low, high), Edm(0.5), PlaygroundFormat())
        case "cosmos_rflow":
            return Sampling(LogLevels(low, high, "flow"), CosmosFlow(), latent_format)
    return Sampling(LogLevels(low, high), Epsilon(), latent_format)


@dataclass(frozen=True, slots=True)
class LogLevels:
    """A thousand levels evenly spaced in log sigma. The network is told ``log(sigma) / 4`` (Karras et al. 2022, table 1),
    ``2 / pi arctan sigma``, or ``sigma / (sigma + 1)``."""

    low: float
    high: float
    told: Literal["log", "arctan", "flow"] = "log"

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise InputError(f"sigma_min must be above 0 and below sigma_max; found {self.low} and {self.high}")

    @property
    def flow(self) -> bool:
        return False

    @property
    def table(self) -> Floats:
        levels = np.exp(np.linspace(math.log(self.low), math.log(self.high), 1000))
        return levels.astype(np.float32).astype(np.float64)

    def sigma(self, t: Floats) -> Floats:
        if self.told == "log":
            levels: Floats = np.exp(4 * t)
        elif self.told == "arctan":
            levels = np.tan(t * math.pi / 2)
        else:
            within = np.minimum(t, self.high / (self.high + 1))
            levels = within / (1 - within)
        return levels

    def timestep(self, sigma: Floats) -> Floats:
        times: Floats = sigma / (sigma + 1)
        if self.told == "log":
            times = np.log(sigma) / 4
        elif self.told == "arctan":
            times = np.arctan(sigma) * 2 / math.pi
        return times

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0:
            return BEYOND_NOISE
        return 0.0 if percent >= 1 else math.exp(math.log(self.high) * (1 - percent) + math.log(self.low) * percent)


@dataclass(frozen=True)
class CosineLevels:
    """The cosine schedule of Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", eq. 17, with
    its signal-to-noise ratio divided by ``shift`` squared (Hoogeboom et al. 2023); times run from 0 to 1."""

    shift: float = 2.0
    s: float = 8e-3

    @property
    def flow(self) -> bool:
        return False

    @property
    def _start(self) -> float:
        return math.cos(self.s / (1 + self.s) * math.pi / 2) ** 2

    @cached_property
    def table(self) -> Floats:
        return self.sigma(np.arange(1, 10_001) / 10_000).astype(np.float32).astype(np.float64)

    def sigma(self, t: Floats) -> Floats:
        kept = np.cos((t + self.s) / (1 + self.s) * math.pi / 2) ** 2 / self._start
        ratio = (1 - kept) / np.maximum(kept, 1e-300) * self.shift**2
        kept = np.clip(1 / (1 + ratio), 0.0001, 0.9999)
        levels: Floats = np.sqrt((1 - kept) / kept)
        return levels

    def timestep(self, sigma: Floats) -> Floats:
        kept = np.clip(1 / (sigma**2 + 1), 0, 1)
        times: Floats = np.arccos(np.sqrt(kept * self._start)) / (math.pi / 2) * (1 + self.s) - self.s
        return times

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0:
            return BEYOND_NOISE
        return 0.0 if percent >= 1 else float(self.sigma(np.array([1 - percent]))[0])


@dataclass(frozen=True, slots=True, eq=False)
class DistilledSchedule:
    """Every ``stride``-th level of a table, from the top: those a consistency model was distilled at."""

    levels: Levels
    stride: int

    @classmethod
    def of(cls, full: DiscreteSchedule) -> DistilledSchedule:
        stride = len(full.table) // DISTILLED_LEVELS
        return cls(Levels.of(full.table[::-1][::stride][:DISTILLED_LEVELS][::-1]), stride)

    @property
    def table(self) -> Floats:
        return self.levels.table

    @property
    def flow(self) -> bool:
        return False

    def sigma(self, t: Floats) -> Floats:
        return self.levels.at((t - (self.stride - 1)) / self.stride)

    def timestep(self, sigma: Floats) -> Floats:
        return (self.levels.nearest(sigma) * self.stride + self.stride - 1).astype(np.float64)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0:
            return BEYOND_NOISE
        top = len(self.table) * self.stride - 1
        return 0.0 if percent >= 1 else float(self.sigma(np.array([(1 - percent) * top]))[0])


@dataclass(frozen=True, slots=True)
class PlaygroundFormat(LatentFormat):
    """The latents of Playground v2.5 (Li et al. 2024): each channel has mean 0 and half the deviation of the data."""

    scale: float = 0.5
    means: tuple[float, ...] = (-1.6574, 1.886, -1.383, 2.5155)
    deviations: tuple[float, ...] = (8.4927, 5.9022, 6.5498, 5.2299)

    def _channels(self, numbers: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(numbers, device=like.device, dtype=like.dtype).view(-1, *[1] * (like.ndim - 2))

    def into_model(self, latent: Tensor) -> Tensor:
        if not bool(latent.any()):
            return latent
        return (latent - self._channels(self.means, latent)) * self.scale / self._channels(self.deviations, latent)

    def from_model(self, latent: Tensor) -> Tensor:
        return latent * self._channels(self.deviations, latent) / self.scale + self._channels(self.means, latent)
