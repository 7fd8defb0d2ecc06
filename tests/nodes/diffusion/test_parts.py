"""What is known of the parts of models covers them all."""

from __future__ import annotations

from typing import get_args

import torch

from engine.model_folders import SUBFOLDERS
from engine.models import Part
from nodes.diffusion.devices import device_policy
from nodes.diffusion.parts import PARTS


def test_every_part_is_described_and_belongs_in_a_folder_that_is_read() -> None:
    assert set(PARTS) == set(get_args(Part))
    assert {kind.folder for kind in PARTS.values()} <= set(SUBFOLDERS)


def test_parts_compute_in_what_they_are_made_for() -> None:
    """The autoencoder follows bfloat16 alone, annotators nothing."""
    half, brain = device_policy("cpu", "float16"), device_policy("cpu", "bfloat16")
    assert [half.dtype(part) for part in ("unet", "vae", "annotator")] == [torch.float16, torch.float32, torch.float32]
    assert [brain.dtype(part) for part in ("unet", "vae", "annotator")] == [
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    ]
