"""Short names for public models: where on the Hugging Face hub they are, and which model folder they belong in.

The names are in ``catalogue.json`` beside this file. Nothing else of the engine knows of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Final

from engine.errors import UsageError
from engine.paths import nearest

CATALOGUE_NOTE: Final = (
    "anything else on the hub: mezzotint models pull OWNER/REPO/FILE, or OWNER/REPO for a diffusers folder"
)

_GENERIC: Final = frozenset({"model", "diffusion_pytorch_model", "pytorch_lora_weights", "adapter_model"})
"""Names of files that say nothing of what is in them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model on the hub: one file of a repository, or the diffusers folder that the repository is."""

    repo: str
    file: str | None
    """None for the whole folder."""
    title: str = ""
    folder: str | None = None
    """The key of the model folder it belongs in; None where only its content tells."""
    name: str = ""
    """What it is called there; where it is empty, by its file or its repository."""
    is_gated: bool = False
    """Whether its owner wants terms to be accepted first."""
    is_converted: bool = False
    """Whether it is a pickle that a safetensors file of the name ``name`` is made of."""

    @property
    def source(self) -> str:
        return f"{self.repo}/{self.file}" if self.file else self.repo

    @property
    def local_name(self) -> str:
        repository = self.repo.rpartition("/")[2]
        if self.name or self.file is None:
            return self.name or repository
        own = PurePosixPath(self.file)
        return f"{repository}{own.suffix}" if own.name.partition(".")[0] in _GENERIC else own.name


def read_catalogue() -> Mapping[str, Entry]:
    """The entries by their short names."""
    rows = json.loads(files("engine").joinpath("catalogue.json").read_text(encoding="utf-8"))
    return {
        short: Entry(
            repo=row["repo"],
            file=row.get("file"),
            title=row["title"],
            folder=row["folder"],
            name=row.get("name", ""),
            is_gated=row.get("gated", False),
            is_converted=row.get("convert", False),
        )
        for short, row in rows.items()
    }


def find_entry(name: str, catalogue: Mapping[str, Entry]) -> Entry:
    """The entry that ``name`` means: a short name, ``owner/repo/file`` or ``owner/repo``. Raises UsageError for anything else."""
    if name in catalogue:
        return catalogue[name]
    parts = name.strip("/").split("/")
    if len(parts) < 2 or not all(parts) or ".." in parts:
        raise UsageError(
            f"expected a short name, OWNER/REPO/FILE or OWNER/REPO, found {name!r}; "
            f"without a name all short ones are listed ({nearest(name, list(catalogue)).replace('other files', 'models')})"
        )
    repo = "/".join(parts[:2])
    return Entry(repo, "/".join(parts[2:])) if len(parts) > 2 else Entry(repo, None, folder="diffusers")
