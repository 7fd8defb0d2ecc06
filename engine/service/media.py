"""What is taken from clients: pictures, sound, film, latents and 3D models, each by the suffix of its name.

Pictures are decoded. Nobody decodes the others here: it is for the nodes to find out what they are, and no browser runs them, since what is
served says by its suffix what it is (``engine.service.served``).
"""

from __future__ import annotations

from typing import Final

from engine.errors import InputError
from engine.fileref import PICTURE_SUFFIXES
from engine.graph.safetensors_header import header_size
from engine.service.pictures import read_picture
from engine.service.served import STORED_TYPES

_SOUND_AND_FILM: Final = tuple(
    suffix for suffix, type_ in STORED_TYPES.items() if type_.startswith(("audio/", "video/"))
)
_LATENTS: Final = (".latent", ".safetensors")
_MODELS: Final = (".glb", ".gltf", ".obj", ".mtl", ".fbx", ".stl", ".ply", ".spz", ".splat", ".ksplat", ".usdz")

TAKEN: Final = (*PICTURE_SUFFIXES, *_SOUND_AND_FILM, *_LATENTS, *_MODELS)


def check_suffix(name: str) -> None:
    """Raises ``InputError`` for the name of something else."""
    if not name.lower().endswith(TAKEN):
        raise InputError(
            f"expected a picture ({' '.join(PICTURE_SUFFIXES)}), sound or film ({' '.join(_SOUND_AND_FILM)}), a latent "
            f"({' '.join(_LATENTS)}) or a 3D model ({' '.join(_MODELS)}), found {name!r}; nothing else is taken"
        )


def check_content(name: str, data: bytes, pixels: int) -> None:
    """Raises ``InputError`` for a picture or a latent that is none, a picture of more than ``pixels``, and what is empty."""
    if name.lower().endswith(PICTURE_SUFFIXES):
        read_picture(data, pixels)
    elif name.lower().endswith(_LATENTS):
        size = header_size(data[:9])
        if size is None or 8 + size > len(data):
            raise InputError(f"expected a whole safetensors file in {name!r}, found something else; save it again")
    elif not data:
        raise InputError(f"expected the content of {name!r}, found nothing; send it again")
