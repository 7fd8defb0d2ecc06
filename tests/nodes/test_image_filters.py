"""Filters over pictures, against formulas and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import image_batches as batch_nodes
from nodes import image_filters as filter_nodes
from nodes.diffusion.filters import bayer
from tests.nodes.contexts import Heard, context


def line(*levels: float, height: int = 1) -> Tensor:
    """A grey picture of equal rows."""
    return torch.tensor(levels).view(1, 1, -1, 1).repeat(1, height, 1, 3)


def row(image: Tensor, at: int = 0) -> list[float]:
    return [round(float(level), 4) for level in image[0, at, :, 1]]


def test_blur_counts_sigma_in_radii_and_mirrors_at_the_border() -> None:
    """At radius 1 a neighbour counts exp(-1/2 / sigma^2) to the middle's 1; beyond the border lies the pixel before the last."""
    side = math.exp(-0.5)
    whole = 1 + 2 * side
    expected = [1 / whole, side / whole, 0.0, 0.0]
    assert row(filter_nodes.image_blur(line(1.0, 0.0, 0.0, 0.0, height=3), 1, 1.0)) == pytest.approx(expected, abs=1e-4)
    assert row(filter_nodes.image_blur(line(0.0, 1.0, 0.0, height=3), 1, 1.0))[0] == pytest.approx(
        2 * side / whole, abs=1e-4
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (40, 5)])
def test_blur_and_sharpen_keep_a_flat_picture_of_any_size(height: int, width: int) -> None:
    """Also one smaller than the radius."""
    flat = torch.full((2, height, width, 4), 0.3)
    assert torch.allclose(filter_nodes.image_blur(flat, 31, 0.5), flat, atol=1e-5)
    assert torch.allclose(
        filter_nodes.image_sharpen(image=flat, sharpen_radius=31, sigma=0.5, alpha=5.0), flat, atol=1e-4
    )


def test_sharpening_adds_ten_times_what_blurring_takes() -> None:
    image = torch.rand(1, 9, 7, 3, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    blurred = filter_nodes.image_blur(image, 2, 0.7)
    sharp = filter_nodes.image_sharpen(image=image, sharpen_radius=2, sigma=0.7, alpha=0.1)
    assert torch.allclose(sharp, (image + 1.0 * (image - blurred)).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("erode", [0.2, 0.0, 0.0, 0.0, 0.6, 0.6]),
        ("dilate", [0.4, 0.4, 0.6, 0.8, 0.8, 0.8]),
        ("open", [0.2, 0.2, 0.0, 0.6, 0.6, 0.6]),
        ("close", [0.4, 0.4, 0.4, 0.6, 0.8, 0.8]),
        ("gradient", [0.2, 0.4, 0.6, 0.8, 0.2, 0.2]),
        ("top_hat", [0.0, 0.2, 0.0, 0.0, 0.2, 0.0]),
        ("bottom_hat", [0.2, 0.0, 0.4, 0.0, 0.0, 0.2]),
    ],
)
def test_morphology(operation: str, expected: list[float]) -> None:
    """Windows of three over 0.2 0.4 0 0.6 0.8 0.6, worked out by hand; nothing lies beyond the border."""
    made = filter_nodes.morphology(
        image=line(0.2, 0.4, 0.0, 0.6, 0.8, 0.6, height=2), operation=operation, kernel_size=3
    )
    assert made.shape == (1, 2, 6, 3)
    assert row(made) == pytest.approx(expected, abs=1e-4)


def test_an_even_window_is_turned_for_dilation() -> None:
    """Of four pixels two are before the middle: a dark one grows by one before it and two behind, a light one by two and one; so what is
    closed stays where it was."""
    spot = line(*[0.0] * 4, 1.0, *[0.0] * 4)
    made = filter_nodes.morphology(image=spot, operation="dilate", kernel_size=4)
    assert row(made) == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    dark = filter_nodes.morphology(image=1 - spot, operation="erode", kernel_size=4)
    assert row(dark) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert row(filter_nodes.morphology(image=spot, operation="close", kernel_size=4)) == row(spot)
    assert row(filter_nodes.morphology(image=made, operation="dilate", kernel_size=999)) == [1.0] * 9


def test_yuv_and_back() -> None:
    """Red has a brightness of 0.299; grey has no colour difference; a picture comes back."""
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 1, 1, 3)
    y, u, v = filter_nodes.image_rgb_to_yuv(red)
    assert y.flatten().tolist() == pytest.approx([0.299] * 3)
    assert float(u[0, 0, 0, 0]) == pytest.approx(0.5 - 0.564 * 0.299)
    assert float(v[0, 0, 0, 0]) == pytest.approx(0.5 + 0.713 * 0.701)
    image = torch.rand(2, 3, 4, 3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(filter_nodes.image_yuv_to_rgb(*filter_nodes.image_rgb_to_yuv(image)), image, atol=1e-6)
    with pytest.raises(InputError, match="Y, U and V of one size"):
        filter_nodes.image_yuv_to_rgb(image, image[:, :1], image)


def test_bayers_matrix() -> None:
    """Of order 2 the ranks 0 2 / 3 1; of any order each threshold once, and 0 their mean."""
    assert (bayer(2) * 4 + 1.5).tolist() == [[0.0, 2.0], [3.0, 1.0]]
    assert sorted((bayer(4) * 16 + 7.5).flatten().tolist()) == [float(rank) for rank in range(16)]


@pytest.mark.parametrize("dither", ["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"])
def test_quantizing_leaves_so_many_colours(dither: str) -> None:
    """A ramp of 64 greys in four; each picture of a batch has a palette of its own.

    Dithered, bands of four columns in the middle half are as light as before, to 0.05; undithered they are not.
    """
    ramp = torch.linspace(0, 1, 64).view(1, 1, 64, 1).repeat(2, 64, 1, 3)
    ramp[1] *= torch.tensor([1.0, 0.0, 0.0])
    made = filter_nodes.image_quantize(ramp, 4, dither=dither)
    assert made.shape == ramp.shape
    assert len(made[0].reshape(-1, 3).unique(dim=0)) == 4
    assert float(made[1, ..., 1:].max()) < 0.02
    error = (made[0] - ramp[0]).mean(dim=(0, 2))[16:48].view(8, 4).mean(dim=1).abs().max()
    assert (float(error) < 0.05) == (dither != "none"), error


def test_noise_follows_from_the_seed() -> None:
    """Its deviation is the strength; a seed of 64 bits will do."""
    image = torch.full((1, 64, 64, 3), 0.5)
    made = filter_nodes.image_add_noise(image, 2**64 - 1, 0.1)
    assert torch.equal(made, filter_nodes.image_add_noise(image, 2**64 - 1, 0.1))
    assert not torch.equal(made, filter_nodes.image_add_noise(image, 1, 0.1))
    assert float((made - image).std()) == pytest.approx(0.1, rel=0.05)
    drawn = torch.randn(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(filter_nodes.image_add_noise(image, 1, 0.1), (0.5 + 0.1 * drawn).clamp(0, 1))


def test_canny_draws_the_outline_of_a_square() -> None:
    """One closed line, a pixel or two wide, around it, and nothing elsewhere."""
    image = torch.zeros(1, 32, 32, 3)
    image[:, 8:24, 8:24] = 1
    edges = filter_nodes.canny(image, 0.4, 0.8)
    assert edges.shape == (1, 32, 32, 3)
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    marked = edges[0, ..., 0]
    assert not marked[11:21, 11:21].any()
    assert not marked[:6].any()
    assert not marked[:, 26:].any()
    assert 1 <= int(marked[16, :16].sum()) <= 2
    assert 1 <= int(marked[:16, 16].sum()) <= 2


@pytest.mark.parametrize("colour", [(1.0, 1.0, 1.0), (0.2, 0.2, 0.2), (0.9, 0.3, 0.1)])
def test_of_a_step_between_two_pixels_one_is_the_edge(colour: tuple[float, ...]) -> None:
    """The gradient is as large on the one side as on the other; one of them is the edge all the same, on every side of a square."""
    image = torch.zeros(1, 64, 64, 3)
    image[:, 16:47, 16:49] = torch.tensor(colour)
    marked = filter_nodes.canny(image, 0.1, 0.2)[0, ..., 0]
    for lines, end in ((marked, 49), (marked.T, 47)):
        inner = lines[22:42]
        assert (inner[:, 15:17].sum(1) == 1).all()
        assert (inner[:, end - 1 : end + 1].sum(1) == 1).all()
        assert int(inner.sum()) == 2 * len(inner)


def test_weak_edges_stay_where_they_hang_on_strong_ones() -> None:
    """A vertical edge that is strong above and fades to weak below stays whole; one that is weak all along is left out."""
    image = torch.zeros(1, 24, 40, 3)
    image[:, :, 20:] = torch.linspace(1.0, 0.2, 24).view(1, 24, 1, 1)
    weak = torch.zeros(1, 24, 40, 3)
    weak[:, :, 20:] = 0.2
    edges = filter_nodes.canny(torch.cat([image, weak]), 0.2, 0.9)
    assert edges[0, 20, 18:22, 0].any()
    assert not edges[1].any()
    assert filter_nodes.canny(weak, 0.2, 0.3)[0, 20, 18:22, 0].any()


def test_canny_wants_a_low_threshold_that_is_low() -> None:
    with pytest.raises(InputError, match=r"at most the high_threshold 0\.2, found 0\.5"):
        filter_nodes.canny(torch.zeros(1, 8, 8, 3), 0.5, 0.2)


def levels(batch: Tensor) -> list[float]:
    return [float(level) for level in batch[:, 0, 0, 0]]


def test_pictures_of_a_batch() -> None:
    batch = torch.arange(4.0).view(4, 1, 1, 1).repeat(1, 2, 3, 3)
    take = batch_nodes.image_from_batch
    assert [levels(take(batch, index, length)) for index, length in ((1, 2), (3, 9), (99, 1))] == [
        [1.0, 2.0],
        [3.0],
        [3.0],
    ]
    assert levels(batch_nodes.repeat_image_batch(batch[:2], 2)) == [0.0, 1.0, 0.0, 1.0]
    made = batch_nodes.rebatch_images([batch[:1], batch[1:]], [3])
    assert [levels(part) for part in made] == [[0.0, 1.0, 2.0], [3.0]]
    with pytest.raises(InputError, match=r"found 3x2 with 3 channels, 3x4 with 3 channels; scale them first"):
        batch_nodes.rebatch_images([batch, torch.zeros(1, 4, 3, 3)], [3])
    apart = batch_nodes.rebatch_images([batch, torch.zeros(1, 4, 3, 3)], [2])
    assert [tuple(part.shape[:2]) for part in apart] == [(2, 2), (2, 2), (1, 4)]


def test_the_size_is_given_and_shown() -> None:
    heard = Heard()
    assert batch_nodes.get_image_size(context(heard), torch.zeros(5, 4, 3, 3)) == (3, 4, 5)
    assert heard.sent == [("progress_text", {"node": "7", "text": "width: 3, height: 4\n batch size: 5"})]
