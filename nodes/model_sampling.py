"""Models sampled in another way than their own."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.models import ModelRef
from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Model

CATEGORY = "advanced/model"

Shift = Annotated[float, Range(0.0, 100.0, step=0.01)]
Level = Annotated[float, Range(0.0, 1000.0, step=0.001, round=False)]
Pixels = Annotated[int, Range(16, 16384, step=8)]


@node("ModelSamplingDiscrete", category=CATEGORY, outputs=[Output("MODEL")])
def model_sampling_discrete(
    model: Model, sampling: Literal["eps", "v_prediction", "lcm", "x0", "img_to_img"], zsnr: bool = False
) -> ModelRef:
    """The model as one that predicts this, at the timesteps it was trained with; zsnr lets them end without any signal."""
    return diffusion.model_sampling.with_sampling(model, "discrete", sampling=sampling, zsnr=zsnr)


@node("ModelSamplingContinuousEDM", category=CATEGORY, outputs=[Output("MODEL")])
def model_sampling_continuous_edm(
    *,
    model: Model,
    sampling: Literal["v_prediction", "edm", "edm_playground_v2.5", "eps", "cosmos_rflow"],
    sigma_max: Level = 120.0,
    sigma_min: Level = 0.002,
) -> ModelRef:
    """The model as one that predicts this, at all levels between two."""
    return diffusion.model_sampling.with_sampling(model, "edm", sampling=sampling, high=sigma_max, low=sigma_min)


@node("ModelSamplingContinuousV", category=CATEGORY, outputs=[Output("MODEL")])
def model_sampling_continuous_v(
    *, model: Model, sampling: Literal["v_prediction"], sigma_max: Level = 500.0, sigma_min: Level = 0.03
) -> ModelRef:
    """The model as one that predicts velocities and is told the angle between signal and noise."""
    return diffusion.model_sampling.with_sampling(model, "v", high=sigma_max, low=sigma_min)


@node("ModelSamplingSD3", category=CATEGORY, outputs=[Output("MODEL")])
def model_sampling_sd3(model: Model, shift: Shift = 3.0) -> ModelRef:
    """A flow model with its times shifted: more than 1 spends more steps on high noise."""
    return diffusion.model_sampling.with_sampling(model, "flow", shift=shift, multiplier=1000.0)


@node("ModelSamplingAuraFlow", category=CATEGORY, outputs=[Output("MODEL")])
def model_sampling_aura_flow(model: Model, shift: Shift = 1.73) -> ModelRef:
    """A flow model with its times shifted, for networks that are told times from 0 to 1."""
    return diffusion.model_sampling.with_sampling(model, "flow", shift=shift, multiplier=1.0)


@node("ModelSamplingFlux", category=CATEGORY, outputs=[Output("MODEL")])
def model_sampling_flux(
    *,
    model: Model,
    max_shift: Shift = 1.15,
    base_shift: Annotated[float, Range(0.0, 100.0, step=0.01)] = 0.5,
    width: Pixels = 1024,
    height: Pixels = 1024,
) -> ModelRef:
    """A flow model with its times shifted the more, the larger the picture is."""
    shift = diffusion.model_sampling.flux_shift(max_shift, base_shift, width, height)
    return diffusion.model_sampling.with_sampling(model, "flux", shift=shift, multiplier=1.0)


@node("ModelSamplingStableCascade", category=CATEGORY, outputs=[Output("MODEL")])
def model_sampling_stable_cascade(model: Model, shift: Shift = 2.0) -> ModelRef:
    """The model at the levels of Stable Cascade, with less signal the higher the shift."""
    return diffusion.model_sampling.with_sampling(model, "cascade", shift=shift)


@node("ModelComputeDtype", category="advanced/debug/model", outputs=[Output("MODEL")])
def model_compute_dtype(model: Model, dtype: Literal["default", "fp32", "fp16", "bf16"]) -> ModelRef:
    """The model computed in this precision, whatever the device's default is."""
    return model.with_settings(compute_dtype=None if dtype == "default" else dtype)
