"""Pictures cropped, turned, scaled and stitched, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import image_transform as transform_nodes

ROWS = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]


def picture(rows: Any, channels: int = 3) -> Tensor:
    return torch.tensor(rows)[None, ..., None].repeat(1, 1, 1, channels)


def rows(image: Tensor, index: int = 0, channel: int = 0) -> list[list[float]]:
    return [[round(float(value), 4) for value in row] for row in image[index, ..., channel]]


def test_crop_stays_in_the_picture() -> None:
    crop = transform_nodes.image_crop
    assert rows(crop(image=picture(ROWS), width=2, height=1, x=1, y=1)) == [[0.5, 0.6]]
    assert rows(crop(image=picture(ROWS), width=512, height=512, x=2, y=0)) == [[0.3], [0.6]]
    assert rows(crop(image=picture(ROWS), width=5, height=5, x=99, y=99)) == [[0.6]]


def test_flips_and_turns() -> None:
    image = picture(ROWS)
    assert rows(transform_nodes.image_flip(image, "x-axis: vertically")) == ROWS[::-1]
    assert rows(transform_nodes.image_flip(image, "y-axis: horizontally")) == [row[::-1] for row in ROWS]
    turns = ("none", "90 degrees", "180 degrees", "270 degrees")
    assert [rows(transform_nodes.image_rotate(image, turn)) for turn in turns] == [
        ROWS,
        [[0.4, 0.1], [0.5, 0.2], [0.6, 0.3]],
        [[0.6, 0.5, 0.4], [0.3, 0.2, 0.1]],
        [[0.3, 0.6], [0.2, 0.5], [0.1, 0.4]],
    ]


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("right", [[0.2, 1.0, 1.0, 0.8]] * 2),
        ("left", [[0.8, 1.0, 1.0, 0.2]] * 2),
        ("down", [[0.2], [0.2], [1.0], [1.0], [0.8], [0.8]]),
        ("up", [[0.8], [0.8], [1.0], [1.0], [0.2], [0.2]]),
    ],
)
def test_stitching_puts_the_second_to_a_side(direction: str, expected: list[list[float]]) -> None:
    """With a gap of one pixel, made even."""
    stitched = transform_nodes.image_stitch(
        image1=picture([[0.2], [0.2]]), image2=picture([[0.8], [0.8]]), direction=direction, spacing_width=1
    )
    assert rows(stitched) == expected


def test_stitching_scales_the_second_or_bars_the_smaller() -> None:
    """4 x 2 beside 2 x 2 pixels high: scaled to the height of 4 it is 4 wide; unscaled it gets a bar above and below."""
    tall, small = torch.full((1, 4, 2, 3), 0.2), torch.full((1, 2, 2, 3), 1.0)
    matched = transform_nodes.image_stitch(image1=tall, image2=small, spacing_color="red", spacing_width=2)
    assert matched.shape == (1, 4, 8, 3)
    assert matched[0, 0, 2].tolist() == [1.0, 0.0, 0.0]
    grey = small / 2
    for colour, bar in (("white", 1.0), ("black", 0.0), ("red", 0.0)):
        barred = transform_nodes.image_stitch(image1=tall, image2=grey, match_image_size=False, spacing_color=colour)
        assert rows(barred) == [[0.2, 0.2, value, value] for value in (bar, 0.5, 0.5, bar)]
    odd = transform_nodes.image_stitch(image1=tall, image2=grey[:, :1], match_image_size=False)
    assert [row[2] for row in rows(odd)] == [1.0, 0.5, 1.0, 1.0]
    below = transform_nodes.image_stitch(image1=tall, image2=small, direction="down", match_image_size=True)
    assert below.shape == (1, 6, 2, 3)
    column = transform_nodes.image_stitch(image1=torch.zeros(1, 98, 1, 3), image2=torch.zeros(1, 49, 1, 3))
    assert column.shape == (1, 98, 2, 3)  # 98 times the rounded quotient of 1 and 49 is a little less than 2, so 1


def test_stitching_evens_out_batches_and_channels() -> None:
    """The shorter batch goes on with its last picture; a missing alpha is opaque, the gap's too."""
    one = picture([[0.2]], channels=4)
    two = torch.cat([picture([[0.4]]), picture([[0.6]])])
    stitched = transform_nodes.image_stitch(image1=one, image2=two, spacing_width=2, spacing_color="black")
    assert stitched.shape == (2, 1, 4, 4)
    assert rows(stitched, 1) == [[0.2, 0.0, 0.0, 0.6]]
    assert rows(stitched, 1, 3) == [[0.2, 1.0, 1.0, 1.0]]
    lasting = transform_nodes.image_stitch(image1=torch.cat([two, two]), image2=two)
    assert rows(lasting, 3) == [[0.6, 0.6]]
    assert transform_nodes.image_stitch(image1=one) is one


def test_padding_keeps_the_aspect() -> None:
    """2 x 1 pixels into 4 x 5: twice as large, in the middle, the odd row below."""
    made = transform_nodes.resize_and_pad_image(
        image=picture([[0.5, 0.5]]),
        target_width=4,
        target_height=5,
        padding_color="white",
        interpolation="nearest-exact",
    )
    assert rows(made) == [[level] * 4 for level in (1.0, 0.5, 0.5, 1.0, 1.0)]
    thin = transform_nodes.resize_and_pad_image(
        image=torch.zeros(1, 1, 100, 3), target_width=4, target_height=4, padding_color="white", interpolation="area"
    )
    assert rows(thin) == [[level] * 4 for level in (1.0, 0.0, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("height", "width", "megapixels", "size"),
    [(32, 32, 0.01, (102, 102)), (16, 64, 0.01, (51, 205)), (1, 4096, 0.01, (2, 6553))],
)
def test_total_pixels(height: int, width: int, megapixels: float, size: tuple[int, int]) -> None:
    """Of 10485 pixels the root is 102.4; at 1:4 the sides are half and twice of that."""
    scaled = transform_nodes.image_scale_to_total_pixels(torch.zeros(1, height, width, 3), "nearest-exact", megapixels)
    assert scaled.shape[1:3] == size


@pytest.mark.parametrize(
    ("height", "width", "size"), [(30, 60, (5, 10)), (60, 30, (10, 5)), (7, 7, (10, 10)), (1, 100, (1, 10))]
)
def test_the_longer_side(height: int, width: int, size: tuple[int, int]) -> None:
    scaled = transform_nodes.image_scale_to_max_dimension(torch.zeros(1, height, width, 3), "area", 10)
    assert scaled.shape[1:3] == size


def test_a_longer_side_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1 pixel, found 0"):
        transform_nodes.image_scale_to_max_dimension(torch.zeros(1, 4, 4, 3), "area", 0)
