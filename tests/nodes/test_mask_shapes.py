"""Masks blurred, cleaned, filled and cut out, on masks small enough to work out by hand."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from engine.errors import InputError
from nodes import mask_shapes as mask_nodes
from nodes.diffusion.mask_shapes import bell


def drawn(*rows: str) -> Tensor:
    """A mask of signs: ``#`` is masked."""
    return torch.tensor([[[float(sign == "#") for sign in row] for row in rows]])


def signs(mask: Tensor) -> list[str]:
    return ["".join("#" if value > 0.5 else "." for value in row) for row in mask[0]]


def test_a_blur_is_a_gaussian_of_so_many_pixels() -> None:
    """Even sizes are made odd; sigma follows from the size, as torchvision has it; a flat mask of any size stays."""
    mask = torch.rand(2, 9, 12, generator=torch.Generator().manual_seed(0))
    for amount, size in ((1, 1), (4, 5), (7, 7)):
        assert torch.allclose(
            mask_nodes.mask_blur(mask, amount), gaussian_blur(mask[:, None], [size, size])[:, 0], atol=1e-6
        )
    assert mask_nodes.mask_blur(mask, 0) is mask or torch.equal(mask_nodes.mask_blur(mask, 0), mask)
    assert torch.allclose(mask_nodes.mask_blur(torch.full((1, 2, 3), 0.25), 256), torch.full((1, 2, 3), 0.25))
    assert len(bell(256)) == 257
    assert mask_nodes.mask_blur(mask[0], 3).shape == (1, 9, 12)


def test_smoothing_takes_half_as_the_edge() -> None:
    mask = torch.tensor([[[0.2, 0.4, 0.6, 0.9]]])
    assert torch.equal(mask_nodes.mask_smooth(mask, 0), mask)
    assert torch.allclose(
        mask_nodes.mask_smooth(mask, 3), mask_nodes.mask_blur(torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), 3)
    )


@pytest.mark.parametrize(("axis", "expected"), [("x", ["##.", "..#"]), ("y", ["#..", ".##"]), ("xy", ["..#", "##."])])
def test_flips(axis: str, expected: list[str]) -> None:
    assert signs(mask_nodes.mask_flip(drawn(".##", "#.."), axis)) == expected


def test_a_colour_and_what_is_near_it() -> None:
    """In every channel, counted in 255ths; alpha does not count."""
    pixels = torch.tensor([[[[1.0, 0.5, 0.0, 0.1], [250 / 255, 0.5, 0.0, 0.9], [1.0, 0.5, 6 / 255, 1.0]]]])

    def masked(threshold: int) -> list[float]:
        found: Tensor = mask_nodes.mask_from_color(image=pixels, red=255, green=128, blue=0, threshold=threshold)
        return found.flatten().tolist()

    assert masked(0) == [1.0, 0.0, 0.0]
    assert masked(5) == [1.0, 1.0, 0.0]
    assert masked(6) == [1.0, 1.0, 1.0]


def test_a_bounding_box_holds_all_masks_of_the_batch() -> None:
    """With padding as far as there is room; the picture is cut alike, and said is where."""
    masks = torch.zeros(2, 6, 8)
    masks[0, 2, 3] = 0.1
    masks[1, 4, 1] = 1.0
    image = torch.arange(48.0).reshape(1, 6, 8, 1).expand(1, 6, 8, 3) / 48
    part, cut, *box = mask_nodes.mask_bounding_box(mask=masks, image_optional=image)
    assert box == [1, 2, 3, 3]
    assert part.shape == (2, 3, 3)
    assert (part[0, 0, 2], part[1, 2, 0]) == (pytest.approx(0.1), 1.0)
    assert torch.equal(cut[1], image[0, 2:5, 1:4])
    assert mask_nodes.mask_bounding_box(mask=masks, padding=2)[2:] == (0, 0, 6, 6)
    grey = mask_nodes.mask_bounding_box(mask=masks)[1]
    assert torch.equal(grey[..., 0], part)


def test_a_picture_of_another_size_is_brought_to_the_mask_s() -> None:
    mask = torch.zeros(1, 4, 4)
    mask[0, 1:3, 1:3] = 1
    _, cut, *_ = mask_nodes.mask_bounding_box(mask=mask, image_optional=torch.full((3, 9, 20, 3), 0.5))
    assert cut.shape == (1, 2, 2, 3)
    assert cut.mean().item() == pytest.approx(0.5, abs=1e-6)


def test_a_blur_makes_the_box_larger() -> None:
    mask = torch.zeros(1, 9, 9)
    mask[0, 4, 4] = 1
    assert mask_nodes.mask_bounding_box(mask=mask, blur=3)[2:] == (3, 3, 3, 3)


@pytest.mark.parametrize("mask", [torch.zeros(1, 4, 5), torch.zeros(4, 5)])
def test_nothing_has_no_bounding_box(mask: Tensor) -> None:
    """Said with the size and what to do."""
    with pytest.raises(InputError, match="one of 5 x 4 pixels in which nothing is; check what made it") as caught:
        mask_nodes.mask_bounding_box(mask=mask)
    assert caught.value.input == "mask"


RING = drawn("#####", "#...#", "#...#", "#####", "....#")


def test_fixing_closes_holes_and_takes_spots_away() -> None:
    """Holes and spots smaller than the number; larger ones stay."""
    assert signs(mask_nodes.mask_fix(mask=RING, fill_holes=2)) == signs(RING)
    assert signs(mask_nodes.mask_fix(mask=RING, fill_holes=3))[1:3] == ["#####"] * 2
    spot = drawn(".....", ".#.##", "...##", ".....")
    assert signs(mask_nodes.mask_fix(mask=spot, remove_isolated_pixels=2)) == [".....", "...##", "...##", "....."]
    dot = drawn(".....", ".....", "..#..", ".....", ".....")
    assert sum(row.count("#") for row in signs(mask_nodes.mask_fix(mask=dot, erode_dilate=3))) == 9
    assert torch.equal(mask_nodes.mask_fix(mask=mask_nodes.mask_fix(mask=dot, erode_dilate=3), erode_dilate=-3), dot)


def test_fixing_does_its_steps_in_order() -> None:
    """Grown first, blurred last; without any the mask stays."""
    mask = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mask_nodes.mask_fix(mask=mask), mask)
    grown = mask_nodes.mask_fix(mask=mask, erode_dilate=2)
    assert torch.allclose(
        mask_nodes.mask_fix(mask=mask, erode_dilate=2, smooth=3, blur=5),
        mask_nodes.mask_blur(mask_nodes.mask_smooth(grown, 3), 5),
    )


def test_holes_are_filled_and_bays_are_not() -> None:
    """A hole takes the largest value of the mask; what is masked in part keeps its own."""
    mask = torch.stack([RING[0], torch.zeros(5, 5)])
    filled = mask_nodes.mask_fill_holes(mask)
    assert signs(filled) == ["#####", "#####", "#####", "#####", "....#"]
    assert not filled[1].any()
    grey = RING * 0.5
    grey[0, 0, 0] = 0.25
    result = mask_nodes.mask_fill_holes(grey)
    assert (result[0, 1, 1], result[0, 0, 0], result[0, 4, 0]) == (0.5, 0.25, 0.0)


def test_growing_with_blur() -> None:
    """Grown as GrowMask grows, and inverted beside; shrunk where negative; the input may be inverted."""
    dot = drawn(".....", ".....", "..#..", ".....", ".....")
    mask, inverted = mask_nodes.grow_mask_with_blur(mask=dot, expand=1)
    assert signs(mask) == [".....", "..#..", ".###.", "..#..", "....."]
    assert torch.equal(inverted, 1 - mask)
    square, _ = mask_nodes.grow_mask_with_blur(mask=dot, expand=1, tapered_corners=False)
    assert signs(square)[1:4] == [".###."] * 3
    back, _ = mask_nodes.grow_mask_with_blur(mask=square, expand=-1, tapered_corners=False)
    assert torch.equal(back, dot)
    assert torch.equal(mask_nodes.grow_mask_with_blur(mask=dot, flip_input=True)[0], 1 - dot)
    whole, _ = mask_nodes.grow_mask_with_blur(mask=RING, fill_holes=True)
    assert signs(whole)[1:3] == ["#####"] * 2
    assert whole.max() == 1


def test_masks_of_a_batch_grow_in_turn() -> None:
    """Each faster than the one before; mixed with it, or with a share of it added."""
    dots = torch.zeros(3, 9, 9)
    dots[:, 4, 4] = 1
    masks, _ = mask_nodes.grow_mask_with_blur(mask=dots, expand=1, incremental_expandrate=1.0)
    assert masks.sum((1, 2)).tolist() == [5.0, 13.0, 25.0]
    pair = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    mixed, _ = mask_nodes.grow_mask_with_blur(mask=pair, lerp_alpha=0.25)
    assert mixed[1].tolist() == [[0.75, 0.25]]
    added, _ = mask_nodes.grow_mask_with_blur(mask=pair, decay_factor=0.5)
    assert added[1].tolist() == [[0.5, 1.0]]
    assert not mask_nodes.grow_mask_with_blur(mask=torch.zeros(2, 2, 2), decay_factor=0.5)[0].isnan().any()


def test_the_blur_of_a_grown_mask_is_pillow_s() -> None:
    """In 8 bits, as files made with it have it."""
    from PIL import ImageFilter

    dot = torch.zeros(1, 9, 9)
    dot[0, 4, 4] = 1
    mask, _ = mask_nodes.grow_mask_with_blur(mask=dot, blur_radius=1.5)
    levels = Image.fromarray((dot[0].numpy() * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))
    assert np.array_equal((mask[0] * 255).round().numpy().astype(np.uint8), np.asarray(levels))


def test_masks_in_batches() -> None:
    """Joined at the first's size, and taken out."""
    both = mask_nodes.mask_batch(torch.zeros(2, 4, 4), torch.ones(1, 8, 16))
    assert both.mean((1, 2)).tolist() == [0.0, 0.0, 1.0]
    numbered = torch.arange(4.0).view(4, 1, 1).expand(4, 2, 2)
    assert mask_nodes.mask_from_batch(numbered, 1, 2)[:, 0, 0].tolist() == [1.0, 2.0]
    assert mask_nodes.mask_from_batch(numbered, 9, 9)[:, 0, 0].tolist() == [3.0]


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"width": 6, "height": 3}, (6, 3)),
        ({"width": 6, "height": 0}, (6, 12)),
        ({"width": 6, "height": 6, "keep_proportions": True}, (3, 6)),
        ({"width": 0, "height": 2, "keep_proportions": True}, (1, 2)),
        ({"width": 0, "height": 0}, (2, 4)),
    ],
)
def test_resizing(given: dict[str, Any], size: tuple[int, int]) -> None:
    """To a size, or to one that fits into it."""
    mask, width, height = mask_nodes.resize_mask(
        mask=torch.ones(2, 4, 2), upscale_method="lanczos", crop="disabled", **given
    )
    assert (width, height) == size
    assert mask.shape == (2, height, width)
    assert mask.min() == 1


def test_a_preview_is_a_grey_picture() -> None:
    (file,) = mask_nodes.mask_preview_plus(torch.full((2, 3), 0.6)).files
    assert file.kind == "temp"
    assert np.asarray(Image.open(io.BytesIO(file.data)))[1, 2].tolist() == [153] * 3


@pytest.mark.parametrize(
    "change", [mask_nodes.mask_blur, mask_nodes.mask_fix, mask_nodes.mask_bounding_box, mask_nodes.grow_mask_with_blur]
)
def test_masks_without_pixels_are_refused(change: Any) -> None:
    with pytest.raises(InputError, match=r"expected a mask with pixels, found one of shape \[1, 0, 3\]"):
        change(mask=torch.zeros(1, 0, 3))
