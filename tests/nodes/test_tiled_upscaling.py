"""Small pictures made large with an upscaler and the demo model, and painted on beyond their edges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.graph.graph import Call
from tests.nodes.studio import Studio, checkpoint, link
from tests.nodes.upscalers import nearest

STEPS = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
TILES = {"mode_type": "Linear", "tile_width": 64, "tile_height": 64, "tile_padding": 16, "mask_blur": 4}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """With an upscaler that repeats pixels."""
    studio = Studio(Path(tmp_path_factory.mktemp("studio")))
    studio.write("upscale_models/twice.safetensors", nearest(2))
    yield studio
    studio.executor.close()


def given(model: str = "checkpoint") -> dict[str, Call]:
    text = {"clip": link("checkpoint", 1)}
    return {
        "checkpoint": checkpoint(),
        "upscaler": Call("UpscaleModelLoader", {"model_name": "twice.safetensors"}),
        "image": Call("EmptyImage", {"width": 64, "height": 60, "batch_size": 1, "color": 0x3366CC}),
        "positive": Call("CLIPTextEncode", {"text": "a red circle on a blue background", **text}),
        "negative": Call("CLIPTextEncode", {"text": "", **text}),
    }


def redraw(kind: str, seams: str, denoise: float, **more: Any) -> Call:
    sides = {"model": link("checkpoint"), "positive": link("positive"), "negative": link("negative")}
    fixes = {"seam_fix_mode": seams, "seam_fix_denoise": denoise, "seam_fix_width": 16, "seam_fix_mask_blur": 4}
    return Call(
        kind,
        {
            **sides,
            "vae": link("checkpoint", 2),
            **STEPS,
            **TILES,
            **fixes,
            "seam_fix_padding": 8,
            "denoise": denoise,
            **more,
        },
    )


def made(studio: Studio, call: Call) -> Tensor:
    (picture,) = studio.values({**given(), "large": call}, "large")
    assert isinstance(picture, Tensor)
    return picture


def test_a_picture_is_made_larger_tile_by_tile(studio: Studio) -> None:
    """In whole latent cells; what is not denoised stays as the VAE gives it back, what is becomes another picture."""
    large = {"image": link("image"), "upscale_by": 2.0}
    still = made(studio, redraw("UltimateSDUpscale", "None", 0.0, upscale_model=link("upscaler"), **large))
    assert still.shape == (1, 120, 128, 3)
    blue = torch.tensor([0x33, 0x66, 0xCC]) / 255
    assert float((still - blue).abs().mean()) < 0.1
    other = made(studio, redraw("UltimateSDUpscale", "Half Tile", 0.6, upscale_model=link("upscaler"), **large))
    assert float((other - still).abs().mean()) > 0.02
    custom = redraw("UltimateSDUpscaleCustomSample", "None", 0.0, tiled_decode=True, **large)
    assert torch.allclose(made(studio, custom), still, atol=0.02)


def test_any_size_without_an_upscaler(studio: Studio) -> None:
    """Sides that are no whole cells are kept; of one batch size alone it is said that it counts for nothing."""
    picture = made(
        studio, redraw("UltimateSDUpscaleNoUpscale", "Band Pass", 0.3, upscaled_image=link("image"), batch_size=2)
    )
    assert picture.shape == (1, 60, 64, 3)
    assert any("batch_size 2 is left out of account" in said for said in studio.warnings)


def test_hires_fix_with_an_upscaler(studio: Studio) -> None:
    """Picture, upscaler, a smaller size, the VAE, and steps in windows."""
    calls = {
        **given(),
        "large": Call("ImageUpscaleWithModel", {"upscale_model": link("upscaler"), "image": link("image")}),
        "sized": Call(
            "ImageScale",
            {"image": link("large"), "upscale_method": "area", "width": 96, "height": 96, "crop": "center"},
        ),
        "latent": Call("VAEEncode", {"pixels": link("sized"), "vae": link("checkpoint", 2)}),
        "windows": Call(
            "TiledDiffusion",
            {"model": link("checkpoint"), "tile_width": 64, "tile_height": 64, "tile_overlap": 32, "tile_batch_size": 2},
        ),
        "sampler": Call(
            "KSampler",
            {**STEPS, "model": link("windows"), "positive": link("positive"), "negative": link("negative"),
             "latent_image": link("latent"), "denoise": 0.5},
        ),
        "picture": Call("VAEDecode", {"samples": link("sampler"), "vae": link("checkpoint", 2)}),
    }  # fmt: skip
    (picture,) = studio.values(calls, "picture")
    assert picture.shape == (1, 96, 96, 3)


@pytest.mark.parametrize("kind", ["VAEEncodeForInpaint", "InpaintModelConditioning"])
def test_outpainting(studio: Studio, kind: str) -> None:
    """What is painted lies beyond the old edge; well inside, the picture is what the VAE makes of it."""
    pad = {"image": link("image"), "left": 0, "top": 0, "right": 64, "bottom": 4, "feathering": 8}
    sides = {"positive": link("positive"), "negative": link("negative")}
    beside = {"pixels": link("padded"), "vae": link("checkpoint", 2), "mask": link("padded", 1)}
    encoded = Call(kind, {**beside, "grow_mask_by": 6} if kind == "VAEEncodeForInpaint" else {**beside, **sides})
    places = {"latent_image": link("latent"), **sides}
    if kind == "InpaintModelConditioning":
        places = {"latent_image": link("latent", 2), "positive": link("latent"), "negative": link("latent", 1)}
    calls = {
        **given(),
        "padded": Call("ImagePadForOutpaint", pad),
        "latent": encoded,
        "sampler": Call("KSampler", {**STEPS, "model": link("checkpoint"), "denoise": 1.0, **places}),
        "picture": Call("VAEDecode", {"samples": link("sampler"), "vae": link("checkpoint", 2)}),
    }
    (picture,) = studio.values(calls, "picture")
    assert picture.shape == (1, 64, 128, 3)
    blue = torch.tensor([0x33, 0x66, 0xCC]) / 255
    assert float((picture[:, :40, :40] - blue).abs().mean()) < 0.1
    assert float((picture[:, :, 80:] - blue).abs().mean()) > 0.1
