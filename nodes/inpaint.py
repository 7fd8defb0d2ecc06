"""Painting a part of a picture anew, or around it."""

from __future__ import annotations

from typing import Annotated, Any

from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Optional, Output, Range, node
from nodes import diffusion
from nodes.sockets import Conditioning, Image, Latent, LatentDict, Mask, Model, Tensor, Vae

Border = Annotated[int, Range(0, 16384, step=8)]
Guided = tuple[list[Any], list[Any], LatentDict]
"""Both sides of guidance and the latent to begin with."""

_GUIDED = [Output("CONDITIONING", "positive"), Output("CONDITIONING", "negative"), Output("LATENT", "latent")]


def _both(positive: Conditioning, negative: Conditioning, options: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    with_options = diffusion.entries.with_options
    return with_options(positive, options), with_options(negative, options)


@node("VAEEncodeForInpaint", title="VAE Encode (for Inpainting)", category="latent/inpaint", outputs=[Output("LATENT")])
def vae_encode_for_inpaint(
    ctx: NodeContext,
    *,
    pixels: Image,
    vae: Vae,
    mask: Mask,
    grow_mask_by: Annotated[int, Range(0, 64, step=1)] = 6,
) -> LatentDict:
    """The latent of a picture with grey under the mask, to be painted there from nothing: sample it with denoise 1.

    The mask is grown so that the seam is painted too.
    """
    with ctx.models.lease(vae) as loaded:
        pictures, fitted = diffusion.inpaint.masked_picture(pixels, mask, diffusion.vae.downscale(loaded))
        samples = diffusion.vae.encode(pictures, loaded, warn=ctx.warn)
    return {"samples": samples, "noise_mask": diffusion.inpaint.grown(fitted, grow_mask_by)}


@node("SetLatentNoiseMask", title="Set Latent Noise Mask", category="latent/inpaint", outputs=[Output("LATENT")])
def set_latent_noise_mask(samples: Latent, mask: Mask) -> LatentDict:
    """Sampling paints anew where the mask is 1 and keeps the rest."""
    return {**samples, "noise_mask": diffusion.masks.checked(mask)[:, None]}


@node("InpaintModelConditioning", category="conditioning/inpaint", outputs=_GUIDED)
def inpaint_model_conditioning(
    ctx: NodeContext,
    *,
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    pixels: Image,
    mask: Mask,
    noise_mask: bool = True,
) -> Guided:
    """For models made for inpainting: they are shown the picture without what is under the mask.

    With noise_mask the rest of the picture is also kept as it is.
    """
    with ctx.models.lease(vae) as loaded:
        pictures, fitted = diffusion.inpaint.masked_picture(pixels, mask, diffusion.vae.downscale(loaded))
        seen = diffusion.vae.encode(pictures, loaded, warn=ctx.warn)
        latent: LatentDict = {"samples": diffusion.vae.encode(pixels, loaded, warn=ctx.warn)}
    if noise_mask:
        latent["noise_mask"] = fitted
    return *_both(positive, negative, {"concat_latent_image": seen, "concat_mask": fitted}), latent


@node("InstructPixToPixConditioning", category="conditioning/instructpix2pix", outputs=_GUIDED)
def instruct_pix_to_pix_conditioning(
    ctx: NodeContext, *, positive: Conditioning, negative: Conditioning, vae: Vae, pixels: Image
) -> Guided:
    """For models that edit a picture as they are told: they are shown it and begin with an empty latent."""
    with ctx.models.lease(vae) as loaded:
        seen = diffusion.vae.encode(pixels, loaded, warn=ctx.warn)
    return *_both(positive, negative, {"concat_latent_image": seen}), {"samples": seen.new_zeros(seen.shape)}


@node("SD_4XUpscale_Conditioning", category="conditioning/upscale_diffusion", outputs=_GUIDED)
def sd_4xupscale_conditioning(
    *,
    images: Image,
    positive: Conditioning,
    negative: Conditioning,
    scale_ratio: Annotated[float, Range(0.0, 10.0, step=0.01)] = 4.0,
    noise_augmentation: Annotated[float, Range(0.0, 1.0, step=0.001)] = 0.0,
) -> Guided:
    """For the 4x upscaling model: it is shown the small picture, with some noise if wanted, and begins with an empty latent."""
    small, empty = diffusion.inpaint.upscale_inputs(images, scale_ratio)
    options = {"concat_image": small, "noise_augmentation": noise_augmentation}
    return *_both(positive, negative, options), {"samples": empty}


@node(
    "DepthConditioning",
    title="Depth Conditioning",
    category="conditioning/depth",
    outputs=[Output("CONDITIONING", "positive"), Output("CONDITIONING", "negative")],
)
def depth_conditioning(positive: Conditioning, negative: Conditioning, depth: Image) -> tuple[list[Any], list[Any]]:
    """For models that are shown how near things are: the lighter, the nearer, each picture from its darkest to its lightest."""
    return _both(positive, negative, {"depth": depth[..., :3].mean(-1)})


@node(
    "DifferentialDiffusion",
    title="Differential Diffusion",
    category="_for_testing",
    outputs=[Output("MODEL")],
    experimental=True,
)
def differential_diffusion(
    model: Model, strength: Annotated[float, Range(0.0, 1.0, step=0.01), Optional()] = 1.0
) -> ModelRef:
    """Inpainting takes a grey mask by its levels: the lighter a pixel, the earlier it may change and the more it does."""
    return model.with_settings(**{diffusion.differential.SETTING: strength})


@node(
    "ImagePadForOutpaint",
    title="Pad Image for Outpainting",
    category="image",
    outputs=[Output("IMAGE"), Output("MASK")],
)
def image_pad_for_outpaint(
    *,
    image: Image,
    left: Border = 0,
    top: Border = 0,
    right: Border = 0,
    bottom: Border = 0,
    feathering: Annotated[int, Range(0, 16384, step=1)] = 40,
) -> tuple[Tensor, Tensor]:
    """The picture with a grey border to be painted, and the mask for it, which fades into the picture."""
    return diffusion.inpaint.outpaint(image, left=left, top=top, right=right, bottom=bottom, feathering=feathering)
