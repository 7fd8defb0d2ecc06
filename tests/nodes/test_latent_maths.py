"""Latents added, mixed and put into other batches, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import latent_maths as maths_nodes
from nodes.diffusion.latent_maths import rebatched


def batch(*levels: float, channels: int = 1, side: int = 2) -> dict[str, Any]:
    """One sample a level."""
    return {"samples": torch.tensor(levels).view(-1, 1, 1, 1).repeat(1, channels, side, side)}


def levels(latent: Any) -> list[float]:
    """What each sample is filled with."""
    samples: Tensor = latent["samples"]
    assert torch.equal(samples.amin((1, 2, 3)), samples.amax((1, 2, 3)))
    return [float(level) for level in samples[:, 0, 0, 0]]


def test_sums_differences_and_multiples() -> None:
    """The second is scaled to the first's size and taken in turn by its batch; the first's other entries stay."""
    first = {**batch(1.0, 2.0, 3.0), "batch_index": [7, 8, 9]}
    second = batch(10.0, 20.0, side=4)
    assert levels(maths_nodes.latent_add(first, second)) == [11.0, 22.0, 13.0]
    assert levels(maths_nodes.latent_subtract(first, second)) == [-9.0, -18.0, -7.0]
    assert levels(maths_nodes.latent_multiply(first, -2.0)) == [-2.0, -4.0, -6.0]
    assert maths_nodes.latent_add(first, second)["batch_index"] == [7, 8, 9]
    assert levels(first) == [1.0, 2.0, 3.0]


def test_a_larger_second_batch_is_cut() -> None:
    assert levels(maths_nodes.latent_add(batch(1.0), batch(5.0, 6.0))) == [6.0]


@pytest.mark.parametrize(
    "mix", [maths_nodes.latent_add, maths_nodes.latent_blend, maths_nodes.latent_batch, maths_nodes.latent_interpolate]
)
def test_latents_of_other_models_are_refused(mix: Any) -> None:
    with pytest.raises(InputError, match=r"expected a latent of 4 channels, as the other one has, found 16") as caught:
        mix(batch(1.0, channels=4), batch(1.0, channels=16))
    assert caught.value.input == "samples2"


def test_blend_mixes_plainly() -> None:
    """A quarter of the first."""
    assert levels(maths_nodes.latent_blend(batch(4.0), batch(8.0, side=4), 0.25)) == pytest.approx([7.0])


def test_interpolation_keeps_the_length() -> None:
    """Between (2, 0) and (0, 4) half-way lies a vector of length 3 in the direction between both; a zero has no direction."""
    a = {"samples": torch.tensor([[2.0, 0.0, 2.0], [0.0, 0.0, 0.0]]).view(1, 2, 3, 1)}
    b = {"samples": torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0]]).view(1, 2, 3, 1)}
    mixed = maths_nodes.latent_interpolate(a, b, 0.5)["samples"]
    assert mixed[0, :, 0, 0].tolist() == pytest.approx([3 / math.sqrt(2)] * 2)
    assert mixed[0, :, 1, 0].tolist() == [0.0, 0.0]
    assert mixed[0, :, 2, 0].tolist() == [1.0, 0.0]
    assert torch.equal(maths_nodes.latent_interpolate(a, b, 1.0)["samples"], a["samples"])


def test_a_batch_of_two_keeps_each_samples_place_in_the_noise() -> None:
    both = maths_nodes.latent_batch({**batch(1.0, 2.0), "batch_index": [4, 5]}, batch(3.0, 6.0, side=4))
    assert levels(both) == [1.0, 2.0, 3.0, 6.0]
    assert both["batch_index"] == [4, 5, 0, 1]


def test_seed_behaviour() -> None:
    """Fixed: all samples get the noise of the first. Random: what was fixed is gone; a noise mask stays."""
    mask = torch.ones(1, 1, 16, 16)
    latent = {**batch(1.0, 2.0, 3.0), "batch_index": [5, 6, 7], "noise_mask": mask}
    assert maths_nodes.latent_batch_seed_behavior(latent, "fixed")["batch_index"] == [5, 5, 5]
    assert maths_nodes.latent_batch_seed_behavior(batch(1.0, 2.0), "fixed")["batch_index"] == [0, 0]
    free = maths_nodes.latent_batch_seed_behavior(latent, "random")
    assert sorted(free) == ["noise_mask", "samples"]
    assert levels(free) == [1.0, 2.0, 3.0]


def test_rebatching_keeps_the_order_and_the_places() -> None:
    """Five samples of three latents in batches of two; those without a place count on over all of them."""
    given: list[Any] = [batch(0.0, 1.0, 2.0), {**batch(3.0), "batch_index": [9]}, batch(4.0)]
    made = maths_nodes.rebatch_latents(given, [2])
    assert [levels(latent) for latent in made] == [[0.0, 1.0], [2.0, 3.0], [4.0]]
    assert [latent["batch_index"] for latent in made] == [[0, 1], [2, 9], [4]]
    assert all("noise_mask" not in latent for latent in made)


def test_rebatching_begins_a_new_batch_at_another_size() -> None:
    made = rebatched([batch(0.0), batch(1.0, side=3), batch(2.0, side=3)], 2)  # type: ignore[list-item]
    assert [levels(latent) for latent in made] == [[0.0], [1.0, 2.0]]


def test_rebatching_gives_each_sample_its_mask() -> None:
    """At the picture's size, 8 pixels a cell; a sample without one is repainted everywhere. Where all are, there is no mask."""
    masked = {**batch(0.0, 1.0), "noise_mask": torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])}
    made = rebatched([masked, batch(2.0)], 2)  # type: ignore[list-item]
    assert made[0]["noise_mask"].shape == (2, 1, 16, 16)
    assert made[0]["noise_mask"].mean((1, 2, 3)).tolist() == [0.0, 1.0]
    assert "noise_mask" not in made[1]
    together = rebatched([masked, batch(2.0)], 3)  # type: ignore[list-item]
    assert together[0]["noise_mask"].mean((1, 2, 3)).tolist() == [0.0, 1.0, 1.0]
