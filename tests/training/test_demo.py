"""The one command makes a model from nothing, goes on where it was stopped, and goes on from a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.config import (
    LatentSet,
    Phase,
    PolishRecipe,
    Recipe,
    Share,
    TextRecipe,
    UnetPhase,
    UnetRecipe,
    VaeRecipe,
)
from training.demo import STAGES, Folder, start
from training.export import read

SHIPPED = Path(__file__).parents[2] / "models" / "checkpoints" / "demo.safetensors"
TINY = Recipe(
    text=TextRecipe(steps=24, batch=4),
    vae=VaeRecipe(phases=(Phase(32, 2, 2),), whiten_side=32),
    latents=(LatentSet("64", 64, 32, seed=1, placed=0.3, sized=0.3),),
    unet=UnetRecipe(phases=(UnetPhase("only", 2, 1e-3, 1e-4, (Share("64", 4, 1.0),)),), warm=1, save_every=1),
    polish=PolishRecipe(side=32, steps=2, batch=2),
)


def run(folder: Folder) -> dict[str, torch.Tensor]:
    for stage in STAGES.values():
        stage(TINY, folder)
    return load_file(folder.path / "demo.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, dict[str, torch.Tensor]]:
    folder = Folder(tmp_path_factory.mktemp("work"))
    return folder, run(folder)


def test_all_stages_end_in_a_file_like_the_shipped_one(made: tuple[Folder, dict[str, torch.Tensor]]) -> None:
    """A recipe of a few steps gives finite weights under the same names, in the same shapes."""
    shipped = load_file(SHIPPED)
    assert {name: tensor.shape for name, tensor in made[1].items()} == {name: it.shape for name, it in shipped.items()}
    assert all(tensor.isfinite().all() for tensor in made[1].values())


def test_a_finished_stage_is_not_done_again(made: tuple[Folder, dict[str, torch.Tensor]]) -> None:
    """Run again, the command leaves every result as it is and exports the same weights."""
    folder, before = made
    written = {path.name: path.stat().st_mtime_ns for path in folder.path.glob("*.pt")}
    after = run(folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.path.glob("*.pt")} == written
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_going_on_keeps_the_autoencoder_and_trains_the_rest(tmp_path: Path) -> None:
    """From a model, its pictures' code stays to the bit, and the denoiser changes."""
    folder = Folder(tmp_path)
    start(SHIPPED, TINY, folder)
    run(folder)
    (unet, vae, _), (old_unet, old_vae, _) = read(folder.path / "demo.safetensors"), read(SHIPPED)
    assert all(torch.equal(vae.state_dict()[name], tensor) for name, tensor in old_vae.state_dict().items())
    name = "conv_in.weight"
    assert not torch.equal(unet.state_dict()[name], old_unet.state_dict()[name])
