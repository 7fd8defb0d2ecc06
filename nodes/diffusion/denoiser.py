"""A network as a denoiser: from ``x`` at ``sigma`` to the clean latent it predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.alterations import Altered, Moment
from nodes.diffusion.conditioning import Reader, for_batch
from nodes.diffusion.controlled import ControlCall, Steered, View
from nodes.diffusion.faster_cache import FasterCache
from nodes.diffusion.perturbations import Perturbation
from nodes.diffusion.predictions import Prediction
from nodes.diffusion.recall import Call
from nodes.diffusion.samplers.laws import Law, StraightPath, VarianceExploding
from nodes.diffusion.schedules import ModelSigmas
from nodes.diffusion.steering import Option
from nodes.diffusion.tiled_diffusion import Windows
from nodes.diffusion.weight_hooks import WeightHooks

if TYPE_CHECKING:
    from engine.models import Patch
    from nodes.diffusion.hooked import Hooked


class Network(Protocol):
    """A UNet or transformer: ``x`` [B,C,h,w], timestep float32 [B], context [B,T,D] to its output [B,C,h,w]."""

    def __call__(self, x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Any) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class LatentFormat:
    """How VAE latents are scaled for a model: ``(latent - shift) * scale``. SD1 and SD2: 0.18215; SDXL: 0.13025."""

    scale: float = 0.18215
    shift: float = 0.0
    channels: int = 4

    def into_model(self, latent: Tensor) -> Tensor:
        """VAE space to model space. An all-zero latent means "empty" and stays zero."""
        return (latent - self.shift) * self.scale if bool(latent.any()) else latent

    def from_model(self, latent: Tensor) -> Tensor:
        return latent / self.scale + self.shift

    def widened(self, latent: Tensor) -> Tensor:
        """``latent`` [B,C,...] with the model's channel count, which an empty latent may take from any other.

        Raises InputError where a latent that is not empty has another channel count.
        """
        found = latent.shape[1]
        if found == self.channels:
            return latent
        if bool(latent.any()):
            raise InputError(
                f"latents of {self.channels} channels expected; found {found}: encode the picture with the model's VAE",
                input="latent_image",
            )
        return latent.new_zeros((len(latent), self.channels, *latent.shape[2:]))


def per_sample(sigma: Tensor, like: Tensor) -> Tensor:
    """``sigma`` [B] on the CPU, as float32 [B,1,1,...] beside ``like``."""
    # A few bytes of pageable memory are staged at once; a blocking copy would wait for the whole device.
    beside = sigma.to(like.device, torch.float32, non_blocking=True)
    return beside.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, slots=True, eq=False)
class Denoiser:
    """A network with its noise levels, its prediction type and its latent space.

    ``dtype`` is what the network computes in; everything around it is float32. ``device`` is where it is. ``differential`` is the
    strength of differential diffusion (0..1) where inpainting is to take masks so. ``options`` are
    what its guidance does beside the usual.
    """

    network: Network
    schedule: ModelSigmas
    prediction: Prediction
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    latent_format: LatentFormat = field(default_factory=LatentFormat)
    reader: Reader = field(default_factory=Reader)
    differential: float | None = None
    options: tuple[Option, ...] = ()
    alterations: tuple[Altered, ...] = ()
    """What the network is changed by in every call."""
    chance: torch.Generator | None = None
    """What such changes draw random numbers from, where they do; it goes on from call to call."""
    compiled: Network | None = None
    """Computes what ``network`` does, in calls that nothing changes: what was compiled knows of no change."""
    perturbations: tuple[Perturbation, ...] = ()
    """Guidance beside the classifier-free one."""
    hooked: Hooked | None = None
    """The network's weights under the hooks of prompts."""
    levels: tuple[float, ...] = ()
    """The noise levels at which the steps of the run begin, where it is known."""
    faster: FasterCache | None = None
    """May rebuild the negative side of guidance."""
    windows: Windows | None = None
    """What the network sees of a large sample at a time."""

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        context: Tensor,
        inputs: Mapping[str, Tensor] | None = None,
        steered: Steered | None = None,
        call: Call | None = None,
    ) -> Tensor:
        """The clean latent, float32 [B,C,h,w], predicted for ``x`` at ``sigma`` ([B] on the CPU) under ``context``
        [B,T,D].

        ``inputs`` are what else the network takes, each [B,...]; ``steered`` is the control of the call. ``call`` is what it finds of
        earlier calls, and keeps.
        """
        if self.windows is None:
            return self._at_once(x, sigma, context, inputs or {}, None, call, steered)
        return self.windows.denoised(x, sigma, context, inputs or {}, partial(self._at_once, steered=steered), call)

    def _at_once(
        self,
        x: Tensor,
        sigma: Tensor,
        context: Tensor,
        inputs: Mapping[str, Tensor],
        view: View | None,
        call: Call | None,
        steered: Steered | None,
    ) -> Tensor:
        level = per_sample(sigma, x)
        timestep = torch.from_numpy(self.schedule.timestep(sigma.double().numpy())).float()
        extra = {name: self._in_dtype(value) for name, value in inputs.items()}
        network = self.network if self.compiled is None or self.alterations else self.compiled
        seen, heard = self.prediction.model_input(x, level).to(self.dtype), context.to(self.dtype)
        moment = timestep.to(x.device, non_blocking=True)
        told: Mapping[str, Any] = {}
        if steered is not None:
            read = heard if steered.context is None else for_batch(steered.context.to(self.dtype), len(seen))
            told_of = ControlCall(seen, moment, read, extra, float(sigma[0]), steered.entries, view)
            told = steered.control.told(told_of)
        with self._altered(x, sigma, call):
            out = network(seen, moment, heard, **extra, **told)
        return self.prediction.denoised(x, out.float(), level)

    def _in_dtype(self, value: Tensor) -> Tensor:
        """Whole numbers stay what they are: they count something."""
        return value.to(self.dtype) if value.is_floating_point() else value

    def changed(self, *alterations: Altered) -> Denoiser:
        """With the network changed by these too, before all that changes it already."""
        return replace(self, alterations=(*alterations, *self.alterations)) if alterations else self

    def along(self, sigmas: Tensor) -> Denoiser:
        """For a run down ``sigmas`` [n + 1]."""
        return replace(self, levels=tuple(sigmas[:-1].tolist()))

    def by_weights(self, hooks: Sequence[WeightHooks], sigma: Tensor) -> list[tuple[Denoiser, list[int]]]:
        """Entries with these hooks apart by the weights that they are predicted with at ``sigma`` [B]: what predicts them, and which."""
        if self.hooked is None or not any(hooks):
            return [(self, list(range(len(hooks))))]
        sets: dict[tuple[Patch, ...], list[int]] = {}
        for index, each in enumerate(hooks):
            sets.setdefault(self.hooked.patches(each, float(sigma[0]), self.levels), []).append(index)
        return [
            (self.changed(self.hooked.altered(patches)) if patches else self, members)
            for patches, members in sets.items()
        ]

    def _altered(self, x: Tensor, sigma: Tensor, call: Call | None) -> ExitStack:
        """The network is changed while the result is open."""
        stack = ExitStack()
        if self.alterations:
            height, width = x.shape[-2:]
            chance = self.chance or torch.Generator("cpu")
            moment = Moment(float(sigma[0]), height, width, self.schedule, chance, len(x), call, self.levels)
            with stack:
                for alteration in self.alterations:
                    stack.enter_context(alteration(moment))
                return stack.pop_all()
        return stack

    @property
    def sigma_max(self) -> float:
        return float(self.schedule.table[-1])

    @property
    def law(self) -> Law:
        """How much signal and noise a sample of this model holds at each sigma."""
        return StraightPath(self.schedule.percent_to_sigma(1e-4)) if self.schedule.flow else VarianceExploding()
