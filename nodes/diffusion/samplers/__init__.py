"""Samplers by name. Each is a solver of one file beside this, named after its paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from engine.errors import InputError
from nodes.diffusion.names import SAMPLER_NAMES
from nodes.diffusion.samplers.cfg_pp import (
    Dpmpp2mCfgpp,
    Dpmpp2sAncestralCfgpp,
    EulerCfgpp,
    EulerTwiceGuided,
    GradientEstimation,
    GradientEstimationCfgpp,
    ResMultistep,
    ResMultistepCfgpp,
)
from nodes.diffusion.samplers.dpm_solver import DpmAdaptive, DpmFast
from nodes.diffusion.samplers.laws import Law, StraightPath, VarianceExploding
from nodes.diffusion.samplers.multistep import Deis, Dpmpp2m, Dpmpp2mSde, Dpmpp3mSde, Ipndm, IpndmV, Lms
from nodes.diffusion.samplers.single_step import Ddpm, Euler, EulerAncestral, Lcm, LcmUpscale
from nodes.diffusion.samplers.stages import ErSde, HeunPlusPlus, SaSolver, Seeds
from nodes.diffusion.samplers.state import ApartSampler, Pending, Sampler, State, from_tensors, to_tensors
from nodes.diffusion.samplers.two_stage import Dpm2, Dpm2Ancestral, Dpmpp2sAncestral, DpmppSde, Heun
from nodes.diffusion.samplers.uni_pc import UniPc
from nodes.diffusion.schedules import ModelSigmas, stable_diffusion

__all__ = [
    "IN_PARTS",
    "SAMPLERS",
    "ApartSampler",
    "Law",
    "Pending",
    "Sampler",
    "State",
    "StraightPath",
    "VarianceExploding",
    "from_tensors",
    "make_sampler",
    "to_tensors",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """A solver with what its name fixes of it."""

    solver: type[Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)


def _kind(solver: type[Any], /, **fixed: Any) -> Kind:
    return Kind(solver, fixed)


SAMPLERS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "euler": _kind(Euler),
        "euler_cfg_pp": _kind(EulerCfgpp),
        "euler_ancestral": _kind(EulerAncestral),
        "euler_ancestral_cfg_pp": _kind(EulerCfgpp, eta=1.0),
        "heun": _kind(Heun),
        "heunpp2": _kind(HeunPlusPlus),
        "dpm_2": _kind(Dpm2),
        "dpm_2_ancestral": _kind(Dpm2Ancestral),
        "lms": _kind(Lms),
        "dpm_fast": _kind(DpmFast),
        "dpm_adaptive": _kind(DpmAdaptive),
        "dpmpp_2s_ancestral": _kind(Dpmpp2sAncestral),
        "dpmpp_2s_ancestral_cfg_pp": _kind(Dpmpp2sAncestralCfgpp),
        "dpmpp_sde": _kind(DpmppSde),
        "dpmpp_sde_gpu": _kind(DpmppSde),
        "dpmpp_2m": _kind(Dpmpp2m),
        "dpmpp_2m_cfg_pp": _kind(Dpmpp2mCfgpp),
        "dpmpp_2m_sde": _kind(Dpmpp2mSde),
        "dpmpp_2m_sde_gpu": _kind(Dpmpp2mSde),
        "dpmpp_2m_sde_heun": _kind(Dpmpp2mSde, solver="heun"),
        "dpmpp_2m_sde_heun_gpu": _kind(Dpmpp2mSde, solver="heun"),
        "dpmpp_3m_sde": _kind(Dpmpp3mSde),
        "dpmpp_3m_sde_gpu": _kind(Dpmpp3mSde),
        "ddpm": _kind(Ddpm),
        "lcm": _kind(Lcm),
        "ipndm": _kind(Ipndm),
        "ipndm_v": _kind(IpndmV),
        "deis": _kind(Deis),
        "res_multistep": _kind(ResMultistep),
        "res_multistep_cfg_pp": _kind(ResMultistepCfgpp),
        "res_multistep_ancestral": _kind(ResMultistep, eta=1.0),
        "res_multistep_ancestral_cfg_pp": _kind(ResMultistepCfgpp, eta=1.0),
        "gradient_estimation": _kind(GradientEstimation),
        "gradient_estimation_cfg_pp": _kind(GradientEstimationCfgpp),
        "er_sde": _kind(ErSde),
        "seeds_2": _kind(Seeds),
        "seeds_3": _kind(Seeds, parts=(1 / 3, 2 / 3)),
        "sa_solver": _kind(SaSolver),
        "sa_solver_pece": _kind(SaSolver, pece=True),
        "ddim": _kind(Euler),
        "uni_pc": _kind(UniPc, variant="bh1"),
        "uni_pc_bh2": _kind(UniPc, variant="bh2"),
    }
)

IN_PARTS: Final[Mapping[str, Kind]] = MappingProxyType(
    {"euler_twice_guided": _kind(EulerTwiceGuided), "lcm_upscale": _kind(LcmUpscale)}
)
"""Samplers that have no name in a list, only a node."""

STOCHASTIC_PERCENTS: Final = (0.2, 0.8)
"""Between these shares of the way SA-Solver adds noise, where it is not told otherwise."""


def make_sampler(name: str, law: Law, levels: ModelSigmas | None = None, **options: Any) -> Sampler:
    """The sampler ``name`` for a model whose noise follows ``law`` and has ``levels`` (Stable Diffusion's without).

    ``options`` are fields of its solver. Raises InputError for an unknown name.
    """
    kind = SAMPLERS.get(name) or IN_PARTS.get(name)
    if kind is None:
        raise InputError(f"sampler must be one of {', '.join(SAMPLER_NAMES)}; found {name!r}", input="sampler_name")
    given = {**kind.fixed, **options}
    taken = {each.name for each in fields(kind.solver)}
    if "law" in taken:
        given["law"] = law
    if "interval" in taken and "interval" not in given:
        known = levels or stable_diffusion()
        given["interval"] = tuple(map(known.percent_to_sigma, STOCHASTIC_PERCENTS))
    made: Sampler = kind.solver(**given)
    return made
