"""Sigmas: the noise levels that a sampling walks down, made and changed."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.spec import Choices, Output, Range, node
from nodes import diffusion
from nodes.diffusion.names import SCHEDULER_NAMES
from nodes.sockets import Model, Sigmas, Tensor
from nodes.widgets import Steps

SCHEDULERS = "sampling/custom_sampling/schedulers"
CHANGES = "sampling/custom_sampling/sigmas"

Denoise = Annotated[float, Range(0.0, 1.0, step=0.01)]
Level = Annotated[float, Range(0.0, 5000.0, step=0.01, round=False)]
High = Annotated[float, Range(0.0, 20_000.0, step=0.01, round=False)]
Power = Annotated[float, Range(0.0, 100.0, step=0.01, round=False)]
Shape = Annotated[float, Range(0.0, 50.0, step=0.01, round=False)]


@node("BasicScheduler", category=SCHEDULERS, outputs=[Output("SIGMAS")], version=2)
def basic_scheduler(
    *,
    model: Model,
    scheduler: Annotated[str, Choices(SCHEDULER_NAMES)],
    steps: Steps = 20,
    denoise: Denoise = 1.0,
) -> Tensor:
    """The sigmas of a model by a scheduler; with denoise below 1, the last steps of more."""
    return diffusion.sequences.of_model(diffusion.unet.levels(model), scheduler, steps, denoise)


@node("BetaSamplingScheduler", category=SCHEDULERS, outputs=[Output("SIGMAS")])
def beta_sampling_scheduler(*, model: Model, steps: Steps = 20, alpha: Shape = 0.6, beta: Shape = 0.6) -> Tensor:
    """The sigmas of a model at quantiles of a beta distribution."""
    return diffusion.sequences.beta(diffusion.unet.levels(model), steps, alpha, beta)


@node("SDTurboScheduler", category=SCHEDULERS, outputs=[Output("SIGMAS")])
def sd_turbo_scheduler(*, model: Model, steps: Annotated[int, Range(1, 10)] = 1, denoise: Denoise = 1.0) -> Tensor:
    """The sigmas that SD Turbo models know."""
    return diffusion.sequences.turbo(diffusion.unet.levels(model), steps, denoise)


@node("KarrasScheduler", category=SCHEDULERS, outputs=[Output("SIGMAS")])
def karras_scheduler(
    steps: Steps = 20, sigma_max: Level = 14.614642, sigma_min: Level = 0.0291675, rho: Power = 7.0
) -> Tensor:
    """Karras's sigmas between two levels."""
    return diffusion.sequences.karras(steps, sigma_max, sigma_min, rho)


@node("ExponentialScheduler", category=SCHEDULERS, outputs=[Output("SIGMAS")])
def exponential_scheduler(steps: Steps = 20, sigma_max: Level = 14.614642, sigma_min: Level = 0.0291675) -> Tensor:
    """Sigmas evenly spaced in log sigma."""
    return diffusion.sequences.polyexponential(steps, sigma_max, sigma_min)


@node("PolyexponentialScheduler", category=SCHEDULERS, outputs=[Output("SIGMAS")])
def polyexponential_scheduler(
    steps: Steps = 20, sigma_max: Level = 14.614642, sigma_min: Level = 0.0291675, rho: Power = 1.0
) -> Tensor:
    """Sigmas whose logarithms follow a power of an even ramp."""
    return diffusion.sequences.polyexponential(steps, sigma_max, sigma_min, rho)


@node("LaplaceScheduler", category=SCHEDULERS, outputs=[Output("SIGMAS")])
def laplace_scheduler(
    steps: Steps = 20,
    sigma_max: Level = 14.614642,
    sigma_min: Level = 0.0291675,
    mu: Annotated[float, Range(-10.0, 10.0, step=0.1, round=False)] = 0.0,
    beta: Annotated[float, Range(0.0, 10.0, step=0.1, round=False)] = 0.5,
) -> Tensor:
    """Sigmas at quantiles of a Laplace distribution of log sigma; they do not end in 0."""
    return diffusion.sequences.laplace(steps, sigma_max, sigma_min, mu, beta)


@node("VPScheduler", category=SCHEDULERS, outputs=[Output("SIGMAS")])
def vp_scheduler(
    steps: Steps = 20,
    beta_d: Level = 19.9,
    beta_min: Level = 0.1,
    eps_s: Annotated[float, Range(0.0, 1.0, step=0.0001, round=False)] = 0.001,
) -> Tensor:
    """The sigmas of a variance preserving diffusion."""
    return diffusion.sequences.variance_preserving(steps, beta_d, beta_min, eps_s)


@node("AlignYourStepsScheduler", category=SCHEDULERS, outputs=[Output("SIGMAS")])
def align_your_steps_scheduler(
    *, model_type: Literal["SD1", "SDXL", "SVD"], steps: Steps = 10, denoise: Denoise = 1.0
) -> Tensor:
    """The sigmas that were found best for ten steps of a kind of model."""
    return diffusion.sequences.align_your_steps(model_type, steps, denoise)


@node("GITSScheduler", category=SCHEDULERS, outputs=[Output("SIGMAS")])
def gits_scheduler(
    coeff: Annotated[float, Range(0.8, 1.5, step=0.05)] = 1.2,
    steps: Annotated[int, Range(2, 1000)] = 10,
    denoise: Denoise = 1.0,
) -> Tensor:
    """The sigmas that were found to bend the way of Stable Diffusion least; a greater coeff has more of its steps at low noise."""
    return diffusion.sequences.gits(coeff, steps, denoise)


@node("SplitSigmas", category=CHANGES, outputs=[Output("SIGMAS", "high_sigmas"), Output("SIGMAS", "low_sigmas")])
def split_sigmas(sigmas: Sigmas, step: Annotated[int, Range(0, 10_000)] = 0) -> tuple[Tensor, Tensor]:
    """The sigmas up to a step, and from there on."""
    return diffusion.sequences.split(sigmas, step)


@node(
    "SplitSigmasDenoise",
    category=CHANGES,
    outputs=[Output("SIGMAS", "high_sigmas"), Output("SIGMAS", "low_sigmas")],
    version=2,
)
def split_sigmas_denoise(sigmas: Sigmas, denoise: Denoise = 1.0) -> tuple[Tensor, Tensor]:
    """The sigmas split so that the second part has this share of the steps."""
    return diffusion.sequences.split_by_denoise(sigmas, denoise)


@node("SplitSigmasByNoise", title="Split Sigmas by Noise (base and refiner)", category=CHANGES,
      outputs=[Output("SIGMAS", "high_sigmas"), Output("SIGMAS", "low_sigmas")])  # fmt: skip
def split_sigmas_by_noise(
    model: Model, sigmas: Sigmas, high_noise_frac: Annotated[float, Range(0.0, 1.0, step=0.01)] = 0.8
) -> tuple[Tensor, Tensor]:
    """The sigmas for a base model and for its refiner: the base takes this share of the timesteps, from full noise on.

    What diffusers calls high_noise_frac, denoising_end of the one and denoising_start of the other.
    """
    return diffusion.sequences.split_by_noise(diffusion.unet.levels(model), sigmas, high_noise_frac)


@node("FlipSigmas", category=CHANGES, outputs=[Output("SIGMAS")])
def flip_sigmas(sigmas: Sigmas) -> Tensor:
    """The sigmas from the end: sampling with them adds noise instead of taking it away."""
    return diffusion.sequences.flipped(sigmas)


@node("SetFirstSigma", category=CHANGES, outputs=[Output("SIGMAS")])
def set_first_sigma(
    sigmas: Sigmas, sigma: Annotated[float, Range(0.0, 20_000.0, step=0.001, round=False)] = 136.0
) -> Tensor:
    """The sigmas begun at another level."""
    return diffusion.sequences.with_first(sigmas, sigma)


@node("ExtendIntermediateSigmas", category=CHANGES, outputs=[Output("SIGMAS")])
def extend_intermediate_sigmas(
    *,
    sigmas: Sigmas,
    steps: Annotated[int, Range(1, 100)] = 2,
    start_at_sigma: Annotated[float, Range(-1.0, 20_000.0, step=0.01, round=False)] = -1.0,
    end_at_sigma: High = 12.0,
    spacing: Literal["linear", "cosine", "sine"],
) -> Tensor:
    """Every step between two levels cut into as many as steps says; a start of -1 is the beginning."""
    return diffusion.sequences.extended(sigmas, steps, start_at_sigma, end_at_sigma, spacing)


@node("SamplingPercentToSigma", category=CHANGES, outputs=[Output("FLOAT", "sigma_value")])
def sampling_percent_to_sigma(
    *,
    model: Model,
    sampling_percent: Annotated[float, Range(0.0, 1.0, step=0.0001)] = 0.0,
    return_actual_sigma: bool = False,
) -> float:
    """The model's sigma after a share of the way. At 0 and 1 that lies beyond its own ends, unless the actual is wanted."""
    levels = diffusion.unet.levels(model)
    return diffusion.sequences.at_percent(levels, sampling_percent, actual=return_actual_sigma)
