"""The tensors: loading, memory, text, schedules, samplers, pictures. Usable alone, without graph, node or server.

Submodules are imported when they are first touched, so that node declarations can name them without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from nodes.diffusion import alterations as alterations
    from nodes.diffusion import annotators as annotators
    from nodes.diffusion import colour_match as colour_match
    from nodes.diffusion import colours as colours
    from nodes.diffusion import comparing as comparing
    from nodes.diffusion import compiled as compiled
    from nodes.diffusion import compositing as compositing
    from nodes.diffusion import control as control
    from nodes.diffusion import custom as custom
    from nodes.diffusion import devices as devices
    from nodes.diffusion import differential as differential
    from nodes.diffusion import entries as entries
    from nodes.diffusion import extract as extract
    from nodes.diffusion import faces as faces
    from nodes.diffusion import filters as filters
    from nodes.diffusion import fitting as fitting
    from nodes.diffusion import gligen as gligen
    from nodes.diffusion import hooked as hooked
    from nodes.diffusion import hypernetworks as hypernetworks
    from nodes.diffusion import inpaint as inpaint
    from nodes.diffusion import inpaint_crops as inpaint_crops
    from nodes.diffusion import ip_adapter as ip_adapter
    from nodes.diffusion import ip_apply as ip_apply
    from nodes.diffusion import ip_embeds as ip_embeds
    from nodes.diffusion import ip_files as ip_files
    from nodes.diffusion import ip_frames as ip_frames
    from nodes.diffusion import ip_pictures as ip_pictures
    from nodes.diffusion import ip_weights as ip_weights
    from nodes.diffusion import latent_maths as latent_maths
    from nodes.diffusion import latent_operations as latent_operations
    from nodes.diffusion import latents as latents
    from nodes.diffusion import layout as layout
    from nodes.diffusion import leases as leases
    from nodes.diffusion import listed as listed
    from nodes.diffusion import lora as lora
    from nodes.diffusion import mag_cache as mag_cache
    from nodes.diffusion import mask_shapes as mask_shapes
    from nodes.diffusion import masks as masks
    from nodes.diffusion import model_sampling as model_sampling
    from nodes.diffusion import options as options
    from nodes.diffusion import packed as packed
    from nodes.diffusion import patches as patches
    from nodes.diffusion import photomaker as photomaker
    from nodes.diffusion import picture_files as picture_files
    from nodes.diffusion import pictures as pictures
    from nodes.diffusion import porter_duff as porter_duff
    from nodes.diffusion import prompts as prompts
    from nodes.diffusion import redraw as redraw
    from nodes.diffusion import redraw_sampling as redraw_sampling
    from nodes.diffusion import resume as resume
    from nodes.diffusion import sample as sample
    from nodes.diffusion import saving as saving
    from nodes.diffusion import schedules as schedules
    from nodes.diffusion import sequences as sequences
    from nodes.diffusion import sources as sources
    from nodes.diffusion import steering as steering
    from nodes.diffusion import stitching as stitching
    from nodes.diffusion import style_model as style_model
    from nodes.diffusion import svg_files as svg_files
    from nodes.diffusion import text as text
    from nodes.diffusion import tiled_diffusion as tiled_diffusion
    from nodes.diffusion import unclip as unclip
    from nodes.diffusion import unet as unet
    from nodes.diffusion import upscale as upscale
    from nodes.diffusion import upscalers as upscalers
    from nodes.diffusion import vae as vae
    from nodes.diffusion import vision as vision
    from nodes.diffusion import watermark as watermark
    from nodes.diffusion import weight_hooks as weight_hooks

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "alterations",
        "annotators",
        "colour_match",
        "colours",
        "comparing",
        "compiled",
        "compositing",
        "control",
        "custom",
        "devices",
        "differential",
        "entries",
        "extract",
        "faces",
        "filters",
        "fitting",
        "gligen",
        "hooked",
        "hypernetworks",
        "inpaint",
        "inpaint_crops",
        "ip_adapter",
        "ip_apply",
        "ip_embeds",
        "ip_files",
        "ip_frames",
        "ip_pictures",
        "ip_weights",
        "latent_maths",
        "latent_operations",
        "latents",
        "layout",
        "leases",
        "listed",
        "mag_cache",
        "lora",
        "mask_shapes",
        "masks",
        "model_sampling",
        "options",
        "packed",
        "patches",
        "photomaker",
        "picture_files",
        "pictures",
        "porter_duff",
        "prompts",
        "redraw",
        "redraw_sampling",
        "resume",
        "sample",
        "saving",
        "schedules",
        "sequences",
        "sources",
        "steering",
        "stitching",
        "style_model",
        "svg_files",
        "text",
        "tiled_diffusion",
        "unclip",
        "unet",
        "upscale",
        "upscalers",
        "vae",
        "vision",
        "watermark",
        "weight_hooks",
    ],
)
