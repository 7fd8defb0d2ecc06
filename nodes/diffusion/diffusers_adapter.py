"""Schedulers of the diffusers library as samplers: ``diffusers/DPMSolverMultistepScheduler`` and so on.

Such a scheduler keeps its progress in attributes of its own. Before each step they are put into a fresh copy from the
``State``, and what the step changed is taken out again, so that these samplers too can be cut and continued anywhere.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import diffusers
import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.names import DIFFUSERS_FLOW, DIFFUSERS_NAMES, DIFFUSERS_PREFIX, DIFFUSERS_SCALED
from nodes.diffusion.noise import GeneratorNoise, StepNoise
from nodes.diffusion.samplers.state import Solver, State
from nodes.diffusion.schedules import FlowSchedule, ModelSigmas, Sigmas, cut

REBUILT: Final = frozenset({"_internal_dict", "noise_sampler"})
"""Attributes that are never stored: the configuration, and a Brownian path that the scheduler makes anew from its
seed."""

HALF_WAY: Final = frozenset({"KDPM2DiscreteScheduler", "DPMSolverSDEScheduler"})
"""Schedulers whose second evaluation is made half way in log sigma, though their list of sigmas says the step's end.
(Half way to where an ancestral step of eta 1 goes down to is the step's end itself.)"""


@dataclass(frozen=True, slots=True, eq=False)
class DiffusersSampler(Solver):
    """A scheduler after ``set_timesteps``, walked one of its timesteps at a time.

    ``levels`` [n + 1] are the sigmas of its n timesteps and of the end; ``scaled`` says whether its samples are
    ``x / sqrt(1 + sigma^2)``; ``first`` is the timestep that a run begins with.
    """

    scheduler: Any
    levels: Tensor
    scaled: bool
    first: int = 0

    def start(self, x: Tensor, sigmas: Tensor, noise: StepNoise) -> State:
        if not isinstance(noise, GeneratorNoise):
            raise TypeError(f"a scheduler of diffusers draws from a generator; found {type(noise).__name__}")
        state = Solver.start(self, x, sigmas, noise)
        scheduler = copy.copy(self.scheduler)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self.first)
        if hasattr(scheduler, "noise_sampler_seed"):
            scheduler.noise_sampler_seed = noise.generator().initial_seed()
        return self._stored(state, scheduler, self.first)

    def advance(self, state: State, denoised: Tensor) -> State:
        memory = json.loads(state.note)
        index: int = memory["index"]
        if state.ends_clean and self.levels[index + 1] > 0:
            # The caller cut the walk short and wants it clean.
            return state.stepped(denoised)
        scheduler = self._restored(state, memory["attributes"])
        eps = (state.x - denoised) / state.sigma
        x, noise = self._step(scheduler, state, eps, index)
        return self._stored(state.stepped(x, noise=noise), scheduler, index + 1)

    def _step(self, scheduler: Any, state: State, eps: Tensor, index: int) -> tuple[Tensor, StepNoise]:
        noise = state.noise
        generator = noise.generator() if isinstance(noise, GeneratorNoise) else torch.Generator()
        takes = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        sample = state.x / self._scale(state.sigma)
        moved = scheduler.step(eps, scheduler.timesteps[index], sample, return_dict=False, **takes)[0]
        after = replace(noise, position=generator.get_state()) if isinstance(noise, GeneratorNoise) else noise
        return moved * self._scale(self.levels[index + 1]), after

    def _scale(self, sigma: Tensor) -> Tensor:
        return (1 + sigma**2) ** 0.5 if self.scaled else torch.ones_like(sigma)

    def _stored(self, state: State, scheduler: Any, index: int) -> State:
        tensors: dict[str, Tensor] = {}
        attributes = {
            name: _encoded(value, tensors, name)
            for name, value in vars(scheduler).items()
            if name not in REBUILT and value is not vars(self.scheduler).get(name, tensors)
        }
        return replace(state, extra=tensors, note=json.dumps({"index": index, "attributes": attributes}))

    def _restored(self, state: State, attributes: Mapping[str, Any]) -> Any:
        scheduler = copy.copy(self.scheduler)
        for name, value in vars(self.scheduler).items():
            # A step writes into the lists it was given, and those here belong to every run.
            if isinstance(value, list):
                setattr(scheduler, name, list(value))
        for name, value in attributes.items():
            setattr(scheduler, name, _decoded(value, state))
        return scheduler


def _encoded(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """``value`` as JSON, its tensors put aside in ``tensors``."""
    match value:
        case Tensor():
            tensors[name] = value
            return {"tensor": name}
        case list() | tuple():
            return [_encoded(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
        case np.generic():
            return value.item()
    raise TypeError(f"cannot store {name} of a scheduler: {type(value).__name__}")


def _decoded(value: Any, state: State) -> Any:
    match value:
        case {"tensor": name}:
            tensor = state.extra[name]
            return tensor.to(state.x.device) if tensor.ndim == state.x.ndim else tensor
        case list():
            return [_decoded(item, state) for item in value]
    return value


def _betas(schedule: ModelSigmas) -> list[float]:
    """The betas whose cumulative products give the model's sigmas."""
    alphas_cumprod = 1 / (1 + schedule.table**2)
    before = np.concatenate([[1.0], alphas_cumprod[:-1]])
    return [float(beta) for beta in 1 - alphas_cumprod / before]


def _configuration(kind: type, schedule: ModelSigmas, steps: int) -> dict[str, Any]:
    """What the scheduler is told: the model's levels, plain noise prediction, and to end at sigma 0 where it can."""
    if isinstance(schedule, FlowSchedule):
        wanted: dict[str, Any] = {"num_train_timesteps": schedule.steps, "shift": schedule.shift}
    else:
        wanted = {
            "num_train_timesteps": len(schedule.table),
            "trained_betas": _betas(schedule),
            "prediction_type": "epsilon",
            "steps_offset": 1,
            "clip_sample": False,
            "set_alpha_to_one": True,
            "skip_prk_steps": True,
            "original_inference_steps": max(50, steps),
            "final_sigmas_type": "zero",
        }
    known = inspect.signature(kind).parameters
    return {name: value for name, value in wanted.items() if name in known}


def _levels(scheduler: Any, schedule: ModelSigmas) -> Tensor:
    """The sigma of each of the scheduler's timesteps, and of the end: float32 [n + 1]."""
    count = len(scheduler.timesteps)
    if not hasattr(scheduler, "sigmas"):
        found = schedule.sigma(np.asarray(scheduler.timesteps, dtype=np.float64))
        return torch.tensor([*found.tolist(), 0.0], dtype=torch.float32)
    levels = torch.as_tensor(scheduler.sigmas[: count + 1], dtype=torch.float32).clone()
    if type(scheduler).__name__ in HALF_WAY:
        levels[1:-1:2] = (levels[:-2:2] * levels[1:-1:2]) ** 0.5
    return levels


def make_diffusers_sampler(name: str, schedule: ModelSigmas, steps: int) -> DiffusersSampler:
    """The sampler of a name in ``DIFFUSERS_NAMES``, set to ``steps`` steps.

    Raises InputError for any other name, for a flow scheduler on a model that is none, and the other way round.
    """
    if name not in DIFFUSERS_NAMES:
        raise InputError(f"sampler must be one of {', '.join(DIFFUSERS_NAMES)}; found {name!r}", input="sampler_name")
    short = name.removeprefix(DIFFUSERS_PREFIX)
    if (short in DIFFUSERS_FLOW) != schedule.flow:
        wanted = "a flow scheduler" if schedule.flow else "no flow scheduler"
        raise InputError(f"this model needs {wanted}; found {name!r}: choose another sampler", input="sampler_name")
    kind: Callable[..., Any] = getattr(diffusers, short)
    scheduler = kind(**_configuration(getattr(diffusers, short), schedule, steps))
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "is_scale_input_called"):
        # The denoiser scales the network's input itself; without this the library warns that nobody did.
        scheduler.is_scale_input_called = True
    return DiffusersSampler(scheduler, _levels(scheduler, schedule), short in DIFFUSERS_SCALED)


def plan_diffusers(
    name: str,
    schedule: ModelSigmas,
    steps: int,
    *,
    denoise: float = 1.0,
    start: int = 0,
    end: int = 10_000,
    leftover_noise: bool = False,
) -> tuple[DiffusersSampler, Sigmas]:
    """The sampler and its sigmas, by the same rules as for our own samplers; length 0 if there is nothing to do.

    A scheduler of second order has two timesteps a step; ``start`` and ``end`` count steps.
    """
    if denoise <= 0:
        return make_diffusers_sampler(name, schedule, steps), np.empty(0, np.float32)
    whole = steps if denoise > 0.9999 else int(steps / denoise)
    sampler = make_diffusers_sampler(name, schedule, whole)
    order = int(sampler.scheduler.order)
    skipped = (whole - steps) * order
    sigmas = cut(sampler.levels.numpy()[skipped:], start * order, end * order, leftover_noise=leftover_noise)
    return replace(sampler, first=skipped + start * order), sigmas
