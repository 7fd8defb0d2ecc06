"""Samplers by name. Each is a solver of one file beside this, named after its paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from engine.errors import InputError
from nodes.diffusion.names import SAMPLER_NAMES
from nodes.diffusion.samplers.laws import Law, StraightPath, VarianceExploding
from nodes.diffusion.samplers.multistep import Deis, Dpmpp2m, Dpmpp2mSde, Dpmpp3mSde, Ipndm, Lms
from nodes.diffusion.samplers.single_step import Ddpm, Euler, EulerAncestral, Lcm
from nodes.diffusion.samplers.state import Pending, Sampler, State, from_tensors, to_tensors
from nodes.diffusion.samplers.two_stage import Dpm2, Dpm2Ancestral, Dpmpp2sAncestral, DpmppSde, Heun
from nodes.diffusion.samplers.uni_pc import UniPc

__all__ = [
    "SAMPLERS",
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

SAMPLERS: Final[Mapping[str, Callable[[Law], Sampler]]] = MappingProxyType(
    {
        "euler": lambda law: Euler(),
        "euler_ancestral": EulerAncestral,
        "heun": lambda law: Heun(),
        "dpm_2": lambda law: Dpm2(),
        "dpm_2_ancestral": Dpm2Ancestral,
        "lms": lambda law: Lms(),
        "dpmpp_2s_ancestral": Dpmpp2sAncestral,
        "dpmpp_sde": DpmppSde,
        "dpmpp_sde_gpu": DpmppSde,
        "dpmpp_2m": lambda law: Dpmpp2m(),
        "dpmpp_2m_sde": Dpmpp2mSde,
        "dpmpp_2m_sde_gpu": Dpmpp2mSde,
        "dpmpp_3m_sde": Dpmpp3mSde,
        "dpmpp_3m_sde_gpu": Dpmpp3mSde,
        "ddpm": lambda law: Ddpm(),
        "lcm": Lcm,
        "ipndm": lambda law: Ipndm(),
        "deis": lambda law: Deis(),
        "ddim": lambda law: Euler(),
        "uni_pc": lambda law: UniPc("bh1"),
        "uni_pc_bh2": lambda law: UniPc("bh2"),
    }
)


def make_sampler(name: str, law: Law) -> Sampler:
    """The sampler ``name`` for a model whose noise follows ``law``. Raises InputError for an unknown name."""
    if name not in SAMPLERS:
        raise InputError(f"sampler must be one of {', '.join(SAMPLER_NAMES)}; found {name!r}", input="sampler_name")
    return SAMPLERS[name](law)
