"""From the difference of two models to a LoRA: the truncated singular value decomposition of every weight.

The best matrix of rank r near a given one keeps its r largest singular values (Eckart and Young 1936). Kohya's scripts, which made
most extracted LoRAs, cut the largest hundredth of the factors' entries off, and so do we: few outliers make factors that half
precision holds badly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal

import torch
from torch import Tensor

from nodes.diffusion.configs import TowersConfig
from nodes.diffusion.layouts import original_names
from nodes.diffusion.lora_keys import text_spellings
from nodes.diffusion.patches import Contents

LoraType = Literal["standard", "full_diff"]

_KEPT: Final = 0.99


def extract(
    difference: Contents,
    *,
    rank: int,
    lora_type: LoraType,
    biases: bool,
    progress: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """The tensors of a LoRA file, float16 on the CPU, that add ``difference``, whose weights are all differences.

    ``standard``: factors of rank ``rank`` or the weight's own, weights of one dimension whole; ``full_diff``: whole differences. Biases
    are left out unless ``biases``, and so is what has not changed.
    """
    found: dict[str, Tensor] = {}
    originals = original_names(difference.config, difference.weights)
    for index, name in enumerate(difference.weights):
        progress(index, len(difference.weights))
        path, _, leaf = name.rpartition(".")
        if isinstance(difference.config, TowersConfig):
            module = next(text_spellings(path, is_alone=False))
        elif name in originals:
            module = "diffusion_model." + originals[name].removesuffix(f".{leaf}")
        else:
            module = f"transformer.{path}"
        for role, tensor in _entries(difference.weights[name].float(), leaf, rank, lora_type, biases):
            found[f"{module}.{role}"] = tensor.half().cpu().contiguous()
    return found


def _entries(change: Tensor, leaf: str, rank: int, lora_type: LoraType, biases: bool) -> Iterator[tuple[str, Tensor]]:
    """Roles and tensors for one difference."""
    if not change.any() or (leaf == "bias" and not biases):
        return
    if leaf == "bias":
        yield "diff_b", change
    elif lora_type == "full_diff":
        yield "diff", change
    elif change.ndim > 1:
        up, down = factors(change, rank)
        yield "lora_up.weight", up
        yield "lora_down.weight", down
    elif biases:
        yield "diff", change


def factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``up`` [out, r, 1, ...] and ``down`` [r, in, ...] whose product is near ``change`` [out, in, ...]; r is at most ``rank``."""
    outputs, inputs, *kernel = change.shape
    kept = min(rank, outputs, inputs)
    left, values, right = torch.linalg.svd(change.flatten(1), full_matrices=False)
    up, down = left[:, :kept] * values[:kept], right[:kept]
    entries = torch.cat([up.flatten(), down.flatten()])
    limit = _quantile(entries, _KEPT)
    up, down = up.clamp(-limit, limit), down.clamp(-limit, limit)
    return up.reshape(outputs, kept, *[1] * len(kernel)), down.reshape(kept, inputs, *kernel)


def _quantile(entries: Tensor, share: float) -> float:
    """The number that ``share`` (0..1) of ``entries`` [n] do not exceed, between two of them by interpolation; torch's own knows 16 million
    entries at most."""
    place = share * (len(entries) - 1)
    low = int(place)
    values = [float(entries.kthvalue(number + 1).values) for number in (low, min(low + 1, len(entries) - 1))]
    return values[0] + (values[1] - values[0]) * (place - low)
