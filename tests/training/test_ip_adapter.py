"""The image encoder tells drawings apart, and the adapter brings over what it tells."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import CLIPVisionModelWithProjection

from nodes.diffusion.checkpoints import WeightFile
from nodes.diffusion.vision_parts import find_vision
from training.base import CHECKPOINT, MODELS
from training.config import SHARPEN, SHOWN, VISION, Share, UnetPhase, UnetRecipe
from training.evaluate import Model
from training.export import save_halves
from training.ip_adapter import Adapter, Words, look_at, read_adapter, shown, train_adapter, tries
from training.judge import look
from training.silhouettes import silhouettes
from training.text import encode
from training.unet import Latents
from training.vision import EMBEDS, embeds, make_vision, quarters, read_vision, sharpen, train_vision
from training.world import COMBOS, SHAPES, TRAINED, Scenes, draw_scenes, render

VISION_FILE = MODELS / "clip_vision" / "demo_vision.safetensors"
ADAPTER_FILE = MODELS / "ipadapter" / "demo_ip_adapter.safetensors"


@pytest.fixture(scope="module")
def vision() -> CLIPVisionModelWithProjection:
    return read_vision(VISION_FILE)


def test_the_tracked_encoder_is_read_off_its_file() -> None:
    """The loader finds its sizes: 64 pixels, patches of 8, 3 layers of width 128, embeddings of 64."""
    file = WeightFile(VISION_FILE)
    found = find_vision(file.header.tensors, file.header.metadata)
    assert found is not None
    config = found[0]
    assert (config.side, config.patch, config.layers, config.width, config.heads) == (64, 8, 3, 128, 2)
    assert config.projection == EMBEDS


def test_embeddings_are_near_for_what_is_the_same(vision: CLIPVisionModelWithProjection) -> None:
    """A drawing is nearer to one of the same colour, shape and ground a little elsewhere than to others, for nearly all of 48."""
    combo = torch.tensor(COMBOS)[torch.randperm(len(COMBOS), generator=torch.Generator().manual_seed(1))[:48]]
    left, right = (
        Scenes.unnamed(combo, torch.full((48, 2), at), torch.full((48,), size))
        for at, size in ((-0.08, 0.48), (0.08, 0.52))
    )
    one, other = (torch.nn.functional.normalize(embeds(vision, render(it, 128))) for it in (left, right))
    assert ((one @ other.T).argmax(1) == torch.arange(48)).float().mean() > 0.9


def test_an_encoder_learns_and_is_saved_with_what_it_answers(tmp_path: Path) -> None:
    """Two steps give finite weights of every part."""
    train_vision(replace(VISION, steps=2, batch=2), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt")
    assert set(state) == {"vision", "questions"}
    assert all(value.isfinite().all() for value in state["vision"].values())


def test_silhouettes_are_the_scenes_in_new_colours(tmp_path: Path) -> None:
    """What is painted is what would be drawn of its scene or of its mirror image; colour and ground differ; an encoder learns from it."""
    recipe = replace(SHARPEN, pool=256, steps=2, ask=1, batch=4)
    pool = silhouettes(recipe, 64)
    scenes, pictures, cover = pool.painted(32, torch.Generator().manual_seed(1))
    assert (scenes.combo[:, 0] != scenes.combo[:, 2]).all()
    for picture, drawn in zip(pictures, render(scenes, 64), strict=True):
        assert min((picture - other).abs().mean() for other in (drawn, drawn.flip(-1))) < 0.01
    assert quarters(cover).shape == (32, 64, 4)
    torch.testing.assert_close(quarters(cover).mean((1, 2)), cover.mean((1, 2)))
    vision = make_vision()
    before = {key: value.clone() for key, value in vision.state_dict().items()}
    sharpen(vision, recipe, tmp_path / "state.pt")
    assert any(
        not torch.equal(value, before[key]) for key, value in torch.load(tmp_path / "state.pt")["vision"].items()
    )


def test_the_tracked_encoder_tells_shapes_apart_small_ones_too(vision: CLIPVisionModelWithProjection) -> None:
    """A line through the embeddings of 600 drawings, fitted to which shape they show, names those of 200 others."""
    scenes = draw_scenes(800, torch.Generator().manual_seed(11), COMBOS, placed=0.5, sized=0.5)
    with torch.no_grad():
        found = torch.cat([embeds(vision, render(scenes[at : at + 200], 64)) for at in range(0, 800, 200)])
    found = torch.cat([found, torch.ones(800, 1)], 1)
    shapes = torch.nn.functional.one_hot(scenes.combo[:, 1], len(SHAPES)).float()
    named = (found[600:] @ torch.linalg.lstsq(found[:600], shapes[:600]).solution).argmax(1)
    assert (named == scenes.combo[600:, 1]).float().mean() > 0.98


def test_words_leave_to_the_picture_what_they_do_not_say() -> None:
    """All says colour, shape and ground; what is said is nothing or a part; without a picture both are the same."""
    base = Model.load(CHECKPOINT)
    meaning = torch.tensor([[0, 3, 2, 0, 0]]).expand(24, -1)
    everything = encode(base.text, ["a red star on a blue background"])[0]
    given, full, pictured = Words(base.text, UnetRecipe(empty_share=0.5), random.Random(1)).draw(meaning)
    assert given.shape == full.shape == (24, 77, 64)
    nothing = encode(base.text, [""])[0]
    empty = torch.tensor([torch.equal(one, nothing) for one in given])
    assert 4 < int(empty.sum()) < 20
    for said, all_of_it, is_shown in zip(given, full, pictured[:, 0].tolist(), strict=True):
        assert torch.equal(all_of_it, everything if is_shown else said)


def test_the_adapters_names_and_shapes_are_those_of_published_files() -> None:
    """Attentions to the words have the odd numbers in the order down, up, middle; four tokens of the text's width."""
    with safe_open(ADAPTER_FILE, "pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    widths = {1: 64, 3: 64, 5: 64, 7: 128}
    wanted = {f"ip_adapter.{at}.to_{it}_ip.weight": [wide, 64] for at, wide in widths.items() for it in "kv"}
    wanted |= {"image_proj.proj.weight": [256, 64], "image_proj.proj.bias": [256]}
    assert shapes == wanted | {"image_proj.norm.weight": [64], "image_proj.norm.bias": [64]}


def test_values_of_nothing_leave_the_denoiser_as_it_is() -> None:
    """With values of zero for the picture's tokens the text is followed as without an adapter."""
    base, alone = Model.load(CHECKPOINT), Model.load(CHECKPOINT)
    adapter = Adapter(base.unet)
    for key, weight in adapter.named_parameters():
        if key.endswith("to_v_ip.weight"):
            torch.nn.init.zeros_(weight)
    adapter.put_on(base.unet)
    states, latents = encode(base.text, ["a red circle on a blue background"]), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        longer = shown(adapter, states, torch.randn(1, EMBEDS))
        assert longer.shape == (1, 81, 64)
        torch.testing.assert_close(base.unet(latents, 500, longer).sample, alone.unet(latents, 500, states).sample)


def test_training_reaches_every_part_and_survives_the_file(tmp_path: Path) -> None:
    """Two steps change projection, keys and values; the file gives them back, and a training can start from it."""
    base = Model.load(CHECKPOINT)
    start = Adapter(base.unet).state_dict()
    scenes = draw_scenes(8, torch.Generator().manual_seed(0), TRAINED[:4])
    sets = {"64": Latents(torch.randn(8, 4, 8, 8).half(), scenes)}
    seen = look_at(make_vision(), replace(SHOWN, count=64), TRAINED[:4])
    recipe = UnetRecipe(phases=(UnetPhase("only", 2, 1e-2, 1e-3, (Share("64", 4, 1.0),)),), warm=1, save_every=1)
    train_adapter(base, seen, recipe, sets, tmp_path / "state.pt")
    weights = torch.load(tmp_path / "state.pt")["weights"]
    assert not any(torch.equal(weights[key], start[key]) for key in start if "ip_adapter" in key)
    save_halves(weights, tmp_path / "adapter.safetensors")
    again = read_adapter(tmp_path / "adapter.safetensors", Model.load(CHECKPOINT).unet).state_dict()
    assert all(torch.equal(again[key], value.half().float()) for key, value in weights.items())
    still = replace(recipe, phases=(UnetPhase("only", 1, 1e-9, 1e-9, (Share("64", 4, 1.0),)),))
    train_adapter(Model.load(CHECKPOINT), seen, still, sets, tmp_path / "on.pt", tmp_path / "adapter.safetensors")
    kept = torch.load(tmp_path / "on.pt")["weights"]
    torch.testing.assert_close(dict(kept), again)


def test_the_tracked_adapter_brings_over_colour_and_shape(vision: CLIPVisionModelWithProjection) -> None:
    """With an empty prompt, pictures have colour and ground of the picture shown, and its shape, but for one of eight at most."""
    base = Model.load(CHECKPOINT)
    adapter = read_adapter(ADAPTER_FILE, base.unet)
    adapter.put_on(base.unet)
    found = [(look(one.made), one.meaning) for one in tries(base, vision, adapter, 8, steps=10)]
    assert all(it.colour == meaning.colour for it, meaning in found)
    assert all(it.ground == meaning.ground for it, meaning in found)
    assert sum(it.shape == meaning.shape for it, meaning in found) >= 7
