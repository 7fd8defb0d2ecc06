"""The latent nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import Digest
from nodes import latent as latent_nodes
from nodes.diffusion.resize import bislerp, slerp


def test_empty_latent_has_an_eighth_of_the_pixels() -> None:
    """[B, 4, H/8, W/8], zeros."""
    samples = latent_nodes.empty_latent_image(72, 64, 2)["samples"]
    assert samples.shape == (2, 4, 8, 9)
    assert not samples.any()


def test_repeated_samples_get_places_of_their_own_in_the_noise() -> None:
    """batch_index goes on counting where the batch ended."""
    repeated = latent_nodes.repeat_latent_batch(
        {"samples": torch.arange(2.0).view(2, 1, 1, 1), "batch_index": [3, 4]}, 2
    )
    assert repeated["samples"].flatten().tolist() == [0, 1, 0, 1]
    assert repeated["batch_index"] == [3, 4, 5, 6]


def test_a_sample_cut_from_a_batch_remembers_its_place() -> None:
    """Sampled alone it gets the noise it had among the others; lengths beyond the end are shortened."""
    batch = {"samples": torch.arange(4.0).view(4, 1, 1, 1), "noise_mask": torch.arange(2.0).view(2, 1, 1, 1)}
    part = latent_nodes.latent_from_batch(batch, 2, 5)
    assert part["samples"].flatten().tolist() == [2, 3]
    assert part["batch_index"] == [2, 3]
    assert part["noise_mask"].flatten().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("width", "height", "size"), [(0, 0, (4, 8)), (128, 0, (8, 16)), (16, 16, (8, 8)), (128, 64, (8, 16))]
)
def test_latent_upscale_counts_in_pixels_and_keeps_a_least_size(width: int, height: int, size: tuple[int, int]) -> None:
    """Sides in pixels, never below 64; a side of 0 follows from the other."""
    scaled = latent_nodes.latent_upscale(
        samples={"samples": torch.zeros(1, 4, 4, 8)},
        upscale_method="bilinear",
        width=width,
        height=height,
        crop="disabled",
    )
    assert scaled["samples"].shape[-2:] == size


def test_slerp_walks_the_circle() -> None:
    """Half-way between two unit vectors at a right angle lies the unit vector between them; lengths mix linearly."""
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    middle = slerp(a, b, torch.tensor([[0.5]]))
    assert torch.allclose(middle, torch.tensor([[2**0.5, 2**0.5]]))
    assert torch.allclose(slerp(a, a, torch.tensor([[0.3]])), a)
    assert torch.allclose(slerp(a, -a, torch.tensor([[0.25]])), 0.5 * a)


def test_bislerp_keeps_the_length_that_bilinear_loses() -> None:
    """Between two orthogonal latents of length 1 every new cell has length 1."""
    latent = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    wide = bislerp(latent, 8, 1)
    assert torch.allclose(wide.norm(dim=1), torch.ones(1, 1, 8), atol=1e-5)
    assert torch.allclose(wide[..., 0], latent[..., 0])
    assert torch.allclose(wide[..., -1], latent[..., -1])


def test_a_saved_latent_is_read_back_exactly(tmp_path: Path) -> None:
    """SaveLatent's file, read by LoadLatent."""
    samples = torch.randn(1, 4, 8, 8)
    (file,) = latent_nodes.save_latent({"samples": samples}).files
    assert (file.prefix, file.extension, file.ui) == ("latents/ComfyUI", "latent", "latents")
    path = tmp_path / "x.latent"
    path.write_bytes(file.data)
    assert torch.equal(latent_nodes.load_latent(FileRef(Digest("0"), path, "x.latent"))["samples"], samples)


def test_a_latent_file_of_the_first_kind_is_unscaled(tmp_path: Path) -> None:
    """Files without a version hold 0.18215 times the latent."""
    path = tmp_path / "old.latent"
    path.write_bytes(save({"latent_tensor": torch.full((1, 4, 2, 2), 0.18215)}))
    assert torch.allclose(
        latent_nodes.load_latent(FileRef(Digest("0"), path, "old.latent"))["samples"], torch.ones(1, 4, 2, 2)
    )


@pytest.mark.parametrize(
    "content", [b"", b"x" * 40, save({"weight": torch.zeros(1)}), save({"latent_tensor": torch.zeros(3)})]
)
def test_what_is_no_latent_is_refused(tmp_path: Path, content: bytes) -> None:
    """Broken files, other safetensors files and tensors of the wrong shape: one line that says which file and what to do."""
    path = tmp_path / "x.latent"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.latent"):
        latent_nodes.load_latent(FileRef(Digest("0"), path, "x.latent"))
