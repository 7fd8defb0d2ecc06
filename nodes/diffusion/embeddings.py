"""Textual inversion (Gal et al. 2022, "An Image is Worth One Word"): learned vectors in the place of tokens.

Files of several trainers are understood: ``emb_params`` (A1111), ``clip_l`` (for several text encoders), the token itself
(diffusers). A LoRA may hold some that were trained together with it, as ``bundle_emb.NAME.`` and a key of such a file. Only safetensors
files are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from engine.errors import ModelFileError
from nodes.diffusion.checkpoints import WeightFile
from nodes.diffusion.configs import Tower
from nodes.diffusion.instead import what_it_is

FindEmbedding = Callable[[str], Path | None]
"""Finds the file of an embedding by the name a prompt gives it."""

Warn = Callable[[str], None]

TOWER_KEYS: Final[Mapping[Tower, str]] = {"l": "clip_l", "h": "clip_h", "g": "clip_g", "t5": "t5xxl"}
"""What a file for several text encoders calls the vectors for each."""

_KEYS: Final = ("emb_params", "string_to_param.*")

_LEAVES: Final = (".weight", ".bias")
"""How tensors of layers are called."""

BUNDLE: Final = "bundle_emb."
"""How the keys of embeddings in a LoRA begin."""

_BUNDLED: Final = re.compile(
    rf"{re.escape(BUNDLE)}(.+)\.(?:{'|'.join(map(re.escape, (*TOWER_KEYS.values(), *_KEYS)))})"
)


class EmbeddingFinder:
    """Looks up the vectors of embeddings for a text encoder of one width; says what it has to leave out."""

    def __init__(
        self, find: FindEmbedding, width: int, warn: Warn, tower: Tower = "l", loras: Sequence[Path] = ()
    ) -> None:
        """``loras`` are those of the text encoder: what they hold goes before what ``find`` finds, the last one's first."""
        self._find = find
        self._tower = tower
        self._width = width
        self._warn = warn
        self._loras = loras

    def __call__(self, written: str) -> tuple[list[torch.Tensor], str]:
        """The vectors of the embedding ``written`` in a prompt, and those commas at its end that are text.

        No vectors, and a warning, when there is no such embedding or it is for another text encoder. Raises ModelFileError
        when its file is broken or a pickle.
        """
        for name in filter(None, dict.fromkeys((written, written.rstrip(",")))):
            for lora in reversed(self._loras):
                if name in bundled(WeightFile(lora)):
                    return self._fitting(name, read_vectors(lora, self._tower, name)), written[len(name) :]
            path = self._find(name)
            if path is not None:
                return self._fitting(name, read_vectors(path, self._tower)), written[len(name) :]
        name = written.rstrip(",")
        self._warn(f"expected an embedding {name!r} in models/embeddings, found none; it is left out of the prompt")
        return [], written[len(name) :]

    def _fitting(self, name: str, vectors: torch.Tensor | None) -> list[torch.Tensor]:
        if vectors is None or vectors.shape[-1] != self._width:
            found = "none" if vectors is None else f"width {vectors.shape[-1]}"
            self._warn(
                f"expected vectors {self._width} wide in the embedding {name!r}, found {found}; "
                "it is made for another text encoder and is left out"
            )
            return []
        return list(vectors)


def bundled(keys: Iterable[str]) -> list[str]:
    """The names of the embeddings among the ``keys`` of a LoRA."""
    return list(dict.fromkeys(found[1] for key in keys if (found := _BUNDLED.fullmatch(key))))


def read_vectors(path: Path, tower: Tower = "l", name: str | None = None) -> torch.Tensor | None:
    """The vectors in the embedding file ``path`` for ``tower``, float32 [count, width]; None when it holds none.

    With a ``name`` they are those of the embedding so called in a LoRA; without one all that a LoRA holds, one after the other. Raises
    ModelFileError where the file is broken, or holds the layers of a network.
    """
    file = WeightFile(path)
    names = bundled(file) if name is None else [name]
    if not names:
        _check_kind(file)
    found = [_of(file, tower, f"{BUNDLE}{each}.") for each in names] if names else [_of(file, tower, "")]
    vectors = [each for each in found if each is not None]
    fitting = [each for each in vectors if each.shape[-1] == vectors[0].shape[-1]]
    return torch.cat(fitting) if fitting else None


def _check_kind(file: WeightFile) -> None:
    """An embedding is called by one of the known keys, or by its token: never as the layers of networks are."""
    known = file.keys() & {*TOWER_KEYS.values(), *_KEYS}
    if not known and any(key.endswith(_LEAVES) for key in file):
        what = what_it_is(file.path.name, file.header)
        raise ModelFileError(f"expected a textual inversion embedding in {file.path.name}, found {what}")


def _of(file: WeightFile, tower: Tower, start: str) -> torch.Tensor | None:
    """The vectors in one embedding, whose keys begin with ``start``."""
    own = {key.removeprefix(start): key for key in file if key.startswith(start)}
    others = set(TOWER_KEYS.values()) - {TOWER_KEYS[tower]}
    named = [key for key in (TOWER_KEYS[tower], *_KEYS) if key in own]
    key = next(iter(named or (key for key in own if key not in others)), None)
    if key is None or not 1 <= len(file.header.tensors[own[key]].shape) <= 2:
        return None
    vectors = file[own[key]].float()
    return vectors.reshape(-1, vectors.shape[-1])
