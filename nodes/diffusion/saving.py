"""Model files from recipes: safetensors bytes in the layout that a loader finds its way in."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of ``tensors``."""
    from safetensors.torch import save

    return save(dict(tensors), {"format": "pt", **(metadata or {})})
