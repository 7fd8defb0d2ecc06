"""The style draws outlines, in a file as kohya's scripts write it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.base import CHECKPOINT, MODELS
from training.evaluate import Model
from training.grammar import Meaning, caption
from training.style import LowRank, attach, inside, lines, outlined, put_on, save
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
    """Before training the denoiser answers as ever; the file has up, down and alpha for every layer of the transformers."""
    base, alone = Model.load(CHECKPOINT), Model.load(CHECKPOINT)
    changes = attach(base.unet)
    latents, states = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 64)
    with torch.no_grad():
        torch.testing.assert_close(base.unet(latents, 300, states).sample, alone.unet(latents, 300, states).sample)
    save(changes.state_dict(), tmp_path / "lora.safetensors")
    made = load_file(tmp_path / "lora.safetensors")
    assert len(made) == 3 * len(changes) == 3 * 4 * 12
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert made[f"{name}.lora_down.weight"].shape == (16, 64)
    assert {key: it.shape for key, it in made.items()} == {key: it.shape for key, it in load_file(SHIPPED).items()}


@pytest.mark.parametrize("layer", [torch.nn.Linear(6, 4), torch.nn.Conv2d(6, 4, 1)])
def test_a_change_is_the_product_of_its_halves(layer: torch.nn.Linear | torch.nn.Conv2d) -> None:
    """The layer's output with the change is that of the layer with up times down added to its weight."""
    change = LowRank(layer)
    torch.nn.init.normal_(change.lora_up.get_parameter("weight"))
    values = torch.randn(2, 6) if isinstance(layer, torch.nn.Linear) else torch.randn(2, 6, 3, 3)
    with torch.no_grad():
        out = change(values)
        up, down = (part.get_parameter("weight").flatten(1) for part in (change.lora_up, change.lora_down))
        layer.weight += (up @ down).view_as(layer.weight)
        torch.testing.assert_close(out, layer(values))


def test_the_tracked_style_draws_outlines() -> None:
    """Hearts, squares and triangles are mostly empty inside with the style, and full without it."""
    chosen = [combo for combo in HELD_OUT if SHAPES[combo.shape] in ("heart", "square", "triangle")][:6]
    texts = [caption(Meaning(*combo)) for combo in chosen]
    base = Model.load(CHECKPOINT)
    full = [inside(picture)[1] for picture in base.draw(texts, steps=10, method="dpmpp_2m")]
    put_on(base.unet, SHIPPED)
    empty = [inside(picture)[1] for picture in base.draw(texts, steps=10, method="dpmpp_2m")]
    assert max(full) < 0.05
    assert sum(empty) / len(empty) > 0.6
