"""Crop and stitch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from engine.run.codecs import decode, encode
from nodes.codecs import LEAVES
from nodes.diffusion.stitching import Filters, with_holes_filled
from nodes.inpaint_crop import inpaint_crop, inpaint_crop_improved, inpaint_stitch, inpaint_stitch_improved

PLAIN: dict[str, Any] = {"output_resize_to_target_size": False, "output_padding": "8"}


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(1, 60, 80, 3, generator=torch.Generator().manual_seed(0))


def marked(top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(1, 60, 80)
    mask[:, top:bottom, left:right] = 1
    return mask


def _from_disk(stitcher: dict[str, Any]) -> Any:
    codecs = {codec.type_name: codec for codec in LEAVES}
    kept = encode(stitcher, codecs)

    def leaf(index: int) -> Any:
        stored = kept.leaves[index]
        return codecs[stored.type_name].decode(stored.header, [memoryview(bytearray(part)) for part in stored.buffers])

    return decode(kept.tree, leaf)


def changed(picture: Tensor, made: Tensor) -> tuple[int, int, int, int]:
    """Where the first of two pictures differ."""
    rows, columns = (picture != made).any(-1)[0].any(1).nonzero(), (picture != made).any(-1)[0].any(0).nonzero()
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def test_outside_of_the_mask_nothing_changes(picture: Tensor) -> None:
    """Bit for bit; inside, without blending, is what was painted. The piece has the proportions and the size that were asked for."""
    mask = marked(20, 30, 24, 44)
    stitcher, piece, seen = inpaint_crop_improved(image=picture, mask=mask, mask_blend_pixels=0, **PLAIN)
    assert piece.shape == (1, 16, 24, 3)
    assert float(seen.sum()) == 200
    made = inpaint_stitch_improved(stitcher, 1 - piece)
    assert changed(picture, made) == (20, 30, 24, 44)
    assert torch.equal(made[:, 20:30, 24:44], (1 - picture)[:, 20:30, 24:44])
    assert torch.equal(inpaint_stitch_improved(stitcher, piece), picture)


@pytest.mark.parametrize("target", [(64, 64), (128, 64), (512, 512)])
def test_a_target_size(picture: Tensor, target: tuple[int, int]) -> None:
    """Scaled there and back; what is blended in reaches no farther than the mask has grown."""
    mask = marked(0, 12, 60, 80)
    stitcher, piece, seen = inpaint_crop_improved(
        image=picture, mask=mask, mask_blend_pixels=8, output_target_height=target[0], output_target_width=target[1]
    )
    assert piece.shape == (1, *target, 3)
    assert seen.shape == (1, *target)
    made = inpaint_stitch_improved(stitcher, torch.zeros_like(piece))
    reach = changed(picture, made)
    assert reach[0] == 0
    assert reach[3] == 80
    assert 12 <= reach[1] <= 12 + 12
    assert 60 - 12 <= reach[2] <= 60
    assert float(made[0, 4, 70].max()) < 0.01


def test_a_cut_beyond_the_picture_repeats_its_edge(picture: Tensor) -> None:
    """The whole picture is marked and a square wanted: rows above and below, which are gone afterwards."""
    stitcher, piece, _ = inpaint_crop_improved(
        image=picture, mask=torch.ones(1, 60, 80), mask_blend_pixels=0, output_target_width=80, output_target_height=80,
        output_padding="0",
    )  # fmt: skip
    assert torch.equal(piece[:, 10:70], picture)
    assert torch.equal(piece[:, :10], picture[:, :1].expand(-1, 10, -1, -1))
    assert torch.equal(inpaint_stitch_improved(stitcher, piece), picture)


def test_context_outpainting_and_preresize(picture: Tensor) -> None:
    """More is cut out for a context mask; outpainting marks what is new; a smaller picture is made larger first."""
    mask, context = marked(20, 28, 20, 28), marked(0, 4, 70, 80)
    _, piece, seen = inpaint_crop_improved(
        image=picture, mask=mask, optional_context_mask=context, mask_blend_pixels=0, **PLAIN
    )
    assert piece.shape == (1, 32, 64, 3)
    assert float(seen.sum()) == 64
    stitcher, piece, seen = inpaint_crop_improved(
        image=picture, extend_for_outpainting=True, extend_right_factor=1.5, mask_blend_pixels=0, **PLAIN
    )
    made = inpaint_stitch_improved(stitcher, torch.zeros_like(piece))
    assert made.shape == (1, 60, 120, 3)
    assert torch.equal(made[:, :, :80], picture)
    assert float(made[:, :, 80:].max()) == 0
    stitcher, piece, _ = inpaint_crop_improved(
        image=picture, mask=mask, preresize=True, preresize_min_width=160, preresize_min_height=0, **PLAIN
    )
    assert inpaint_stitch_improved(stitcher, piece).shape == (1, 120, 160, 3)


def test_batches_and_what_is_kept_on_disk(picture: Tensor) -> None:
    """One picture for two masks, each put back into its own; the stitcher comes back from bytes."""
    masks = torch.cat([marked(0, 8, 0, 8), marked(40, 56, 40, 56)])
    given, piece, _ = inpaint_crop_improved(
        image=picture, mask=masks, mask_blend_pixels=0, output_target_width=64, output_target_height=64
    )
    made = inpaint_stitch_improved(_from_disk(given), torch.zeros_like(piece))
    assert [changed(picture, one[None]) for one in made] == [(0, 8, 0, 8), (40, 56, 40, 56)]
    with pytest.raises(InputError, match="2 pictures for the 2 that were cropped, found 3"):
        inpaint_stitch_improved(given, torch.zeros(3, 64, 64, 3))
    with pytest.raises(InputError, match="crops of one size"):
        inpaint_crop_improved(image=picture, mask=masks, mask_blend_pixels=0, **PLAIN)


def test_holes_are_filled() -> None:
    ring = marked(10, 20, 10, 20)
    ring[:, 12:18, 12:18] = 0
    assert torch.equal(with_holes_filled(ring), marked(10, 20, 10, 20))


@pytest.mark.parametrize(
    ("mode", "size"), [("free size", (32, 32)), ("forced size", (48, 96)), ("ranged size", (64, 64))]
)
def test_the_older_nodes(picture: Tensor, mode: str, size: tuple[int, int]) -> None:
    """Three ways to say a size; nothing changes outside of the mask, and what was not painted over comes back."""
    mask = marked(20, 32, 20, 32)
    options: dict[str, Any] = {"blur_mask_pixels": 0.0, "blend_pixels": 0.0, "context_expand_pixels": 10, "padding": 16}
    stitch, piece, _ = inpaint_crop(
        image=picture, mask=mask, mode=mode, force_height=48, force_width=96, min_width=64, min_height=64, max_width=64,
        max_height=64, **options,
    )  # fmt: skip
    assert piece.shape == (1, *size, 3)
    made = inpaint_stitch(stitch, torch.zeros_like(piece))
    assert changed(picture, made) == (20, 32, 20, 32)
    assert float(made[:, 20:32, 20:32].max()) == 0


def test_pictures_of_one_size_are_not_resampled() -> None:
    planes = torch.rand(1, 3, 5, 7)
    assert Filters("lanczos", "lanczos").scaled(planes, 5, 7) is planes


def test_the_mask_of_which_there_are_too_many_is_named(picture: Tensor) -> None:
    """One picture, one mask, two masks of what lies around."""
    one = marked(4, 8, 4, 8)
    with pytest.raises(InputError, match=r"as many as there are pictures \(1\), found 2") as caught:
        inpaint_crop(image=picture, mask=one, optional_context_mask=one.repeat(2, 1, 1))
    assert caught.value.input == "optional_context_mask"
