"""Annotations for the sockets that carry tensors and models; the names are ComfyUI's, the shapes are in ``engine.types.SOCKETS``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

from engine.models import ModelRef, Recipe
from engine.spec import Socket

if TYPE_CHECKING:
    from torch import Tensor as Tensor
else:
    # The signatures are read at import, long before anybody needs torch.
    Tensor = Any


class LatentDict(TypedDict):
    """What travels on a LATENT link."""

    samples: Tensor
    """[B,C,h,w] in unscaled VAE space."""
    noise_mask: NotRequired[Tensor]
    """[B,1,H,W], 1 = repaint."""
    batch_index: NotRequired[list[int]]
    """Which sample of the noise sequence each one gets."""


Image = Annotated[Tensor, Socket("IMAGE")]
Mask = Annotated[Tensor, Socket("MASK")]
Latent = Annotated[LatentDict, Socket("LATENT")]
Conditioning = Annotated[list[Any], Socket("CONDITIONING")]
Model = Annotated[ModelRef, Socket("MODEL")]
Clip = Annotated[ModelRef, Socket("CLIP")]
Vae = Annotated[ModelRef, Socket("VAE")]
UpscaleModel = Annotated[ModelRef, Socket("UPSCALE_MODEL")]
ClipVision = Annotated[ModelRef, Socket("CLIP_VISION")]
ControlNet = Annotated[ModelRef, Socket("CONTROL_NET")]
ClipVisionOutput = Annotated[dict[str, Any], Socket("CLIP_VISION_OUTPUT")]
Gligen = Annotated[ModelRef, Socket("GLIGEN")]
StyleModel = Annotated[ModelRef, Socket("STYLE_MODEL")]
PhotoMaker = Annotated[ModelRef, Socket("PHOTOMAKER")]
Sigmas = Annotated[Tensor, Socket("SIGMAS")]
Sampler = Annotated[Recipe, Socket("SAMPLER")]
Noise = Annotated[Recipe, Socket("NOISE")]
Guider = Annotated[Recipe, Socket("GUIDER")]
LatentOperation = Annotated[Recipe, Socket("LATENT_OPERATION")]
Hooks = Annotated[Recipe, Socket("HOOKS")]
HookKeyframes = Annotated[Recipe, Socket("HOOK_KEYFRAMES")]
TimestepsRange = Annotated[tuple[float, float], Socket("TIMESTEPS_RANGE")]
IpAdapter = Annotated[Recipe, Socket("IPADAPTER")]
Embeds = Annotated[Tensor, Socket("EMBEDS")]
Svg = Annotated[Any, Socket("SVG")]
"""One SVG document or more, as ``nodes.diffusion.svg_files.documents`` takes them."""
