"""Between pictures and latents."""

from __future__ import annotations

from engine.run.context import NodeContext
from engine.spec import Output, node
from nodes import diffusion
from nodes.sockets import Image, Latent, LatentDict, Tensor, Vae


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
