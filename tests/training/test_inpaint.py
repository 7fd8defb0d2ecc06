"""The inpainting checkpoint begins as the demo model, is told what to keep, and fills holes as asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from training.base import CHECKPOINT, MODELS
from training.evaluate import Model
from training.inpaint import Inpainting, all_masked, beside, holes, masks, questions, report, tries, wider
from training.judge import look
from training.unet import Latents, noised
from training.world import HELD_OUT, draw_scenes, render

SHIPPED = MODELS / "checkpoints" / "demo_inpaint.safetensors"


@pytest.fixture(scope="module")
def base() -> Model:
    return Model.load(CHECKPOINT)


def test_at_first_it_is_the_demo_model(base: Model) -> None:
    """Whatever stands beside the latents, the wide denoiser answers as the narrow one before it is trained."""
    latents, states, times = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 64), torch.tensor([5, 700])
    with torch.no_grad():
        wide = Inpainting(wider(base.unet), torch.randn(2, 5, 8, 8))(latents, times, states)[0]
        torch.testing.assert_close(wide, base.unet(latents, times, states).sample)


def test_masks_are_of_all_kinds() -> None:
    """Masks are of 0 and 1, cover between nothing much and nearly all, and some hide the whole shape."""
    scenes = draw_scenes(64, torch.Generator().manual_seed(1))
    drawn = masks(scenes, 64, torch.Generator().manual_seed(2))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    shares = drawn.mean((1, 2))
    assert 0.02 < shares.min() < 0.2 < 0.5 < shares.max() <= 1


def test_nothing_under_the_mask_is_shown(base: Model) -> None:
    """Two pictures that differ under the mask alone look the same to the model, and the mask is an eighth as wide."""
    pictures = render(draw_scenes(1, torch.Generator().manual_seed(3)), 64)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:56, 16:56] = 1
    other = torch.where(mask[:, None] > 0, torch.randn_like(pictures), pictures)
    seen = beside(base, pictures, mask)
    assert torch.equal(seen, beside(base, other, mask))
    assert seen[0, 0].tolist() == [
        [1.0 if min(x, y) >= 2 and max(x, y) < 7 else 0.0 for x in range(8)] for y in range(8)
    ]
    assert all_masked(base, 64)[:, 0].min() == 1


def test_scenes_come_back_under_other_masks(base: Model, tmp_path: Path) -> None:
    """Two rounds of holes of three scenes: the first three and the last three belong to the same scenes, and their masks differ."""
    scenes = draw_scenes(5, torch.Generator().manual_seed(5))
    found = holes(base, Latents(torch.zeros(5, 4, 8, 8), scenes), 3, 2, tmp_path / "holes.pt")
    assert found.values.shape == (6, 5, 8, 8)
    assert found.count == 3
    assert not torch.equal(found.values[:3, 0], found.values[3:, 0])
    assert torch.equal(
        holes(base, Latents(torch.zeros(5, 4, 8, 8), scenes), 3, 2, tmp_path / "holes.pt").values, found.values
    )


def test_late_times_are_noisier() -> None:
    """Evenly spread times are 500 in the mean, their square roots, as shares of all, 667; a small gamma takes weight from clean ones."""
    clean = torch.zeros(400, 4, 2, 2)
    even, late = noised(clean, 5.0), noised(clean, 0.5, 0.5)
    assert even.times.float().mean().item() == pytest.approx(499.5, abs=3)
    assert late.times.float().mean().item() == pytest.approx(666, abs=3)
    assert late.weights.max() == 1
    at = [int((one.times - 200).abs().argmin()) for one in (even, late)]
    assert late.weights[at[1]] < even.weights[at[0]] / 5


def test_questions_ask_for_something_else_on_the_same_ground() -> None:
    """Colour and shape asked for differ from those drawn, the ground is the same, and what is asked was held out."""
    scenes, asked = questions(64, torch.Generator().manual_seed(4))
    for (colour, shape, ground), meaning in zip(scenes.combo.tolist(), asked, strict=True):
        assert colour not in (meaning.colour, ground)
        assert shape != meaning.shape
        assert ground == meaning.ground
        assert (meaning.colour, meaning.shape, meaning.ground) in HELD_OUT


def test_the_tracked_checkpoint_has_nine_channels_and_fills_holes(base: Model, tmp_path: Path) -> None:
    """Holes are filled as asked, but for one of eight at most, and what lies outside hardly changes."""
    with safe_open(SHIPPED, "pt") as file:
        assert file.get_slice("model.diffusion_model.input_blocks.0.0.weight").get_shape() == [64, 9, 3, 3]
    done = tries(base, Model.load(SHIPPED).unet, 8, steps=8)
    report(done, tmp_path / "sheet.png")
    assert sum(look(one.joined).agrees(one.meaning) for one in done) >= 7
    assert sum(one.kept for one in done) / 8 < 4
    assert (tmp_path / "sheet.png").stat().st_size > 0
