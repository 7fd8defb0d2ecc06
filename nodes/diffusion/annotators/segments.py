"""What is where in a picture, each kind of thing in its colour.

Networks of transformers see the picture at the size, and with the mean and deviation, that the folder of their weights says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from engine.errors import ModelFileError
from nodes.diffusion import tokenizer
from nodes.diffusion.annotators import palettes
from nodes.diffusion.annotators.frames import Numbers, Pixels

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""Of the colours of ImageNet."""

_TASK: Final = "the task is semantic"
_WORDS: Final = 77
_ONE_SIZE: Final = {"height": 512, "width": 512}
_ONEFORMER: Final = {
    "coco": {"shortest_edge": 800, "longest_edge": 1333},
    "ade20k": {"shortest_edge": 640, "longest_edge": 2560},
}


def oneformer(network: nn.Module, pixels: Pixels, folder: Path, kind: str) -> Numbers:
    """Segments by OneFormer (Jain et al. 2023), asked for kinds of things, in the colours of COCO or ADE20K."""
    given = prepared(pixels, folder, _ONEFORMER[kind]).to(next(network.parameters()).device)
    tokens = torch.zeros(1, _WORDS, dtype=torch.long)
    words = [tokenizer.START_TOKEN, *tokenizer.tokenize(_TASK), tokenizer.END_TOKEN]
    tokens[0, : len(words)] = torch.tensor(words)
    with torch.no_grad():
        found = network(pixel_values=given, task_inputs=tokens.to(given.device))
    # each query says what it is, and where; the last of its classes is that it is nothing
    classes = found.class_queries_logits.softmax(-1)[..., :-1]
    scores = torch.einsum("bqc,bqhw->bchw", classes, found.masks_queries_logits.sigmoid())
    return _coloured(scores, pixels, palettes.coco() if kind == "coco" else palettes.ade20k(), folder)


def semantic(network: nn.Module, pixels: Pixels, folder: Path) -> Numbers:
    """Segments by a network that scores each class at each place, in the colours of ADE20K."""
    given = prepared(pixels, folder, _ONE_SIZE).to(next(network.parameters()).device)
    with torch.no_grad():
        scores = network(pixel_values=given).logits
    return _coloured(scores, pixels, palettes.ade20k(), folder)


def _coloured(scores: Tensor, pixels: Pixels, colours: Pixels, folder: Path) -> Numbers:
    if scores.shape[1] != len(colours):
        raise ModelFileError(
            f"expected a network for {len(colours)} kinds of things in {folder}, found one for {scores.shape[1]}"
        )
    whole = interpolate(scores.float(), size=pixels.shape[:2], mode="bilinear")[0]
    found: Numbers = colours[whole.argmax(0).cpu().numpy()]
    return found


def prepared(pixels: Pixels, folder: Path, usual: Mapping[str, int]) -> Tensor:
    """A picture as a network sees it: float32 [1,3,h,w]. ``usual`` is its size where the folder does not say it."""
    told = _told(folder)
    size = told.get("size", usual)
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": told.get("max_size", 2**31)}
    height, width = pixels.shape[:2]
    if "shortest_edge" in size:
        scale = min(size["shortest_edge"] / min(height, width), size.get("longest_edge", 2**31) / max(height, width))
        to = max(round(height * scale), 1), max(round(width * scale), 1)
    else:
        to = size["height"], size["width"]
    picture = torch.from_numpy(np.ascontiguousarray(pixels)).float().movedim(-1, 0)[None] / 255
    seen = interpolate(picture, size=to, mode="bilinear", antialias=True)
    mean, std = (
        torch.tensor(told.get(name, other)).reshape(3, 1, 1)
        for name, other in (("image_mean", MEAN), ("image_std", STD))
    )
    return (seen - mean) / std


def _told(folder: Path) -> Mapping[str, Any]:
    """What ``preprocessor_config.json`` of a folder says, if it is there."""
    file = folder / "preprocessor_config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelFileError(f"expected JSON in {file}, found: {error}") from error
    return found if isinstance(found, dict) else {}
