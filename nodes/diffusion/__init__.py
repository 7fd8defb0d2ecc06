"""The tensors: loading, memory, text, schedules, samplers, pictures. Usable alone, without graph, node or server.

Submodules are imported when they are first touched, so that node declarations can name them without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from nodes.diffusion import custom as custom
    from nodes.diffusion import latent_operations as latent_operations
    from nodes.diffusion import latents as latents
    from nodes.diffusion import model_sampling as model_sampling
    from nodes.diffusion import packed as packed
    from nodes.diffusion import pictures as pictures
    from nodes.diffusion import prompts as prompts
    from nodes.diffusion import resume as resume
    from nodes.diffusion import sample as sample
    from nodes.diffusion import schedules as schedules
    from nodes.diffusion import sequences as sequences
    from nodes.diffusion import sources as sources
    from nodes.diffusion import steering as steering
    from nodes.diffusion import text as text
    from nodes.diffusion import unet as unet
    from nodes.diffusion import vae as vae

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "custom",
        "sequences",
        "latent_operations",
        "latents",
        "model_sampling",
        "steering",
        "packed",
        "pictures",
        "prompts",
        "resume",
        "sample",
        "schedules",
        "sources",
        "text",
        "unet",
        "vae",
    ],
)
