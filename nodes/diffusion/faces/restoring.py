"""Faces of a batch found, cut out, restored and put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import InputError, ResourceError, is_out_of_memory
from nodes.diffusion.annotators import frames
from nodes.diffusion.configs import UpscalerConfig
from nodes.diffusion.faces.aligning import SIDE, Matrix, Picture, alignment, cut_out, put_back
from nodes.diffusion.faces.finding import find
from nodes.diffusion.store import LoadedModel
from nodes.diffusion.upscalers import Upscaler

Given = TypeVar("Given")
Made = TypeVar("Made")

Progress = Callable[[int, int], None]
Warn = Callable[[str], None]
Restore = Callable[[Picture], Picture]
"""From a face [512,512,3] in 0..1 to the same face."""
Ways = Sequence[Sequence[Matrix]]
"""For each picture the ways to the squares of its faces."""

WORKING: Final = 512 * 512 * 4 * 2048
"""Bytes that a restorer is taken to need for a face beside its weights."""


def found(network: nn.Module, pictures: Tensor, progress: Progress, warn: Warn) -> Ways:
    """The faces of pictures [B,H,W,C], the surest of each first. The user is told of pictures without any."""
    frames.check(pictures)
    ways = []
    for index, picture in enumerate(pictures):
        progress(index, len(pictures))
        faces = _afforded(lambda pixels: find(network, pixels), frames.levels(picture))
        ways.append([alignment(face.points) for face in faces])
    if empty := [index + 1 for index, each in enumerate(ways) if not each]:
        warn(_empty(empty, len(pictures)))
    return ways


def _empty(numbers: Sequence[int], count: int) -> str:
    if count == 1:
        return "no face was found in the picture"
    named = ", ".join(map(str, numbers[:8])) + (" and more" if len(numbers) > 8 else "")
    return f"no face was found in {len(numbers)} of {count} pictures: {named}"


def cropped(pictures: Tensor, ways: Ways) -> Tensor:
    """The faces of pictures [B,H,W,C], float32 [n,512,512,3], picture by picture; a black one for a picture without any."""
    black = np.zeros((SIDE, SIDE, 3), np.float32)
    faces: list[Picture] = []
    for picture, each in zip(pictures, ways, strict=True):
        colours = _colours(picture) if each else black
        faces += [cut_out(colours, way) for way in each] or [black]
    return torch.from_numpy(np.stack(faces))


def restored(pictures: Tensor, ways: Ways, restore: Restore, progress: Progress) -> Tensor:
    """Pictures [B,H,W,C] with their faces as ``restore`` makes them; all else, and alpha, is what it was. float32 on the CPU.

    Every face is cut out of the picture as it was; where two overlap, the less sure one is painted over the other.
    """
    result = pictures.detach().cpu().float().clone()
    total, done = sum(map(len, ways)), 0
    for picture, each in zip(result, ways, strict=True):
        if not each:
            continue
        before = _colours(picture)
        after = before.copy()
        for way in each:
            progress(done, total)
            put_back(after, restore(cut_out(before, way)), way)
            done += 1
        _take_over(picture, before, after)
    progress(total, total)
    return result


def by(model: LoadedModel, fidelity: float) -> Restore:
    """What a leased restorer does with a face. ``fidelity`` 0..1 is CodeFormer's: at 1 it keeps most of what it was shown.

    Raises InputError for a model that makes no colours of colours.
    """
    config = model.config
    assert isinstance(config, UpscalerConfig)
    if config.in_channels != 3 or config.out_channels != 3:
        raise InputError(
            f"expected a model that restores colour pictures, found {config.architecture} of {config.in_channels} channels "
            f"in and {config.out_channels} out; choose GFPGAN, CodeFormer or RestoreFormer",
            input="facerestore_model",
        )

    def restore(face: Picture) -> Picture:
        given = torch.from_numpy(face).movedim(-1, 0)[None].contiguous()
        return _afforded(lambda tensor: _restored(model, tensor, fidelity), given)

    return restore


@torch.inference_mode()
def _restored(model: LoadedModel, face: Tensor, fidelity: float) -> Picture:
    network = model.module
    assert isinstance(network, Upscaler)
    result = network.restored(face.to(model.device, model.dtype), fidelity).float().cpu()
    if not bool(result.isfinite().all()):
        raise InputError(
            "the model made numbers that are none of a face; get its file again", input="facerestore_model"
        )
    pixels: Picture = np.ascontiguousarray(result[0].movedim(0, -1).clamp(0, 1).numpy())
    if pixels.shape[0] == SIDE:
        return pixels
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)


def _colours(picture: Tensor) -> Picture:
    """The colours of a picture [H,W,C] in 0..1, three of them."""
    channels = picture.shape[-1]
    kept = picture[..., : channels - 1] if channels in (2, 4) else picture
    shown = kept.detach().cpu().float().nan_to_num().clamp(0, 1).expand(*kept.shape[:2], 3)
    return np.array(shown.numpy(), np.float32)


def _take_over(picture: Tensor, before: Picture, after: Picture) -> None:
    """Write into ``picture`` [H,W,C] what has changed."""
    changed = torch.from_numpy((before != after).any(-1))
    colours = torch.from_numpy(after)
    kept = picture.shape[-1] - (picture.shape[-1] in (2, 4))
    picture[..., :kept][changed] = colours[changed] if kept == 3 else colours[changed].mean(-1, keepdim=True)


def _afforded(work: Callable[[Given], Made], given: Given) -> Made:
    try:
        return work(given)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            "expected room to work on a face, found too little; free memory or give smaller pictures"
        ) from error
