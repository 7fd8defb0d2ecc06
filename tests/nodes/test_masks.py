"""The mask nodes, on masks small enough to work out by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import Digest
from nodes import masks as mask_nodes

ROWS = torch.tensor([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]])


def dot(size: int, at: int) -> Tensor:
    """One masked pixel on the diagonal."""
    mask = torch.zeros(1, size, size)
    mask[0, at, at] = 1
    return mask


def rows(mask: Tensor) -> list[list[float]]:
    return [[round(float(value), 6) for value in row] for row in mask[0]]


@pytest.mark.parametrize(
    ("channel", "expected"), [("alpha", [0.0, 0.8]), ("red", [1.0, 0.0]), ("green", [0.0, 0.4]), ("blue", [0.2, 0.0])]
)
def test_a_channel_of_a_file(tmp_path: Path, channel: str, expected: list[float]) -> None:
    """A colour as it is, alpha the other way round."""
    Image.fromarray(np.array([[[255, 0, 51, 255], [0, 102, 0, 51]]], np.uint8), "RGBA").save(tmp_path / "a.png")
    mask = mask_nodes.load_image_mask(FileRef(Digest("0"), tmp_path / "a.png", "a.png"), channel)
    assert mask.shape == (1, 1, 2)
    assert mask.flatten().tolist() == pytest.approx(expected)


def test_a_file_without_alpha_masks_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "white").save(tmp_path / "a.png")
    mask = mask_nodes.load_image_mask(FileRef(Digest("0"), tmp_path / "a.png", "a.png"), "alpha")
    assert mask.shape == (1, 2, 3)
    assert not mask.any()


def test_masks_and_pictures() -> None:
    image = mask_nodes.mask_to_image(ROWS[0])
    assert image.shape == (1, 2, 3, 3)
    assert image[0, 1, 2].tolist() == pytest.approx([0.6] * 3)
    coloured = torch.arange(4.0).expand(2, 5, 5, 4) / 4
    assert [float(mask_nodes.image_to_mask(coloured, name)[1, 3, 3]) for name in ("red", "blue", "alpha")] == [
        0.0,
        0.5,
        0.75,
    ]
    with pytest.raises(InputError, match="a channel alpha, found one of 3 channels"):
        mask_nodes.image_to_mask(coloured[..., :3], "alpha")


def test_a_colour_is_found_in_eight_bits() -> None:
    """What rounds to the same bytes is the same colour."""
    pixels = torch.tensor([[[[1.0, 0.5, 0.0], [1.0, 128.4 / 255, 0.0], [1.0, 0.51, 0.0], [1.2, 128 / 255, -1.0]]]])
    assert mask_nodes.image_color_to_mask(pixels, 0xFF8000).flatten().tolist() == [1.0, 1.0, 0.0, 1.0]


def test_solid_inverted_and_thresholded() -> None:
    solid = mask_nodes.solid_mask(0.25, 3, 2)
    assert solid.shape == (1, 2, 3)
    assert rows(mask_nodes.invert_mask(solid)) == [[0.75] * 3] * 2
    assert rows(mask_nodes.threshold_mask(torch.tensor([[[0.4, 0.5, 0.6]]]), 0.5)) == [[0.0, 0.0, 1.0]]


def test_crop_ends_where_the_mask_does_and_must_begin_inside() -> None:
    assert rows(mask_nodes.crop_mask(mask=ROWS, x=1, y=1, width=9, height=9)) == [[0.5, 0.6]]
    assert rows(mask_nodes.crop_mask(mask=ROWS, x=0, y=0, width=2, height=1)) == [[0.1, 0.2]]
    with pytest.raises(InputError, match=r"the mask of 3 x 2 pixels, found one that begins at \(1, 2\)") as caught:
        mask_nodes.crop_mask(mask=ROWS, x=1, y=2)
    assert caught.value.input == "y"


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("multiply", [0.0, 0.16, 0.0, 0.64]),
        ("add", [0.2, 1.0, 0.8, 1.0]),
        ("subtract", [0.2, 0.0, 0.8, 0.0]),
        ("and", [0.0, 0.0, 0.0, 1.0]),
        ("or", [0.0, 1.0, 1.0, 1.0]),
        ("xor", [0.0, 1.0, 1.0, 0.0]),
    ],
)
def test_operations(operation: str, expected: list[float]) -> None:
    """0.2 and 0.8 with 0 and 0.8; the logical ones round first; nothing leaves 0..1."""
    below = torch.tensor([[[0.2, 0.2, 0.8, 0.8]]])
    above = torch.tensor([[[0.0, 0.8, 0.0, 0.8]]])
    result = mask_nodes.mask_composite(destination=below, source=above, operation=operation)
    assert result.flatten().tolist() == pytest.approx(expected)


def test_composites_are_cut_off_at_the_edge_and_follow_the_batch_below() -> None:
    below = torch.zeros(3, 2, 3)
    above = torch.tensor([0.5, 1.0]).view(2, 1, 1).expand(2, 2, 2)
    result = mask_nodes.mask_composite(destination=below, source=above, x=2, y=1, operation="add")
    assert result[:, 1, 2].tolist() == [0.5, 1.0, 0.5]
    assert float(result.sum()) == 2.0
    inside = mask_nodes.mask_composite(destination=below, source=above[:, :1, :1], x=1, y=0, operation="add")
    assert inside[1].tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    outside = mask_nodes.mask_composite(destination=below, source=above, x=3, y=0, operation="add")
    assert not outside.any()
    assert not below.any()
    with pytest.raises(InputError, match=r"found one of shape \[1, 0, 2\]") as caught:
        mask_nodes.mask_composite(destination=below, source=torch.zeros(1, 0, 2), operation="add")
    assert caught.value.input == "source"


def test_feathering_fades_each_side() -> None:
    """Three pixels from the left, three from the right, of which one is the first column; more than there are count as all."""
    mask = torch.ones(1, 1, 6)
    assert rows(mask_nodes.feather_mask(mask=mask, left=3)) == [[0.333333, 0.666667, 1.0, 1.0, 1.0, 1.0]]
    assert rows(mask_nodes.feather_mask(mask=mask, right=3)) == [[0.333333, 1.0, 1.0, 1.0, 1.0, 0.666667]]
    assert rows(mask_nodes.feather_mask(mask=mask[..., :4], left=99)) == [[0.25, 0.5, 0.75, 1.0]]
    tall = mask_nodes.feather_mask(mask=torch.ones(1, 5, 1), top=1, bottom=4)
    assert tall.flatten().tolist() == [0.25, 1.0, 1.0, 0.75, 0.5]


def test_growing_and_shrinking() -> None:
    """Two steps make a diamond of 13 pixels, or a square of 25; three back are nothing. Beyond the border is nothing."""
    diamond = mask_nodes.grow_mask(dot(7, 3), 2, True)
    assert [sum(row) for row in rows(diamond)] == [0, 1, 3, 5, 3, 1, 0]
    square = mask_nodes.grow_mask(dot(7, 3), 2, False)
    assert [sum(row) for row in rows(square)] == [0, 5, 5, 5, 5, 5, 0]
    assert torch.equal(mask_nodes.grow_mask(square, -2, False), dot(7, 3))
    assert not mask_nodes.grow_mask(square, -3, False).any()
    assert torch.equal(mask_nodes.grow_mask(torch.ones(1, 3, 3), -1, False), torch.ones(1, 3, 3))
    assert torch.equal(mask_nodes.grow_mask(dot(4, 0), 16384, True), torch.ones(1, 4, 4))


def test_growing_keeps_greys() -> None:
    grey = torch.tensor([[[0.2, 0.6, 0.0, 0.4]]])
    assert rows(mask_nodes.grow_mask(grey, 1, True)) == [[0.6, 0.6, 0.6, 0.4]]
    assert rows(mask_nodes.grow_mask(grey, -1, True)) == [[0.2, 0.0, 0.0, 0.0]]


def test_a_preview_is_a_grey_picture_in_the_temp_folder() -> None:
    (file,) = mask_nodes.mask_preview(ROWS).files
    assert (file.kind, file.extension, file.width, file.height) == ("temp", "png", 3, 2)
    assert np.asarray(Image.open(io.BytesIO(file.data)))[1, 2].tolist() == [153] * 3


@pytest.mark.parametrize(
    ("change", "given"),
    [
        (mask_nodes.grow_mask, {}),
        (mask_nodes.feather_mask, {}),
        (mask_nodes.crop_mask, {}),
        (mask_nodes.mask_to_image, {}),
    ],
)
def test_masks_without_pixels_are_refused(change: Any, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected a mask with pixels, found one of shape \[1, 4, 0\]"):
        change(mask=torch.zeros(1, 4, 0), **given)
