"""Operations on latents."""

from __future__ import annotations

import pytest
import torch

from engine.errors import InputError
from nodes import guidance
from nodes.diffusion.latent_operations import reinhard, sharpen


def test_tone_mapping_presses_lengths_below_their_top_and_keeps_directions() -> None:
    """length becomes length top / (length + top), top five deviations above the mean; of nothing remains nothing."""
    latent = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    length = latent.norm(dim=1)
    top = 2.0 * (length.mean() + 5 * length.std())
    pressed = reinhard(latent, 2.0)
    torch.testing.assert_close(pressed.norm(dim=1), length * top / (length + top))
    torch.testing.assert_close(pressed / pressed.norm(dim=1, keepdim=True), latent / length)
    assert not reinhard(torch.zeros(1, 4, 3, 3), 0.0).isnan().any()


def test_sharpening_adds_the_difference_from_the_mean_around() -> None:
    """A cell that differs gets ten alpha of its difference from a Gaussian mean; even ground stays as it is."""
    flat = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(sharpen(flat, 2, 1.0, 0.1), flat, rtol=1e-4, atol=1e-4)
    spot = torch.ones(1, 2, 9, 9)
    spot[0, :, 4, 4] = torch.tensor([1.0, -1.0])
    # coordinates -1, 0, 1 for a radius of one; sigma 1
    side, corner = torch.exp(torch.tensor([-0.5, -1.0])).tolist()
    share = 1 / (1 + 4 * side + 4 * corner)
    unit = 2**-0.5
    # The second channel's direction is unit all around and -unit in the middle.
    expected = -unit + 10 * 0.1 * (-unit - (unit * (1 - share) - unit * share))
    found = sharpen(spot, 1, 1.0, 0.1)
    assert float(found[0, 1, 4, 4]) == pytest.approx(expected * 2**0.5, rel=1e-4)
    with pytest.raises(InputError, match="below the latent's smaller side, 8; found 8"):
        sharpen(flat, 8, 1.0, 0.1)


def test_an_operation_is_a_recipe_that_is_used_later() -> None:
    """On a latent, whose other parts stay, and as an option of a model."""
    operation = guidance.latent_operation_tonemap_reinhard(0.5)
    samples = torch.randn(1, 4, 5, 5)
    latent = {"samples": samples, "batch_index": [2]}
    applied = guidance.latent_apply_operation(latent, operation)
    torch.testing.assert_close(applied["samples"], reinhard(samples, 0.5))
    assert applied["batch_index"] == [2]
