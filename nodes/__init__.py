"""The vocabulary: node declarations, one file a family, over the tensors of ``nodes.diffusion``.

Reading this package imports no torch; a node's function brings in what it needs when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.spec import NodeSpec

if TYPE_CHECKING:
    from engine.models import ModelStore
    from engine.registry import Registry
    from engine.run.settings import DeviceSettings


def register(registry: Registry) -> None:
    """Add Mezzotint's own nodes, the codecs of their values and the model store. Entry point of group ``mezzotint.nodes``."""
    from nodes import (
        checks,
        codecs,
        flow,
        image,
        latent,
        lists,
        loaders,
        numbers,
        primitives,
        sampling,
        strings,
        text,
        texts,
        vae,
    )

    families = (loaders, text, sampling, latent, vae, image, primitives, strings, flow, lists, numbers, texts)
    registry.add(*(spec for family in families for spec in vars(family).values() if isinstance(spec, NodeSpec)))
    registry.add_codecs(*codecs.LEAVES)
    registry.add_checks(checks.CHECKS)
    registry.provide_models(_make_store)
    registry.provide_converter(_convert)


def _make_store(settings: DeviceSettings) -> ModelStore:
    from nodes.diffusion.store import make_store

    return make_store(settings)


def _convert(source: Path, target: Path) -> None:
    from nodes.diffusion.pickles import convert_pickle

    convert_pickle(source, target)
