"""The judge names what drawings show, and is not easily pleased."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from training.grammar import Meaning
from training.judge import Picture, look
from training.world import COMBOS, SHAPES, Combo, Scenes, draw_scenes, render, to_bytes


def drawn(count: int, seed: int, side: int = 128) -> tuple[list[Picture], list[Meaning]]:
    scenes = draw_scenes(count, torch.Generator().manual_seed(seed), COMBOS, placed=0.4, sized=0.4)
    return list(to_bytes(render(scenes, side)).numpy()), [Meaning(*row) for row in scenes.combo.tolist()]


def picture_of(combo: Combo, centre: tuple[float, float] = (0.0, 0.0), radius: float = 0.5) -> Picture:
    scene = Scenes.unnamed(torch.tensor([combo]), torch.tensor([centre]), torch.tensor([radius]))
    return to_bytes(render(scene, 128))[0].numpy()


@pytest.mark.parametrize("side", [64, 128, 192])
def test_every_drawing_is_recognised_and_clean(side: int) -> None:
    """Drawings of the world, in all places and sizes, agree with what was drawn and count as clean."""
    pictures, meanings = drawn(24, seed=1, side=side)
    for picture, meaning in zip(pictures, meanings, strict=True):
        found = look(picture)
        assert found.agrees(meaning)
        assert found.clean()


def test_a_wrong_colour_shape_or_ground_is_refused() -> None:
    """A red circle on blue agrees with no caption that differs in one part."""
    found = look(picture_of(Combo(0, 0, 2)))
    assert found.agrees(Meaning(0, 0, 2))
    assert not found.agrees(Meaning(1, 0, 2))
    assert not found.agrees(Meaning(0, 1, 2))
    assert not found.agrees(Meaning(0, 0, 3))


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_no_shape_passes_for_another(shape: int) -> None:
    """Each shape is told from the other five at every size that captions can name."""
    for radius in (0.22, 0.5, 0.8):
        assert look(picture_of(Combo(3, shape, 4), radius=radius)).shape == shape


def test_an_empty_picture_shows_no_shape() -> None:
    """A plain ground has a colour and nothing on it."""
    found = look(np.full((128, 128, 3), (40, 80, 220), dtype=np.uint8))
    assert (found.colour, found.shape, found.ground) == (None, None, 2)
    assert not found.clean()


def test_noise_agrees_with_nothing() -> None:
    """Random pixels never pass as a clean shape."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    assert not any(look(picture).clean() for picture in noise)


def test_a_colour_between_two_of_the_palette_has_no_name() -> None:
    """Grey is none of the eight colours, as ink or as ground."""
    picture = picture_of(Combo(0, 0, 2)).copy()
    picture[(picture == (220, 40, 40)).all(-1)] = (128, 128, 128)
    assert look(picture).colour is None


def test_wobbly_outlines_measure_as_wobbly() -> None:
    """A circle whose radius varies by a tenth has a wobble of several pixels' fraction, a true circle next to none."""
    side, steps = 128, np.arange(128) - 63.5
    y, x = np.meshgrid(steps, steps, indexing="ij")
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    true, wavy = radius < 32, radius < 32 + 3.2 * np.sin(5 * angle)
    pictures = [np.where(mask[..., None], (220, 40, 40), (250, 250, 250)).astype(np.uint8) for mask in (true, wavy)]
    assert pictures[0].shape == (side, side, 3)
    true_wobble, wavy_wobble = (look(picture).wobble for picture in pictures)
    assert true_wobble < 0.4
    assert wavy_wobble > 1.2


def test_an_oblong_circle_is_not_clean() -> None:
    """An ellipse of 3 to 2 is too far from every ideal shape to be clean."""
    y, x = np.meshgrid(np.arange(128) - 63.5, np.arange(128) - 63.5, indexing="ij")
    mask = (x / 42) ** 2 + (y / 28) ** 2 < 1
    picture = np.where(mask[..., None], (220, 40, 40), (250, 250, 250)).astype(np.uint8)
    assert not look(picture).clean()


def test_two_blobs_are_not_clean() -> None:
    """A second blob a tenth as large as the first takes a picture out of the clean ones."""
    picture = picture_of(Combo(0, 0, 6)).copy()
    picture[4:20, 4:20] = (220, 40, 40)
    found = look(picture)
    assert found.shape == 0
    assert found.whole < 0.98
    assert not found.clean()


def test_blur_measures_as_soft() -> None:
    """Blurring the outline over several pixels at least doubles the softness."""
    picture = picture_of(Combo(0, 1, 6))
    blurred = ndimage.gaussian_filter(picture.astype(np.float64), (2, 2, 0)).astype(np.uint8)
    assert look(blurred).softness > 2 * look(picture).softness


def test_uneven_colour_measures_as_uneven() -> None:
    """A gradient across the ground shows in the unevenness, a flat drawing has none."""
    picture = picture_of(Combo(0, 1, 6))
    shaded = (picture * np.linspace(0.85, 1.0, 128)[None, :, None]).astype(np.uint8)
    assert look(picture).unevenness < 0.5
    assert look(shaded).unevenness > 5


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_radius_and_centre_are_those_that_were_drawn(shape: int) -> None:
    """Reading a drawing off gives back what it was drawn from, to a hundredth of the half side."""
    found = look(picture_of(Combo(5, shape, 7), radius=0.47))
    assert found.radius == pytest.approx(0.47, abs=0.01)
    assert found.centre[0] == pytest.approx(0.0, abs=0.01)
