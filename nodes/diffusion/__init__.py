"""The tensors: loading, memory, text, schedules, samplers, pictures. Usable alone, without graph, node or server.

Submodules are imported when they are first touched, so that node declarations can name them without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from nodes.diffusion import compositing as compositing
    from nodes.diffusion import custom as custom
    from nodes.diffusion import devices as devices
    from nodes.diffusion import differential as differential
    from nodes.diffusion import entries as entries
    from nodes.diffusion import extract as extract
    from nodes.diffusion import hypernetworks as hypernetworks
    from nodes.diffusion import inpaint as inpaint
    from nodes.diffusion import latent_maths as latent_maths
    from nodes.diffusion import latents as latents
    from nodes.diffusion import lora as lora
    from nodes.diffusion import masks as masks
    from nodes.diffusion import patches as patches
    from nodes.diffusion import pictures as pictures
    from nodes.diffusion import prompts as prompts
    from nodes.diffusion import resume as resume
    from nodes.diffusion import sample as sample
    from nodes.diffusion import saving as saving
    from nodes.diffusion import schedules as schedules
    from nodes.diffusion import sequences as sequences
    from nodes.diffusion import sources as sources
    from nodes.diffusion import text as text
    from nodes.diffusion import unclip as unclip
    from nodes.diffusion import unet as unet
    from nodes.diffusion import vae as vae
    from nodes.diffusion import vision as vision

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "custom",
        "sequences",
        "devices",
        "extract",
        "hypernetworks",
        "latents",
        "lora",
        "patches",
        "compositing",
        "differential",
        "entries",
        "inpaint",
        "latent_maths",
        "masks",
        "pictures",
        "prompts",
        "resume",
        "sample",
        "saving",
        "schedules",
        "sources",
        "text",
        "unet",
        "unclip",
        "vae",
        "vision",
    ],
)
