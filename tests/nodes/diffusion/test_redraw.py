"""A large picture painted part by part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nodes.diffusion import redraw
from nodes.diffusion.redraw import Part, Plan, Seams, mask, parts, redrawn
from nodes.diffusion.tiles import Box


def corners(plan: Plan, height: int, width: int) -> list[tuple[int, int]]:
    return [(part.box.top, part.box.left) for part in parts(plan, height, width)]


def test_the_order_of_tiles() -> None:
    """Row by row, or first the one colour of a chess board; none at all."""
    assert corners(Plan(64, 64, "Linear"), 100, 140) == [(0, 0), (0, 64), (0, 128), (64, 0), (64, 64), (64, 128)]
    assert corners(Plan(64, 64, "Chess"), 100, 140) == [(0, 0), (0, 128), (64, 64), (0, 64), (64, 0), (64, 128)]
    assert corners(Plan(64, 64, "None"), 100, 140) == []


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("Band Pass", [(0, 56), (56, 0)]),
        ("Half Tile", [(32, 0), (32, 64), (0, 32), (64, 32)]),
        ("Half Tile + Intersections", [(32, 0), (32, 64), (0, 32), (64, 32), (32, 32)]),
    ],
)
def test_what_lies_across_seams(mode: redraw.SeamFix, expected: list[tuple[int, int]]) -> None:
    seams = Seams(mode=mode, denoise=0.7, width=16)
    assert corners(Plan(64, 64, "None", seams=seams), 128, 128) == expected
    assert {part.denoise for part in parts(Plan(64, 64, "None", seams=seams), 128, 128)} == {0.7}


def test_sizes_that_are_sampled() -> None:
    """All alike: as much of the picture as tile and twice the padding, at tile and padding; or as much as there is."""
    uniform = parts(Plan(64, 64, padding=16), 256, 256)
    assert {(part.height, part.width) for part in uniform} == {(80, 80)}
    assert uniform[5].region == Box(48, 144, 48, 144)
    assert uniform[0].region == Box(0, 80, 0, 80)
    cut = parts(Plan(64, 64, padding=16, uniform=False), 100, 100)
    assert [(part.region, part.height, part.width) for part in cut][3] == (Box(44, 100, 44, 100), 56, 56)


def test_masks_cover_the_picture() -> None:
    """Tiles without blur cover each pixel once; blurred, what lies at the picture's edge counts wholly, and half at a seam."""
    covered = torch.zeros(100, 140)
    for part in parts(Plan(64, 64, mask_blur=0), 100, 140):
        part.region.of(covered).add_(mask(part, 100, 140))
    assert torch.equal(covered, torch.ones(100, 140))
    first = parts(Plan(64, 64, mask_blur=4, padding=32), 128, 128)[0]
    soft = mask(first, 128, 128)
    assert soft[0, 0] == pytest.approx(1, abs=1e-5)
    assert float(soft[0, 63] + soft[0, 64]) == pytest.approx(1, abs=1e-4)


def test_what_is_painted_is_put_where_it_belongs() -> None:
    """A painter that changes nothing leaves the picture; one that adds its part's number makes the tiles seen; alpha stays."""
    picture = torch.rand(2, 72, 88, 4, generator=torch.Generator().manual_seed(0))
    plan = Plan(32, 32, mask_blur=0, padding=8, uniform=False)
    assert torch.allclose(redrawn(picture, plan, lambda seen, part: seen), picture, atol=1e-6)
    numbers = iter(range(100))

    def paint(seen: Tensor, part: Part) -> Tensor:
        return torch.full_like(seen, next(numbers) / 100)

    made = redrawn(picture, plan, paint)
    assert torch.equal(made[..., 3], picture[..., 3])
    assert made[0, 40, 40, 0] == pytest.approx(0.04)
    assert made[1, 71, 87, 2] == pytest.approx(0.08)


def test_conditioning_follows_the_part() -> None:
    """Areas in cells of what is sampled, those elsewhere left out; masks and pictures cut."""
    part = Part(Box(64, 128, 64, 128), "full", 0, Box(64, 128, 64, 128), 64, 64, 0.5)
    told = torch.zeros(1, 2, 3)
    grid = torch.arange(16.0).reshape(1, 4, 4)
    entries = [
        [told, {}],
        [told, {"area": (8, 8, 4, 4)}],
        [told, {"area": (4, 4, 0, 0)}],
        [told, {"area": ("percentage", 0.5, 0.5, 0.5, 0.5)}],
        [told, {"mask": grid, "concat_latent_image": grid[:, None]}],
    ]
    made = redraw.conditioning(entries, part, 128, 128)
    assert [options.get("area") for _, options in made] == [None, (4, 4, 0, 0), (8, 8, 0, 0), None]
    assert made[3][1]["mask"].tolist() == [[[10, 11], [14, 15]]]
    assert made[3][1]["concat_latent_image"].shape == (1, 1, 2, 2)
    assert entries[1][1] == {"area": (8, 8, 4, 4)}
