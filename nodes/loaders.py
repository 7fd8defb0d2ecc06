"""Loaders: from a model file to the recipes of its parts. No weights are read here; a lease does that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from engine.errors import InputError
from engine.fileref import PIXEL_SPACE, FileRef
from engine.models import Digest, ModelRef, Part, Patch
from engine.run.context import NodeContext
from engine.spec import Choices, Estimate, FileChoice, Optional, Output, node
from nodes import diffusion

if TYPE_CHECKING:
    from nodes.diffusion.sources import Source


def part_of(file: FileRef, part: Part) -> ModelRef:
    """The recipe of a part of a file."""
    return ModelRef(source=file.digest, part=part, location=str(file.path.resolve()))


def opened(file: FileRef, part: Part | None) -> Source:
    """The file, opened now for its ``part``, if for one, so that what is wrong with it is said of the node that names it."""
    return diffusion.sources.open_source(str(file.path), part)


def file_size(path: Path) -> int:
    """Bytes of a model file, or of those in a diffusers folder."""
    files = path.rglob("*.safetensors") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)


def _checkpoint_estimate(ckpt_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=file_size(ckpt_name.path) if ckpt_name else 0)


def _vae_estimate(vae_name: FileRef | None) -> Estimate:
    if vae_name is None or vae_name.name == PIXEL_SPACE:
        return Estimate(model_bytes=0)
    return Estimate(model_bytes=sum(map(file_size, (vae_name.path, *vae_name.more))))


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
    opened(ckpt_name, "unet")
    return part_of(ckpt_name, "unet"), part_of(ckpt_name, "clip"), part_of(ckpt_name, "vae")


@node("VAELoader", title="Load VAE", category="loaders", outputs=[Output("VAE")], estimate=_vae_estimate, version=3)
def vae_loader(ctx: NodeContext, vae_name: Annotated[FileRef, FileChoice("vae")]) -> ModelRef:
    """The VAE of a file of its own, or of a checkpoint; by the name of a tiny one, its two halves in models/vae_approx.

    With pixel_space there is none: the latents are the pictures themselves, 3 channels in -1..1, for models that paint pixels.
    """
    if vae_name.name == PIXEL_SPACE:
        return diffusion.vae.pixel_space()
    if vae_name.more:
        family, halves = _TINY[vae_name.name], (vae_name.path.resolve(), *(it.resolve() for it in vae_name.more))
        diffusion.vae.check_tiny(diffusion.sources.tiny_vae(*halves), vae_name.name, family)
        location = "\n".join(map(str, halves))
        return ModelRef(source=vae_name.digest, part="vae", location=location).with_settings(family=family)
    found = opened(vae_name, "vae")
    if (guess := diffusion.vae.guessed_scale(found)) is not None:
        ctx.warn(f"{vae_name.name} does not say whose latents it is for; {guess}")
    return part_of(vae_name, "vae")


_TINY: Final = {"taesd": "sd1", "taesdxl": "sdxl", "taesd3": "sd3"}
"""Names of tiny VAEs -> the family whose latents they are for."""


def _unet_estimate(unet_name: FileRef | None, weight_dtype: str | None) -> Estimate:
    return Estimate(model_bytes=file_size(unet_name.path) if unet_name else 0)


_ROUNDED: Final = {"fp8_e4m3fn": "float8_e4m3fn", "fp8_e4m3fn_fast": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}


@node(
    "UNETLoader",
    title="Load Diffusion Model",
    category="advanced/loaders",
    outputs=[Output("MODEL")],
    estimate=_unet_estimate,
)
def unet_loader(
    unet_name: Annotated[FileRef, FileChoice("diffusion_models")],
    weight_dtype: Literal["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"],
) -> ModelRef:
    """The UNet of a file of its own, or of a checkpoint. With fp8 its weights are rounded to 8 bits; they take no less memory."""
    opened(unet_name, "unet")
    model = part_of(unet_name, "unet")
    if weight_dtype == "default":
        return model
    return model.with_patches(Patch("round", Digest(""), 1.0, "", (("dtype", _ROUNDED[weight_dtype]),)))


_CLIP_TYPES: Final = (
    "stable_diffusion", "stable_cascade", "sd3", "stable_audio", "mochi", "ltxv", "pixart", "cosmos", "lumina2", "wan", "hidream",
    "chroma", "ace", "omnigen2", "qwen_image", "hunyuan_image",
)  # fmt: skip


_FAMILIES: Final = {"stable_diffusion": None, "sdxl": "sdxl", "sd3": "sd3"}
"""Type of a loader -> whose rules its text encoders follow; None is what they are usually used for."""

_TextFile = Annotated[FileRef, FileChoice("text_encoders")]
_Place = Annotated[Literal["default", "cpu"], Optional()]


def _texts_estimate(**given: object) -> Estimate:
    return Estimate(model_bytes=sum(file_size(file.path) for file in given.values() if isinstance(file, FileRef)))


def _texts(ctx: NodeContext, files: list[FileRef], type: str, device: str) -> ModelRef:
    """The text encoders of ``files`` together."""
    if type not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise InputError(f"expected a type among {known}, found {type}, whose models are not known", input="type")
    if device == "cpu":
        ctx.warn("the text encoder runs where all models do; the device cpu is left out of account")
    location = "\n".join(str(file.path.resolve()) for file in files)
    source = diffusion.sources.open_source(location, "clip").part("clip")
    family = _FAMILIES[type]
    if family is not None:
        diffusion.text.check_towers(source.config, family)
    ref = ModelRef(source=Digest("+".join(file.digest for file in files)), part="clip", location=location)
    return ref if family is None else ref.with_settings(family=family)


@node("CLIPLoader", title="Load CLIP", category="advanced/loaders", outputs=[Output("CLIP")], estimate=_texts_estimate)
def clip_loader(
    ctx: NodeContext, clip_name: _TextFile, type: Annotated[str, Choices(_CLIP_TYPES)], device: _Place = "default"
) -> ModelRef:
    """The text encoder of a file of its own, or of a checkpoint."""
    return _texts(ctx, [clip_name], type, device)


@node("DualCLIPLoader", category="advanced/loaders", outputs=[Output("CLIP")], estimate=_texts_estimate)
def dual_clip_loader(
    ctx: NodeContext,
    clip_name1: _TextFile,
    clip_name2: _TextFile,
    type: Literal["sdxl", "sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image"],
    device: _Place = "default",
) -> ModelRef:
    """Two text encoders, each of a file of its own, in any order: CLIP L and G for SDXL, two of L, G and T5 for Stable Diffusion 3."""
    return _texts(ctx, [clip_name1, clip_name2], type, device)


@node("TripleCLIPLoader", category="advanced/loaders", outputs=[Output("CLIP")], estimate=_texts_estimate)
def triple_clip_loader(
    ctx: NodeContext, clip_name1: _TextFile, clip_name2: _TextFile, clip_name3: _TextFile
) -> ModelRef:
    """CLIP L, CLIP G and T5 for Stable Diffusion 3, each of a file of its own, in any order."""
    return _texts(ctx, [clip_name1, clip_name2, clip_name3], "sd3", "default")


@node(
    "DiffusersLoader",
    category="advanced/loaders/deprecated",
    outputs=[Output("MODEL"), Output("CLIP"), Output("VAE")],
)
def diffusers_loader(
    model_path: Annotated[FileRef, FileChoice("diffusers")],
) -> tuple[ModelRef, ModelRef, ModelRef]:
    """The UNet, the text encoder and the VAE of a diffusers folder."""
    opened(model_path, "unet")
    return part_of(model_path, "unet"), part_of(model_path, "clip"), part_of(model_path, "vae")


_CONFIGS: Final = (
    "anything_v3.yaml", "v1-inference.yaml", "v1-inference_clip_skip_2.yaml", "v1-inference_clip_skip_2_fp16.yaml",
    "v1-inference_fp16.yaml", "v1-inpainting-inference.yaml", "v2-inference-v.yaml", "v2-inference-v_fp32.yaml",
    "v2-inference.yaml", "v2-inference_fp32.yaml", "v2-inpainting-inference.yaml",
)  # fmt: skip
"""The configurations that ComfyUI comes with; workflows name them."""


@node(
    "CheckpointLoader",
    title="Load Checkpoint With Config (DEPRECATED)",
    category="advanced/loaders",
    outputs=[Output("MODEL"), Output("CLIP"), Output("VAE")],
    deprecated=True,
)
def checkpoint_loader(
    ctx: NodeContext,
    config_name: Annotated[str, Choices(_CONFIGS)],
    ckpt_name: Annotated[FileRef, FileChoice("checkpoints")],
) -> tuple[ModelRef, ModelRef, ModelRef]:
    """As CheckpointLoaderSimple: what a model is, is read off its file. Of the configuration nothing counts but its clip skip."""
    ctx.warn(f"{config_name} is left out of account: what {ckpt_name.name} holds is read off its tensors")
    opened(ckpt_name, "unet")
    clip = part_of(ckpt_name, "clip")
    if "clip_skip_2" in config_name or config_name == "anything_v3.yaml":
        clip = clip.with_settings(last_layer=-2)
    return part_of(ckpt_name, "unet"), clip, part_of(ckpt_name, "vae")
