"""Pictures and weights for IP-Adapters, on numbers that can be worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.errors import InputError
from nodes import ip_adapter_weights
from nodes.diffusion.ip_files import Vision, pattern, vision_pattern
from nodes.diffusion.ip_frames import Strategy, curve, frames, prompt_schedule
from nodes.diffusion.ip_pictures import noise, sharpened, squared, tiles


def gradient(height: int, width: int) -> Tensor:
    """A picture [1,h,w,3] that is its column in red and its row in green, out of 100."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows, 0 * rows], -1)[None] / 100


@pytest.mark.parametrize(
    ("position", "top", "left"),
    [("top", 0, 10), ("bottom", 0, 10), ("left", 0, 0), ("right", 0, 20), ("center", 0, 10)],
)
def test_a_wide_picture_is_cut_where_it_is_told(position: Any, top: int, left: int) -> None:
    """As Pillow makes it of the part; nothing is lost above and below."""
    picture = gradient(40, 60)
    part = (picture[0, top : top + 40, left : left + 40].numpy() * 255).astype(np.uint8)
    expected = np.asarray(Image.fromarray(part).resize((224, 224), Image.Resampling.LANCZOS)).astype(np.float32) / 255
    assert torch.equal(squared(picture, "LANCZOS", position, 0.0)[0], torch.from_numpy(expected))


def test_a_padded_picture_is_seen_whole() -> None:
    """Between black bars as wide as what it lacks."""
    found = squared(torch.ones(2, 20, 60, 3), "NEAREST", "pad", 0.0, side=60)
    assert found.shape == (2, 60, 60, 3)
    assert torch.equal(found[:, 20:40], torch.ones(2, 20, 60, 3))
    assert not found[:, :20].any()
    assert not found[:, 40:].any()


def test_sharpening_strengthens_edges_and_leaves_what_is_even() -> None:
    """A step of 0.4 to 0.6 grows; the middle of an even part stays."""
    planes = torch.full((1, 1, 9, 12), 0.4)
    planes[..., 6:] = 0.6
    found = sharpened(planes, 1.0)
    assert torch.allclose(found[..., 1:-1, 1:5], planes[..., 1:-1, 1:5], atol=1e-6)
    assert found[0, 0, 4, 5] < 0.4
    assert found[0, 0, 4, 6] > 0.6
    for amount, divisor in ((0.0, 8.0), (0.5, 6.5), (1.0, 5.0)):
        # the cross and the square have 0.4 as their least and 0.6 as their most; three neighbours are 0.4, one is 0.6
        weight = -((0.8 / 1.2) ** 0.5) / divisor
        expected = (0.4 + weight * 1.8) / (1 + 4 * weight)
        assert float(sharpened(planes, amount)[0, 0, 4, 5]) == pytest.approx(expected, abs=1e-6)
    mild = sharpened(planes, 0.0)
    assert 0.4 > mild[0, 0, 4, 5] > found[0, 0, 4, 5]
    assert torch.equal(sharpened(torch.zeros(1, 1, 4, 4), 1.0), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("kind", ["fade", "dissolve", "gaussian", "shuffle"])
def test_noise_can_be_made_again(kind: Any) -> None:
    """It follows from the picture, leaves the process's own random numbers alone, and stays within 0..1."""
    picture = gradient(30, 40)
    before = torch.random.get_rng_state()
    found = noise(kind, 0.5, 0, picture)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(found, noise(kind, 0.5, 0, picture))
    assert not torch.equal(found, noise(kind, 0.5, 0, picture.flip(2)))
    assert found.shape == (1, 224, 224, 3)
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    assert float(noise(kind, 0.5, 8, picture).std()) < float(found.std())
    assert noise(kind, 1.0, 0, None).shape == (1, 224, 224, 3)


def test_noise_of_no_strength_is_the_picture() -> None:
    """Its middle square, at the size that CLIP sees; shuffled it is turned about."""
    picture = (
        torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
        .repeat_interleave(28, 1)
        .repeat_interleave(28, 2)
    )
    for kind in ("fade", "dissolve", "gaussian"):
        assert torch.allclose(noise(kind, 0.0, 0, picture), picture, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "count", "grid"),
    [(90, 100, 4, (512, 512)), (100, 250, 3, (256, 640)), (600, 100, 4, (1024, 256))],
)
def test_tiles_cover_the_picture(height: int, width: int, count: int, grid: tuple[int, int]) -> None:
    """Of 256 pixels each, evenly apart; at most four in a row."""
    found, masks = tiles(gradient(height, width), None, 0.0)
    assert [tuple(tile.shape) for tile in found] == [(1, 256, 256, 3)] * count
    covered = torch.cat(masks).sum(0)
    assert tuple(covered.shape) == grid
    assert float(covered.min()) > 0.99


def test_tiles_are_parts_of_the_picture_in_their_places() -> None:
    """Together they are the picture at its size in tiles; of a very long one the middle is seen, and masks keep within the one given."""
    picture = torch.rand(1, 256, 640, 3, generator=torch.Generator().manual_seed(0))
    whole = (picture * 255).to(torch.uint8).float() / 255
    found, masks = tiles(picture, None, 0.0)
    for tile, mask, left in zip(found, masks, (0, 192, 384), strict=True):
        assert torch.equal(tile, whole[:, :, left : left + 256])
        assert mask.nonzero().amin(0).tolist() == [0, 0, left]
        assert mask.nonzero().amax(0).tolist() == [0, 255, left + 255]
    half = torch.zeros(1, 256, 640)
    half[:, :, :320] = 1.0
    _, masks = tiles(picture, half, 0.0)
    assert [float(mask.sum()) for mask in masks] == [256 * 256, 256 * 128, 0]
    long = torch.zeros(1, 20, 200, 3)
    long[:, :, 60:140] = 1.0
    assert all(bool(tile.eq(1).all()) for tile in tiles(long, None, 0.0)[0])


H = "CLIP-ViT-H-14-laion2B-s32B-b79K"


@pytest.mark.parametrize(
    ("name", "is_meant"),
    [
        ("ip-adapter_sd15.safetensors", True),
        ("a/IP_Adapter-SD15.bin", True),
        ("sd/ip adapter sd15.sft", True),
        ("my_ip-adapter_sd15.bin", True),
        ("skip-adapter_sd15.bin", False),
        ("ip-adapter-plus_sd15.bin", False),
        ("ip-adapter_sd15_light.bin", False),
        ("ip-adapter_sd15.txt", False),
    ],
)
def test_released_names_are_found(name: str, is_meant: bool) -> None:
    """In any folder and however their words are joined; names that are longer before their end are other files."""
    assert bool(pattern("ip-adapter_sd15").search(name)) == is_meant


@pytest.mark.parametrize(
    ("name", "vision"),
    [
        (f"{H}.safetensors", "ViT-H"),
        (f"clip/{H}/open_clip_pytorch_model.bin", "ViT-H"),
        ("h94/models/image_encoder/model.safetensors", "ViT-H"),
        ("SD1.5/pytorch_model.bin", "ViT-H"),
        ("clip_vit_bigg_14_laion2b_39b_b160k.safetensors", "ViT-bigG"),
        ("sdxl_models/image_encoder/model.safetensors", "ViT-bigG"),
        ("SDXL/model.safetensors", "ViT-bigG"),
        ("model.safetensors", None),
        (f"{H}-other.safetensors", None),
    ],
)
def test_vision_models_are_found_by_name_or_folder(name: str, vision: Vision | None) -> None:
    visions: list[Vision] = ["ViT-H", "ViT-bigG"]
    assert [it for it in visions if vision_pattern(it).search(name)] == ([] if vision is None else [vision])


# weights of frames


def strategy(weights: str = "0, 1", timing: str = "linear", **more: Any) -> Strategy:
    return Strategy(weights, timing, **more)


def test_curves_go_from_the_first_number_to_the_last() -> None:
    assert curve(strategy(frames=5)) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert curve(strategy(frames=6, start_frame=1, end_frame=4)) == [0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    assert curve(strategy("1, 7, 0", timing="ease_in_out", frames=3)) == pytest.approx([1.0, 0.5, 0.0])
    assert curve(strategy(timing="ease_in", frames=3))[1] == pytest.approx(0.5**0.5)
    assert curve(strategy(timing="ease_out", frames=3))[1] == pytest.approx(1 - 0.5**0.5)
    assert curve(strategy("0.1,\n0.2\n0.3", timing="custom")) == [0.1, 0.2, 0.3]
    drawn = curve(strategy(timing="random", frames=9))
    assert drawn == curve(strategy(timing="random", frames=9))
    assert len(set(drawn)) == 9


def test_what_are_no_weights_is_said() -> None:
    with pytest.raises(InputError, match=r"expected numbers between commas, found '1, x'"):
        curve(strategy("1, x"))
    with pytest.raises(InputError, match="expected a start_frame before frame 4"):
        curve(strategy(frames=4, start_frame=4))


def shades(count: int) -> Tensor:
    return torch.arange(count).reshape(count, 1, 1, 1).expand(-1, 2, 2, 3).float()


def shown(pictures: Tensor | None) -> list[int]:
    assert pictures is not None
    return [int(it) for it in pictures[:, 0, 0, 0]]


def test_pictures_fade_into_each_other() -> None:
    """Each with the whole curve; from each to the next; or up and down between them."""
    told = strategy(timing="custom", weights="0, 0.5, 1")
    whole = frames(told, shades(2))
    assert (whole.weights, shown(whole.first), whole.second) == ([0, 0.5, 1] * 2, [0, 0, 0, 1, 1, 1], None)
    shifted = frames(strategy(timing="custom", weights="0, 1", method="shift batches"), shades(3))
    assert (shifted.weights, shown(shifted.first), shown(shifted.second)) == ([0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 2, 2])
    for count, first, second, weights in (
        (3, [0, 0, 2, 2], [1, 1, 1, 1], [0, 1, 1, 0]),
        (4, [0, 0, 2, 2, 2, 2], [1, 1, 1, 1, 3, 3], [0, 1, 1, 0, 0, 1]),
    ):
        found = frames(strategy(timing="custom", weights="0, 1", method="alternate batches"), shades(count))
        assert (shown(found.first), shown(found.second), found.weights) == (first, second, weights)
    ends = frames(strategy(timing="custom", weights="0, 1", add_starting_frames=1, add_ending_frames=2), shades(2))
    assert (ends.weights, shown(ends.first)) == ([0, 0, 1, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1])


def test_weights_of_a_strategy_are_those_of_its_node() -> None:
    """And its prompts begin where pictures do."""
    made = ip_adapter_weights.ip_adapter_weights(weights="0, 1", timing="linear", frames=3, image=shades(2))
    again = ip_adapter_weights.ip_adapter_weights_from_strategy(weights_strategy=made[5], image=shades(2))
    assert made[0].tolist() == again[0].tolist() == [0, 0.5, 1] * 2
    assert made[1].tolist() == [1, 0.5, 0] * 2
    assert made[2] == 6
    schedule = ip_adapter_weights.prompt_schedule_from_weights_strategy(made[5], "a cat\n\na dog")
    assert schedule == '"0": "a cat",\n"3": "a dog",\n'
    assert prompt_schedule(strategy(), ["a cat"]) == ""
    both, count = ip_adapter_weights.ip_adapter_combine_weights(made[0], 0.25)
    assert (both.tolist()[-2:], count) == ([1.0, 0.25], 7)
