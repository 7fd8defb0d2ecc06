"""Models that are shown a picture beside the latent: the x4 upscaler and Stable Diffusion 2 with depth, against diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionDepth2ImgPipeline,
)
from torch import Tensor

from benchmarks.random_folders import save_folder
from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.errors import InputError
from engine.models import Digest, ModelRef
from nodes import inpaint
from nodes.diffusion import unet
from nodes.diffusion.conditioning import Surroundings
from nodes.diffusion.devices import device_policy
from nodes.diffusion.extras import concatenated
from nodes.diffusion.family import FAMILIES
from nodes.diffusion.sample import Settings, sample_latent
from nodes.diffusion.sources import open_source
from nodes.diffusion.store import LoadedModel, LocalModelStore

SEED = 11


@pytest.fixture(scope="module")
def store() -> LocalModelStore:
    return LocalModelStore(device_policy("cpu"))


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory, store: LocalModelStore) -> dict[str, Path]:
    """A small one, as a file and as a folder."""
    file = tmp_path_factory.mktemp("models") / "x4.safetensors"
    write_shapes(file, SMALL["x4-upscaler"].shapes(), "float32")
    save_folder(file.with_name("x4"), file, store)
    return {"file": file, "folder": file.with_name("x4")}


def told() -> tuple[list[Any], list[Any]]:
    draw = torch.Generator().manual_seed(0)
    return tuple([[torch.randn(1, 9, 128, generator=draw), {}]] for _ in range(2))  # type: ignore[return-value]


def small_picture() -> Tensor:
    return torch.rand(1, 16, 24, 3, generator=torch.Generator().manual_seed(1))


def latents_of_diffusers(loaded: LoadedModel, level: int) -> Tensor:
    """Those of the loop of StableDiffusionUpscalePipeline, its noises those of ours."""
    betas: dict[str, Any] = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    scheduler: Any = EulerDiscreteScheduler(**betas, prediction_type="v_prediction")
    scheduler.set_timesteps(4)
    noise = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(SEED))
    x = noise * (1 + scheduler.sigmas[0] ** 2) ** 0.5
    image = small_picture().movedim(-1, 1) * 2 - 1
    drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(SEED - 10))
    seen: Tensor = DDPMScheduler(**betas).add_noise(image, drawn, torch.tensor([level]))
    positive, negative = (side[0][0] for side in told())
    network: Any = loaded.module
    for time in scheduler.timesteps:
        both = torch.cat([scheduler.scale_model_input(torch.cat([x] * 2), time), torch.cat([seen] * 2)], 1)
        labels = torch.tensor([level] * 2)
        away, toward = network(both, time, torch.cat([negative, positive]), class_labels=labels, return_dict=False)[
            0
        ].chunk(2)
        x = scheduler.step(away + 3.0 * (toward - away), time, x, return_dict=False)[0]
    latents: Tensor = x
    return latents


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_the_upscaler_makes_the_latents_of_its_pipeline(
    upscaler: dict[str, Path], store: LocalModelStore, layout: str
) -> None:
    """With a picture that is noised to level 70 of 350; the decoder makes it four times as large."""
    path = upscaler[layout]
    facts = open_source(str(path)).facts
    assert (facts.family.name, facts.scale_factor, facts.downscale, facts.latent_channels) == (
        "upscaler",
        0.08333,
        4,
        4,
    )
    positive, negative = told()
    first, second, latent = inpaint.sd_4xupscale_conditioning(
        images=small_picture(), positive=positive, negative=negative, noise_augmentation=0.2
    )
    settings = Settings(seed=SEED, steps=4, cfg=3.0, sampler="euler", scheduler="normal")
    with store.lease(ModelRef(Digest(layout), "unet", str(path))) as loaded, torch.no_grad():
        found = sample_latent(unet.denoiser(loaded), settings, first, second, latent)["samples"]
        expected = latents_of_diffusers(loaded, 70)
    assert found.shape == (1, 4, 16, 24)
    assert torch.allclose(found * 0.08333, expected, atol=1e-4 * float(expected.abs().max()))


def test_levels_look_at_the_text_alone_as_in_the_pipeline_s_network(
    upscaler: dict[str, Path], store: LocalModelStore
) -> None:
    """The second and the third, twice: read off a file and a folder alike."""
    configs = [open_source(str(path)).part("unet").config for path in upscaler.values()]
    assert configs[0] == configs[1]
    with store.lease(ModelRef(Digest("file"), "unet", str(upscaler["file"]))) as loaded:
        module: Any = loaded.module
        alone = [level.attentions[0].transformer_blocks[0].only_cross_attention for level in module.down_blocks[1:]]
        assert alone == [True, True, False]


def test_without_its_picture_a_model_is_not_sampled(upscaler: dict[str, Path], store: LocalModelStore) -> None:
    positive, negative = told()
    settings = Settings(seed=SEED, steps=4, cfg=3.0, sampler="euler", scheduler="normal")
    with (
        store.lease(ModelRef(Digest("file"), "unet", str(upscaler["file"]))) as loaded,
        pytest.raises(InputError, match="put SD_4XUpscale_Conditioning behind the prompts") as caught,
    ):
        sample_latent(unet.denoiser(loaded), settings, positive, negative, {"samples": torch.zeros(1, 4, 16, 16)})
    assert caught.value.input == "positive"
    around = Surroundings(torch.zeros(1, 4, 8, 8), is_negative=True)
    with pytest.raises(InputError, match="expected a depth picture for this model") as caught:
        concatenated({}, 1, FAMILIES["sd2"], around)
    assert caught.value.input == "negative"


def test_depth_is_what_the_pipeline_makes_of_it() -> None:
    """At the latent's size, each picture from -1 to 1. One that is flat is as far as can be."""
    draw = torch.Generator().manual_seed(4)
    picture = torch.rand(2, 96, 128, 1, generator=draw).expand(-1, -1, -1, 3) * torch.tensor([0.3, 4.0]).view(
        2, 1, 1, 1
    )
    positive, _ = inpaint.depth_conditioning(told()[0], told()[1], picture)
    found = concatenated(positive[0][1], 1, FAMILIES["sd2"], Surroundings(torch.zeros(2, 4, 12, 16)))
    expected = StableDiffusionDepth2ImgPipeline.prepare_depth_map(
        SimpleNamespace(vae_scale_factor=8), torch.zeros(2, 3, 96, 128), picture[..., 0], 2, False, torch.float32, "cpu"
    )  # fmt: skip
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.amin((1, 2, 3)).tolist() == [-1, -1]
    flat, _ = inpaint.depth_conditioning(told()[0], told()[1], torch.full((1, 64, 64, 3), 0.5))
    assert concatenated(flat[0][1], 1, FAMILIES["sd2"], Surroundings(torch.zeros(1, 4, 8, 8))).unique().tolist() == [-1]
