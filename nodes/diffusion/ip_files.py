"""Which files the presets of a unified loader mean: released adapters by their usual names, in any folder below ``models/ipadapter``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from engine.errors import InputError

BaseFamily = Literal["sd1", "sdxl"]
Vision = Literal["ViT-H", "ViT-bigG"]


class Wanted(NamedTuple):
    """The files of a preset for a family: an adapter by the name it was released under, the better one first, and the CLIP vision model
    that it goes with."""

    adapters: tuple[str, ...]
    vision: Vision = "ViT-H"


PRESETS: Final[Mapping[str, Mapping[BaseFamily, Wanted]]] = {
    "LIGHT - SD1.5 only (low strength)": {"sd1": Wanted(("ip-adapter_sd15_light_v11", "ip-adapter_sd15_light"))},
    "STANDARD (medium strength)": {"sd1": Wanted(("ip-adapter_sd15",)), "sdxl": Wanted(("ip-adapter_sdxl_vit-h",))},
    "VIT-G (medium strength)": {
        "sd1": Wanted(("ip-adapter_sd15_vit-G",), "ViT-bigG"),
        "sdxl": Wanted(("ip-adapter_sdxl",), "ViT-bigG"),
    },
    "PLUS (high strength)": {
        "sd1": Wanted(("ip-adapter-plus_sd15",)),
        "sdxl": Wanted(("ip-adapter-plus_sdxl_vit-h",)),
    },
    "PLUS FACE (portraits)": {
        "sd1": Wanted(("ip-adapter-plus-face_sd15",)),
        "sdxl": Wanted(("ip-adapter-plus-face_sdxl_vit-h",)),
    },
    "FULL FACE - SD1.5 only (portraits stronger)": {"sd1": Wanted(("ip-adapter-full-face_sd15",))},
    "Composition": {
        "sd1": Wanted(("ip_plus_composition_sd15",)),
        "sdxl": Wanted(("ip_plus_composition_sdxl",)),
    },
}

_VISIONS: Final[Mapping[Vision, tuple[str, ...]]] = {
    "ViT-H": ("CLIP-ViT-H-14-laion2B-s32B-b79K", "models/image_encoder", "SD1.5"),
    "ViT-bigG": ("CLIP-ViT-bigG-14-laion2B-39B-b160k", "sdxl_models/image_encoder", "SDXL"),
}
"""CLIP vision models by the name that their makers gave them, then the folders that they lie in beside the adapters, and where managers of
models put them."""

_ENDING: Final = r"\.(?:safetensors|sft|bin)$"
_ANY_NAME: Final = r"(?:/(?:open_clip_)?(?:pytorch_)?model)"
"""What a network is called in a folder of its own."""


def pattern(name: str) -> re.Pattern[str]:
    """Finds files whose names end in the words of ``name``, in any case, whatever is between the words."""
    return re.compile(rf"(?<![a-z0-9]){_words(name)}{_ENDING}", re.IGNORECASE)


def vision_pattern(vision: Vision) -> re.Pattern[str]:
    """Finds files that are the CLIP vision model: called by its name, or in a folder called so."""
    name, *folders = map(_words, _VISIONS[vision])
    return re.compile(rf"(?:^|/)(?:{name}{_ANY_NAME}?|(?:{'|'.join(folders)}){_ANY_NAME}){_ENDING}", re.IGNORECASE)


def _words(name: str) -> str:
    return r"[-_. ]?".join(map(re.escape, re.split("[-_]", name)))


def files_of(preset: str) -> Iterable[tuple[str, re.Pattern[str]]]:
    """Folder and pattern of every file that a preset may mean."""
    for wanted in PRESETS.get(preset, {}).values():
        yield from (("ipadapter", pattern(released)) for released in wanted.adapters)
        yield "clip_vision", vision_pattern(wanted.vision)


def wanted(preset: str, family: str, title: str) -> Wanted:
    """What ``preset`` means for a model of ``family``, which is called ``title``. Raises InputError where there is no such adapter."""
    if preset not in PRESETS:
        raise InputError(f"expected a preset among {', '.join(PRESETS)}, found {preset}", input="preset")
    known = PRESETS[preset]
    found = next((files for name, files in known.items() if name == family), None)
    if found is None:
        titles = " or ".join({"sd1": "Stable Diffusion 1.5", "sdxl": "Stable Diffusion XL"}[name] for name in known)
        raise InputError(f"expected a {titles} model for the preset {preset}, found {title}", input="model")
    return found


def adapter_of(files: Wanted, names: Sequence[str]) -> str:
    """The adapter among the files called ``names``. Raises InputError where none is there."""
    found = (_best(pattern(released), names) for released in files.adapters)
    name = next((name for name in found if name is not None), None)
    if name is None:
        raise InputError(
            f"expected a file whose name ends in {files.adapters[0]}.safetensors in models/ipadapter, found none; put it there, or choose "
            "another preset",
            input="preset",
        )
    return name


def vision_of(files: Wanted, names: Sequence[str]) -> str:
    """The CLIP vision model among the files called ``names``. Raises InputError where none is there."""
    name = _best(vision_pattern(files.vision), names)
    if name is None:
        raise InputError(
            f"expected the CLIP vision model {files.vision} in models/clip_vision, found no {_VISIONS[files.vision][0]}.safetensors; "
            "put it there under this name",
            input="preset",
        )
    return name


def _best(wanted: re.Pattern[str], names: Sequence[str]) -> str | None:
    """The first name that fits; one that needs no converting before any other."""
    return min(
        (it for it in names if wanted.search(it)), key=lambda it: (it.lower().endswith(".bin"), it), default=None
    )
