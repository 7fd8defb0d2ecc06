"""ControlNets have both layouts to the letter, start as nothing, and put shapes where hints say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from safetensors import safe_open

from training.base import CHECKPOINT, MODELS
from training.config import Share, UnetPhase, UnetRecipe
from training.control import HINTS, SAVES, Controlled, fresh_net, read_control, train_control, tries
from training.evaluate import Model
from training.hints import edge_hints
from training.unet import Latents
from training.world import draw_scenes


@pytest.fixture(scope="module")
def base() -> Model:
    return Model.load(CHECKPOINT)


@pytest.fixture(scope="module")
def fresh(base: Model) -> ControlNetModel:
    return fresh_net(base.unet)


def keys(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("kind", list(SAVES))
def test_a_file_gives_back_the_weights(kind: str, fresh: ControlNetModel, base: Model, tmp_path: Path) -> None:
    """Either layout holds every weight once, rounded to float16."""
    SAVES[kind](fresh.state_dict(), tmp_path / "net.safetensors")
    assert len(keys(tmp_path / "net.safetensors")) == len(fresh.state_dict())
    again = read_control(tmp_path / "net.safetensors", base.unet).state_dict()
    assert all(torch.equal(again[key], value.half().float()) for key, value in fresh.state_dict().items())


def test_the_original_layout_is_that_of_the_papers_files(fresh: ControlNetModel, tmp_path: Path) -> None:
    """Hint convolutions have the even numbers, every block down has its zero convolution, and the middle one of its own."""
    SAVES["canny"](fresh.state_dict(), tmp_path / "net.safetensors")
    found = keys(tmp_path / "net.safetensors")
    hint = {f"control_model.input_hint_block.{number}.weight" for number in range(0, 15, 2)}
    zeros = {f"control_model.zero_convs.{number}.0.bias" for number in range(4)}
    others = {
        "middle_block_out.0.weight",
        "time_embed.2.bias",
        "input_blocks.2.0.op.weight",
        "middle_block.1.proj_in.weight",
    }
    assert hint | zeros | {f"control_model.{name}" for name in others} <= found
    assert all(name.startswith("control_model.") for name in found)
    assert not any("output_blocks" in name or "resnets" in name for name in found)


def test_an_untrained_net_changes_nothing(fresh: ControlNetModel, base: Model) -> None:
    """With zero convolutions the denoiser answers as if alone; two nets add up to nothing as well."""
    latents, states = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 64)
    hints = torch.rand(2, 3, 64, 64)
    times = torch.tensor([10, 900])
    with torch.no_grad():
        alone = base.unet(latents, times, states).sample
        both = Controlled(base.unet, [(fresh, hints, 1.0), (fresh, hints, 0.5)])(latents, times, states)[0]
    torch.testing.assert_close(both, alone)


def test_training_changes_the_net_and_leaves_the_denoiser(base: Model, tmp_path: Path) -> None:
    """Two steps move the zero convolutions off zero; every weight of the denoiser is what it was."""
    before = {key: value.clone() for key, value in base.unet.state_dict().items()}
    scenes = draw_scenes(8, torch.Generator().manual_seed(0))
    sets = {"64": Latents(torch.randn(8, 4, 8, 8).half(), scenes)}
    recipe = UnetRecipe(phases=(UnetPhase("only", 2, 1e-3, 1e-4, (Share("64", 4, 1.0),)),), warm=1, save_every=1)
    train_control(base, fresh_net(base.unet), edge_hints, recipe, sets, tmp_path / "state.pt")
    weights = torch.load(tmp_path / "state.pt")["weights"]
    assert all(weights[f"controlnet_down_blocks.{number}.weight"].abs().max() > 0 for number in range(4))
    assert all(torch.equal(value, before[key]) for key, value in base.unet.state_dict().items())


@pytest.mark.parametrize("kind", list(HINTS))
def test_the_tracked_net_puts_shapes_on_their_hints(kind: str, base: Model) -> None:
    """At 64 pixels shapes overlap with their hints by two thirds in the mean; without the net by much less."""
    net = read_control(MODELS / "controlnet" / f"demo_{kind}.safetensors", base.unet)
    done = tries(base, [(net, HINTS[kind], 1.0)], 6, side=64, steps=8)
    alone = tries(base, [], 6, side=64, steps=8)
    controlled, free = (sum(one.overlap for one in some) / 6 for some in (done, alone))
    assert controlled > 0.66
    assert free < controlled - 0.15
