"""Masks that say when each pixel may change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.differential import ChangeMap
from nodes.diffusion.predictions import Epsilon
from nodes.diffusion.sample import Settings, sample_latent
from nodes.diffusion.schedules import FlowSchedule, stable_diffusion
from tests.nodes.diffusion.test_sample import NEGATIVE, POSITIVE, network

MASK = torch.tensor([[[[1.0, 0.7, 0.5, 0.2, 0.0]]]])


@pytest.mark.parametrize(
    ("sigma", "open_from"), [(1.0, 1), (0.9, 1), (0.7, 2), (0.69, 2), (0.4, 3), (0.1, 4), (0.003, 4), (0.0, 5)]
)
def test_the_darker_the_mask_the_later_it_opens(sigma: float, open_from: int) -> None:
    """A flow model's timestep is 1000 sigma, so over a run from 1 to 0 a mask of m opens at sigma m (lowest: 0.003)."""
    change = ChangeMap.over(FlowSchedule(3.0), torch.tensor([1.0, 0.5, 0.0]), 1.0)
    assert change.at(MASK, sigma).flatten().tolist() == [1.0] * open_from + [0.0] * (5 - open_from)


def test_a_part_of_a_run_has_its_own_beginning_and_end() -> None:
    """Between sigma 0.8 and 0.4 the middle is 0.6: there a mask of 0.5 opens."""
    change = ChangeMap.over(FlowSchedule(1.0), torch.tensor([0.8, 0.4]), 1.0)
    assert change.at(MASK, 0.61).flatten().tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert change.at(MASK, 0.59).flatten().tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert change.at(MASK, 0.4).flatten().tolist() == [1.0] * 5
    assert change.at(MASK, 0.9).flatten().tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_timesteps_count_not_sigmas() -> None:
    """For SD1 sigma 1.6156 is half-way: timesteps, of which it is about 500 of 999, are counted."""
    change = ChangeMap.over(stable_diffusion(), torch.tensor([14.614641, 1.0, 0.0]), 1.0)
    half = torch.tensor([0.51, 0.49])
    assert change.at(half, 1.6156).tolist() == [1.0, 0.0]


def test_strength_mixes_with_the_mask_as_it_is() -> None:
    change = ChangeMap.over(FlowSchedule(3.0), torch.tensor([1.0, 0.0]), 0.25)
    torch.testing.assert_close(
        change.at(MASK, 0.6).flatten(), torch.tensor([1.0, 0.25 + 0.75 * 0.7, 0.75 * 0.5, 0.75 * 0.2, 0.0])
    )


def test_a_run_at_one_noise_level_opens_the_full_mask_alone() -> None:
    lowest = float(stable_diffusion().table[0])
    change = ChangeMap.over(stable_diffusion(), torch.tensor([lowest, 0.0]), 1.0)
    assert change.at(MASK, lowest).flatten().tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_sampling_changes_light_pixels_more_than_dark_ones() -> None:
    """Through the whole of a sampling: the more the lighter the mask. Where it is 0 the last step alone, at the lowest sigma, counts:
    the network's noise of at most 2 times 0.029, through the scale of 0.18215.

    Strength 0 is strength 1.
    """
    levels = torch.tensor([0.0, 0.3, 0.6, 1.0]).repeat_interleave(4)
    latent = {"samples": torch.full((1, 4, 16, 16), 3.0), "noise_mask": levels.expand(1, 1, 16, 16)}
    settings = Settings(seed=1, steps=10, cfg=1.0, sampler="euler", scheduler="normal")
    plain = Denoiser(network, stable_diffusion(), Epsilon())

    def sampled(strength: float | None) -> torch.Tensor:
        model = replace(plain, differential=strength)
        samples: torch.Tensor = sample_latent(model, settings, POSITIVE, NEGATIVE, latent)["samples"]
        return samples

    change = (sampled(1.0) - 3.0).abs().mean(dim=(0, 1, 2)).view(4, 4).mean(dim=1).tolist()
    assert 0 < change[0] < 2 * 0.0292 / 0.18215
    assert change[0] < change[1] / 2 < change[2] / 4 < change[3] / 8, change
    assert torch.equal(sampled(0.0), sampled(1.0))
    assert not torch.equal(sampled(1.0), sampled(None))
