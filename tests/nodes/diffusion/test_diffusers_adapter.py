from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.diffusers_adapter import DiffusersSampler, plan_diffusers
from nodes.diffusion.names import DIFFUSERS_FLOW, DIFFUSERS_NAMES, DIFFUSERS_PREFIX
from nodes.diffusion.noise import initial_noise, step_noise
from nodes.diffusion.samplers import State, StraightPath, VarianceExploding, from_tensors, to_tensors
from nodes.diffusion.schedules import FlowSchedule, ModelSigmas, planned_steps, stable_diffusion
from tests.nodes.diffusion.toys import GaussianData, curved, run, sampled


def schedule_for(name: str) -> ModelSigmas:
    return FlowSchedule(3.0) if name.removeprefix(DIFFUSERS_PREFIX) in DIFFUSERS_FLOW else stable_diffusion()


def started(name: str, sampler: DiffusersSampler, sigmas: Tensor, seed: int = 42) -> State:
    noise = initial_noise(torch.zeros(2, 4, 4, 4), seed)
    x = noise * (sigmas[0] if schedule_for(name).flow else (1 + sigmas[0] ** 2) ** 0.5)
    return sampler.start(x, sigmas, step_noise(name, seed, sigmas, "cpu"))


def planned(name: str, steps: int, **rules: int | float | bool) -> tuple[DiffusersSampler, Tensor]:
    sampler, sigmas = plan_diffusers(name, schedule_for(name), steps, **rules)  # type: ignore[arg-type]
    return sampler, torch.from_numpy(sigmas)


def through_bytes(state: State) -> State:
    tensors, numbers = to_tensors(state)
    stored = safetensors.torch.load(safetensors.torch.save(tensors))
    return from_tensors(stored, {name: str(value) for name, value in numbers.items()})


@pytest.mark.parametrize("name", DIFFUSERS_NAMES)
def test_finds_the_data(name: str) -> None:
    """20 steps of any scheduler end near data that is almost one point, in as many timesteps as were planned."""
    sampler, sigmas = planned(name, 20)
    data = GaussianData(std=0.01, mean=0.7, law=StraightPath() if schedule_for(name).flow else VarianceExploding())
    states = run(sampler, started(name, sampler, sigmas), data.denoise)
    torch.testing.assert_close(states[-1].x, torch.full_like(states[-1].x, 0.7), rtol=0, atol=0.1)
    assert len(states) == planned_steps(name, "normal", 20)


@pytest.mark.parametrize("name", DIFFUSERS_NAMES)
def test_cut_anywhere_and_restored_gives_the_same_bits(name: str) -> None:
    """What a scheduler keeps in itself is in the state: from every state, stored as bytes, the end has equal bits."""
    sampler, sigmas = planned(name, 5)
    first = started(name, sampler, sigmas)
    states = [first, *run(sampler, first, curved)]
    fresh, _ = planned(name, 5)
    for state in states[:-1]:
        assert torch.equal(run(fresh, through_bytes(state), curved)[-1].x, states[-1].x)


@pytest.mark.parametrize("name", DIFFUSERS_NAMES)
def test_starts_and_ends_where_it_is_told(name: str) -> None:
    """Denoise, start and end cut the walk by whole steps; a walk cut short ends at the prediction."""
    late, late_sigmas = planned(name, 4, denoise=0.5)
    _, whole_sigmas = planned(name, 8)
    torch.testing.assert_close(late_sigmas, whole_sigmas[-len(late_sigmas) :])
    assert run(late, started(name, late, late_sigmas), curved)[-1].x.isfinite().all()
    short, short_sigmas = planned(name, 8, start=2, end=5)
    assert float(short_sigmas[-1]) == 0
    assert len(short_sigmas) - 1 == planned_steps(name, "normal", 8, start=2, end=5)
    denoised: list[Tensor] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        denoised.append(curved(x, sigma))
        return denoised[-1]

    assert torch.equal(run(short, started(name, short, short_sigmas), watched)[-1].x, denoised[-1])
    assert len(planned(name, 8, denoise=0.0)[1]) == 0


@pytest.mark.parametrize(
    ("name", "ours", "tolerance"),
    [
        ("EulerDiscreteScheduler", "euler", 1e-5),
        ("HeunDiscreteScheduler", "heun", 1e-5),
        ("KDPM2DiscreteScheduler", "dpm_2", 1e-4),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", 1e-3),
        ("DDIMScheduler", "euler", 1e-3),
        ("EulerAncestralDiscreteScheduler", "euler_ancestral", 1e-4),
        ("FlowMatchEulerDiscreteScheduler", "euler", 1e-5),
    ],
)
def test_agrees_with_our_solver_on_its_own_sigmas(name: str, ours: str, tolerance: float) -> None:
    """Where a scheduler's method is one of ours, both walk the scheduler's sigmas to the same end, noise included.

    Others are left out: there LMS extrapolates its last step where ours takes the prediction, UniPC is of order 2 and
    goes to sigma 0 where ours stops at 0.001, DEIS interpolates in log sigma, and the ancestral KDPM2 and the SDE
    schedulers draw their noise in another order.
    """
    name = DIFFUSERS_PREFIX + name
    sampler, sigmas = planned(name, 12)
    first = started(name, sampler, sigmas)
    theirs = run(sampler, first, curved)[-1].x
    once = sigmas if sampler.scheduler.order == 1 else torch.cat([sigmas[:-1:2], sigmas[-1:]])
    expected = sampled(ours, first.x, once, curved, noise=step_noise(ours, 42, once, "cpu"))
    torch.testing.assert_close(theirs, expected, rtol=tolerance, atol=tolerance)


def test_names_that_do_not_fit_the_model_are_refused() -> None:
    """Unknown names, and flow schedulers on noise models or the other way round, are errors that say what is needed."""
    with pytest.raises(InputError, match="found 'diffusers/Nothing'"):
        plan_diffusers("diffusers/Nothing", stable_diffusion(), 4)
    with pytest.raises(InputError, match="needs no flow scheduler"):
        plan_diffusers("diffusers/FlowMatchEulerDiscreteScheduler", stable_diffusion(), 4)
    with pytest.raises(InputError, match="needs a flow scheduler"):
        plan_diffusers("diffusers/DDIMScheduler", FlowSchedule(3.0), 4)
