"""The drawings show what the scenes say."""

from __future__ import annotations

import math

import pytest
import torch

from training.world import (
    COLOURS,
    COMBOS,
    HELD_OUT,
    OUTLINES,
    PALETTE,
    PLACED_RADII,
    PLACES,
    RADII,
    SHAPES,
    TRAINED,
    Combo,
    Scenes,
    arrange,
    coverage,
    draw_scenes,
    render,
    to_bytes,
)


def one_scene(combo: Combo, centre: tuple[float, float] = (0.0, 0.0), radius: float = 0.5) -> Scenes:
    return Scenes.unnamed(torch.tensor([combo]), torch.tensor([centre]), torch.tensor([radius]))


@pytest.mark.parametrize("combo", COMBOS[::37])
def test_middle_and_corners_have_the_palettes_colours(combo: Combo) -> None:
    """A filled shape has its colour in the middle and the ground's in all four corners, to the level."""
    picture = to_bytes(render(one_scene(combo), 128))[0]
    if SHAPES[combo.shape] != "ring":
        assert tuple(picture[64, 64].tolist()) == PALETTE[COLOURS[combo.colour]]
    for y, x in ((0, 0), (0, 127), (127, 0), (127, 127)):
        assert tuple(picture[y, x].tolist()) == PALETTE[COLOURS[combo.ground]]


def test_a_ring_shows_the_ground_in_its_middle() -> None:
    """A ring has a hole through which the ground is seen."""
    picture = to_bytes(render(one_scene(Combo(0, SHAPES.index("ring"), 2)), 128))[0]
    assert tuple(picture[64, 64].tolist()) == PALETTE["blue"]
    assert tuple(picture[64, 64 + 24].tolist()) == PALETTE["red"]


@pytest.mark.parametrize(
    ("shape", "area"),
    [("circle", math.pi), ("square", 1.76**2), ("triangle", 1.22**2 * 3 * math.sqrt(3) / 4)],
)
def test_areas_are_those_of_the_geometry(shape: str, area: float) -> None:
    """The covered share of the picture is the shape's area, within half a percent."""
    covered = coverage(one_scene(Combo(0, SHAPES.index(shape), 1)), 256).mean().item() * 4
    assert covered == pytest.approx(area * 0.5**2, rel=5e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_symmetric_left_to_right(shape: str) -> None:
    """Every shape is its own mirror image."""
    drawn = coverage(one_scene(Combo(0, SHAPES.index(shape), 1)), 128)
    torch.testing.assert_close(drawn, drawn.flip(-1), atol=1e-4, rtol=0)


def test_outlines_are_one_pixel_wide() -> None:
    """At most two pixels of each row's crossing of a circle's outline are partly covered."""
    drawn = coverage(one_scene(Combo(0, SHAPES.index("circle"), 1)), 128)[0]
    middle = drawn[64]
    assert ((middle > 0) & (middle < 1)).sum() <= 4
    assert set(drawn.unique().tolist()) >= {0.0, 1.0}


@pytest.mark.parametrize("size", range(len(PLACED_RADII)))
@pytest.mark.parametrize("place", range(1, len(PLACES)))
def test_placed_shapes_lie_where_their_place_says(place: int, size: int) -> None:
    """Centres are off the middle on the named side, or near it for "center", and the shape stays in the picture."""
    count = 64
    drawn = torch.tensor(TRAINED)[:count]
    scenes = arrange(drawn, torch.full((count,), place), torch.full((count,), size), torch.Generator().manual_seed(0))
    x, y = scenes.centre.T
    wanted = {"left": x < -0.2, "right": x > 0.2, "top": y < -0.2, "bottom": y > 0.2}
    assert wanted.get(PLACES[place], (x.abs() < 0.2) & (y.abs() < 0.2)).all()
    assert (scenes.centre.abs().amax(1) + 0.88 * scenes.radius).max() <= 1


def test_sizes_do_not_overlap() -> None:
    """Small, ordinary and large shapes differ in radius, all of them fit the picture, and none with a place is large."""
    scenes = draw_scenes(2000, torch.Generator().manual_seed(1), placed=0.3, sized=0.5)
    ordinary, small, large = (scenes.radius[(scenes.size == size) & (scenes.place == 0)] for size in range(len(RADII)))
    assert small.max() < ordinary.min() < ordinary.max() < large.min()
    assert not ((scenes.size == len(RADII) - 1) & (scenes.place > 0)).any()
    reach = scenes.radius * 1.22 + scenes.centre.abs().amax(1)
    assert reach[scenes.place == 0].max() < 1


def test_held_out_combinations_are_never_drawn_for_training() -> None:
    """Training draws none of the held-out combinations, and there are thirty-two of those."""
    scenes = draw_scenes(4000, torch.Generator().manual_seed(2))
    assert not {tuple(row) for row in scenes.combo.tolist()} & {tuple(combo) for combo in HELD_OUT}
    assert len(TRAINED) + len(HELD_OUT) == len(COMBOS) == 8 * 6 * 7
    assert len(set(HELD_OUT)) == 32


def test_the_same_seed_draws_the_same_pictures() -> None:
    """Scenes depend on the generator's seed alone."""
    first, second = (render(draw_scenes(8, torch.Generator().manual_seed(3)), 32) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_negative_inside_and_positive_far_away(shape: str) -> None:
    """The signed distance is positive at a corner of the picture and negative somewhere within the radius."""
    steps = torch.linspace(-1.5, 1.5, 61)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    distance = OUTLINES[shape](x, y)
    assert distance[0, 0] > 0
    assert distance.min() < -0.2
