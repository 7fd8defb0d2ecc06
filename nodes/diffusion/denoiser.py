"""A network as a denoiser: from ``x`` at ``sigma`` to the clean latent it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.alterations import Altered, Moment
from nodes.diffusion.conditioning import InputsOf, no_inputs
from nodes.diffusion.perturbations import Perturbation
from nodes.diffusion.predictions import Prediction
from nodes.diffusion.samplers.laws import Law, StraightPath, VarianceExploding
from nodes.diffusion.schedules import ModelSigmas
from nodes.diffusion.steering import Option


class Network(Protocol):
    """A UNet or transformer: ``x`` [B,C,h,w], timestep float32 [B], context [B,T,D] to its output [B,C,h,w]."""

    def __call__(self, x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor: ...


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


@dataclass(frozen=True, slots=True)
class Hearing:
    """What text a model listens to: states ``width`` wide; ``model`` names it in messages."""

    model: str
    width: int
    takes_narrower: bool = False

    def check(self, embedding: Tensor, input: str) -> None:
        """Raise InputError for text of another model's encoder."""
        found = embedding.shape[-1]
        if found == self.width or (self.takes_narrower and found < self.width):
            return
        raise InputError(
            f"expected text {self.width} wide for this {self.model} model, found one {found} wide; "
            "encode the prompt with the text encoders that belong to the model",
            input=input,
        )


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
    hearing: Hearing | None = None
    inputs_of: InputsOf = no_inputs
    """What else the network takes, for an entry of conditioning."""
    differential: float | None = None
    options: tuple[Option, ...] = ()
    alterations: tuple[Altered, ...] = ()
    """What the network is changed by in every call."""
    compiled: Network | None = None
    """Computes what ``network`` does, in calls that nothing changes: what was compiled knows of no change."""
    perturbations: tuple[Perturbation, ...] = ()
    """Guidance beside the classifier-free one."""

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        """The clean latent, float32 [B,C,h,w], predicted for ``x`` at ``sigma`` ([B] on the CPU) under ``context``
        [B,T,D].

        ``inputs`` are what else the network takes, each [B,...].
        """
        level = per_sample(sigma, x)
        timestep = torch.from_numpy(self.schedule.timestep(sigma.double().numpy())).float()
        extra = {name: self._in_dtype(value) for name, value in (inputs or {}).items()}
        network = self.network if self.compiled is None or self.alterations else self.compiled
        with self._altered(x, sigma):
            out = network(
                self.prediction.model_input(x, level).to(self.dtype),
                timestep.to(x.device, non_blocking=True),
                context.to(self.dtype),
                **extra,
            )
        return self.prediction.denoised(x, out.float(), level)

    def _in_dtype(self, value: Tensor) -> Tensor:
        """Whole numbers stay what they are: they count something."""
        return value.to(self.dtype) if value.is_floating_point() else value

    def changed(self, *alterations: Altered) -> Denoiser:
        """With the network changed by these too, before all that changes it already."""
        return replace(self, alterations=(*alterations, *self.alterations)) if alterations else self

    def _altered(self, x: Tensor, sigma: Tensor) -> ExitStack:
        """The network is changed while the result is open."""
        stack = ExitStack()
        if self.alterations:
            height, width = x.shape[-2:]
            moment = Moment(float(sigma[0]), height, width, self.schedule)
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
