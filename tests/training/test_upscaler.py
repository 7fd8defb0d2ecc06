"""The upscaler is a file that is known for what it is, and better than bicubic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from spandrel import ImageModelDescriptor, ModelLoader

from training.base import MODELS
from training.config import UPSCALER
from training.export import save_halves
from training.upscaler import compare, decibels, make_upscaler, smaller, train_upscaler

SHIPPED = MODELS / "upscale_models" / "demo_x4.safetensors"


def test_the_tracked_file_is_known_and_beats_bicubic_by_far() -> None:
    """Read by its layout alone, four times as wide, and at least 2 dB better on drawings of held-out combinations."""
    found = ModelLoader().load_from_state_dict(load_file(SHIPPED))
    assert isinstance(found, ImageModelDescriptor)
    assert (found.architecture.id, found.scale, found.input_channels) == ("Compact", 4, 3)
    ours, plain = compare(found.model.float(), 8, 256)
    assert ours > plain + 2


def test_a_few_steps_end_in_a_file_of_the_same_form(tmp_path: Path) -> None:
    """Names and shapes are those of the tracked file, and all weights finite."""
    train_upscaler(replace(UPSCALER, steps=2, side=32, batch=2), tmp_path / "state.pt")
    save_halves(torch.load(tmp_path / "state.pt"), tmp_path / "net.safetensors")
    made, shipped = load_file(tmp_path / "net.safetensors"), load_file(SHIPPED)
    assert {key: it.shape for key, it in made.items()} == {key: it.shape for key, it in shipped.items()}
    assert all(it.isfinite().all() for it in made.values())


def test_what_is_measured_and_what_is_shown() -> None:
    """A tenth of difference everywhere is 20 dB; a quarter as wide keeps plain colours to the level."""
    assert abs(decibels(torch.full((2, 3, 8, 8), 0.5), torch.full((2, 3, 8, 8), 0.6)) - 20) < 1e-3
    assert torch.equal(smaller(torch.full((1, 3, 16, 16), 0.2)), torch.full((1, 3, 4, 4), 51 / 255))
    assert make_upscaler()(torch.rand(1, 3, 8, 12)).shape == (1, 3, 32, 48)
