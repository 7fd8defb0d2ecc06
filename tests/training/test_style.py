"""The style draws outlines, in a file as kohya's scripts write it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.base import CHECKPOINT, MODELS
from training.config import STYLED
from training.evaluate import Model
from training.grammar import Meaning, caption
from training.style import LowRank, attach, inside, lines, outlined, put_on, save, styled
from training.vae import to_latents
from training.world import HELD_OUT, SHAPES, draw_scenes, render, to_bytes

SHIPPED = MODELS / "loras" / "demo_outline.safetensors"


def test_outlines_are_told_from_filled_shapes() -> None:
    """Every drawing in the style counts as an outline of what it shows; filled ones never do, but rings, which are hollow by nature."""
    scenes = draw_scenes(24, torch.Generator().manual_seed(1))
    meanings = [Meaning(*row) for row in scenes.combo.tolist()]
    for picture, meaning in zip(to_bytes(lines(scenes, 128)).numpy(), meanings, strict=True):
        assert outlined(picture, meaning)
    for picture, meaning in zip(to_bytes(render(scenes, 128)).numpy(), meanings, strict=True):
        assert SHAPES[meaning.shape] == "ring" or not outlined(picture, meaning)
        assert SHAPES[meaning.shape] == "ring" or inside(picture)[1] < 0.1


def test_a_fresh_change_changes_nothing_and_has_kohyas_names(tmp_path: Path) -> None:
    """Before training the denoiser answers as ever; the file has up, down and alpha for every layer that has a change."""
    base, alone = Model.load(CHECKPOINT), Model.load(CHECKPOINT)
    changes = attach(base.unet)
    latents, states = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 64)
    with torch.no_grad():
        torch.testing.assert_close(base.unet(latents, 300, states).sample, alone.unet(latents, 300, states).sample)
    save(changes.state_dict(), tmp_path / "lora.safetensors")
    made = load_file(tmp_path / "lora.safetensors")
    assert len(made) == 3 * len(changes) == 3 * (4 * 12 + 2 * 8)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert made[f"{name}.lora_down.weight"].shape == (16, 64)
    name = "lora_unet_down_blocks_0_resnets_0_conv1"
    assert made[f"{name}.lora_down.weight"].shape == (16, 64, 3, 3)
    assert made[f"{name}.lora_up.weight"].shape == (64, 16, 1, 1)
    assert {key: it.shape for key, it in made.items()} == {key: it.shape for key, it in load_file(SHIPPED).items()}


@pytest.mark.parametrize(
    "layer",
    [torch.nn.Linear(6, 4), torch.nn.Conv2d(6, 4, 1), torch.nn.Conv2d(6, 4, 3, padding=1)],
    ids=["linear", "pointwise", "kernel"],
)
def test_a_change_is_the_product_of_its_halves(layer: torch.nn.Linear | torch.nn.Conv2d) -> None:
    """The layer's output with the change is that of the layer with up times down added to its weight."""
    change = LowRank(layer)
    torch.nn.init.normal_(change.lora_up.get_parameter("weight"))
    values = torch.randn(2, 6) if isinstance(layer, torch.nn.Linear) else torch.randn(2, 6, 3, 3)
    with torch.no_grad():
        out = change(values)
        up, down = (part.get_parameter("weight").flatten(1) for part in (change.lora_up, change.lora_down))
        layer.weight += (up @ down).view_as(layer.weight)
        torch.testing.assert_close(out, layer(values), rtol=1e-4, atol=1e-4)


def test_outlines_to_learn_from_are_of_few_small_shapes_and_drawn_once(tmp_path: Path) -> None:
    """Stars are twice as many as others of six; the second call reads what the first one wrote; the latents are of outlines."""
    base = Model.load(CHECKPOINT)
    wanted = replace(STYLED, side=64, count=96)
    latents = styled(base, wanted, tmp_path / "styled.pt")
    assert latents.values.shape == (96, 4, 8, 8)
    assert 0.18 < (latents.scenes.combo[:, 1] == SHAPES.index("star")).float().mean() < 0.4
    assert (latents.scenes.radius < 0.36).float().mean() < 0.2
    again = styled(base, replace(wanted, seed=0), tmp_path / "styled.pt")
    assert torch.equal(again.values, latents.values)
    torch.testing.assert_close(
        latents.values[:4].float(), to_latents(base.vae, lines(latents.scenes[:4], 64)), rtol=0.01, atol=0.01
    )


def test_the_tracked_style_draws_outlines() -> None:
    """Most of two circles, hearts, squares, triangles and stars each are outlines with the style, and all are full without it."""
    kinds = ("circle", "heart", "square", "triangle", "star")
    chosen = [combo for kind in kinds for combo in [it for it in HELD_OUT if SHAPES[it.shape] == kind][:2]]
    meanings = [Meaning(*combo) for combo in chosen]
    texts = [caption(meaning) for meaning in meanings]
    base = Model.load(CHECKPOINT)
    full = [inside(picture)[1] for picture in base.draw(texts, steps=10, method="dpmpp_2m")]
    put_on(base.unet, SHIPPED)
    pictures = base.draw(texts, steps=10, method="dpmpp_2m")
    assert max(full) < 0.05
    assert np.mean([inside(picture)[1] for picture in pictures]) > 0.8
    assert sum(outlined(picture, meaning) for picture, meaning in zip(pictures, meanings, strict=True)) >= 8
