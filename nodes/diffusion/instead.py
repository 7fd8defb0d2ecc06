"""What a model file is that was chosen in place of one of another kind, and where it belongs."""

from __future__ import annotations

from engine.errors import ModelFileError
from nodes.diffusion.checkpoints import Header
from nodes.diffusion.families import describe
from nodes.diffusion.foreign import ANOTHER, foreign_family, sample
from nodes.diffusion.parts import PARTS


def what_it_is(name: str, header: Header) -> str:
    """The file ``name`` by its kind or its parts, in words that complete "found ..." and say what to do with it."""
    try:
        parts = describe(name, header.tensors, header.metadata).parts
    except ModelFileError:
        return foreign_family(header.tensors) or sample(header.tensors) + ANOTHER
    held = " and ".join(f"a {PARTS[part].noun}" for part in parts)
    folder = PARTS[next(iter(parts))].folder if len(parts) == 1 else "checkpoints"
    return f"{held}; put it in models/{folder} and load it from there"
