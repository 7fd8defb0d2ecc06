"""Between pictures and latents."""

from __future__ import annotations

from typing import Annotated

from engine.run.context import NodeContext
from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Image, Latent, LatentDict, Tensor, Vae

EncodedTile = Annotated[int, Range(64, 4096, step=64)]
DecodedTile = Annotated[int, Range(64, 4096, step=32)]
Overlap = Annotated[int, Range(0, 4096, step=32)]
Frames = Annotated[int, Range(8, 4096, step=4)]
SharedFrames = Annotated[int, Range(4, 4096, step=4)]


@node("VAEDecode", title="VAE Decode", category="latent", outputs=[Output("IMAGE")])
def vae_decode(ctx: NodeContext, samples: Latent, vae: Vae) -> Tensor:
    """The pictures of a latent."""
    with ctx.models.lease(vae) as loaded:
        return diffusion.vae.decode(samples["samples"], loaded, warn=ctx.warn)


@node("VAEEncode", title="VAE Encode", category="latent", outputs=[Output("LATENT")])
def vae_encode(ctx: NodeContext, pixels: Image, vae: Vae) -> LatentDict:
    """The latent of pictures, cropped to multiples of 8 pixels."""
    with ctx.models.lease(vae) as loaded:
        return {"samples": diffusion.vae.encode(pixels, loaded, warn=ctx.warn)}


@node("VAEDecodeTiled", title="VAE Decode (Tiled)", category="_for_testing", outputs=[Output("IMAGE")], version=2)
def vae_decode_tiled(
    ctx: NodeContext,
    *,
    samples: Latent,
    vae: Vae,
    tile_size: DecodedTile = 512,
    overlap: Overlap = 64,
    temporal_size: Frames = 64,
    temporal_overlap: SharedFrames = 8,
) -> Tensor:
    """The pictures of a latent, worked out in tiles of so many pixels, for pictures too large for the device's memory.

    They are those of VAEDecode, if main memory has room for whole layers of the VAE; else tiles fade into each other over the overlap.
    The temporal inputs are for the VAEs of films and do nothing to pictures.
    """
    with ctx.models.lease(vae) as loaded:
        return diffusion.vae.decode_tiled(samples["samples"], loaded, tile_size, overlap, ctx.progress, ctx.warn)


@node("VAEEncodeTiled", title="VAE Encode (Tiled)", category="_for_testing", outputs=[Output("LATENT")], version=2)
def vae_encode_tiled(
    ctx: NodeContext,
    *,
    pixels: Image,
    vae: Vae,
    tile_size: EncodedTile = 512,
    overlap: Overlap = 64,
    temporal_size: Frames = 64,
    temporal_overlap: SharedFrames = 8,
) -> LatentDict:
    """The latent of pictures, worked out in tiles of so many pixels; see VAEDecodeTiled."""
    with ctx.models.lease(vae) as loaded:
        return {"samples": diffusion.vae.encode_tiled(pixels, loaded, tile_size, overlap, ctx.progress, ctx.warn)}
