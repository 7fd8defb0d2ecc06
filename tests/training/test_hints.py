"""Hints show where shapes are."""

from __future__ import annotations

import torch

from training.hints import canny, depth_hints, edge_hints
from training.world import coverage, distances, draw_scenes


def test_edges_lie_on_the_outline_and_nowhere_else() -> None:
    """Every edge pixel is within a pixel and a half of the outline, and nearly all of the outline has one next to it."""
    scenes = draw_scenes(12, torch.Generator().manual_seed(1))
    away = distances(scenes, 128).abs() * 64
    lines = canny(coverage(scenes, 128)) > 0
    assert away[lines].max() < 1.5
    near = torch.nn.functional.max_pool2d(lines.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0
    assert near[away < 0.5].float().mean() > 0.97


def test_edges_are_thin_and_a_plain_picture_has_none() -> None:
    """A square's edge has about as many pixels as its outline is long; no contrast, no edge."""
    picture = torch.zeros(1, 64, 64)
    picture[:, 16:48, 16:48] = 1
    assert 4 * 28 <= canny(picture).sum() <= 4 * 32 + 8
    assert canny(torch.full((1, 32, 32), 0.7)).sum() == 0


def test_thick_edges_cover_the_thin_ones() -> None:
    """With a generator a few hints are three pixels wide and hold the thin line; all are white on black in three equal channels."""
    cover = coverage(draw_scenes(32, torch.Generator().manual_seed(2)), 64)
    thin, mixed = edge_hints(cover), edge_hints(cover, torch.Generator().manual_seed(3))
    wider = mixed.sum((1, 2, 3)) > 2 * thin.sum((1, 2, 3))
    assert 2 <= wider.sum() <= 14
    assert (mixed >= thin).all()
    assert set(mixed.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(mixed[:, 0], mixed[:, 2])


def test_shapes_are_nearer_than_the_floor_and_the_floor_nearer_below() -> None:
    """In every depth hint the shape's middle is brighter than all of the rim, and the last row is no darker than the first."""
    scenes = draw_scenes(24, torch.Generator().manual_seed(4))
    depth = depth_hints(coverage(scenes, 64), torch.Generator().manual_seed(5))[:, 0]
    deep = distances(scenes, 64) < -4 / 32
    for hint, inside in zip(depth, deep, strict=True):
        rim = torch.cat([hint[0], hint[-1], hint[:, 0], hint[:, -1]])
        assert not inside.any() or hint[inside].min() > rim.max() - 0.02
        assert hint[-1].mean() >= hint[0].mean()
    assert depth.min() >= 0
    assert depth.max() <= 1
