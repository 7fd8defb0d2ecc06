"""Loaders: from a model file to the recipes of its parts. No weights are read here; a lease does that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from engine.fileref import FileRef
from engine.models import ModelRef, Part
from engine.spec import Estimate, FileChoice, Output, node
from nodes import diffusion


def _part(file: FileRef, part: Part) -> ModelRef:
    return ModelRef(source=file.digest, part=part, location=str(file.path.resolve()))


def _require(file: FileRef, *parts: Part) -> None:
    """Open the file now, so that what is wrong with it is said of the node that names it."""
    source = diffusion.sources.open_source(str(file.path))
    for part in parts:
        source.part(part)


def _size(path: Path) -> int:
    files = path.rglob("*.safetensors") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)


def _checkpoint_estimate(ckpt_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=_size(ckpt_name.path) if ckpt_name else 0)


def _vae_estimate(vae_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=_size(vae_name.path) if vae_name else 0)


@node(
    "CheckpointLoaderSimple",
    title="Load Checkpoint",
    category="loaders",
    outputs=[Output("MODEL"), Output("CLIP"), Output("VAE")],
    estimate=_checkpoint_estimate,
)
def checkpoint_loader_simple(
    ckpt_name: Annotated[FileRef, FileChoice("checkpoints")],
) -> tuple[ModelRef, ModelRef, ModelRef]:
    """The UNet, the text encoder and the VAE of a checkpoint file or diffusers folder.

    Some files hold no text encoder; only who uses it is told.
    """
    _require(ckpt_name, "unet")
    return _part(ckpt_name, "unet"), _part(ckpt_name, "clip"), _part(ckpt_name, "vae")


@node("VAELoader", title="Load VAE", category="loaders", outputs=[Output("VAE")], estimate=_vae_estimate)
def vae_loader(vae_name: Annotated[FileRef, FileChoice("vae")]) -> ModelRef:
    """The VAE of a file of its own, or of a checkpoint."""
    _require(vae_name, "vae")
    return _part(vae_name, "vae")
