"""``node_helpers``: conditionings, and reading pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from engine.compat.missing import module_getattr

if TYPE_CHECKING:
    import torch


def conditioning_set_values(conditioning: Any, values: Mapping[str, Any] | None = None, append: bool = False) -> Any:
    """Each entry with these values beside its tensor; ``append`` puts a list behind the list that is there."""
    changed = []
    for tensor, before, *rest in conditioning:
        known = dict(before)
        for key, value in (values or {}).items():
            known[key] = known[key] + value if append and known.get(key) is not None else value
        changed.append([tensor, known, *rest])
    return changed


def pillow(fn: Callable[[Any], Any], arg: Any) -> Any:
    """``fn(arg)``; for a picture that is cut short, what there is of it."""
    from PIL import ImageFile, UnidentifiedImageError

    try:
        return fn(arg)
    except (OSError, UnidentifiedImageError, ValueError):
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            return fn(arg)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def image_alpha_fix(destination: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both [..., C] with the destination's channels: a source with more is cut, a missing alpha is opaque."""
    from torch.nn.functional import pad

    missing = destination.shape[-1] - source.shape[-1]
    if missing < 0:
        source = source[..., : destination.shape[-1]]
    elif missing > 0:
        source = pad(source, (0, missing), value=1.0)
    return destination, source


def string_to_torch_dtype(string: str) -> torch.dtype | None:
    """``"fp32"``, ``"fp16"`` or ``"bf16"``; None for any other."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.get(string)


__getattr__ = module_getattr(__name__)
