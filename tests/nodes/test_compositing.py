"""Pictures over pictures, by hand and by the paper's table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import compositing as composite_nodes


def grey(level: float, height: int = 2, width: int = 2, channels: int = 3, batch: int = 1) -> Tensor:
    return torch.full((batch, height, width, channels), level)


def test_a_picture_over_another_is_cut_off_and_mixed_by_its_mask() -> None:
    below = grey(0.0, 3, 3, batch=2)
    made = composite_nodes.image_composite_masked(
        destination=below, source=grey(0.8), x=2, y=1, mask=torch.tensor([[1.0, 1.0], [0.25, 0.25]])
    )
    assert torch.allclose(made[1, :, :, 0], torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.8], [0.0, 0.0, 0.2]]))
    assert not below.any()
    stretched = composite_nodes.image_composite_masked(destination=below, source=grey(0.8), resize_source=True)
    assert torch.allclose(stretched, grey(0.8, 3, 3, batch=2))


def test_channels_of_the_source_follow_the_destination() -> None:
    """Alpha is left out over a picture without it, and opaque over one with it."""
    over = composite_nodes.image_composite_masked(destination=grey(0.0), source=grey(0.5, channels=4))
    assert torch.equal(over, grey(0.5))
    with_alpha = composite_nodes.image_composite_masked(destination=grey(0.0, channels=4), source=grey(0.5))
    assert with_alpha[0, 0, 0].tolist() == [0.5, 0.5, 0.5, 1.0]


COVERAGE = {
    # mode: how much of the source, of the destination, and of their overlap shows, by the paper's table
    "CLEAR": (0, 0, 0),
    "SRC": (1, 0, 1),
    "DST": (0, 1, 2),
    "SRC_OVER": (1, 1, 1),
    "DST_OVER": (1, 1, 2),
    "SRC_IN": (0, 0, 1),
    "DST_IN": (0, 0, 2),
    "SRC_OUT": (1, 0, 0),
    "DST_OUT": (0, 1, 0),
    "SRC_ATOP": (0, 1, 1),
    "DST_ATOP": (1, 0, 2),
    "XOR": (1, 1, 0),
}


@pytest.mark.parametrize("mode", COVERAGE)
def test_the_papers_operators(mode: str) -> None:
    """Three pixels: the source alone (0.25), the destination alone (0.75), and both; 1 or 2 says whose colour the overlap has."""
    source, destination, both = COVERAGE[mode]
    image, mask = composite_nodes.porter_duff_image_composite(
        source=grey(0.25, 1, 3),
        source_alpha=torch.tensor([[[0.0, 1.0, 0.0]]]),
        destination=grey(0.75, 1, 3),
        destination_alpha=torch.tensor([[[1.0, 0.0, 0.0]]]),
        mode=mode,
    )
    assert (1 - mask).flatten().tolist() == [source, destination, min(both, 1)]
    assert image[0, 0, :, 0].tolist() == [source * 0.25, destination * 0.75, (0, 0.25, 0.75)[both]]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("ADD", 1.0),
        ("DARKEN", 0.4),
        ("LIGHTEN", 0.7),
        ("MULTIPLY", 0.28),
        ("SCREEN", 1 - 0.6 * 0.3),
        ("OVERLAY", 1 - 2 * 0.6 * 0.3),
    ],
)
def test_blend_modes_of_opaque_pictures(mode: str, expected: float) -> None:
    """0.4 over 0.7."""
    opaque = torch.zeros(1, 2, 2)
    image, mask = composite_nodes.porter_duff_image_composite(
        source=grey(0.4), source_alpha=opaque, destination=grey(0.7), destination_alpha=opaque, mode=mode
    )
    assert torch.allclose(image, torch.tensor(expected))
    assert not mask.any()


def test_half_transparent_over_opaque() -> None:
    """Source over: half of 0.2 and half of 0.6; the smallest batch counts and the destination's size."""
    image, mask = composite_nodes.porter_duff_image_composite(
        source=grey(0.2, 4, 4, batch=3),
        source_alpha=torch.full((2, 4, 4), 0.5),
        destination=grey(0.6, batch=2),
        destination_alpha=torch.zeros(3, 1, 1),
        mode="SRC_OVER",
    )
    assert image.shape == (2, 2, 2, 3)
    assert torch.allclose(image, torch.tensor(0.4))
    assert not mask.any()


def test_colours_come_out_without_their_alpha() -> None:
    """A source of a quarter's alpha in place of the destination keeps its colour and its mask."""
    image, mask = composite_nodes.porter_duff_image_composite(
        source=grey(0.8),
        source_alpha=torch.full((1, 2, 2), 0.75),
        destination=grey(0.1),
        destination_alpha=torch.zeros(1, 2, 2),
        mode="SRC",
    )
    assert torch.allclose(image, torch.tensor(0.8))
    assert torch.allclose(mask, torch.tensor(0.75))


def test_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected a source of 3 channels.* found 4; .*SplitImageWithAlpha"):
        composite_nodes.porter_duff_image_composite(
            source=grey(0.1, channels=4),
            source_alpha=torch.zeros(1, 2, 2),
            destination=grey(0.1),
            destination_alpha=torch.zeros(1, 2, 2),
        )


def test_alpha_is_taken_off_and_put_on() -> None:
    """A mask is 1 - alpha; it is fitted to the picture, and the longer batch is cut."""
    image, mask = composite_nodes.split_image_with_alpha(torch.cat([grey(0.5), grey(0.25, channels=1)], dim=-1))
    assert image.shape == (1, 2, 2, 3)
    assert torch.equal(mask, torch.full((1, 2, 2), 0.75))
    assert not composite_nodes.split_image_with_alpha(grey(0.5))[1].any()
    masks = torch.tensor([0.0, 0.25, 1.0]).view(3, 1, 1).expand(3, 4, 4)
    joined = composite_nodes.join_image_with_alpha(grey(0.5, channels=4, batch=2), masks)
    assert joined.shape == (2, 2, 2, 4)
    assert joined[:, 0, 0].tolist() == [[0.5, 0.5, 0.5, alpha] for alpha in (1.0, 0.75)]
    assert composite_nodes.join_image_with_alpha(grey(0.5, batch=2), masks[:1]).shape == (1, 2, 2, 4)
