"""The tensors: loading, memory, text, schedules, samplers, pictures. Usable alone, without graph, node or server.

Submodules are imported when they are first touched, so that node declarations can name them without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from nodes.diffusion import annotators as annotators
    from nodes.diffusion import compiled as compiled
    from nodes.diffusion import compositing as compositing
    from nodes.diffusion import custom as custom
    from nodes.diffusion import devices as devices
    from nodes.diffusion import differential as differential
    from nodes.diffusion import entries as entries
    from nodes.diffusion import extract as extract
    from nodes.diffusion import filters as filters
    from nodes.diffusion import hypernetworks as hypernetworks
    from nodes.diffusion import inpaint as inpaint
    from nodes.diffusion import latent_maths as latent_maths
    from nodes.diffusion import latent_operations as latent_operations
    from nodes.diffusion import latents as latents
    from nodes.diffusion import layout as layout
    from nodes.diffusion import listed as listed
    from nodes.diffusion import lora as lora
    from nodes.diffusion import masks as masks
    from nodes.diffusion import model_sampling as model_sampling
    from nodes.diffusion import options as options
    from nodes.diffusion import packed as packed
    from nodes.diffusion import patches as patches
    from nodes.diffusion import pictures as pictures
    from nodes.diffusion import porter_duff as porter_duff
    from nodes.diffusion import prompts as prompts
    from nodes.diffusion import resume as resume
    from nodes.diffusion import sample as sample
    from nodes.diffusion import saving as saving
    from nodes.diffusion import schedules as schedules
    from nodes.diffusion import sequences as sequences
    from nodes.diffusion import sources as sources
    from nodes.diffusion import steering as steering
    from nodes.diffusion import text as text
    from nodes.diffusion import unclip as unclip
    from nodes.diffusion import unet as unet
    from nodes.diffusion import vae as vae
    from nodes.diffusion import vision as vision

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "annotators",
        "compiled",
        "compositing",
        "custom",
        "devices",
        "differential",
        "entries",
        "extract",
        "filters",
        "hypernetworks",
        "inpaint",
        "latent_maths",
        "latent_operations",
        "latents",
        "layout",
        "listed",
        "lora",
        "masks",
        "model_sampling",
        "options",
        "packed",
        "patches",
        "pictures",
        "porter_duff",
        "prompts",
        "resume",
        "sample",
        "saving",
        "schedules",
        "sequences",
        "sources",
        "steering",
        "text",
        "unclip",
        "unet",
        "vae",
        "vision",
    ],
)
