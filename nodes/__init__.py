"""The vocabulary: node declarations, one file a family, over the tensors of ``nodes.diffusion``.

Reading this package imports no torch; a node's function brings in what it needs when it runs.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.spec import NodeSpec

if TYPE_CHECKING:
    from engine.model_info import ModelInfo
    from engine.models import ModelStore
    from engine.registry import Registry
    from engine.run.settings import DeviceSettings


FAMILIES: Final = (
    "loaders",
    "lora",
    "hypernetworks",
    "merging",
    "saving",
    "attention",
    "unet_options",
    "step_caches",
    "attention_guidance",
    "text",
    "conditioning",
    "conditioning_pairs",
    "controlnet",
    "hooks",
    "vision",
    "gligen",
    "ip_adapter",
    "ip_adapter_embeds",
    "ip_adapter_pictures",
    "ip_adapter_regions",
    "ip_adapter_styles",
    "ip_adapter_weights",
    "photomaker",
    "style_model",
    "sampling",
    "sampler_parts",
    "sigmas",
    "custom_sampling",
    "model_sampling",
    "guidance",
    "latent",
    "latent_maths",
    "latent_shape",
    "vae",
    "upscaling",
    "tiled_upscaling",
    "faces",
    "inpaint_crop",
    "inpaint",
    "image",
    "masks",
    "mask_shapes",
    "compositing",
    "image_transform",
    "image_fitting",
    "image_batches",
    "image_filters",
    "image_files",
    "image_saving",
    "image_colours",
    "image_compare",
    "watermark",
    "animation",
    "primitives",
    "strings",
    "texts",
    "styles",
    "numbers",
    "flow",
    "lists",
    "loops",
    "preprocess_lines",
    "preprocess_maps",
    "preprocess_poses",
    "preprocess_tools",
    "segmenting",
)
"""The modules that declare nodes."""

_FOR_PACKS: Final = frozenset({"before_node_execution", "common_ksampler", "interrupt_processing"})


def register(registry: Registry) -> None:
    """Add Mezzotint's own nodes, the codecs of their values and the model store. Entry point of group ``mezzotint.nodes``."""
    from nodes import checks, codecs

    families = (import_module(f"nodes.{name}") for name in FAMILIES)
    registry.add(*(spec for family in families for spec in vars(family).values() if isinstance(spec, NodeSpec)))
    registry.add_codecs(*codecs.LEAVES)
    registry.add_checks(checks.CHECKS)
    registry.provide_models(_make_store)
    registry.provide_converter(_convert)
    registry.provide_inspector(_inspect)


def _make_store(settings: DeviceSettings) -> ModelStore:
    from nodes.diffusion.store import make_store

    return make_store(settings)


def _convert(source: Path, target: Path) -> None:
    from nodes.diffusion.pickles import convert_pickle

    convert_pickle(source, target)


def _inspect(path: Path) -> ModelInfo:
    from nodes.diffusion.inspection import inspect_model

    return inspect_model(path)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """What node packs look for in a module of this name; made when they do."""
        if not (name[:1].isupper() or name in _FOR_PACKS):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        from engine.compat import core_nodes

        return core_nodes.lookup(name, sys._getframe(1))
