"""CLIP vision and unCLIP: against transformers' and diffusers' own modules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPImageProcessor

from benchmarks.random_models import SMALL, Clip, OpenClip, UNet
from benchmarks.random_sd15 import write_shapes
from engine.errors import InputError, ModelFileError
from engine.graph.graph import Call
from engine.models import Digest, ModelRef
from nodes import vision as vision_nodes
from nodes.diffusion import saving
from nodes.diffusion.checkpoints import TensorInfo
from nodes.diffusion.conditioning import Surroundings
from nodes.diffusion.extras import inputs_of, sinusoids, vector
from nodes.diffusion.family import FAMILIES
from nodes.diffusion.sources import open_source
from nodes.diffusion.unclip import OPTION, Statistics, generator, noised, signal
from nodes.diffusion.unclip import vector as unclip_vector
from nodes.diffusion.vision import encode, prepared
from nodes.diffusion.vision_parts import find_vision
from tests.nodes.diffusion.clip_vision import open_clip_layout, transformers_layout, vision
from tests.nodes.diffusion.taesd import taesd
from tests.nodes.studio import Studio, link


def smooth(height: int, width: int) -> Tensor:
    """A picture [1,h,w,3] without edges."""
    y, x = torch.linspace(0, 3, height)[:, None], torch.linspace(0, 2, width)[None]
    return torch.stack([y.sin() * x.cos(), y.cos().abs() * x.sin(), (x + y).sin().abs()], -1).abs()[None]


@pytest.mark.parametrize(("height", "width"), [(28, 28), (40, 90), (84, 56)])
def test_pictures_are_prepared_as_clip_was_trained(height: int, width: int) -> None:
    """The middle, as transformers' processor makes it, to within a level of 255 and a half."""
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    picture = smooth(height, width)
    pixels = (picture[0] * 255).round().to(torch.uint8).numpy()
    expected = torch.from_numpy(np.asarray(processor(pixels, return_tensors="np")["pixel_values"]))
    found = prepared(picture, 28, "center")
    assert found.shape == expected.shape == (1, 3, 28, 28)
    assert (found - expected).abs().max() < 1.5 / 255 / 0.26


def test_without_a_crop_all_of_the_picture_is_seen() -> None:
    """Squeezed: its left half is the left half of the square. Grey is three equal channels, a fourth is left out."""
    picture = torch.zeros(1, 40, 90, 4)
    picture[:, :, 45:] = 1
    whole = prepared(picture, 28, "none")
    assert torch.equal(whole[..., :13].unique(), prepared(torch.zeros(1, 28, 28, 3), 28, "none").unique())
    assert torch.equal(whole[..., 15:].unique(), prepared(torch.ones(1, 28, 28, 3), 28, "none").unique())
    assert torch.equal(prepared(picture[..., :1], 28, "none"), whole)


@pytest.mark.parametrize("layout", [transformers_layout, open_clip_layout])
def test_what_clip_sees_is_what_transformers_gives(studio: Studio, layout: Any) -> None:
    """In both layouts: the projected state, the last states, and those before the last layer."""
    model = vision()
    name = studio.write("clip_vision/small.safetensors", layout(model))
    loaded = studio.values({"one": Call("CLIPVisionLoader", {"clip_name": name})}, "one")[0]
    assert loaded.part == "clip_vision"
    picture = torch.cat([smooth(40, 60), smooth(40, 60).flip(1)])
    with studio.store.lease(loaded) as lease:
        found = encode(picture, lease, "center")
    with torch.no_grad():
        expected = model(pixel_values=prepared(picture, 28, "center"), output_hidden_states=True)
    assert found["image_embeds"].shape == (2, 64)
    assert torch.allclose(found["image_embeds"], expected.image_embeds, atol=1e-5)
    assert torch.allclose(found["last_hidden_state"], expected.last_hidden_state, atol=1e-5)
    assert torch.allclose(found["penultimate_hidden_states"], expected.hidden_states[-2], atol=1e-5)


@pytest.mark.parametrize(
    ("width", "layers", "patch", "places", "heads", "activation", "side"),
    [(1024, 24, 14, 257, 16, "quick_gelu", 224), (1024, 24, 14, 577, 16, "quick_gelu", 336),
     (1280, 32, 14, 257, 16, "gelu", 224), (1664, 48, 14, 257, 16, "gelu", 224), (768, 12, 32, 50, 12, "quick_gelu", 224)],
)  # fmt: skip
def test_released_encoders_are_told_by_their_shapes(
    width: int, layers: int, patch: int, places: int, heads: int, activation: str, side: int
) -> None:
    """ViT-L, L at 336 pixels, H, bigG and B/32."""
    tensors = {
        "vision_model.embeddings.patch_embedding.weight": TensorInfo("F16", (width, 3, patch, patch)),
        "vision_model.embeddings.position_embedding.weight": TensorInfo("F16", (places, width)),
        "vision_model.pre_layrnorm.weight": TensorInfo("F16", (width,)),
        "vision_model.encoder.layers.0.mlp.fc1.weight": TensorInfo("F16", (4 * width, width)),
        "visual_projection.weight": TensorInfo("F16", (512, width)),
    }
    tensors |= {
        f"vision_model.encoder.layers.{number}.layer_norm1.weight": TensorInfo("F16", (width,))
        for number in range(layers)
    }
    found = find_vision(tensors, {})
    assert found is not None
    config = found[0]
    assert (config.layers, config.heads, config.activation, config.side, config.projection) == (
        layers,
        heads,
        activation,
        side,
        512,
    )


def test_files_of_another_kind_are_refused_in_words(studio: Studio) -> None:
    """A CLIP vision file is no VAE and no text encoder, and a VAE is no CLIP vision."""
    for folder in ("vae", "text_encoders"):
        studio.write(f"{folder}/vision.safetensors", transformers_layout(vision()))
    studio.write("clip_vision/tiny.safetensors", taesd().original())
    wrong = {
        "VAELoader": {"vae_name": "vision.safetensors"},
        "CLIPLoader": {"clip_name": "vision.safetensors", "type": "stable_diffusion"},
    }
    for loader, inputs in wrong.items():
        assert "found only a CLIP vision model" in studio.failure({"one": Call(loader, inputs)}, "one")
    failed = studio.failure({"one": Call("CLIPVisionLoader", {"clip_name": "tiny.safetensors"})}, "one")
    assert "expected a CLIP vision model in tiny.safetensors, found only a VAE" in failed
    ref = ModelRef(Digest("v"), "clip_vision", str(studio.folder / "models" / "vae" / "vision.safetensors"))
    with studio.store.lease(ref) as lease, pytest.raises(InputError, match="expected at least one picture"):
        encode(torch.zeros(0, 8, 8, 3), lease, "none")


@pytest.mark.parametrize("layout", [transformers_layout, open_clip_layout])
def test_both_encoders_of_a_whole_clip_load(studio: Studio, layout: Any) -> None:
    """The text encoder is not disturbed by the image encoder beside it, nor the other way round."""
    draw = torch.Generator().manual_seed(0)
    named = (Clip(64, 2, 300, True) if layout is transformers_layout else OpenClip(64, 2, 300)).named()
    text = {name: torch.randn(shape, generator=draw) for name, shape in named}
    studio.write("clip_vision/whole.safetensors", layout(vision()) | text)
    location = str(studio.folder / "models" / "clip_vision" / "whole.safetensors")
    for part, count in (("clip_vision", 7 + 1 + 3 * 16), ("clip", 4 + 1 + 2 * 16)):
        with studio.store.lease(ModelRef(Digest("whole"), part, location)) as lease:  # type: ignore[arg-type]
            assert len(lease.module.state_dict()) == count


# unCLIP


def test_noise_follows_the_cosine_schedule() -> None:
    """As diffusers has it for Stable unCLIP: a noised embedding, back in its own mean and deviation."""
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=1000)
    assert torch.allclose(signal(), scheduler.alphas_cumprod, rtol=1e-5, atol=1e-8)
    draw = torch.Generator().manual_seed(0)
    embeds, mean, std = (
        torch.randn(1, 8, generator=draw),
        torch.randn(1, 8, generator=draw),
        torch.rand(1, 8, generator=draw),
    )
    noise = torch.randn(1, 8, generator=torch.Generator().manual_seed(90))
    expected = scheduler.add_noise((embeds - mean) / std, noise, torch.tensor([250])) * std + mean
    assert torch.allclose(noised(embeds, 250, Statistics(mean, std), generator(100)), expected, atol=1e-5)


def output(*rows: Tensor) -> dict[str, Tensor]:
    return {"image_embeds": torch.cat(rows)}


def test_one_picture_is_told_with_its_level() -> None:
    """``strength`` times the noised embedding and sinusoids of round(999 * augmentation)."""
    embeds = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    told = [{"clip_vision_output": output(embeds), "strength": 0.5, "noise_augmentation": 0.2}]
    found = unclip_vector(told, 16, None, 7, sinusoids)
    level = get_timestep_embedding(torch.tensor([200]), 8, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.allclose(found, 0.5 * torch.cat([noised(embeds, 200, None, generator(7)), level], 1), atol=1e-6)
    assert torch.equal(unclip_vector([], 16, None, 7, sinusoids), torch.zeros(1, 16))


def test_several_pictures_are_added_and_noised_a_little() -> None:
    """The rows of a batch count as pictures of their own, each with the first of the noise; their sum gets level round(999 * 0.05), with
    what comes after it."""
    one, two, three = torch.randn(3, 8, generator=torch.Generator().manual_seed(2)).split(1)
    told = [
        {"clip_vision_output": output(one, two), "strength": 1.0, "noise_augmentation": 0.0},
        {"clip_vision_output": output(three), "strength": -0.5, "noise_augmentation": 0.1},
    ]
    sum_ = (
        noised(one, 0, None, generator(3))
        + noised(two, 0, None, generator(3))
        - 0.5 * noised(three, 100, None, generator(3))
    )
    level = get_timestep_embedding(torch.tensor([50]), 8, flip_sin_to_cos=True, downscale_freq_shift=0)
    later = generator(3)
    torch.randn(1, 8, generator=later)
    expected = torch.cat([noised(sum_, 50, None, later), level], 1)
    assert torch.allclose(unclip_vector(told, 16, None, 3, sinusoids), expected, atol=1e-6)


def test_sdxl_is_told_of_pictures_where_it_is_told_of_text() -> None:
    """What CLIP sees takes the place of the pooled text, without noise on the sum; the sizes stay."""
    one, two = torch.randn(2, 8, generator=torch.Generator().manual_seed(2)).split(1)
    around = Surroundings(torch.zeros(1, 4, 8, 16), seed=5)
    family = FAMILIES["sdxl"]
    width = 8 + 6 * 256
    for rows in ((one,), (one, two)):
        told = [{"clip_vision_output": output(row), "strength": 0.5, "noise_augmentation": 0.3} for row in rows]
        found = vector({"pooled_output": torch.ones(1, 8), OPTION: told, "width": 320}, width, family, around)
        parts = [0.5 * noised(row, 300, None, generator(5)) for row in rows]
        if len(parts) == 2:
            later = generator(5)
            torch.randn(1, 8, generator=later)
            parts = [noised(sum(parts, torch.zeros(1, 8)), 0, None, later)]
        assert torch.allclose(found[:, :8], parts[0], atol=1e-6)
    plain = vector({"pooled_output": torch.ones(1, 8), "width": 320}, width, family, around)
    assert torch.equal(found[:, 8:], plain[:, 8:])
    assert torch.equal(plain[:, :8], torch.ones(1, 8))


def test_embeddings_of_another_clip_are_refused() -> None:
    told = [{"clip_vision_output": output(torch.zeros(1, 4)), "strength": 1.0, "noise_augmentation": 0.0}]
    with pytest.raises(InputError, match=r"expected CLIP vision embeddings of 8 numbers, .* found 4"):
        unclip_vector(told, 16, None, 0, sinusoids)


def test_conditioning_gathers_pictures() -> None:
    """One behind the other, for every entry; what is given is not changed, and without strength there is nothing to tell."""
    conditioning: list[Any] = [[torch.zeros(1, 1, 1), {"strength": 2.0}]]
    seen = output(torch.zeros(1, 4))
    once = vision_nodes.unclip_conditioning.fn(
        conditioning=conditioning, clip_vision_output=seen, strength=0.5, noise_augmentation=0.1
    )
    twice = vision_nodes.unclip_conditioning.fn(
        conditioning=once, clip_vision_output=seen, strength=1.0, noise_augmentation=0.0
    )
    assert conditioning[0][1] == {"strength": 2.0}
    assert [one["strength"] for one in once[0][1][OPTION]] == [0.5]
    assert [one["strength"] for one in twice[0][1][OPTION]] == [0.5, 1.0]
    assert twice[0][1]["strength"] == 2.0
    nothing = vision_nodes.unclip_conditioning.fn(
        conditioning=conditioning, clip_vision_output=seen, strength=0.0, noise_augmentation=0.0
    )
    assert nothing == conditioning


def unclip_checkpoint(studio: Studio) -> dict[str, Tensor]:
    """Stable Diffusion 2.1 unCLIP, small: a UNet with a vector of twice CLIP's embedding, the image encoder, its statistics."""
    model = SMALL["sd2"]
    assert isinstance(model.network, UNet)
    shapes = replace(model, network=replace(model.network, vector=128)).shapes()
    path = studio.folder / "models" / "checkpoints" / "plain.safetensors"
    path.parent.mkdir(parents=True)
    write_shapes(path, shapes, "float32")
    draw = torch.Generator().manual_seed(4)
    statistics = {
        "noise_augmentor.data_mean": torch.randn(1, 64, generator=draw),
        "noise_augmentor.data_std": torch.rand(1, 64, generator=draw) + 0.5,
    }
    return {**load_file(path), **open_clip_layout(vision(), "embedder.model.visual."), **statistics}


def test_an_unclip_checkpoint_follows_pictures(studio: Studio) -> None:
    """Its four parts load; the latent follows the picture, the seed of the noise with it, and a saved copy gives the same."""
    tensors = unclip_checkpoint(studio)
    studio.write("checkpoints/unclip.safetensors", tensors)
    location = str(studio.folder / "models" / "checkpoints" / "unclip.safetensors")
    source = open_source(location)
    assert source.description.family.name == "sd2"
    assert set(source.description.parts) == {"unet", "clip", "vae", "clip_vision"}
    statistics = source.facts.statistics
    assert statistics is not None
    assert torch.equal(statistics.std, tensors["noise_augmentor.data_std"])
    around = Surroundings(torch.zeros(1, 4, 4, 4), seed=9)
    told = [{"clip_vision_output": output(torch.ones(1, 64)), "strength": 1.0, "noise_augmentation": 0.3}]
    config = source.part("unet").config
    found = inputs_of(config, source.description.family, {OPTION: told}, around, statistics)["class_labels"]
    assert torch.equal(found, unclip_vector(told, 128, statistics, 9, sinusoids))
    refs = [ModelRef(Digest("unclip"), "unet", location), ModelRef(Digest("unclip"), "clip", location)]
    data = saving.checkpoint(refs, lambda done, total: None)
    (studio.folder / "models" / "checkpoints" / "saved.safetensors").write_bytes(data)

    def sampled(name: str, augmentation: float = 0.0, strength: float = 1.0) -> Tensor:
        calls = {
            "one": Call("unCLIPCheckpointLoader", {"ckpt_name": "unclip.safetensors"}),
            "other": Call("CheckpointLoaderSimple", {"ckpt_name": name}),
            "picture": Call("EmptyImage", {"width": 40, "height": 40, "batch_size": 1, "color": 0xFF8000}),
            "seen": Call("CLIPVisionEncode", {"clip_vision": link("one", 3), "image": link("picture"), "crop": "center"}),
            "text": Call("CLIPTextEncode", {"text": "a", "clip": link("one", 1)}),
            "both": Call("unCLIPConditioning", {"conditioning": link("text"), "clip_vision_output": link("seen"),
                                                "strength": strength, "noise_augmentation": augmentation}),
            "latent": Call("EmptyLatentImage", {"width": 32, "height": 32, "batch_size": 1}),
            "sampler": Call("KSampler", {"model": link("other"), "seed": 3, "steps": 1, "cfg": 1.0, "sampler_name": "euler",
                                         "scheduler": "normal", "positive": link("both"), "negative": link("text"),
                                         "latent_image": link("latent"), "denoise": 1.0}),
        }  # fmt: skip
        return studio.values(calls, "sampler")[0]["samples"]  # type: ignore[no-any-return]

    plain = sampled("unclip.safetensors")
    assert torch.allclose(plain, sampled("saved.safetensors"), rtol=1e-4, atol=1e-3)
    assert not torch.equal(plain, sampled("unclip.safetensors", augmentation=0.5))
    assert not torch.equal(plain, sampled("unclip.safetensors", strength=0.0))


def test_a_checkpoint_without_an_image_encoder_says_so_when_it_is_used(studio: Studio) -> None:
    name = "demo.safetensors"
    one = studio.values({"one": Call("unCLIPCheckpointLoader", {"ckpt_name": name})}, "one")
    assert [ref.part for ref in one] == ["unet", "clip", "vae", "clip_vision"]
    with (
        pytest.raises(ModelFileError, match=r"expected a CLIP vision model in demo\.safetensors"),
        studio.store.lease(one[3]),
    ):
        pass
