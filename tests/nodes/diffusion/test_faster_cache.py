"""FasterCache between sides of guidance that predict given maps; its agreement with diffusers is in ``test_caches_of_diffusers``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nodes.diffusion.conditioning import Entry
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.faster_cache import FasterCache, low_frequencies
from nodes.diffusion.guidance import NOTHING, CfgGuider, Guider, Memory
from nodes.diffusion.guiders import DualCfgGuider, PerpNegGuider
from nodes.diffusion.predictions import Epsilon, Prediction, Velocity
from nodes.diffusion.schedules import stable_diffusion

SIDE = 10
EARLY, LATE = 8.0, 0.5
"""Noise levels before and behind the middle of a run."""
CHECKS = torch.ones(SIDE, SIDE) - 2 * ((torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2)


@dataclass
class Told:
    """A network that puts out what it is told, a map over the picture, and nothing else."""

    batches: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        self.batches.append(len(x))
        return context.view(-1, 1, SIDE, SIDE)


def entry(name: str, output: Tensor, **more: Any) -> Entry:
    return Entry(output.reshape(1, SIDE * SIDE, 1), name=f"{name}.0", **more)


def cached(network: Told, prediction: Prediction = Epsilon(), **values: Any) -> Denoiser:  # noqa: B008
    usual: dict[str, Any] = {
        "attention": 1, "attention_start": 0.0, "weight": 1.0, "negative": 3, "negative_start": 0.0, "switch": 0.5,
        "low": 2.0, "high": 3.0,
    }  # fmt: skip
    return Denoiser(network, stable_diffusion(), prediction, faster=FasterCache(nn.Identity(), **{**usual, **values}))


def looked(guider: Guider, levels: list[float], batch: int = 1) -> list[Tensor]:
    """The unconditional predictions, one after the other."""
    memory: Memory = NOTHING
    found = []
    for level in levels:
        seen = guider.look(torch.zeros(batch, 1, SIDE, SIDE), torch.full((batch,), level), memory)
        memory = seen.memory
        found.append(seen.unconditional)
    return found


def test_low_frequencies_are_within_a_circle() -> None:
    """Of ten cells: up to two waves over the picture along a side, less across it; a map and its mean are in it."""
    place = 2 * torch.pi * torch.arange(SIDE) / SIDE
    two, three = (times * place for times in (2, 3))
    ones = torch.ones(SIDE, SIDE)
    kept = (two.cos() * ones, two.sin()[:, None] * ones, place.cos()[:, None] * place.cos(), 0 * ones + 4)
    gone = (three.cos() * ones, two.cos()[:, None] * place.cos(), CHECKS)
    for wave in kept:
        torch.testing.assert_close(low_frequencies(wave), wave, atol=1e-5, rtol=0)
    for wave in gone:
        assert low_frequencies(wave).abs().max() < 1e-5


@pytest.mark.parametrize(("level", "counts"), [(EARLY, (2.0, 1.0)), (LATE, (1.0, 3.0))])
@pytest.mark.parametrize("prediction", [Epsilon(), Velocity()])
def test_the_difference_grows_in_one_half_of_the_frequencies(
    level: float, counts: tuple[float, float], prediction: Prediction
) -> None:
    """A difference of 1 all over and of checks, in what the network puts out, at whatever level; anew in every third call."""
    network = Told()
    positive, negative = 5 * torch.eye(SIDE), 5 * torch.eye(SIDE) + 1 + CHECKS
    guider = CfgGuider.between(
        cached(network, prediction), [entry("positive", positive)], [entry("negative", negative)], 4.0
    )
    levels = [1.1 * level, level, 0.9 * level, 0.8 * level]
    found = looked(guider, levels, batch=2)
    assert network.batches == [4, 2, 2, 4]
    low, high = counts
    for number, (level_then, seen) in enumerate(zip(levels, found, strict=True)):
        power = number % 3
        output = 5 * torch.eye(SIDE) + low**power + high**power * CHECKS
        expected = prediction.denoised(torch.zeros(1), output, torch.tensor(level_then))
        torch.testing.assert_close(seen, expected.expand_as(seen), atol=1e-4, rtol=1e-5)


def test_other_prompts_are_computed_anew() -> None:
    """Where a part of the run begins in which something else is told; where nothing is, there is nothing to rebuild. Noise of 1 and 2,
    each doubled in the call behind the one that computes it."""
    network, ones = Told(), torch.ones(SIDE, SIDE)
    negative = [entry("negative", ones, sigma_end=4.0), replace(entry("negative", 2 * ones), sigma_start=3.0)]
    negative[1] = replace(negative[1], name="negative.1")
    guider = CfgGuider.between(cached(network, negative=100), [entry("positive", 0 * ones)], negative, 4.0)
    found = looked(guider, [6.0, 5.0, 3.5, 3.0, 2.0])
    assert network.batches == [2, 1, 1, 2, 1]
    assert [float(it[0, 0, 0, 0]) for it in found] == pytest.approx([-6, -10, 0, -6, -8])


def test_what_needs_no_negative_side_has_none() -> None:
    network, ones = Told(), torch.ones(SIDE, SIDE)
    guider = CfgGuider.between(cached(network), [entry("positive", ones)], [entry("negative", ones)], 1.0)
    looked(guider, [6.0, 5.0, 4.0])
    assert network.batches == [1, 1, 1]


@pytest.mark.parametrize("kind", ["perp-neg", "dual", "nested"])
def test_guiders_of_three_sides_rebuild_one(kind: str) -> None:
    """What is rebuilt is what would be computed, where the difference stays as it is."""
    network, ones = Told(), torch.ones(SIDE, SIDE)
    names = {"perp-neg": ("positive", "negative", "empty")}.get(kind, ("positive", "second", "negative"))
    a, b, c = ([entry(name, number * ones + CHECKS * (number == 1))] for number, name in enumerate(names))

    def guider(denoiser: Denoiser) -> Guider:
        if kind == "perp-neg":
            return PerpNegGuider.between(denoiser, a, b, c, 5.0, 0.5)
        return DualCfgGuider.between(denoiser, a, b, c, 2.0, 3.0, kind == "nested")

    same = cached(network, low=1.0, high=1.0)
    found = looked(guider(same), [6.0, 5.0, 4.0, 3.0])
    assert network.batches == [3, 2, 2, 3]
    plain = looked(guider(replace(same, faster=None)), [6.0, 5.0, 4.0, 3.0])
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
