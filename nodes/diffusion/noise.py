"""Where noise comes from. Every source is immutable: a draw returns the noise and the source that follows.

The initial noise is always drawn on the CPU, so that a seed means the same picture everywhere. Step noise is drawn on
the latents' device or on the CPU; its position is plain data, so that a run that was cut goes on with the very next
number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol

import torch
import torchsde
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.names import BROWNIAN

NoiseDevice = Literal["model", "cpu"]
"""Where step noise is drawn: by the sampler's own rule (mostly the latents' device), or always on the CPU."""

Numbers = dict[str, int | float | str]

TREE_DIGITS: Final = 6
"""Decimals to which a Brownian tree knows sigma. It rounds so itself; rounded before, its ends lie where it thinks they
do."""


def initial_noise(
    latent: Tensor, seed: int, batch_index: Sequence[int] | None = None, source: torch.Generator | None = None
) -> Tensor:
    """Normal noise of the shape and dtype of ``latent`` [B,C,...], drawn on the CPU.

    With ``batch_index`` (length B) sample ``i`` gets the noise that it would have at place ``batch_index[i]`` of a
    batch drawn one by one, so one picture of a batch can be made alone. ``source`` (on the CPU) is seeded and drawn from; what is drawn
    from it later comes behind the noise."""
    generator = (source or torch.Generator("cpu")).manual_seed(seed)
    if batch_index is None:
        return torch.randn(latent.shape, dtype=latent.dtype, generator=generator)
    if len(batch_index) != len(latent):
        raise InputError(f"batch_index must name {len(latent)} samples, one per latent; found {len(batch_index)}")
    shape = (1, *latent.shape[1:])
    drawn = [torch.randn(shape, dtype=latent.dtype, generator=generator) for _ in range(max(batch_index) + 1)]
    return torch.cat([drawn[index] for index in batch_index])


class StepNoise(Protocol):
    """The noise of a sampler's steps."""

    def draw(self, like: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, StepNoise]:
        """Standard normal noise of the shape, dtype and device of ``like`` for the way from ``sigma`` to ``sigma_next``
        (0-dim, on the CPU), and the source as it is after the draw."""
        ...

    def to_plain(self) -> tuple[dict[str, Tensor], Numbers]:
        """Tensors and numbers from which ``step_noise_from_plain`` makes the source again."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class GeneratorNoise:
    """Independent noise from a seeded generator. ``position`` is the generator's state, uint8 [n]."""

    device: str
    position: Tensor

    @classmethod
    def seeded(cls, seed: int, device: torch.device | str) -> GeneratorNoise:
        generator = torch.Generator(device).manual_seed(seed)
        return cls(str(device), generator.get_state())

    def generator(self) -> torch.Generator:
        """A new generator at this position."""
        generator = torch.Generator(self.device)
        generator.set_state(self.position)
        return generator

    def draw(self, like: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, StepNoise]:
        generator = self.generator()
        noise = torch.randn(like.shape, dtype=like.dtype, device=self.device, generator=generator)
        return noise.to(like.device), replace(self, position=generator.get_state())

    def to_plain(self) -> tuple[dict[str, Tensor], Numbers]:
        return {"position": self.position}, {"kind": "generator", "device": self.device}


@dataclass(frozen=True, slots=True, eq=False)
class BrownianNoise:
    """Increments of one Brownian path over sigma, so that the noise of a run depends little on its number of steps.

    The path is fixed by the seed, the range of sigma and the shape (torchsde's Brownian tree: Li et al. 2020, "Scalable
    Gradients for Stochastic Differential Equations", section 4), so it has no position. ``device`` is where it is
    drawn."""

    seed: int
    sigma_min: float
    sigma_max: float
    device: str
    # The tree only remembers parts of the path that were asked for; what it answers does not depend on it.
    _tree: list[torchsde.BrownianTree] = field(default_factory=list, repr=False)

    def _path(self, like: Tensor) -> torchsde.BrownianTree:
        if not self._tree:
            zero = torch.zeros(like.shape, dtype=like.dtype, device=self.device)
            low, high = round(self.sigma_min, TREE_DIGITS), round(self.sigma_max, TREE_DIGITS)
            self._tree.append(torchsde.BrownianTree(low, zero, high, entropy=self.seed))
        return self._tree[0]

    def draw(self, like: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, StepNoise]:
        low, high = sorted((float(sigma), float(sigma_next)))
        increment = self._path(like)(round(low, TREE_DIGITS), round(high, TREE_DIGITS))
        # Sampling walks the path backwards in sigma, which turns the increment's sign.
        sign = -1 if sigma > sigma_next else 1
        return (increment * (sign / math.sqrt(high - low))).to(like.device), self

    def to_plain(self) -> tuple[dict[str, Tensor], Numbers]:
        numbers: Numbers = {"kind": "brownian", "device": self.device, "seed": self.seed}
        return {}, numbers | {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


def step_noise_from_plain(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> StepNoise:
    """The inverse of ``StepNoise.to_plain``."""
    if numbers["kind"] == "generator":
        return GeneratorNoise(numbers["device"], tensors["position"])
    seed = int(numbers["seed"])
    return BrownianNoise(seed, float(numbers["sigma_min"]), float(numbers["sigma_max"]), numbers["device"])


def step_noise(
    sampler: str, seed: int, sigmas: Tensor, device: torch.device | str, noise_device: NoiseDevice = "model"
) -> StepNoise:
    """The source a sampler uses: Brownian for the SDE solvers (on the CPU unless its name ends in ``_gpu``), else a
    generator on ``device``. With ``noise_device="cpu"`` everything is drawn on the CPU. ``sigmas`` is [n + 1], n >=
    1."""
    place = "cpu" if noise_device == "cpu" else str(device)
    if sampler not in BROWNIAN:
        return GeneratorNoise.seeded(seed, place)
    above_zero = sigmas[sigmas > 0]
    where = place if sampler.endswith("_gpu") else "cpu"
    return BrownianNoise(seed, float(above_zero.min()), float(above_zero.max()), where)
