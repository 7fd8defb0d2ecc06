"""The VAE without a file, whose latents are the pictures themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from engine.files import open_files
from engine.graph.graph import Call
from engine.spec import FileChoice
from tests.nodes.studio import Studio, checkpoint, link


@pytest.fixture
def room(studio: Studio) -> Studio:
    """With a picture of odd sides that holds every level."""
    folder = studio.folder / "input"
    folder.mkdir()
    Image.frombytes("RGB", (19, 27), bytes(range(256)) * 6 + bytes(3)).save(folder / "levels.png")
    return studio


def calls(**more: Call) -> dict[str, Call]:
    return {
        "vae": Call("VAELoader", {"vae_name": "pixel_space"}),
        "picture": Call("LoadImage", {"image": "levels.png"}),
        "latent": Call("VAEEncode", {"pixels": link("picture"), "vae": link("vae")}),
        "back": Call("VAEDecode", {"samples": link("latent"), "vae": link("vae")}),
        **more,
    }


def test_it_is_offered_without_any_file(room: Studio) -> None:
    files = open_files(models=[], state=room.folder, input=room.folder, output=room.folder, temp=room.folder)
    assert list(files.choices(FileChoice("vae"))) == ["pixel_space"]
    assert list(files.choices(FileChoice("vae_approx"))) == []


def test_pictures_are_latents_of_full_resolution(room: Studio) -> None:
    """Of three channels in -1..1, nothing cropped; and back, to the last level."""
    picture = room.values(calls(), "picture")[0]
    latent = room.values(calls(), "latent")[0]["samples"]
    assert torch.equal(latent, picture.movedim(-1, 1) * 2 - 1)
    assert torch.allclose(room.values(calls(), "back")[0], picture, atol=1e-7)


def test_what_leaves_the_range_is_cut(room: Studio) -> None:
    graph = calls(
        twice=Call("LatentMultiply", {"samples": link("latent"), "multiplier": 2.0}),
        back=Call("VAEDecode", {"samples": link("twice"), "vae": link("vae")}),
    )
    picture = room.values(graph, "picture")[0]
    assert torch.allclose(room.values(graph, "back")[0], (picture * 2 - 0.5).clamp(0, 1), atol=1e-6)


def test_tiles_and_masks(room: Studio) -> None:
    """As without tiles; masks keep the size of the picture."""
    tiling = {"tile_size": 64, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    graph = calls(
        large=Call("EmptyImage", {"width": 150, "height": 90, "batch_size": 1, "color": 0x8040C0}),
        mask=Call("SolidMask", {"value": 1.0, "width": 150, "height": 90}),
        tiled=Call("VAEEncodeTiled", {"pixels": link("large"), "vae": link("vae"), **tiling}),
        back=Call("VAEDecodeTiled", {"samples": link("tiled"), "vae": link("vae"), **tiling}),
        grey=Call(
            "VAEEncodeForInpaint",
            {"pixels": link("large"), "vae": link("vae"), "mask": link("mask"), "grow_mask_by": 0},
        ),
    )
    assert torch.allclose(room.values(graph, "back")[0], room.values(graph, "large")[0], atol=1e-6)
    painted = room.values(graph, "grey")[0]
    assert torch.allclose(painted["samples"], torch.zeros(1, 3, 90, 150), atol=1e-6)
    assert painted["noise_mask"].shape == (1, 1, 90, 150)


def sampled(**inputs: Any) -> Call:
    return Call(
        "KSampler",
        {"model": link("checkpoint"), "seed": 3, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal",
         "positive": link("text"), "negative": link("text"), "latent_image": link("latent"), "denoise": 1.0, **inputs},
    )  # fmt: skip


def test_a_model_of_smaller_latents_says_what_it_was_given(room: Studio) -> None:
    graph = calls(
        checkpoint=checkpoint(),
        text=Call("CLIPTextEncode", {"text": "", "clip": link("checkpoint", 1)}),
        sampler=sampled(),
        wrong=Call("VAEDecode", {"samples": link("latent"), "vae": link("checkpoint", 2)}),
        small=Call("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        other=Call("VAEDecode", {"samples": link("small"), "vae": link("vae")}),
    )
    assert "latents of 4 channels expected; found 3: encode the picture with the model's VAE" in room.failure(
        graph, "sampler"
    )
    assert "expected latents of shape [batch, 4, height, width], found [1, 3, 27, 19]" in room.failure(graph, "wrong")
    assert "expected latents of shape [batch, 3, height, width], found [1, 4, 8, 8]" in room.failure(graph, "other")


def test_there_is_nothing_to_save(room: Studio) -> None:
    graph = calls(saved=Call("VAESave", {"vae": link("vae"), "filename_prefix": "vae/it"}))
    assert "expected a VAE of a file, found pixel_space, which has no weights" in room.failure(graph, "saved")
