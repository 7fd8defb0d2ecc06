"""LATENT values: making, resizing, repeating and cutting them, and the ``.latent`` file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors.torch import save
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.checkpoints import WeightFile
from nodes.diffusion.instead import what_it_is
from nodes.diffusion.resize import resize

if TYPE_CHECKING:
    from nodes.sockets import LatentDict

SD1_SCALE: Final = 0.18215
"""``.latent`` files without a version hold latents multiplied by this."""


def empty(width: int, height: int, batch_size: int, channels: int = 4) -> LatentDict:
    """Zeros for pictures of ``width`` x ``height`` pixels: the start of text to image."""
    return {"samples": torch.zeros(batch_size, channels, height // 8, width // 8)}


def upscale(latent: LatentDict, width: int, height: int, method: str, crop: str) -> LatentDict:
    """The latent of a picture of ``width`` x ``height`` pixels; a side given as 0 follows from the other. At least 64 pixels a side."""
    if width == 0 and height == 0:
        return latent
    tall, wide = latent["samples"].shape[-2:]
    if width == 0:
        height = max(64, height)
        width = max(64, round(wide * height / tall))
    elif height == 0:
        width = max(64, width)
        height = max(64, round(tall * width / wide))
    else:
        width, height = max(64, width), max(64, height)
    return {**latent, "samples": resize(latent["samples"], width // 8, height // 8, method, crop)}


def upscale_by(latent: LatentDict, factor: float, method: str) -> LatentDict:
    """The latent at ``factor`` times its width and height, at least one cell a side."""
    tall, wide = latent["samples"].shape[-2:]
    size = max(1, round(wide * factor)), max(1, round(tall * factor))
    return {**latent, "samples": resize(latent["samples"], *size, method)}


def repeat(latent: LatentDict, amount: int) -> LatentDict:
    """The batch ``amount`` times over; repeats go on counting in ``batch_index``, so that each gets noise of its own."""
    repeated: LatentDict = {**latent, "samples": latent["samples"].repeat(amount, 1, 1, 1)}
    if "noise_mask" in latent and latent["noise_mask"].shape[0] > 1:
        masks = _fill(latent["noise_mask"], latent["samples"].shape[0])
        repeated["noise_mask"] = masks.repeat(amount, *[1] * (masks.ndim - 1))
    if "batch_index" in latent:
        indexes = latent["batch_index"]
        offset = max(indexes) - min(indexes) + 1
        repeated["batch_index"] = [index + turn * offset for turn in range(amount) for index in indexes]
    return repeated


def cut(latent: LatentDict, start: int, length: int) -> LatentDict:
    """Samples ``start``.. of the batch, at most ``length``; their places in the noise sequence stay theirs."""
    samples = latent["samples"]
    start = min(samples.shape[0] - 1, start)
    stop = min(samples.shape[0], start + length)
    part: LatentDict = {**latent, "samples": samples[start:stop].clone()}
    if "noise_mask" in latent and latent["noise_mask"].shape[0] > 1:
        part["noise_mask"] = _fill(latent["noise_mask"], samples.shape[0])[start:stop].clone()
    part["batch_index"] = latent["batch_index"][start:stop] if "batch_index" in latent else list(range(start, stop))
    return part


def _fill(mask: Tensor, batch: int) -> Tensor:
    """As many masks as samples, taken in turn."""
    return mask.repeat(-(-batch // mask.shape[0]), *[1] * (mask.ndim - 1))[:batch]


def to_file(latent: LatentDict) -> bytes:
    """The ``.latent`` file: safetensors with ``latent_tensor``, in unscaled VAE space (version 0)."""
    return save({"latent_tensor": latent["samples"].contiguous().cpu(), "latent_format_version_0": torch.tensor([])})


def from_file(path: Path) -> LatentDict:
    """Read a ``.latent`` file; InputError or ModelFileError where it is none."""
    tensors = WeightFile(path)
    if "latent_tensor" not in tensors:
        what = what_it_is(path.name, tensors.header)
        raise InputError(f"expected latents in {path.name}, found {what}; choose a file that Save Latent wrote")
    scale = 1.0 if "latent_format_version_0" in tensors else 1.0 / SD1_SCALE
    samples = tensors["latent_tensor"].float() * scale
    if samples.ndim != 4:
        raise InputError(
            f"{path.name} holds a tensor of shape {list(samples.shape)}; a latent is [batch, channels, height, width]"
        )
    return {"samples": samples}
