"""The workflows of the demo set do what they say, measured on their pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.behaviour.test_workflows import ROOT, Execute, execute, pixels, seen
from training.grammar import Meaning
from training.style import outlined
from training.world import COLOURS, SHAPES

__all__ = ["execute"]  # the fixture

Mask = NDArray[np.bool_]
LEVEL = 1
"""Of 255, which a picture that was not touched may differ by: it was rounded once more."""


def source(name: str) -> NDArray[np.uint8]:
    return pixels(ROOT / "input" / name)


def standing(picture: NDArray[np.uint8]) -> Mask:
    """Where the shape is: what differs from the corner."""
    far: Mask = np.abs(picture.astype(int) - picture[2, 2].astype(int)).sum(-1) > 150
    return far


def near(picture: NDArray[Any], colour: tuple[int, int, int]) -> Mask:
    """Where a picture is about of a colour."""
    close: Mask = ((picture.astype(int) - colour) ** 2).sum(-1) < 90**2
    return close


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_a_shape_stands_where_the_edges_are(execute: Execute) -> None:
    """In colours of the prompt; edges are edges of the picture that they were taken from."""
    result, pictures = execute("controlnet_canny")
    assert result.status == "succeeded", result.failures
    drawn, edges = sorted(pictures, key=lambda path: "edges" in path.name)
    assert seen(drawn) == ("green", "star", "orange")
    assert overlap(standing(pixels(drawn)), standing(source("star.png"))) > 0.7
    assert 0.01 < (pixels(edges) > 0).mean() < 0.1


def test_two_nets_together_keep_the_place_of_what_they_were_shown(execute: Execute) -> None:
    _, (drawn,) = execute("controlnets_together")
    nearness = source("depth.png")[..., 0].astype(int)
    assert overlap(standing(pixels(drawn)), nearness > (nearness.min() + nearness.max()) / 2) > 0.7


def test_nothing_changes_outside_of_what_is_repainted(execute: Execute) -> None:
    """By the inpainting model, around a picture that is made wider, and around a part that is cut out and put back."""
    _, (repainted,) = execute("inpaint_model")
    difference = np.abs(pixels(repainted).astype(int) - source("heart.png").astype(int))
    difference[14 : 14 + 96, 22 : 22 + 96] = 0
    assert difference.max() <= LEVEL
    _, (wider,) = execute("outpaint")
    assert pixels(wider).shape == (128, 192, 3)
    kept = pixels(wider)[:, 32 + 8 : -32 - 8].astype(int)
    assert np.abs(kept - source("star.png")[:, 8:-8].astype(int)).max() <= LEVEL
    assert np.abs(pixels(wider)[8:-8, :24].astype(int) - source("star.png")[2, 2]).mean() < 20
    _, (stitched,) = execute("crop_and_stitch")
    large = np.asarray(Image.fromarray(source("heart.png")).resize((256, 256), Image.Resampling.LANCZOS)).astype(int)
    difference = np.abs(pixels(stitched).astype(int) - large)
    assert difference[:150, 100:].max() <= LEVEL
    assert difference[176:248, 8:80].max() > 100


def test_an_upscaler_draws_sharper_than_an_interpolation(execute: Execute) -> None:
    """Of a heart of 128 pixels, four times larger, against the drawing at that size."""
    _, (made,) = execute("upscale")
    small = Image.fromarray(source("heart.png"))
    plain = np.asarray(small.resize((512, 512), Image.Resampling.BICUBIC))

    def soft(picture: NDArray[np.uint8]) -> float:
        """The share of pixels that are neither of the shape nor of the ground."""
        green = picture[..., 1].astype(int)
        low, high = np.percentile(green, (2, 98))
        return float(((green > low + 0.2 * (high - low)) & (green < high - 0.2 * (high - low))).mean())

    assert soft(pixels(made)) < 0.6 * soft(plain)


def filled(picture: NDArray[np.uint8]) -> float:
    """The share of its bounding box that the shape covers."""
    mask = standing(picture)
    rows, columns = np.nonzero(mask)
    return float(mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean())


def test_a_style_draws_outlines(execute: Execute) -> None:
    """Of a blue heart: the line is closed and blue, its inside the ground's; in the schedule, too, where the style grows weaker."""
    heart = Meaning(COLOURS.index("blue"), SHAPES.index("heart"), COLOURS.index("white"))
    for name in ("lora", "lora_schedule"):
        _, (drawn,) = execute(name)
        assert outlined(pixels(drawn), heart)
        assert 0.05 < filled(pixels(drawn)) < 0.45
    assert filled(source("heart.png")) > 0.5


def test_prompts_keep_to_their_areas(execute: Execute) -> None:
    """Each half shows what its own prompt says."""
    _, (drawn,) = execute("area_composition")
    picture = pixels(drawn)
    assert picture.shape == (128, 224, 3)
    halves = picture[:, :112].astype(int), picture[:, 112:].astype(int)
    red, blue = ([float(near(half, colour).mean()) for half in halves] for colour in ((220, 40, 40), (40, 80, 220)))
    assert red[0] > 0.1 > 0.02 > red[1]
    assert blue[1] > 0.1 > 0.02 > blue[0]


def test_a_mask_of_a_colour_takes_over_that_part_alone(execute: Execute) -> None:
    """The white heart of one picture over the star of the other; far from it the star is as it was."""
    _, (made,) = execute("masks")
    picture, heart = pixels(made), source("heart.png")
    inside = heart.min(-1) == heart.min(-1).max()
    assert np.abs(picture[inside].astype(int) - heart[inside].astype(int)).max() <= 4  # the blur reaches in a little
    far = np.ones((128, 128), bool)
    rows, columns = np.nonzero(heart.min(-1) > 200)
    far[max(0, rows.min() - 20) : rows.max() + 20, max(0, columns.min() - 20) : columns.max() + 20] = False
    assert np.abs(picture[far].astype(int) - source("star.png")[far].astype(int)).max() <= LEVEL


def test_what_nets_are_shown_is_laid_out(execute: Execute) -> None:
    """Eight pictures in two rows, each of which shows something; the first are thin lines."""
    _, (sheet,) = execute("preprocessors")
    picture = pixels(sheet)
    assert picture.shape == (256, 512, 3)
    cells = [picture[y : y + 128, x : x + 128] for y in (0, 128) for x in range(0, 512, 128)]
    assert all(standing(cell).mean() > 0.005 for cell in cells)
    assert all(standing(cell).mean() < 0.15 for cell in cells[:3])
