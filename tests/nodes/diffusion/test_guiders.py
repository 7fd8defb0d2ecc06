"""Guidance between three sides, with numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nodes.diffusion import steering
from nodes.diffusion.guiders import DualCfgGuider, PerpNegGuider
from nodes.diffusion.steering import Seen
from tests.nodes.diffusion.test_guidance import LATENT, SIGMA, Recorder, denoiser, entries, told


@pytest.mark.parametrize(
    ("inner", "outer", "nested", "expected", "batch"),
    [
        (2.0, 3.0, False, 1 + 3 * (4 - 1) + 2 * (9 - 4), 3),
        (2.0, 3.0, True, 1 + 3 * (4 + 2 * (9 - 4) - 1), 3),
        (2.0, 1.0, False, 4 + 2 * (9 - 4), 2),
        (1.0, 1.0, False, 9, 1),
    ],
)
def test_two_conditions_and_a_negative(inner: float, outer: float, nested: bool, expected: float, batch: int) -> None:
    """All sides in one call of the network, and only those that count."""
    network = Recorder()
    first, second, third = (entries(told(value)) for value in (9.0, 4.0, 1.0))
    seen = DualCfgGuider.between(denoiser(network), first, second, third, inner, outer, nested).look(LATENT, SIGMA)
    torch.testing.assert_close(seen.denoised, torch.full_like(LATENT, float(expected)))
    assert [call[0][0] for call in network.calls] == [batch]
    if batch == 3:  # what is guided away from first: CFG++ steps along its noise
        torch.testing.assert_close(seen.unconditional, torch.full_like(LATENT, 4.0 if nested else 1.0))


def test_only_the_perpendicular_part_of_the_negative_counts() -> None:
    """What lies along the positive direction is left out; without a remainder the negative does nothing."""
    empty = torch.zeros(1, 1, 1, 2)
    positive, negative = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[5.0, 1.0]]]])
    sigma = torch.ones(1, 1, 1, 1)

    def perpendicular(positive: Tensor, negative: Tensor) -> Tensor:
        return steering.perpendicular(Seen(empty, sigma, positive, negative, 3.0, {}, empty), 0.5)

    found = perpendicular(positive, negative)
    assert found.flatten().tolist() == pytest.approx([3 * 2.0, 3 * -0.5 * 1.0])
    along = perpendicular(positive, positive * 7)
    torch.testing.assert_close(along, 3 * positive)
    nothing = perpendicular(empty, negative)
    torch.testing.assert_close(nothing, -3 * 0.5 * negative)


def test_perp_neg_asks_for_three_sides_at_once() -> None:
    """Constant predictions are all along one line, so that the negative has no part of its own."""
    network = Recorder()
    first, second, third = (entries(told(value)) for value in (9.0, 4.0, 1.0))
    seen = PerpNegGuider.between(denoiser(network), first, second, third, 2.0, 1.0).look(LATENT, SIGMA)
    torch.testing.assert_close(seen.denoised, torch.full_like(LATENT, 1 + 2 * 8.0))
    torch.testing.assert_close(seen.unconditional, torch.full_like(LATENT, 4.0))
    assert [call[0][0] for call in network.calls] == [3]
