"""``folder_paths``: where models, inputs and outputs are.

``folder_names_and_paths`` is a plain dict that packs read and write as they please; every function here goes by what it says then.
A name that would leave the folders it is looked up in raises ``PathOutsideRoots``.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from engine.compat.host import host
from engine.compat.missing import module_getattr
from engine.errors import PathOutsideRoots
from engine.files import FileKind, split_annotation
from engine.model_folders import ALIASES, MODEL_SUFFIXES, suffixes_of
from engine.paths import checked_name, is_inside, walk
from engine.run.outputs import expand, highest_number, inside, split_prefix
from engine.run.results import OutputFile

Folders = dict[str, tuple[list[str], set[str]]]

supported_pt_extensions: Final[set[str]] = set(MODEL_SUFFIXES)
"""One set for all keys that hold models: what a pack adds to it counts for each of them."""

extension_mimetypes_cache: Final[dict[str, str]] = {"webp": "image", "fbx": "model"}
filename_list_cache: Final[dict[str, Any]] = {}
"""Packs empty it to have files listed anew; they always are."""


def _folders() -> Folders:
    here = host()
    if not here.folders:
        models = here.files.models
        here.folders |= {key: (list(map(str, models.paths(key))), _suffixes(key)) for key in models.keys()}  # noqa: SIM118
    return here.folders


def _suffixes(key: str) -> set[str]:
    if key in ("custom_nodes", "classifiers"):
        return set()
    if key == "diffusers":
        return {"folder"}
    return supported_pt_extensions if suffixes_of(key) >= MODEL_SUFFIXES else set(suffixes_of(key))


def map_legacy(folder_name: str) -> str:
    """The key that took the place of ``unet`` or ``clip``; any other as it is."""
    return ALIASES.get(folder_name, folder_name)


# folders


def _made(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder.absolute())


def get_output_directory() -> str:
    return _made(host().files.roots.output)


def get_temp_directory() -> str:
    return _made(host().files.roots.temp)


def get_input_directory() -> str:
    return _made(host().files.roots.input)


def get_user_directory() -> str:
    return _made(host().user or host().files.roots.output.absolute().parent / "user")


def get_system_user_directory(name: str = "system") -> str:
    """A folder for what belongs to a pack and to no user."""
    return _made(Path(get_user_directory(), f"__{checked_name(name)}"))


def get_public_user_directory(user_id: str) -> str | None:
    """The folder of one user; None for a name that is kept for packs."""
    return None if user_id.startswith("__") else _made(Path(get_user_directory(), checked_name(user_id)))


def get_models_directory() -> str:
    models = host().files.models
    root = models.roots[0] if models.roots else models.paths("checkpoints")[0].parent
    return str(root.absolute())


def get_base_path() -> str:
    """The folder that the models are below, which packs take for the installation's."""
    return os.path.dirname(get_models_directory())


def _set_root(kind: FileKind, folder: str) -> None:
    here = host()
    roots = here.files.roots
    path = Path(folder)
    match kind:
        case "input":
            roots = replace(roots, input=path)
        case "output":
            roots = replace(roots, output=path)
        case "temp":
            roots = replace(roots, temp=path)
    here.files = replace(here.files, roots=roots)


def set_output_directory(output_dir: str) -> None:
    """For packs alone, as all of these: where the run places its files was said when it began."""
    _set_root("output", output_dir)


def set_temp_directory(temp_dir: str) -> None:
    _set_root("temp", temp_dir)


def set_input_directory(input_dir: str) -> None:
    _set_root("input", input_dir)


def set_user_directory(user_dir: str) -> None:
    host().user = Path(user_dir)


def get_directory_by_type(type_name: str) -> str | None:
    """The ``output``, ``temp`` or ``input`` folder; None for another type."""
    by_type = {"output": get_output_directory, "temp": get_temp_directory, "input": get_input_directory}
    return by_type[type_name]() if type_name in by_type else None


# models


def get_folder_paths(folder_name: str) -> list[str]:
    """Raises KeyError for an unknown key."""
    return list(map(str, _folders()[map_legacy(folder_name)][0]))


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    """Have ``full_folder_path`` searched for models of a key, which may be a new one; first of all if it ``is_default``."""
    paths, _ = _folders().setdefault(map_legacy(folder_name), ([], set()))
    if full_folder_path in paths:
        if not is_default or paths[0] == full_folder_path:
            return
        paths.remove(full_folder_path)
    paths.insert(0 if is_default else len(paths), full_folder_path)


def get_filename_list(folder_name: str) -> list[str]:
    """Names of all files of a key with its suffixes (any, where it has none), sorted, relative to their folders."""
    paths, suffixes = _folders()[map_legacy(folder_name)]
    roots = _roots()
    names = {str(file.relative_to(path)) for path in map(Path, paths) for file in walk(path, roots)}
    return sorted(filter_files_extensions(names, suffixes))


def get_full_path(folder_name: str, filename: str) -> str | None:
    """Where a file is; None where there is none, or no such key."""
    paths, _ = _folders().get(map_legacy(folder_name), ([], set()))
    name = checked_name(filename)
    for path in paths:
        found = Path(path, name)
        if found.is_file():
            _check_inside(found, _roots(), filename)
            return str(found)
    return None


def get_full_path_or_raise(folder_name: str, filename: str) -> str:
    found = get_full_path(folder_name, filename)
    if found is None:
        raise FileNotFoundError(
            f"expected {filename!r} among the models of {folder_name!r}, found none; check its name"
        )
    return found


def _roots() -> list[Path]:
    """Every folder a model may lie in, and links may lead to."""
    models = host().files.models
    return [Path(path) for paths, _ in _folders().values() for path in paths] + ([models.hub] if models.hub else [])


def _check_inside(path: Path, roots: Iterable[Path], name: str) -> None:
    if not is_inside(path, roots):
        raise PathOutsideRoots(f"expected {name!r} to lie in its folder, found a link to {path.resolve()}")


def recursive_search(
    directory: str, excluded_dir_names: Collection[str] | None = None
) -> tuple[list[str], dict[str, float]]:
    """The files below a folder by relative name, and when each folder there was changed."""
    if not os.path.isdir(directory):
        return [], {}
    files: list[str] = []
    times = {directory: os.path.getmtime(directory)}
    for folder, below, names in os.walk(directory, followlinks=True):
        below[:] = [name for name in below if name not in (excluded_dir_names or ())]
        times |= {path: os.path.getmtime(path) for path in (os.path.join(folder, name) for name in below)}
        files += [os.path.relpath(os.path.join(folder, name), directory) for name in names]
    return files, times


def filter_files_extensions(files: Collection[str], extensions: Collection[str]) -> list[str]:
    """Those with one of the suffixes, sorted; all where no suffix is given."""
    endings = tuple(extensions)
    return sorted(name for name in files if not endings or name.lower().endswith(endings))


def filter_files_content_types(
    files: list[str], content_types: list[Literal["image", "video", "audio", "model"]]
) -> list[str]:
    """Those whose suffix says that they hold one of these."""
    return [name for name in files if _content_type(name) in content_types]


def _content_type(name: str) -> str | None:
    known = extension_mimetypes_cache.get(name.rsplit(".", 1)[-1].lower())
    guessed = known or mimetypes.guess_type(name, strict=False)[0]
    return guessed.split("/")[0] if guessed else None


def get_input_subfolders() -> list[str]:
    """All folders below the input folder, relative to it."""
    root = get_input_directory()
    found = [os.path.join(folder, name) for folder, below, _ in os.walk(root) for name in below]
    return sorted(os.path.relpath(path, root) for path in found)


# pictures


def annotated_filepath(name: str) -> tuple[str, str | None]:
    """``("x.png", <output folder>)`` of ``"x.png [output]"``; None for the folder where none is said."""
    bare, kind = split_annotation(name)
    return bare, get_directory_by_type(kind) if kind else None


def get_annotated_filepath(name: str, default_dir: str | None = None) -> str:
    """The path of ``"x.png [output]"``; where no folder is said, below ``default_dir`` or the input folder. Nothing need be there."""
    bare, folder = annotated_filepath(name)
    root = Path(folder or default_dir or get_input_directory())
    path = root / checked_name(bare)
    _check_inside(path, (root,), name)
    return str(path)


def exists_annotated_filepath(name: str) -> bool:
    try:
        return os.path.exists(get_annotated_filepath(name))
    except PathOutsideRoots:
        return False


def get_save_image_path(
    filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
) -> tuple[str, str, int, str, str]:
    """Where the next picture goes: (folder, file name without counter, counter, subfolder, prefix with its tokens replaced).

    ``%batch_num%`` stays, it is the caller's to replace. Raises PathOutsideRoots for a prefix that leaves ``output_dir``.
    """
    sized = OutputFile(b"", filename_prefix, "png", width=int(image_width), height=int(image_height))
    now = datetime.now()
    prefix = "%batch_num%".join(expand(part, sized, now) for part in filename_prefix.split("%batch_num%"))
    subfolder, stem = split_prefix(prefix)
    folder = inside(Path(output_dir), subfolder, filename_prefix)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder), stem, highest_number(folder, stem) + 1, subfolder, prefix


__getattr__ = module_getattr(
    __name__,
    folder_names_and_paths=_folders,
    models_dir=get_models_directory,
    base_path=get_base_path,
    output_directory=get_output_directory,
    temp_directory=get_temp_directory,
    input_directory=get_input_directory,
    user_directory=get_user_directory,
)
