"""Folders of models: the usual ones below each models root, those of a configuration file, the Hugging Face cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from engine.errors import MissingFile, PathOutsideRoots, UsageError
from engine.paths import checked_name, is_inside, nearest, walk

MODEL_SUFFIXES: Final = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})

_PICKLES: Final = MODEL_SUFFIXES - {".safetensors", ".sft"}

SUBFOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "checkpoints": ("checkpoints",),
    "configs": ("configs",),
    "loras": ("loras",),
    "vae": ("vae",),
    "text_encoders": ("text_encoders", "clip"),
    "diffusion_models": ("diffusion_models", "unet"),
    "clip_vision": ("clip_vision",),
    "style_models": ("style_models",),
    "embeddings": ("embeddings",),
    "diffusers": ("diffusers",),
    "vae_approx": ("vae_approx",),
    "controlnet": ("controlnet", "t2i_adapter"),
    "gligen": ("gligen",),
    "upscale_models": ("upscale_models",),
    "custom_nodes": ("custom_nodes",),
    "hypernetworks": ("hypernetworks",),
    "ipadapter": ("ipadapter",),
    "photomaker": ("photomaker",),
    "classifiers": ("classifiers",),
    "model_patches": ("model_patches",),
    "audio_encoders": ("audio_encoders",),
    "tokenizers": ("tokenizers",),
    "styles": ("styles",),
    "annotators": ("annotators",),
    "sams": ("sams",),
    "sam2": ("sam2",),
    "facerestore_models": ("facerestore_models",),
    "facedetection": ("facedetection",),
}
"""Folder key -> the folders below a models root that it is made of."""

_SUFFIXES: Final[Mapping[str, frozenset[str]]] = {
    "configs": frozenset({".yaml"}),
    "tokenizers": frozenset({".json"}),
    "styles": frozenset({".json", ".csv"}),
    "diffusion_models": MODEL_SUFFIXES | {".gguf"},
    "annotators": MODEL_SUFFIXES | {".onnx"},
}
"""Of the keys whose models do not end as all others do."""

ALIASES: Final[Mapping[str, str]] = {
    "clip": "text_encoders",
    "unet": "diffusion_models",
    "facedetection_models": "facedetection",
}

TINY_VAES: Final = ("taesd", "taesdxl", "taesd3")
"""Tiny autoencoders whose halves are files of their own among those of ``vae_approx``, such as ``taesd_encoder.safetensors``."""
TINY_FOLDER: Final = "vae_approx"

DIFFUSERS_INDEX: Final = "model_index.json"
NETWORKS: Final = "controlnet"
"""The key whose models may also be diffusers folders of a network alone."""
TRANSFORMERS_INDEX: Final = "config.json"
"""What a folder holds that transformers reads as one network."""

OF_HUB: Final = frozenset({"annotators", "sams"})
"""Keys whose models are also looked for in the Hugging Face cache, where they are called ``owner/name/file`` or ``owner/name``."""
T5_TOKENIZER: Final = "t5/tokenizer.json"
"""Where the tokenizers have T5's, which no checkpoint holds."""

EMBEDDING_SUFFIXES: Final = ("", ".safetensors", ".pt", ".bin")
"""What a prompt may leave out of an embedding's name, in the order in which it is tried."""


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """Folders of models by key, each in the order in which they are searched.

    ``hub`` is the Hugging Face cache, whose diffusers folders are listed under ``diffusers`` as ``owner/name``.
    """

    folders: Mapping[str, tuple[Path, ...]]
    hub: Path | None = None
    roots: tuple[Path, ...] = ()
    """The models roots among them, in the order of search."""

    @classmethod
    def under(cls, roots: Sequence[Path], hub: Path | None = None) -> ModelFolders:
        """The usual folders below one or more models roots; earlier roots are searched first."""
        folders = {key: tuple(root / name for root in roots for name in names) for key, names in SUBFOLDERS.items()}
        return cls(folders, hub, tuple(roots))

    def keys(self) -> tuple[str, ...]:
        """All folder keys, without their aliases."""
        return tuple(self.folders)

    def paths(self, key: str) -> tuple[Path, ...]:
        """The folders of ``key`` or of what it is an alias of; UsageError when there is no such key."""
        key = ALIASES.get(key, key)
        if key not in self.folders:
            raise UsageError(f"expected a model folder among {', '.join(self.folders)}, found {key!r}")
        return self.folders[key]

    def with_extra(self, extra: ExtraFolders) -> ModelFolders:
        """These folders and those of a configuration file, its default ones in front."""
        keys = dict.fromkeys((*self.folders, *extra.first, *extra.last))
        merged = {
            key: tuple(dict.fromkeys((*extra.first.get(key, ()), *self.folders.get(key, ()), *extra.last.get(key, ()))))
            for key in keys
        }
        return replace(self, folders=merged)

    def list(self, key: str) -> list[str]:
        """Names of all models of ``key``, sorted, relative to their folders; the first of equal names counts."""
        folders = self.paths(key)
        if ALIASES.get(key, key) == "diffusers":
            found = {name for folder in folders for name in _model_trees(folder)}
            return sorted(found | set(hub_folders(self.hub)))
        suffixes = suffixes_of(key)
        names = {name for folder in folders for name in self._files(folder, suffixes)}
        if key == NETWORKS:
            names |= {name for folder in folders for name in _networks(folder)}
        if key in OF_HUB:
            networks = {name for folder in folders for name in _model_trees(folder, TRANSFORMERS_INDEX)}
            names = networks | {name for name in names if str(PurePosixPath(name).parent) not in networks}
        return sorted(names)

    def find(self, key: str, name: str) -> Path:
        """The file (or the diffusers folder) called ``name`` in the folders of ``key``.

        Raises PathOutsideRoots when the name leaves the folders, MissingFile when none of them holds it.
        """
        relative = checked_name(name)
        folders = self.paths(key)
        for folder in folders:
            for candidate in self._candidates(key, folder, relative):
                if candidate.exists():
                    return self._checked(candidate, name)
        if ALIASES.get(key, key) == "diffusers" and (snapshot := hub_folders(self.hub).get(name)) is not None:
            return snapshot
        if key in OF_HUB and (found := _in_hub(self.hub, relative)) is not None:
            return self._checked(found, name)
        if name == T5_TOKENIZER and (found := _tokenizer_of_hub(self.hub)) is not None:
            return found
        searched = ", ".join(map(str, folders))
        raise MissingFile(f"expected {name!r} in {searched}, found none; {nearest(name, self.list(key))}")

    def readable(self, key: str, name: str) -> Path:
        """As ``find``; for the name of a pickle, what it was converted to, where that is there."""
        if PurePosixPath(name).suffix.lower() in _PICKLES:
            with suppress(MissingFile):
                return self.find(key, f"{name.rpartition('.')[0]}.safetensors")
        return self.find(key, name)

    def tiny_vaes(self) -> dict[str, tuple[Path, Path]]:
        """The tiny autoencoders that are there whole, by the names that a VAE is chosen by: encoder and decoder."""
        there = self.list(TINY_FOLDER)
        found: dict[str, tuple[Path, Path]] = {}
        for name in TINY_VAES:
            halves = [tiny_half(there, name, half) for half in ("encoder", "decoder")]
            if halves[0] is not None and halves[1] is not None:
                found[name] = (self.find(TINY_FOLDER, halves[0]), self.find(TINY_FOLDER, halves[1]))
        return found

    def _candidates(self, key: str, folder: Path, name: PurePosixPath) -> Iterator[Path]:
        """Where ``name`` may be in ``folder``; an embedding also without its suffix, and in any folder below."""
        if key != "embeddings":
            yield folder / name
            return
        names = [f"{name}{suffix}" for suffix in EMBEDDING_SUFFIXES]
        yield from (folder / known for known in names if (folder / known).is_file())
        if len(name.parts) == 1:
            yield from (folder / known for known in self._files(folder, MODEL_SUFFIXES) if Path(known).name in names)

    def _checked(self, path: Path, name: str) -> Path:
        if not is_inside(path, self._all_folders()):
            raise PathOutsideRoots(
                f"expected {name!r} to lie in a model folder, found a link to {path.resolve()}; "
                "name that folder as a models root"
            )
        return path

    def _all_folders(self) -> Iterator[Path]:
        yield from (folder for folders in self.folders.values() for folder in folders)
        if self.hub is not None:
            yield self.hub

    def _files(self, folder: Path, suffixes: frozenset[str]) -> Iterator[str]:
        roots = list(self._all_folders())
        for path in walk(folder, roots):
            if path.suffix.lower() in suffixes:
                yield str(path.relative_to(folder))


def tiny_half(names: Sequence[str], vae: str, half: str) -> str | None:
    """The file of a half of a tiny autoencoder among ``names``, one that needs no converting before any other."""
    stem = f"{vae}_{half}"
    found = [name for name in names if PurePosixPath(name).stem == stem and "/" not in name]
    return min(found, key=lambda name: (not name.endswith((".safetensors", ".sft")), name), default=None)


def suffixes_of(key: str) -> frozenset[str]:
    """What the names of the models of ``key`` end with."""
    return _SUFFIXES.get(ALIASES.get(key, key), MODEL_SUFFIXES)


def _tokenizer_of_hub(hub: Path | None) -> Path | None:
    """T5's tokenizer out of a model in the Hugging Face cache that came with it."""
    candidates = (folder / "tokenizer_3" / "tokenizer.json" for folder in hub_folders(hub).values())
    return next((path for path in candidates if path.is_file()), None)


def _in_hub(hub: Path | None, name: PurePosixPath) -> Path | None:
    """What the Hugging Face cache has under ``owner/name/file``, or the folder of a network under ``owner/name``."""
    if hub is None or len(name.parts) < 2:
        return None
    file = PurePosixPath(*name.parts[2:]) if len(name.parts) > 2 else None
    repository = hub / "--".join(("models", *name.parts[:2]))
    found = [path for path in repository.glob("snapshots/*") if (path / (file or TRANSFORMERS_INDEX)).is_file()]
    newest = max(found, key=lambda path: (_is_main(repository, path), path.stat().st_mtime_ns), default=None)
    return newest if newest is None or file is None else newest / file


def _model_trees(folder: Path, index_name: str = DIFFUSERS_INDEX) -> Iterator[str]:
    """Diffusers folders below ``folder``, by their relative names."""
    for index in folder.glob(f"**/{index_name}"):
        if index.parent != folder:
            yield str(index.parent.relative_to(folder))


def _networks(folder: Path) -> Iterator[str]:
    """Diffusers folders of one network below ``folder``, by their relative names."""
    for config in folder.glob("**/config.json"):
        if config.parent != folder and any(config.parent.glob("diffusion_pytorch_model*.safetensors")):
            yield str(config.parent.relative_to(folder))


def default_hub(environment: Mapping[str, str]) -> Path:
    """The Hugging Face cache as its own library finds it."""
    if cache := environment.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = environment.get("HF_HOME") or Path(environment.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(home, "hub").expanduser()


def hub_folders(hub: Path | None) -> dict[str, Path]:
    """Diffusers folders in a Hugging Face cache: ``owner/name`` -> the folder of its newest snapshot."""
    found: dict[str, Path] = {}
    for repository in sorted(hub.glob("models--*")) if hub is not None else ():
        indices = repository.glob(f"snapshots/*/{DIFFUSERS_INDEX}")
        newest = max(
            indices, key=lambda index: (_is_main(repository, index.parent), index.stat().st_mtime_ns), default=None
        )
        if newest is not None:
            found[repository.name.removeprefix("models--").replace("--", "/")] = newest.parent
    return found


def _is_main(repository: Path, snapshot: Path) -> bool:
    reference = repository / "refs" / "main"
    return reference.is_file() and reference.read_text().strip() == snapshot.name


@dataclass(frozen=True, slots=True)
class ExtraFolders:
    """Folders of a configuration file by key: ``first`` are searched before all others, ``last`` after them."""

    first: Mapping[str, tuple[Path, ...]]
    last: Mapping[str, tuple[Path, ...]]


def read_extra_folders(config: Path) -> ExtraFolders:
    """Read a YAML file in the form of ComfyUI's ``extra_model_paths.yaml``.

    Each section may have a ``base_path`` (relative to the file) and ``is_default``; every other entry is a folder key with
    one folder a line. Raises UsageError when the file cannot be read as that.
    """
    import yaml

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"expected a YAML file of model folders at {config}, found: {reason}") from error
    if not isinstance(content, dict) or not all(
        section is None or isinstance(section, dict) for section in content.values()
    ):
        raise UsageError(f"expected sections of folder keys in {config}, found something else")
    first: dict[str, tuple[Path, ...]] = {}
    last: dict[str, tuple[Path, ...]] = {}
    for section in content.values():
        target = first if section and section.get("is_default") else last
        for key, paths in _section_folders(section or {}, config.parent):
            target[key] = (*target.get(key, ()), *paths)
    return ExtraFolders(first, last)


def _section_folders(section: Mapping[Any, Any], home: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    base = home / _expanded(str(section.get("base_path") or ""))
    for key, value in section.items():
        if key in ("base_path", "is_default") or value is None:
            continue
        lines = value if isinstance(value, list) else str(value).splitlines()
        paths = tuple(base / _expanded(str(line).strip()) for line in lines if str(line).strip())
        yield ALIASES.get(str(key), str(key)), paths


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))
