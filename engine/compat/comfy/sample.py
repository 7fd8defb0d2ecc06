"""``comfy.sample``: the noise a sampling begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.compat.missing import module_getattr
from engine.compat.model_values import unwrapped
from engine.models import ModelRef

if TYPE_CHECKING:
    from torch import Tensor


def prepare_noise(latent_image: Tensor, seed: int, noise_inds: Sequence[int] | None = None) -> Tensor:
    """Normal noise of the latent's shape, drawn on the CPU; with ``noise_inds`` each sample's is that of its place in a batch."""
    from nodes.diffusion.noise import initial_noise

    return initial_noise(latent_image, seed, None if noise_inds is None else [int(place) for place in noise_inds])


def fix_empty_latent_channels(model: Any, latent_image: Tensor, *_: Any) -> Tensor:
    """An empty latent with as many channels as the model has; any other as it is."""
    from nodes.diffusion.sources import open_source

    model = unwrapped(model)
    if not isinstance(model, ModelRef) or latent_image.count_nonzero() > 0:
        return latent_image
    channels = open_source(model.location).facts.latent_channels
    if latent_image.shape[1] == channels:
        return latent_image
    shape = list(latent_image.shape)
    shape[1] = channels
    return latent_image.new_zeros(shape)


__getattr__ = module_getattr(__name__)
