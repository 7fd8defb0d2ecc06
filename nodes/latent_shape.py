"""Latents cropped, turned, cut and laid over each other. Sizes are in pixels, of which a latent cell has 8 a side."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Latent, LatentDict, Mask

Position = Annotated[int, Range(0, 16384, step=8)]
CropSide = Annotated[int, Range(64, 16384, step=8)]
Flip = Literal["x-axis: vertically", "y-axis: horizontally"]
Rotation = Literal["none", "90 degrees", "180 degrees", "270 degrees"]

_LATENT = [Output("LATENT")]
_DIMENSIONS = {"x": -1, "y": -2, "t": -3}


@node("LatentComposite", title="Latent Composite", category="latent", outputs=_LATENT)
def latent_composite(
    *, samples_to: Latent, samples_from: Latent, x: Position = 0, y: Position = 0, feather: Position = 0
) -> LatentDict:
    """One latent laid over another; with feather it fades in over so many pixels at its inner edges."""
    below, above = samples_to["samples"], samples_from["samples"]
    diffusion.latent_maths.same_channels(below, above, "samples_from")
    return {**samples_to, "samples": diffusion.compositing.feathered(below, above, x // 8, y // 8, feather // 8)}


@node("LatentCompositeMasked", category="latent", outputs=_LATENT)
def latent_composite_masked(
    *,
    destination: Latent,
    source: Latent,
    x: Position = 0,
    y: Position = 0,
    resize_source: bool = False,
    mask: Mask | None = None,
) -> LatentDict:
    """One latent laid over another as far as the mask says. With resize_source it is stretched over the whole of it."""
    below, above = destination["samples"], source["samples"]
    diffusion.latent_maths.same_channels(below, above, "source")
    if resize_source:
        above = diffusion.compositing.stretched_to(above, below)
    return {**destination, "samples": diffusion.compositing.pasted(below, above, x // 8, y // 8, mask)}


@node("LatentCrop", title="Crop Latent", category="latent/transform", outputs=_LATENT)
def latent_crop(
    *, samples: Latent, width: CropSide = 512, height: CropSide = 512, x: Position = 0, y: Position = 0
) -> LatentDict:
    """A part of a latent. It begins 64 pixels before the end at the latest, and ends where the latent does."""
    cropped = diffusion.latent_maths.cropped(
        samples["samples"], width=width // 8, height=height // 8, x=x // 8, y=y // 8
    )
    return {**samples, "samples": cropped}


@node("LatentFlip", title="Flip Latent", category="latent/transform", outputs=_LATENT)
def latent_flip(samples: Latent, flip_method: Flip) -> LatentDict:
    """The latent upside down or mirrored."""
    return {**samples, "samples": samples["samples"].flip(-2 if flip_method.startswith("x") else -1)}


@node("LatentRotate", title="Rotate Latent", category="latent/transform", outputs=_LATENT)
def latent_rotate(samples: Latent, rotation: Rotation) -> LatentDict:
    """The latent turned clockwise."""
    return {**samples, "samples": samples["samples"].rot90(quarter_turns(rotation), [-1, -2])}


def quarter_turns(rotation: str) -> int:
    """Of the names of Rotation."""
    return 0 if rotation == "none" else int(rotation.split()[0]) // 90


@node("LatentConcat", category="latent/advanced", outputs=_LATENT)
def latent_concat(samples1: Latent, samples2: Latent, dim: Literal["x", "-x", "y", "-y", "t", "-t"]) -> LatentDict:
    """Two latents side by side: the second to the right (x) or below (y) the first, with - the other way round.

    t is the time of a film's latent and the channels of a picture's.
    """
    name, behind = dim.removeprefix("-"), not dim.startswith("-")
    joined = diffusion.latent_maths.joined(samples1["samples"], samples2["samples"], _DIMENSIONS[name], behind=behind)
    return {**samples1, "samples": joined}


@node("LatentCut", category="latent/advanced", outputs=_LATENT)
def latent_cut(
    *,
    samples: Latent,
    dim: Literal["x", "y", "t"],
    index: Annotated[int, Range(-16384, 16384, step=1)] = 0,
    amount: Annotated[int, Range(1, 16384, step=1)] = 1,
) -> LatentDict:
    """Some cells of a latent along one side, from index on; a negative index counts from the end."""
    part = diffusion.latent_maths.slice_of(samples["samples"], _DIMENSIONS[dim], index, amount)
    return {**samples, "samples": part}
