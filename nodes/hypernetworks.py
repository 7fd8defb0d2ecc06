"""Hypernetworks."""

from __future__ import annotations

from typing import Annotated

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import ModelRef, Patch
from engine.spec import FileChoice, Output, Range, node
from nodes import diffusion
from nodes.sockets import Model


@node("HypernetworkLoader", category="loaders", outputs=[Output("MODEL")], version=2)
def hypernetwork_loader(
    *,
    model: Model,
    hypernetwork_name: Annotated[FileRef, FileChoice("hypernetworks")],
    strength: Annotated[float, Range(-10.0, 10.0, step=0.01)] = 1.0,
) -> ModelRef:
    """The model with a small network before the keys and values of its attention."""
    location = str(hypernetwork_name.path.resolve())
    try:
        diffusion.hypernetworks.check(location, diffusion.sources.open_source(model.location).part(model.part).config)
    except InputError as error:
        error.input = "hypernetwork_name"
        raise
    return model.with_patches(Patch("hypernetwork", hypernetwork_name.digest, strength, location))
