"""Latents: making, scaling, repeating, cutting, keeping."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.fileref import FileRef
from engine.run.results import OutputFile, Outputs
from engine.spec import FileChoice, Output, Range, node
from nodes import diffusion
from nodes.sockets import Latent, LatentDict

LatentMethod = Literal["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
Side = Annotated[int, Range(16, 16384, step=8)]
LargeSide = Annotated[int, Range(16, 16384, step=16)]
ScaledSide = Annotated[int, Range(0, 16384, step=8)]


@node("EmptyLatentImage", title="Empty Latent Image", category="latent", outputs=[Output("LATENT")])
def empty_latent_image(
    width: Side = 512, height: Side = 512, batch_size: Annotated[int, Range(1, 4096)] = 1
) -> LatentDict:
    """The start of text to image: an empty latent for pictures of this size."""
    return diffusion.latents.empty(width, height, batch_size)


@node("EmptySD3LatentImage", category="latent/sd3", outputs=[Output("LATENT")])
def empty_sd3_latent_image(
    width: LargeSide = 1024, height: LargeSide = 1024, batch_size: Annotated[int, Range(1, 4096)] = 1
) -> LatentDict:
    """The same for models whose latents have 16 channels: SD3, FLUX."""
    return diffusion.latents.empty(width, height, batch_size, channels=16)


@node("LatentUpscale", title="Upscale Latent", category="latent", outputs=[Output("LATENT")])
def latent_upscale(
    *,
    samples: Latent,
    upscale_method: LatentMethod,
    width: ScaledSide = 512,
    height: ScaledSide = 512,
    crop: Literal["disabled", "center"],
) -> LatentDict:
    """The latent for a picture of another size, in pixels. A side of 0 follows from the other."""
    return diffusion.latents.upscale(samples, width, height, upscale_method, crop)


@node("LatentUpscaleBy", title="Upscale Latent By", category="latent", outputs=[Output("LATENT")])
def latent_upscale_by(
    samples: Latent, upscale_method: LatentMethod, scale_by: Annotated[float, Range(0.01, 8.0, step=0.01)] = 1.5
) -> LatentDict:
    """The latent at ``scale_by`` times its size."""
    return diffusion.latents.upscale_by(samples, scale_by, upscale_method)


@node("RepeatLatentBatch", title="Repeat Latent Batch", category="latent/batch", outputs=[Output("LATENT")])
def repeat_latent_batch(samples: Latent, amount: Annotated[int, Range(1, 64)] = 1) -> LatentDict:
    """The batch ``amount`` times over, each sample with noise of its own."""
    return diffusion.latents.repeat(samples, amount)


@node("LatentFromBatch", title="Latent From Batch", category="latent/batch", outputs=[Output("LATENT")])
def latent_from_batch(
    samples: Latent, batch_index: Annotated[int, Range(0, 63)] = 0, length: Annotated[int, Range(1, 64)] = 1
) -> LatentDict:
    """Some samples of a batch; sampled again, each gets the noise it had in the whole."""
    return diffusion.latents.cut(samples, batch_index, length)


@node(
    "SaveLatent",
    category="_for_testing",
    output_node=True,
    hidden={"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
)
def save_latent(samples: Latent, filename_prefix: str = "latents/ComfyUI") -> Outputs:
    """Write the latent as a ``.latent`` file (safetensors) into the output folder."""
    file = OutputFile(data=diffusion.latents.to_file(samples), prefix=filename_prefix, extension="latent", ui="latents")
    return Outputs(files=(file,))


@node("LoadLatent", category="_for_testing", outputs=[Output("LATENT")])
def load_latent(latent: Annotated[FileRef, FileChoice("input", suffixes=(".latent",))]) -> LatentDict:
    """Read a ``.latent`` file of the input folder."""
    return diffusion.latents.from_file(latent.path)
