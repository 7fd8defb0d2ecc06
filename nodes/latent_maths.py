"""Latents added, mixed, and put into other batches. The second one takes the first one's size and batch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from engine.spec import Output, Range, Socket, node
from nodes import diffusion
from nodes.lists import only
from nodes.sockets import Latent, LatentDict

Ratio = Annotated[float, Range(0.0, 1.0, step=0.01)]

_LATENT = [Output("LATENT")]


@node("LatentAdd", category="latent/advanced", outputs=_LATENT)
def latent_add(samples1: Latent, samples2: Latent) -> LatentDict:
    """The sum of two latents."""
    a = samples1["samples"]
    return {**samples1, "samples": a + diffusion.latent_maths.fitted(samples2["samples"], a)}


@node("LatentSubtract", category="latent/advanced", outputs=_LATENT)
def latent_subtract(samples1: Latent, samples2: Latent) -> LatentDict:
    """The difference of two latents."""
    a = samples1["samples"]
    return {**samples1, "samples": a - diffusion.latent_maths.fitted(samples2["samples"], a)}


@node("LatentMultiply", category="latent/advanced", outputs=_LATENT)
def latent_multiply(samples: Latent, multiplier: Annotated[float, Range(-10.0, 10.0, step=0.01)] = 1.0) -> LatentDict:
    """A latent made stronger or weaker."""
    return {**samples, "samples": samples["samples"] * multiplier}


@node("LatentInterpolate", category="latent/advanced", outputs=_LATENT)
def latent_interpolate(samples1: Latent, samples2: Latent, ratio: Ratio = 1.0) -> LatentDict:
    """So much of the first latent, the rest of the second, no weaker in between."""
    a = samples1["samples"]
    b = diffusion.latent_maths.fitted(samples2["samples"], a)
    return {**samples1, "samples": diffusion.latent_maths.interpolated(a, b, ratio)}


@node("LatentBlend", title="Latent Blend", category="_for_testing", outputs=_LATENT)
def latent_blend(
    samples1: Latent, samples2: Latent, blend_factor: Annotated[float, Range(0, 1, step=0.01)] = 0.5
) -> LatentDict:
    """So much of the first latent, the rest of the second, plainly mixed."""
    a = samples1["samples"]
    b = diffusion.latent_maths.fitted(samples2["samples"], a, "bicubic")
    return {**samples1, "samples": a * blend_factor + b * (1 - blend_factor)}


@node("LatentBatch", category="latent/batch", outputs=_LATENT)
def latent_batch(samples1: Latent, samples2: Latent) -> LatentDict:
    """Both in one batch. The noise mask is the first one's."""
    return diffusion.latent_maths.in_one_batch(samples1, samples2)


@node(
    "RebatchLatents",
    title="Rebatch Latents",
    category="latent/batch",
    outputs=[Output("LATENT", is_list=True)],
    takes_lists=True,
)
def rebatch_latents(
    latents: Annotated[Any, Socket("LATENT")], batch_size: Annotated[Any, Socket("INT"), Range(1, 4096)] = 1
) -> list[LatentDict]:
    """All samples of a list of latents as a list of batches of this size, each of samples of one size."""
    return diffusion.latent_maths.rebatched(latents, only(batch_size, "batch_size"))


@node("LatentBatchSeedBehavior", category="latent/advanced", outputs=_LATENT)
def latent_batch_seed_behavior(samples: Latent, seed_behavior: Literal["random", "fixed"] = "fixed") -> LatentDict:
    """Whether the samples of a batch get different noise, or all the noise of the first."""
    if seed_behavior == "random":
        free = samples.copy()
        free.pop("batch_index", None)
        return free
    first = samples.get("batch_index", [0])[0]
    return {**samples, "batch_index": [first] * len(samples["samples"])}
