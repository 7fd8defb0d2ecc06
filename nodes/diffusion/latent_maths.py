"""Arithmetic of LATENT samples [B,C,h,w], and putting batches together and apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.conditioning import for_batch
from nodes.diffusion.masks import resized
from nodes.diffusion.resize import resize

if TYPE_CHECKING:
    from nodes.sockets import LatentDict

CELL = 8
"""Pixels along the side of a latent cell."""


def same_channels(like: Tensor, samples: Tensor, input: str) -> None:
    """Raises InputError where the two are of different kinds of models."""
    if like.shape[1] != samples.shape[1]:
        raise InputError(
            f"expected a latent of {like.shape[1]} channels, as the other one has, found {samples.shape[1]}; "
            "use latents of one model family",
            input=input,
        )


def fitted(samples: Tensor, like: Tensor, method: str = "bilinear", input: str = "samples2") -> Tensor:
    """``samples`` at the size of ``like``, cropped in the centre to its aspect, and repeated or cut to its batch."""
    same_channels(like, samples, input)
    return for_batch(resize(samples, like.shape[-1], like.shape[-2], method, "center"), len(like))


def interpolated(a: Tensor, b: Tensor, ratio: float) -> Tensor:
    """``ratio`` of ``a`` and the rest of ``b``, directions and lengths of the channel vectors mixed apart.

    The directions are mixed and made unit vectors again, so that what lies between is as long as its neighbours: a plain mean of
    two latents is too short.
    """
    length_a, length_b = (x.norm(dim=1, keepdim=True) for x in (a, b))
    mixed = (a / length_a).nan_to_num() * ratio + (b / length_b).nan_to_num() * (1 - ratio)
    direction = (mixed / mixed.norm(dim=1, keepdim=True)).nan_to_num()
    result: Tensor = direction * (length_a * ratio + length_b * (1 - ratio))
    return result


def joined(a: Tensor, b: Tensor, dim: int, *, behind: bool) -> Tensor:
    """``b`` behind ``a`` along ``dim``, or before it, repeated or cut to its batch. Raises InputError where other sides differ."""
    b = for_batch(b, len(a))
    sides = [[side for index, side in enumerate(x.shape) if index != dim % x.ndim] for x in (a, b)]
    if sides[0] != sides[1]:
        raise InputError(
            f"expected latents that differ along one side alone, found {list(a.shape)} and {list(b.shape)}; "
            "crop or scale one of them first",
            input="samples2",
        )
    return torch.cat([a, b] if behind else [b, a], dim)


def slice_of(samples: Tensor, dim: int, index: int, amount: int) -> Tensor:
    """At most ``amount`` cells along ``dim`` from ``index`` on, which counts from the end where it is negative."""
    size = samples.shape[dim]
    start = min(index, size - 1) if index >= 0 else max(size + index, 0)
    return samples.narrow(dim, start, min(amount, size - start)).clone()


def cropped(samples: Tensor, *, width: int, height: int, x: int, y: int) -> Tensor:
    """A rectangle in cells. It begins at least 8 cells before the end, and ends where the latent does."""
    left, top = max(0, min(x, samples.shape[-1] - 8)), max(0, min(y, samples.shape[-2] - 8))
    return samples[..., top : top + height, left : left + width].clone()


def in_one_batch(first: LatentDict, second: LatentDict) -> LatentDict:
    """Both batches in one; the second takes the first's size, and each keeps its places in the noise."""
    a, b = first["samples"], second["samples"]
    same_channels(a, b, "samples2")
    b = resize(b, a.shape[-1], a.shape[-2], "bilinear", "center")
    places = [latent.get("batch_index", list(range(len(latent["samples"])))) for latent in (first, second)]
    return {**first, "samples": torch.cat([a, b]), "batch_index": [*places[0], *places[1]]}


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    samples: Tensor
    mask: Tensor | None
    place: int


def rebatched(latents: Sequence[LatentDict], size: int) -> list[LatentDict]:
    """The samples of all ``latents`` in batches of ``size``, each of samples of one shape; order stays.

    Noise masks are at the size of the picture, and left out of a batch that is to be repainted everywhere. A sample without a place
    in the noise gets that of its number among all.
    """
    batches: list[list[_Sample]] = []
    for sample in _single(latents):
        last = batches[-1] if batches else []
        if last and len(last) < size and last[0].samples.shape == sample.samples.shape:
            last.append(sample)
        else:
            batches.append([sample])
    return [_batch(batch) for batch in batches]


def _single(latents: Iterable[LatentDict]) -> Iterator[_Sample]:
    count = 0
    for latent in latents:
        samples = latent["samples"]
        masks = latent.get("noise_mask")
        if masks is not None:
            sized = resized(masks, samples.shape[-2] * CELL, samples.shape[-1] * CELL)
            masks = for_batch(sized[:, None], len(samples))
        places = latent.get("batch_index", list(range(count, count + len(samples))))
        count += len(samples)
        for index, place in enumerate(places):
            yield _Sample(samples[index : index + 1], None if masks is None else masks[index : index + 1], place)


def _batch(batch: Sequence[_Sample]) -> LatentDict:
    result: LatentDict = {
        "samples": torch.cat([sample.samples for sample in batch]),
        "batch_index": [sample.place for sample in batch],
    }
    if any(sample.mask is not None and bool((sample.mask != 1).any()) for sample in batch):
        height, width = (side * CELL for side in result["samples"].shape[-2:])
        everywhere = torch.ones(1, 1, height, width)
        result["noise_mask"] = torch.cat([everywhere if s.mask is None else s.mask for s in batch])
    return result
