"""Latents cropped, turned, cut and laid over each other, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import latent as latent_nodes
from nodes import latent_shape as shape_nodes

ROWS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def latent(rows: Tensor, batch: int = 1) -> dict[str, Any]:
    """A latent of one channel."""
    return {"samples": rows.repeat(batch, 1, 1, 1)}


def rows(made: Any, index: int = 0) -> list[list[float]]:
    """The first channel of a sample."""
    samples: Tensor = made["samples"]
    return [[float(cell) for cell in row] for row in samples[index, 0]]


def test_composite_counts_in_pixels_and_cuts_what_is_outside() -> None:
    """16 pixels right, 8 down are 2 cells and 1; of a 2 x 2 latent one cell is seen."""
    below = latent(ROWS)
    made = shape_nodes.latent_composite(samples_to=below, samples_from=latent(torch.full((2, 2), 9.0)), x=16, y=8)
    assert rows(made) == [[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]
    assert rows(below) == ROWS.tolist()


@pytest.mark.parametrize(("x", "y"), [(24, 0), (0, 16), (16384, 16384)])
def test_what_is_laid_outside_is_not_seen(x: int, y: int) -> None:
    over = latent(torch.full((2, 2), 9.0))
    plain = shape_nodes.latent_composite(samples_to=latent(ROWS), samples_from=over, x=x, y=y)
    faded = shape_nodes.latent_composite(samples_to=latent(ROWS), samples_from=over, x=x, y=y, feather=16)
    masked = shape_nodes.latent_composite_masked(destination=latent(ROWS), source=over, x=x, y=y)
    assert rows(plain) == rows(faded) == rows(masked) == ROWS.tolist()


def test_composite_fades_at_inner_edges() -> None:
    """Over two cells: a half at the edge, all of it one further; not where the edge is the latent's own."""
    made = shape_nodes.latent_composite(
        samples_to=latent(torch.zeros(4, 6)), samples_from=latent(torch.ones(4, 4)), x=8, y=0, feather=16
    )
    assert rows(made) == [[0.0, 0.5, 1.0, 1.0, 0.5, 0.0]] * 4
    corner = shape_nodes.latent_composite(
        samples_to=latent(torch.zeros(3, 3)), samples_from=latent(torch.ones(3, 3)), x=8, y=8, feather=16
    )
    assert rows(corner) == [[0.0, 0.0, 0.0], [0.0, 0.25, 0.5], [0.0, 0.5, 1.0]]


def test_composite_with_a_mask_mixes_by_it() -> None:
    """The mask is fitted to what is laid over, and both are taken in turn by the batch below."""
    made = shape_nodes.latent_composite_masked(
        destination=latent(torch.zeros(2, 2), 3),
        source={"samples": torch.tensor([4.0, 8.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)},
        mask=torch.tensor([[1.0, 0.25]]).repeat_interleave(2, 0),
    )
    assert [rows(made, index)[0] for index in range(3)] == [[4.0, 1.0], [8.0, 2.0], [4.0, 1.0]]


def test_composite_may_stretch_the_source() -> None:
    made = shape_nodes.latent_composite_masked(
        destination=latent(ROWS), source=latent(torch.full((1, 1), 7.0)), resize_source=True
    )
    assert rows(made) == [[7.0] * 3] * 2


@pytest.mark.parametrize(
    ("lay", "names"),
    [
        (shape_nodes.latent_composite, ("samples_to", "samples_from")),
        (shape_nodes.latent_composite_masked, ("destination", "source")),
    ],
)
def test_composites_of_other_models_latents_are_refused(lay: Any, names: tuple[str, str]) -> None:
    given = {names[0]: {"samples": torch.zeros(1, 4, 2, 2)}, names[1]: {"samples": torch.zeros(1, 16, 2, 2)}}
    with pytest.raises(InputError, match="expected a latent of 4 channels") as caught:
        lay(**given)
    assert caught.value.input == names[1]


def test_crop_begins_inside_and_ends_where_the_latent_does() -> None:
    """In pixels; a beginning beyond the last 64 pixels is moved to there."""
    samples = {"samples": torch.arange(12.0).view(1, 1, 1, 12).expand(1, 1, 12, 12)}
    part = shape_nodes.latent_crop(samples=samples, width=64, height=80, x=16, y=8)["samples"]
    assert part.shape[-2:] == (10, 8)
    assert part[0, 0, 0].tolist() == [float(x) for x in range(2, 10)]
    last = shape_nodes.latent_crop(samples=samples, width=512, height=64, x=800, y=0)["samples"]
    assert last[0, 0, 0].tolist() == [float(x) for x in range(4, 12)]
    tiny = shape_nodes.latent_crop(samples=latent(ROWS), x=64, y=64)
    assert rows(tiny) == ROWS.tolist()


def test_flips() -> None:
    assert rows(shape_nodes.latent_flip(latent(ROWS), "x-axis: vertically")) == [[4.0, 5.0, 6.0], [1.0, 2.0, 3.0]]
    assert rows(shape_nodes.latent_flip(latent(ROWS), "y-axis: horizontally")) == [[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]]


def test_rotation_is_clockwise() -> None:
    turned = [
        rows(shape_nodes.latent_rotate(latent(ROWS), turn))
        for turn in ("none", "90 degrees", "180 degrees", "270 degrees")
    ]
    assert turned == [
        ROWS.tolist(),
        [[4.0, 1.0], [5.0, 2.0], [6.0, 3.0]],
        [[6.0, 5.0, 4.0], [3.0, 2.0, 1.0]],
        [[3.0, 6.0], [2.0, 5.0], [1.0, 4.0]],
    ]


def test_concat_joins_along_a_side_in_either_order() -> None:
    a, b = latent(torch.tensor([[1.0], [2.0]])), latent(torch.tensor([[3.0], [4.0]]))
    assert rows(shape_nodes.latent_concat(a, b, "x")) == [[1.0, 3.0], [2.0, 4.0]]
    assert rows(shape_nodes.latent_concat(a, b, "-x")) == [[3.0, 1.0], [4.0, 2.0]]
    assert rows(shape_nodes.latent_concat(a, b, "y")) == [[1.0], [2.0], [3.0], [4.0]]
    assert rows(shape_nodes.latent_concat(a, b, "-y")) == [[3.0], [4.0], [1.0], [2.0]]
    assert shape_nodes.latent_concat(a, b, "t")["samples"][0, :, 0, 0].tolist() == [1.0, 3.0]


def test_concat_takes_the_first_batch_and_wants_equal_sides() -> None:
    two = {"samples": torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)}
    one = {"samples": torch.tensor([5.0]).view(1, 1, 1, 1)}
    assert shape_nodes.latent_concat(two, one, "-x")["samples"].flatten(1).tolist() == [[5.0, 1.0], [5.0, 2.0]]
    assert shape_nodes.latent_concat(one, two, "-x")["samples"].flatten(1).tolist() == [[1.0, 5.0]]
    with pytest.raises(InputError, match=r"found \[1, 1, 2, 3\] and \[1, 1, 1, 1\]"):
        shape_nodes.latent_concat(latent(ROWS), one, "x")


@pytest.mark.parametrize(
    ("index", "amount", "cells"),
    [(0, 1, [1.0]), (1, 9, [2.0, 3.0]), (9, 1, [3.0]), (-1, 1, [3.0]), (-2, 1, [2.0]), (-2, 9, [2.0, 3.0]), (-9, 1, [1.0])],
)  # fmt: skip
def test_cut_stays_inside(index: int, amount: int, cells: list[float]) -> None:
    """Beginnings and lengths beyond the latent are those at its end; negative ones count from there."""
    assert rows(shape_nodes.latent_cut(samples=latent(ROWS), dim="x", index=index, amount=amount))[0] == cells


def test_cut_along_the_other_sides() -> None:
    assert rows(shape_nodes.latent_cut(samples=latent(ROWS), dim="y", index=1)) == [[4.0, 5.0, 6.0]]
    channels = {"samples": torch.arange(4.0).view(1, 4, 1, 1)}
    assert shape_nodes.latent_cut(samples=channels, dim="t", index=2)["samples"].tolist() == [[[[2.0]]]]


def test_an_empty_latent_of_sixteen_channels() -> None:
    samples = latent_nodes.empty_sd3_latent_image(64, 32, 2)["samples"]
    assert samples.shape == (2, 16, 4, 8)
    assert not samples.any()
