"""Make the demo model from nothing: `python -m training.demo`.

Each stage leaves its result in the work folder and is skipped when that is there, so the command can be stopped and
started again at any time; the denoiser's training also goes on from the middle. Delete a result to make it anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from training.config import REFINING, Recipe
from training.export import export, read
from training.loop import start_from
from training.polish import polish
from training.text import load_text, train_text
from training.unet import encode_set, load_set, load_unet, train_unet
from training.vae import load_vae, train_vae

ROOT = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Folder:
    """Where each stage's result lies."""

    path: Path

    @property
    def text(self) -> Path:
        return self.path / "text.pt"

    @property
    def vae(self) -> Path:
        return self.path / "vae.pt"

    @property
    def unet(self) -> Path:
        return self.path / "unet.pt"

    @property
    def polished(self) -> Path:
        return self.path / "polished.pt"

    def latents(self, name: str) -> Path:
        return self.path / f"latents-{name}.pt"


def run_text(recipe: Recipe, folder: Folder) -> None:
    if not folder.text.exists():
        train_text(recipe.text, folder.text)


def run_vae(recipe: Recipe, folder: Folder) -> None:
    if not folder.vae.exists():
        train_vae(recipe.vae, folder.vae)


def run_latents(recipe: Recipe, folder: Folder) -> None:
    for wanted in recipe.latents:
        path = folder.latents(wanted.name)
        if not path.exists():
            encode_set(load_vae(folder.vae), wanted, path)


def run_unet(recipe: Recipe, folder: Folder) -> None:
    sets = {wanted.name: load_set(folder.latents(wanted.name)) for wanted in recipe.latents}
    train_unet(recipe.unet, sets, load_text(folder.text), folder.unet)


def run_polish(recipe: Recipe, folder: Folder) -> None:
    if not folder.polished.exists():
        polish(load_vae(folder.vae), recipe.polish, folder.polished)


def run_export(recipe: Recipe, folder: Folder) -> None:
    unet, vae, text = load_unet(folder.unet), load_vae(folder.polished), load_text(folder.text)
    export(unet.state_dict(), vae.state_dict(), text.state_dict(), folder.path / "demo.safetensors")


def start(file: Path, recipe: Recipe, folder: Folder) -> None:
    """Lay an exported model's pieces into the folder, its text encoder with any new words, so that the stages go on from them."""
    unet, vae, text = read(file)
    train_text(recipe.text, folder.text, text)
    for path in (folder.vae, folder.polished):
        torch.save(vae.state_dict(), path)
    start_from(unet, folder.unet)


STAGES: dict[str, Callable[[Recipe, Folder], None]] = {
    "text": run_text,
    "vae": run_vae,
    "latents": run_latents,
    "unet": run_unet,
    "polish": run_polish,
    "export": run_export,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "work", help="folder for the stages' results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--start", type=Path, help="an exported model to go on from, in place of the first two stages")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    folder = Folder(arguments.work)
    recipe = Recipe(unet=REFINING) if arguments.start else Recipe()
    if arguments.start and not folder.unet.exists():
        start(arguments.start, recipe, folder)
    for stage in arguments.stages:
        STAGES[stage](recipe, folder)


if __name__ == "__main__":
    main()
