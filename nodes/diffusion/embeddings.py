"""Textual inversion (Gal et al. 2022, "An Image is Worth One Word"): learned vectors in the place of tokens.

Files of several trainers are understood: ``emb_params`` (A1111), ``clip_l`` (for several text encoders), the token itself
(diffusers). Only safetensors files are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch

from nodes.diffusion.checkpoints import WeightFile
from nodes.diffusion.configs import Tower

FindEmbedding = Callable[[str], Path | None]
"""Finds the file of an embedding by the name a prompt gives it."""

Warn = Callable[[str], None]

TOWER_KEYS: Final[Mapping[Tower, str]] = {"l": "clip_l", "h": "clip_h", "g": "clip_g", "t5": "t5xxl"}
"""What a file for several text encoders calls the vectors for each."""

_KEYS: Final = ("emb_params", "string_to_param.*")


class EmbeddingFinder:
    """Looks up the vectors of embeddings for a text encoder of one width; says what it has to leave out."""

    def __init__(self, find: FindEmbedding, width: int, warn: Warn, tower: Tower = "l") -> None:
        self._find = find
        self._tower = tower
        self._width = width
        self._warn = warn

    def __call__(self, written: str) -> tuple[list[torch.Tensor], str]:
        """The vectors of the embedding ``written`` in a prompt, and those commas at its end that are text.

        No vectors, and a warning, when there is no such embedding or it is for another text encoder. Raises ModelFileError
        when its file is broken or a pickle.
        """
        for name in dict.fromkeys((written, written.rstrip(","))):
            path = self._find(name) if name else None
            if path is not None:
                return self._vectors(name, path), written[len(name) :]
        name = written.rstrip(",")
        self._warn(f"expected an embedding {name!r} in models/embeddings, found none; it is left out of the prompt")
        return [], written[len(name) :]

    def _vectors(self, name: str, path: Path) -> list[torch.Tensor]:
        vectors = read_vectors(path, self._tower)
        if vectors is None or vectors.shape[-1] != self._width:
            found = "none" if vectors is None else f"width {vectors.shape[-1]}"
            self._warn(
                f"expected vectors {self._width} wide in the embedding {name!r}, found {found}; "
                "it is made for another text encoder and is left out"
            )
            return []
        return list(vectors)


def read_vectors(path: Path, tower: Tower = "l") -> torch.Tensor | None:
    """The vectors in the embedding file ``path`` for ``tower``, float32 [count, width]; None when it holds none."""
    file = WeightFile(path)
    others = set(TOWER_KEYS.values()) - {TOWER_KEYS[tower]}
    named = [key for key in (TOWER_KEYS[tower], *_KEYS) if key in file]
    key = next(iter(named or (key for key in file if key not in others)), None)
    if key is None or not 1 <= len(file.header.tensors[key].shape) <= 2:
        return None
    vectors = file[key].float()
    return vectors.reshape(-1, vectors.shape[-1])
