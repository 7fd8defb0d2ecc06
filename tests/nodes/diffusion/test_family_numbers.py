"""Every family computes what diffusers and transformers compute with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.errors import InputError
from engine.models import Digest, ModelRef, Part
from nodes.diffusion import networks
from nodes.diffusion.devices import device_policy
from nodes.diffusion.extras import sinusoids
from nodes.diffusion.sample import Settings, sample_latent
from nodes.diffusion.sources import Source
from nodes.diffusion.store import LoadedModel, LocalModelStore
from nodes.diffusion.text import encode
from nodes.diffusion.tokenizer import END_TOKEN, START_TOKEN, tokenize
from nodes.diffusion.unet import denoiser
from nodes.text import t5_tokenizer_options

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small checkpoint of random weights of each family."""
    folder = tmp_path_factory.mktemp("families")
    found = {}
    for name in ("sd2", "sdxl", "refiner", "sd3-t5", "sd35-medium", "ssd-1b", "sd15-inpainting"):
        found[name] = folder / f"{name}.safetensors"
        write_shapes(found[name], SMALL[name].shapes(), "float32")
    return found


@pytest.fixture(scope="module")
def store() -> LocalModelStore:
    return LocalModelStore(device_policy("cpu"))


def ref(path: Path, part: Part) -> ModelRef:
    return ModelRef(Digest(path.name), part, str(path))


@pytest.mark.parametrize("name", ["sd2", "sdxl", "refiner", "sd3-t5", "sd35-medium"])
def test_weights_are_those_of_diffusers_converter(files: dict[str, Path], name: str) -> None:
    """Every tensor gets the numbers that diffusers' own converters give it."""
    from diffusers.loaders import single_file_utils as theirs

    source = Source(files[name])
    module: Any = networks.build(source.part("unet").config)
    ours = source.weights("unet", networks.wanted_shapes(module))
    checkpoint = {key: source._shelves["unet"][0].file[key].clone() for key in SMALL[name].shapes()}
    if name.startswith("sd3"):
        converted = theirs.convert_sd3_transformer_checkpoint_to_diffusers(
            {key: tensor for key, tensor in checkpoint.items() if key.startswith("model.diffusion_model.")}
        )
    else:
        config = dict(module.config)
        converted = theirs.convert_ldm_unet_checkpoint(
            checkpoint, config | {"layers_per_block": config["layers_per_block"][0]}
        )
    assert set(ours) <= set(converted)
    for key in ours:
        assert torch.equal(ours[key], converted[key].reshape(ours[key].shape)), key


def clip_states(clip: LoadedModel, tower: str, padding: int, layer: int) -> tuple[Tensor, Tensor]:
    """Of transformers: the states of a layer as they are, and the state at the end of the text after the last one."""
    ids = [START_TOKEN, *tokenize(PROMPT), END_TOKEN]
    padded = torch.tensor([ids + [padding] * (77 - len(ids))])
    text: Any = clip.module.get_submodule(f"{tower}.text")
    with torch.inference_mode():
        out = text(input_ids=padded, output_hidden_states=True)
    return out.hidden_states[layer], out.last_hidden_state[:, len(ids) - 1]


def test_stable_diffusion_2_takes_the_last_but_one_layer_normed(files: dict[str, Path], store: LocalModelStore) -> None:
    with store.lease(ref(files["sd2"], "clip")) as clip:
        entry = encode(PROMPT, clip)[0]
        text: Any = clip.module.get_submodule("h.text")
        expected = text.final_layer_norm(clip_states(clip, "h", 0, -2)[0])
    assert torch.allclose(entry[0], expected, atol=1e-6)


def test_sdxl_has_both_texts_beside_each_other(files: dict[str, Path], store: LocalModelStore) -> None:
    """Neither is normed; the pooled one is the larger tower's, projected."""
    with store.lease(ref(files["sdxl"], "clip")) as clip:
        entry = encode(PROMPT, clip)[0]
        small, _ = clip_states(clip, "l", END_TOKEN, -2)
        big, end = clip_states(clip, "g", 0, -2)
        projection: Any = clip.module.get_submodule("g.projection")
        pooled = end @ projection.weight.T
        weighted, empty = encode("a (red:1.5) circle", clip)[0][0], encode("", clip)[0][0]
    assert torch.allclose(entry[0], torch.cat([small, big], -1), atol=1e-6)
    assert torch.allclose(entry[1]["pooled_output"], pooled, atol=1e-6)
    assert torch.allclose(weighted[0, 2], empty[0, 2] + 1.5 * (entry[0][0, 2] - empty[0, 2]), atol=1e-5)


def test_texts_of_their_own_are_filled_to_the_same_length(files: dict[str, Path], store: LocalModelStore) -> None:
    with store.lease(ref(files["sdxl"], "clip")) as clip:
        long = encode({"l": "red " * 80, "g": PROMPT}, clip)[0][0]
        short, empty = encode(PROMPT, clip)[0][0], encode("", clip)[0][0]
    assert long.shape == (1, 154, 128)
    assert torch.allclose(long[:, :77, 64:], short[..., 64:], atol=1e-6)
    assert torch.allclose(long[:, 77:, 64:], empty[..., 64:], atol=1e-6)


def test_sd3_without_a_tokenizer_says_so_and_goes_on(files: dict[str, Path], store: LocalModelStore) -> None:
    """CLIP's texts beside each other and zeros up to T5's width; pooled the plain small one and the projected big one."""
    said: list[str] = []
    with store.lease(ref(files["sd3-t5"], "clip")) as clip:
        entry = encode(PROMPT, clip, warn=said.append)[0]
        small, small_end = clip_states(clip, "l", END_TOKEN, -2)
        big, big_end = clip_states(clip, "g", 0, -2)
        projection: Any = clip.module.get_submodule("g.projection")
    assert torch.allclose(entry[0][..., :128], torch.cat([small, big], -1), atol=1e-6)
    assert entry[0].shape == (1, 77, 256)
    assert not entry[0][..., 128:].any()
    pooled = torch.cat([small_end, big_end @ projection.weight.T], -1)
    assert torch.allclose(entry[1]["pooled_output"], pooled, atol=1e-6)
    assert "models/tokenizers" in said[0]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of a few words in T5's place: its numbers begin at 3."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(
        models.WordLevel({word: number + 3 for number, word in enumerate(("a", "red", "circle", "?"))}, unk_token="?")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("t5") / "tokenizer.json"
    made.save(str(path))
    return path


def test_sd3_appends_t5(files: dict[str, Path], store: LocalModelStore, tokenizer: Path) -> None:
    """Its tokens follow those of CLIP: the text, an end, and padding up to 77. Weights hold there too."""
    with store.lease(ref(files["sd3-t5"], "clip")) as clip:
        found = encode(PROMPT, clip, find_tokenizer=lambda: tokenizer)[0][0]
        weighted = encode("a (red:1.5) circle", clip, find_tokenizer=lambda: tokenizer)[0][0]
        text: Any = clip.module.get_submodule("t5.text")
        with torch.inference_mode():
            expected = text(input_ids=torch.tensor([[3, 4, 5, 1, *[0] * 73]])).last_hidden_state
            empty = text(input_ids=torch.tensor([[1, *[0] * 76]])).last_hidden_state
    assert found.shape == (1, 154, 256)
    assert torch.allclose(found[:, 77:], expected, atol=1e-6)
    assert torch.allclose(weighted[0, 78], empty[0, 1] + 1.5 * (expected[0, 1] - empty[0, 1]), atol=1e-5)
    assert torch.equal(weighted[0, 77], found[0, 77])


def test_clip_skip_goes_for_t5_too(files: dict[str, Path], store: LocalModelStore, tokenizer: Path) -> None:
    """The last but one of T5's layers, normed; and an encoder that is told nothing gives the state of its end alone."""
    with store.lease(ref(files["sd3-t5"], "clip")) as clip:
        found = encode(PROMPT, clip, layer=-2, find_tokenizer=lambda: tokenizer)[0][0]
        silent = encode({"l": None, "g": None, "t5": None}, clip, find_tokenizer=lambda: tokenizer)[0]
        text: Any = clip.module.get_submodule("t5.text")
        with torch.inference_mode():
            ids = torch.tensor([[3, 4, 5, 1, *[0] * 73]])
            before = text(input_ids=ids, output_hidden_states=True).hidden_states[-2]
            expected = text.final_layer_norm(before)
            end = text(input_ids=torch.tensor([[1]])).last_hidden_state
    assert torch.allclose(found[:, 77:], expected, atol=1e-6)
    assert torch.allclose(silent[0], end, atol=1e-6)
    assert not silent[1]["pooled_output"].any()


@pytest.mark.parametrize(("least", "behind", "tokens"), [(0, 0, 4), (0, 3, 7), (10, 3, 10), (6, 9, 13)])
def test_t5_is_filled_up_as_told(
    files: dict[str, Path], store: LocalModelStore, tokenizer: Path, least: int, behind: int, tokens: int
) -> None:
    """Three words and their end: so many paddings behind it, then as many as make the least length."""
    told = t5_tokenizer_options.fn(ref(files["sd3-t5"], "clip"), min_padding=behind, min_length=least)
    with store.lease(told) as clip:
        found = encode(PROMPT, clip, find_tokenizer=lambda: tokenizer)[0][0]
        text: Any = clip.module.get_submodule("t5.text")
        with torch.inference_mode():
            expected = text(input_ids=torch.tensor([[3, 4, 5, 1, *[0] * (tokens - 4)]])).last_hidden_state
    assert found.shape == (1, 77 + tokens, 256)
    assert torch.allclose(found[:, 77:], expected, atol=1e-6)


def walk(sigmas: Tensor, x: Tensor, predict: Any) -> Tensor:
    """Euler's method (Karras et al. 2022, algorithm 1 without churn), written out."""
    for now, after in pairwise(sigmas):
        x = x + (x - predict(x, now)) / now * (after - now)
    return x


@pytest.fixture(params=["sd2", "sdxl", "refiner", "ssd-1b", "sd3-t5", "sd35-medium"])
def sampled(
    request: pytest.FixtureRequest, files: dict[str, Path], store: LocalModelStore
) -> Iterator[tuple[str, LoadedModel]]:
    with store.lease(ref(files[request.param], "unet")) as unet:
        yield request.param, unet


def told(width: int, pooled: int, seed: int, tokens: int = 77) -> list[Any]:
    draw = torch.Generator().manual_seed(seed)
    options = {"pooled_output": torch.randn(1, pooled, generator=draw), "width": 96, "crop_w": 8}
    return [[torch.randn(1, tokens, width, generator=draw), options]]


def test_latents_equal_those_of_diffusers_networks(sampled: tuple[str, LoadedModel]) -> None:
    """The same noise, sigmas and texts through diffusers' own network, its inputs made as its pipelines make them.

    The texts have unequal lengths, which a transformer that attends to them together with the picture would see.
    """
    name, unet = sampled
    flow = name.startswith("sd3")
    context = {"sd2": 128, "refiner": 64}.get(name, 256 if flow else 128)
    positive, negative = told(context, 128 if flow else 64, 1), told(context, 128 if flow else 64, 2, 154)
    latent = {"samples": torch.zeros(1, 16 if flow else 4, 8, 8)}
    settings = Settings(seed=5, steps=3, cfg=3.0, sampler="euler", scheduler="simple")
    ours = sample_latent(denoiser(unet), settings, positive, negative, latent)["samples"]

    noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(5))
    network = theirs(name, unet)
    level = denoiser(unet)
    sigmas = torch.tensor([*level.schedule.table[[-1, -334, -667]], 0.0]).float()

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        sides = [network(x, sigma, *entry[0], is_negative=entry is negative) for entry in (positive, negative)]
        guided: Tensor = sides[1] + 3.0 * (sides[0] - sides[1])
        return guided

    start = noise if flow else noise * (1 + sigmas[0] ** 2) ** 0.5
    with torch.inference_mode():
        expected = walk(sigmas, start, predict)
    scale, shift = (1.5305, 0.0609) if flow else (0.18215 if name == "sd2" else 0.13025, 0.0)
    difference = ((ours - shift) * scale - expected).abs().max()
    assert (
        float(difference / expected.std()) < 1e-4
    )  # random weights give latents of any spread; those of pictures have about 1


def theirs(name: str, unet: LoadedModel) -> Any:
    """The clean latent by diffusers' network with the same weights."""
    if name.startswith("sd3"):
        return lambda x, sigma, context, options, is_negative: x - sigma * unet.module(
            hidden_states=x, timestep=sigma[None] * 1000, encoder_hidden_states=context, pooled_projections=options["pooled_output"]
        ).sample  # fmt: skip
    module = unet.module if name == "sd2" else with_sizes(unet)
    table = denoiser(unet).schedule.table

    def predict(x: Tensor, sigma: Tensor, context: Tensor, options: dict[str, Any], is_negative: bool) -> Tensor:
        step = torch.tensor([int(abs(table - float(sigma)).argmin())])
        sizes = [64, 96, 0, 8, 2.5 if is_negative else 6.0] if name == "refiner" else [64, 96, 0, 8, 64, 96]
        added = {"text_embeds": options["pooled_output"], "time_ids": torch.tensor([sizes])}
        given = {} if name == "sd2" else {"added_cond_kwargs": added}
        found: Tensor = x - sigma * module(x / (sigma**2 + 1) ** 0.5, step, context, **given).sample
        return found

    return predict


def with_sizes(unet: LoadedModel) -> Any:
    """The same network in diffusers' configuration for SDXL, which makes the vector itself."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    module: Any = unet.module
    config = {key: value for key, value in module.config.items() if not key.startswith("_")}
    config |= {"class_embed_type": None, "addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    built = UNet2DConditionModel(**config)
    built.load_state_dict(
        {key.replace("class_embedding", "add_embedding"): it for key, it in module.state_dict().items()}
    )
    return built.eval()


def test_sinusoids_are_those_of_diffusers() -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    expected = get_timestep_embedding(torch.tensor([768.0]), 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.allclose(sinusoids(768.0), expected[0], atol=1e-5)


def test_an_inpainting_model_sees_mask_and_kept_picture(files: dict[str, Path], store: LocalModelStore) -> None:
    """Beside the latent: the mask, then the scaled latent of what is kept. Told nothing, it sees a mask of ones over grey."""
    seen: list[Tensor] = []
    draw = torch.Generator().manual_seed(3)
    kept, mask = torch.randn(1, 4, 8, 8, generator=draw), torch.zeros(1, 64, 64)
    mask[:, :32] = 1.0
    given: dict[str, Any] = {"concat_latent_image": kept, "concat_mask": mask}
    with store.lease(ref(files["sd15-inpainting"], "unet")) as unet:
        settings = Settings(seed=1, steps=1, cfg=1.0, sampler="euler", scheduler="simple")
        handle = unet.module.get_submodule("conv_in").register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0])
        )
        for options in (given, {}):
            entry = [[torch.randn(1, 77, 64, generator=draw), options]]
            latent = {"samples": torch.zeros(1, 4, 8, 8)}
            sample_latent(denoiser(unet), settings, entry, entry, latent)
        handle.remove()
        entry[0][1] = {**given, "concat_latent_image": torch.zeros(1, 3, 64, 64)}
        with pytest.raises(InputError, match="expected a latent of 4 channels beside the sample, found one of 3"):
            sample_latent(denoiser(unet), settings, entry, entry, latent)
    told_all, told_nothing = seen
    assert torch.equal(told_all[:, 4, :4], torch.ones(1, 4, 8))
    assert not told_all[:, 4, 4:].any()
    assert torch.allclose(told_all[:, 5:], kept * 0.18215, atol=1e-6)
    assert torch.equal(told_nothing[:, 4], torch.ones(1, 8, 8))
    assert torch.allclose(told_nothing[0, 5:, 0, 0], torch.tensor([0.8223, -0.6876, 0.6364, 0.1380]))
