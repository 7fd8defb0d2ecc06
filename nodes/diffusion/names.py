"""Names of samplers and schedulers, in the order clients show them. Nothing is imported: node signatures list these."""

from __future__ import annotations

from typing import Final

SAMPLER_NAMES: Final = (
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
)

SCHEDULER_NAMES: Final = (
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
)

TWO_EVALUATIONS: Final = frozenset(
    {
        "heun",
        "dpm_2",
        "dpm_2_ancestral",
        "dpmpp_2s_ancestral",
        "dpmpp_2s_ancestral_cfg_pp",
        "dpmpp_sde",
        "dpmpp_sde_gpu",
        "seeds_2",
    }
)
"""Samplers that evaluate the model twice in a step, but once in the step that ends at sigma 0."""

DROPS_PENULTIMATE: Final = frozenset({"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"})
"""Samplers for which one step more is planned and the second last sigma removed."""

BROWNIAN: Final = frozenset(
    {"dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu"}
    | {"dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"}
)
"""Samplers whose step noise is a Brownian path over sigma; the ``_gpu`` ones draw it on the device."""

FRESH_INPAINT_NOISE: Final = frozenset({"ddim"})
"""Samplers that renoise the kept part of an inpainting with noise of their own instead of the initial noise."""

RESIZING: Final = frozenset({"lcm_upscale"})
"""Samplers that change the size of the latent."""

ENDS_ABOVE_ZERO: Final = frozenset({"uni_pc", "uni_pc_bh2"})
"""Samplers that stop at a small sigma in the place of 0, from which the samples of flows are scaled."""

GOES_ON: Final = frozenset({"lcm_upscale"})
"""Samplers whose step noise, where it is drawn on the CPU, goes on behind the initial noise instead of beginning at the seed again."""

DIFFUSERS_PREFIX: Final = "diffusers/"

DIFFUSERS_SCALED: Final = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
"""Schedulers of diffusers whose samples have the variance of the data: ``(x0 + sigma n) / sqrt(1 + sigma^2)``."""

DIFFUSERS_EXPLODING: Final = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverSDEScheduler",
)
"""Schedulers of diffusers whose samples are ``x0 + sigma n``."""

DIFFUSERS_FLOW: Final = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
"""Schedulers of diffusers for flow models."""

DIFFUSERS_NAMES: Final = tuple(
    DIFFUSERS_PREFIX + name for name in DIFFUSERS_SCALED + DIFFUSERS_EXPLODING + DIFFUSERS_FLOW
)
"""Sampler names that stand for a scheduler of the diffusers library; they walk its sigmas, whatever scheduler is
chosen."""

DIFFUSERS_TWO_EVALUATIONS: Final = frozenset(
    {
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "DPMSolverSDEScheduler",
        "FlowMatchHeunDiscreteScheduler",
    }
)
"""Schedulers with two timesteps a step, but one in the last."""
