"""What every model beside the demo checkpoint starts from: the checkpoint, frozen, and scenes encoded by it once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from training.config import ADDED_SETS, LatentSet
from training.evaluate import Model
from training.unet import Latents, encode_set, load_set

ROOT = Path(__file__).parent
MODELS = ROOT.parent / "models"
CHECKPOINT = MODELS / "checkpoints" / "demo.safetensors"


def scene_sets(base: Model, work: Path, wanted: Sequence[LatentSet] = ADDED_SETS) -> dict[str, Latents]:
    """The sets by name, encoded when the work folder does not have them yet."""
    sets: dict[str, Latents] = {}
    for one in wanted:
        path = work / f"scenes-{one.name}.pt"
        if not path.exists():
            encode_set(base.vae, one, path)
        sets[one.name] = load_set(path)
    return sets


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What all commands take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, default=ROOT / "work", help="folder for results on the way")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tries", type=int, default=100, help="pictures to judge the finished model by; 0 for none")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    return given
