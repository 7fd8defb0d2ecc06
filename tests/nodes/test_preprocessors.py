"""Preprocessors that need no weights: against OpenCV and small exact cases; what bad pictures come to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import nodes
from engine.errors import Cancelled, InputError, MissingFile
from engine.graph.graph import Call
from engine.registry import Registry
from nodes import preprocess_lines as lines
from nodes import preprocess_maps as maps
from nodes import preprocess_poses as poses
from nodes import preprocess_tools as tools
from nodes.annotating import Reads
from nodes.diffusion.annotators import colours, frames, hints, keypoints
from nodes.diffusion.annotators import lines as drawn
from tests.nodes.contexts import Heard, context
from tests.nodes.studio import Studio, link

REGISTRY = Registry()
nodes.register(REGISTRY)
WEIGHTLESS = [name for name in tools.PREPROCESSORS if not isinstance(REGISTRY[name].reads, Reads)]


def picture(height: int = 96, width: int = 128, count: int = 1) -> Tensor:
    """Pictures [n,h,w,3] with a bright disk on a slope, each a little different, in whole levels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disk = (((x - width / 2) ** 2 + (y - height / 2) ** 2) < (min(height, width) / 4) ** 2).float()
    whole = torch.stack([disk, x / width, y / height], -1)
    return torch.stack([(whole * (200 + index)).round() / 255 for index in range(count)])


def as_levels(result: Tensor) -> np.ndarray[Any, Any]:
    return (result * 255).round().to(torch.uint8).numpy()


def test_canny_is_opencv_s() -> None:
    """At the picture's own size the same edges, bit for bit, as three equal channels."""
    image = picture(128, 128)
    found = as_levels(lines.canny_edge(context(), image, 60, 120, resolution=128))
    expected = cv2.Canny(as_levels(image)[0], 60, 120)
    assert expected.any()
    assert (found[0] == expected[..., None]).all()


def test_the_shorter_side_gets_the_resolution() -> None:
    """What was added so that sides are multiples of 64 is cut off again: nothing is stretched."""
    result = lines.canny_edge(context(), picture(50, 90), resolution=128)
    assert result.shape == (1, 128, 230, 3)
    frame = frames.fitted(np.zeros((50, 90, 3), np.uint8), 128)
    assert frame.pixels.shape == (128, 256, 3)
    seen: list[tuple[int, ...]] = []

    def look(pixels: frames.Pixels) -> frames.Pixels:
        seen.append(pixels.shape)
        return pixels

    frames.annotated(picture(50, 90), look, lambda *_: None, 128)
    assert seen == [(128, 256, 3)]


def test_what_is_added_repeats_the_border() -> None:
    pixels = np.zeros((64, 70, 3), np.uint8)
    pixels[:, -1] = 7
    assert (frames.fitted(pixels, 64).pixels[:, 70:] == 7).all()


def test_pictures_are_done_one_after_the_other() -> None:
    """Each as if alone; progress is told of each, and a cancelled run stops between two."""
    heard, image = Heard(), picture(64, 64, count=3)
    whole = lines.lineart_standard(context(heard), image, resolution=64)
    assert [entry[:2] for entry in heard.progress] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert torch.equal(whole[1:2], lines.lineart_standard(context(), image[1:2], resolution=64))
    with pytest.raises(Cancelled):
        lines.lineart_standard(replace(context(), is_cancelled=lambda: True), image, resolution=64)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_grey_and_alpha(channels: int) -> None:
    """Grey is three equal channels; alpha lets white through."""
    levels = frames.levels(torch.full((2, 3, channels), 0.5))
    expected = 127 if channels in (1, 3) else 191
    assert levels.shape == (2, 3, 3)
    assert (abs(levels.astype(int) - expected) <= 1).all()


@pytest.mark.parametrize("name", WEIGHTLESS)
@pytest.mark.parametrize("size", [(1, 1), (2, 300), (64, 64)])
def test_small_and_narrow_pictures(name: str, size: tuple[int, int]) -> None:
    """Every preprocessor gives a finite picture in 0..1 of what has hardly any pixels, or one colour."""
    spec = REGISTRY[name]
    sized = {"resolution": 64} if spec.input("resolution") else {}
    result = spec(context(), torch.full((1, *size, 3), 0.5), **sized)
    assert result.ndim == 4
    assert result.shape[-1] == 3
    assert 0 <= result.min() <= result.max() <= 1


def test_a_strip_too_long_is_refused() -> None:
    with pytest.raises(InputError, match="would be 640000 x 64; crop it"):
        lines.canny_edge(context(), torch.zeros(1, 2, 20_000, 3), resolution=64)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 0, 8, 3), (8, 8, 3)])
def test_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected pictures"):
        lines.canny_edge(context(), torch.zeros(shape))


def test_lines_of_exact_cases() -> None:
    """Thresholds, blurs that differ, and ridges, on a black stroke three pixels wide."""
    paper = np.full((64, 64, 3), 255, np.uint8)
    paper[:, 30:33] = 0
    assert (drawn.binary(paper, 100) == drawn.scribble(paper)).all()
    assert (drawn.scribble(paper) == paper[..., 0]).all()
    xdog, standard = drawn.xdog(paper, 32), drawn.standard(paper, 6.0, 8)
    for found in (xdog, standard):
        assert found[:, 31].min() > 100
        assert found[:, :20].max() == found[:, 44:].max() == 0
    flat = np.full((64, 64, 3), 90, np.uint8)
    assert (
        drawn.standard(flat, 6.0, 8).max()
        == drawn.xdog(flat, 32).max()
        == drawn.pyramid_canny(flat, 64, 128).max()
        == 0
    )
    ramp = np.tile((np.arange(64) < 32) * np.uint8(200), (64, 1))
    assert drawn.thinned(ramp)[:, 50:].max() == 0


def test_otsu_parts_the_levels() -> None:
    """With 0 or 255 the threshold is found: between the two levels there are, however close."""
    pixels = np.full((8, 8, 3), 60, np.uint8)
    pixels[:4] = 80
    for threshold in (0, 255):
        found = drawn.binary(pixels, threshold)
        assert (found[:4] == 255).all()
        assert (found[4:] == 0).all()


def test_strokes_too_small_are_left_out() -> None:
    """AnyLine: pieces below the least size go; with corners counted, two pixels make one piece."""
    soft = np.zeros((10, 10), np.uint8)
    strokes = np.zeros((10, 10), np.uint8)
    strokes[1:3, 1:3], strokes[6, 6], strokes[7, 7] = 255, 128, 128
    assert np.count_nonzero(drawn.with_strokes(soft, strokes, 0, 1, 3, 1)) == 4
    assert np.count_nonzero(drawn.with_strokes(soft, strokes, 0, 1, 2, 2)) == 6
    assert np.count_nonzero(drawn.with_strokes(soft, strokes, 0, 0.9, 1, 1)) == 2


def test_a_shuffle_follows_from_its_seed() -> None:
    image = picture()
    first, again, other = (maps.shuffle(context(), image, 64, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (1, 64, 85, 3)
    assert first.max() <= image.max() + 1e-6


def test_a_palette_has_one_colour_in_each_square() -> None:
    found = as_levels(maps.colour_palette(context(), picture(128, 128), 128))[0]
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 4
    assert (found[:64, :64] == found[0, 0]).all()


def test_brightness() -> None:
    """The brightest channel, to a power; lightness is that of CIE with red and blue exchanged."""
    pixels = np.array([[[10, 200, 30], [255, 255, 255]]], np.uint8)
    assert colours.brightness(pixels, "intensity", 1.0).tolist() == [[200, 255]]
    assert colours.brightness(pixels, "intensity", 2.0).tolist() == [[int((200 / 255) ** 2 * 255), 255]]
    red, blue = (colours.brightness(np.eye(3, dtype=np.uint8)[None, [i]] * 255, "luminance", 1.0) for i in (0, 2))
    assert red.item() < blue.item()


def test_tiles_keep_what_is_even_and_lose_detail() -> None:
    """One colour stays; stripes become grey; the guided filter keeps an edge that a blur of the same reach takes."""
    even = np.full((128, 64, 3), 120, np.uint8)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    detect: list[Callable[[Any], Any]] = [
        lambda it: colours.tile(it, 2),
        lambda it: colours.tile_simple(it, 4.0, 3.0),
        lambda it: colours.tile_guided(it, 4.0, 3.0, 7, 0.01),
    ]
    for find in detect:
        assert (abs(find(even).astype(int) - 120) <= 1).all()
        assert find(even).shape == even.shape
        assert np.ptp(find(stripes)[8:-8, 8:-8]) < 60
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 200
    guided, simple = colours.tile_guided(edge, 1.0, 1.0, 7, 0.001), cv2.blur(edge, (15, 15))
    assert np.ptp(guided[32, 30:34, 0]) > np.ptp(simple[32, 30:34, 0]) + 100


def test_inpainting_marks_what_is_masked() -> None:
    """-1 where the mask, at the picture's size, is above a half; some models want black."""
    image, mask = picture(8, 8, count=2), torch.zeros(1, 4, 4)
    mask[:, :2] = 1
    found = maps.inpaint(image, mask)
    assert (found[:, :3] == -1).all()
    assert torch.equal(found[:, 5:], image[:, 5:])
    assert (maps.inpaint(image, mask, True)[:, :3] == 0).all()
    with pytest.raises(InputError, match=r"as many as there are pictures \(2\)"):
        maps.inpaint(image, torch.zeros(3, 8, 8))


@pytest.mark.parametrize(
    ("mode", "expected"), [("Just Resize", 1024), ("Crop and Resize", 1024), ("Resize and Fill", 512)]
)
def test_pixel_perfect(mode: Any, expected: int) -> None:
    assert tools.pixel_perfect(torch.zeros(1, 256, 512, 3), 1024, 1024, mode) == expected
    assert hints.pixel_perfect(256, 512, 1024, 1024, mode) == expected


def test_sizes_are_told() -> None:
    assert tools.size_of_image(torch.zeros(1, 20, 30, 3)) == (30, 20)
    assert tools.size_of_latent({"samples": torch.zeros(1, 4, 20, 30)}) == (240, 160)


def test_hints_stay_what_they_are() -> None:
    """Lines of one pixel stay thin and white when enlarged, segments keep their colours, and filling adds the border's colour."""
    thin = np.zeros((64, 64, 3), np.uint8)
    thin[32] = 255
    large = hints.resized(thin, 256, 256, "Just Resize")
    assert set(np.unique(large)) == {0, 255}
    assert 1 <= np.count_nonzero(large[:, 128, 0]) <= 2
    segments = np.zeros((8, 8, 3), np.uint8)
    segments[:4], segments[:, :2] = (120, 120, 120), (4, 200, 3)
    assert {tuple(c) for c in hints.resized(segments, 64, 64, "Just Resize").reshape(-1, 3)} == {
        tuple(c) for c in segments.reshape(-1, 3)
    }
    whole = np.full((32, 64, 3), 50, np.uint8)
    assert (hints.resized(whole, 64, 64, "Resize and Fill") == 50).all()
    assert hints.resized(whole, 64, 96, "Crop and Resize").shape == (96, 64, 3)


POSE = {
    "people": [{"pose_keypoints_2d": [0.5, 0.25, 1.0, 0.5, 0.5, 1.0, *([0.0] * 48)], "face_keypoints_2d": None}],
    "canvas_height": 64,
    "canvas_width": 128,
}


def test_poses_are_drawn_from_their_points() -> None:
    """Parts of the canvas and pixels are the same points; nobody, or nothing to be shown, is black."""
    found = poses.render_people([POSE])
    assert found.shape == (1, 64, 128, 3)
    assert as_levels(found)[0, 16, 64].tolist() == [255, 0, 0]
    assert as_levels(found)[0, 32, 64].tolist() == [255, 85, 0]
    pixels = json.loads(json.dumps(POSE))
    pixels["people"][0]["pose_keypoints_2d"][:6] = [64, 16, 1, 64, 32, 1]
    assert torch.equal(poses.render_people([pixels]), found)
    assert poses.render_people([POSE], render_body=False).max() == 0
    assert poses.render_people([{**POSE, "people": []}]).max() == 0
    with pytest.raises(InputError, match="canvas_width"):
        poses.render_people([{"people": []}])


def test_wide_sticks_are_wider_in_large_pictures() -> None:
    large = {**POSE, "canvas_height": 600, "canvas_width": 1200}
    usual, wide = (np.count_nonzero(keypoints.drawn(large, wide=wide)) for wide in (False, True))
    assert wide > 1.5 * usual


def test_points_are_saved_as_json(studio: Studio) -> None:
    result = poses.save_pose_keypoints([POSE], "poses/a")
    (file,) = result.files
    assert json.loads(file.data) == [POSE]
    assert (file.prefix, file.extension) == ("poses/a", "json")


def test_without_its_weights_a_preprocessor_says_what_it_needs() -> None:
    """The file, where it belongs, and how to get it."""
    with pytest.raises(
        MissingFile, match=r"HED at models/annotators/lllyasviel/Annotators/ControlNetHED\.pth.* pull hed"
    ):
        lines.hed(context(), picture())


def test_every_preprocessor_names_its_files() -> None:
    """A pickle's safetensors twin is looked for first; what is chosen decides."""
    spec = REGISTRY["LineArtPreprocessor"]
    assert spec.reads is not None
    names = [name for _, name in spec.reads(image=None, coarse="enable", resolution=512)]
    assert names == ["lllyasviel/Annotators/sk_model2.safetensors", "lllyasviel/Annotators/sk_model2.pth"]
    depth = REGISTRY["DepthAnythingV2Preprocessor"]
    assert depth.reads is not None
    assert ("annotators", "depth-anything/Depth-Anything-V2-Small-hf") in depth.reads(
        ckpt_name="depth_anything_v2_vits.pth"
    )


def test_one_node_for_all(studio: Studio) -> None:
    """It becomes the chosen preprocessor; with none the picture is as it was."""
    source = {"image": Call("EmptyImage", {"width": 70, "height": 64, "batch_size": 1, "color": 0x804020})}

    def made(name: str) -> Tensor:
        given = {"image": link("image"), "preprocessor": name, "resolution": 64}
        (image,) = studio.values({**source, "all": Call("AIO_Preprocessor", given)}, "all")
        found: Tensor = image
        return found

    assert torch.equal(made("none"), studio.values(source, "image")[0])
    assert made("BinaryPreprocessor").shape == (1, 64, 70, 3)
    assert "ControlNetHED.pth" in studio.failure(
        {**source, "all": Call("AIO_Preprocessor", {"image": link("image"), "preprocessor": "HEDPreprocessor"})}, "all"
    )


def test_all_that_can_run_run(studio: Studio) -> None:
    """One picture for each preprocessor without weights; the others are named in a warning."""
    calls = {
        "image": Call("EmptyImage", {"width": 70, "height": 64, "batch_size": 1, "color": 0x804020}),
        "all": Call("ExecuteAllControlNetPreprocessors", {"image": link("image"), "resolution": 64}),
    }
    (batch,) = studio.values(calls, "all")
    assert len(batch) == len(WEIGHTLESS)
    assert "HEDPreprocessor" in studio.warnings[0]


def test_offered_preprocessors_are_there() -> None:
    assert all(name in REGISTRY for name in tools.PREPROCESSORS)
