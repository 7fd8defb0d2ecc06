from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.names import SAMPLER_NAMES, SCHEDULER_NAMES, TWO_EVALUATIONS
from nodes.diffusion.noise import initial_noise, step_noise
from nodes.diffusion.samplers import State, StraightPath, VarianceExploding, from_tensors, make_sampler, to_tensors
from nodes.diffusion.schedules import FlowSchedule, evaluations, sampling_sigmas, stable_diffusion
from tests.nodes.diffusion.reference import LOOPS
from tests.nodes.diffusion.toys import GaussianData, curved, run, sampled

STOCHASTIC = {"euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "ddpm", "lcm"} | {
    name for name in SAMPLER_NAMES if "sde" in name
}
DETERMINISTIC = [name for name in SAMPLER_NAMES if name not in STOCHASTIC]


def sigmas_of(sampler: str, scheduler: str, steps: int, end: int = 10_000) -> Tensor:
    sequence = sampling_sigmas(stable_diffusion(), sampler, scheduler, steps, end=end, leftover_noise=True)
    return torch.from_numpy(sequence)


def start_latent(sigmas: Tensor, shape: tuple[int, ...] = (2, 4, 4, 4)) -> Tensor:
    return initial_noise(torch.zeros(shape), 42) * (1 + sigmas[0] ** 2) ** 0.5


def through_bytes(state: State) -> State:
    """The state as another process would read it: tensors from a safetensors file, numbers from its string metadata."""
    tensors, numbers = to_tensors(state)
    stored = safetensors.torch.save(tensors)
    return from_tensors(safetensors.torch.load(stored), {name: str(value) for name, value in numbers.items()})


@pytest.mark.parametrize("scheduler", ["karras", "simple"])
@pytest.mark.parametrize("name", sorted(LOOPS))
def test_agrees_with_the_loop_of_its_paper(name: str, scheduler: str) -> None:
    """Every solver gives what a plain loop over the other form of its formulas gives, noise included."""
    sigmas = sigmas_of(name, scheduler, 8)
    x = start_latent(sigmas).double()
    source = step_noise(name, 42, sigmas, "cpu")

    def draw(start: float, end: float) -> Tensor:
        nonlocal source
        noise, source = source.draw(x, torch.tensor(start), torch.tensor(end))
        return noise

    expected = LOOPS[name](lambda at, s: curved(at, torch.full((2,), s)), x, sigmas.double().tolist(), draw)
    actual = sampled(name, x, sigmas, curved)
    # Brownian increments near each other in sigma feel the rounding of its float32 values.
    tolerance = 5e-3 if "sde" in name else 2e-4
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scheduler", SCHEDULER_NAMES)
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_every_sampler_with_every_scheduler_finds_the_data(name: str, scheduler: str) -> None:
    """20 steps of any sampler on any scheduler end near data that is almost one point, without overflow."""
    sigmas = sigmas_of(name, scheduler, 20)
    data = GaussianData(std=0.01, mean=0.7)
    result = sampled(name, start_latent(sigmas), sigmas, data.denoise)
    assert result.isfinite().all()
    torch.testing.assert_close(result, torch.full_like(result, 0.7), rtol=0, atol=0.06)


ORDERS = {
    "euler": 1,
    "heun": 2,
    "dpm_2": 2,
    "lms": 2,
    "dpmpp_2m": 2,
    "deis": 2,
    "uni_pc": 2,
    "uni_pc_bh2": 2,
    "ipndm": 1,
}


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_converges_with_its_order(name: str) -> None:
    """On Gaussian data, whose path is known, twice the steps give an error smaller by two to the solver's order.

    Multistep solvers begin with a step of first order, which costs them the orders above two.
    """
    errors = []
    for steps in (40, 80):
        table = torch.from_numpy(np.exp(np.linspace(math.log(10), math.log(0.1), steps + 1)).astype(np.float32))
        data = GaussianData(std=0.5, mean=0.3)
        x = start_latent(table).double()
        errors.append(float((sampled(name, x, table, data.denoise) - data.exact(x, table[0], table[-1])).abs().max()))
    assert math.log2(errors[0] / errors[1]) > ORDERS[name] - 0.3


@pytest.mark.parametrize("law", [VarianceExploding(), StraightPath()], ids=["exploding", "flow"])
@pytest.mark.parametrize("name", [n for n in SAMPLER_NAMES if n not in {"ddpm", "lcm"}])
def test_gives_the_spread_of_the_data(name: str, law: VarianceExploding | StraightPath) -> None:
    """With the exact denoiser the samples have the data's mean and standard deviation, on both kinds of path."""
    flow = isinstance(law, StraightPath)
    model = FlowSchedule(1.0) if flow else stable_diffusion()
    sigmas = torch.from_numpy(sampling_sigmas(model, name, "sgm_uniform" if flow else "karras", 60))
    data = GaussianData(std=0.5, mean=0.3, law=law)
    noise = initial_noise(torch.zeros(1, 1, 96, 96), 1)
    result = sampled(name, noise if flow else noise * sigmas[0], sigmas, data.denoise, law)
    assert float(result.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(result.std()) == pytest.approx(0.5, rel=0.06)


def test_ddpm_gives_the_spread_of_the_data() -> None:
    """DDPM needs many steps, as its paper says; with 400 of them the spread is the data's."""
    sigmas = sigmas_of("ddpm", "sgm_uniform", 400)
    noise = initial_noise(torch.zeros(1, 1, 96, 96), 1) * sigmas[0]
    result = sampled("ddpm", noise, sigmas, GaussianData(std=0.5, mean=0.3).denoise)
    assert (float(result.mean()), float(result.std())) == pytest.approx((0.3, 0.5), rel=0.05)


@pytest.mark.parametrize("scheduler", ["karras", "simple"])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_cut_anywhere_and_restored_gives_the_same_bits(name: str, scheduler: str) -> None:
    """From every state, also between the stages of a step, a run stored as bytes and continued ends with equal bits."""
    sigmas = sigmas_of(name, scheduler, 7)
    sampler = make_sampler(name, VarianceExploding())
    first = sampler.start(start_latent(sigmas), sigmas, step_noise(name, 42, sigmas, "cpu"))
    states = [first, *run(sampler, first, curved)]
    assert len(states) == evaluations(name, sigmas.numpy()) + 1
    for state in states[:-1]:
        assert torch.equal(run(sampler, through_bytes(state), curved)[-1].x, states[-1].x)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_advancing_leaves_the_state_as_it_was(name: str) -> None:
    """Advancing one state twice gives the same bits: nothing is kept outside it and nothing in it is changed."""
    sigmas = sigmas_of(name, "normal", 5)
    sampler = make_sampler(name, VarianceExploding())
    state = sampler.start(start_latent(sigmas), sigmas, step_noise(name, 42, sigmas, "cpu"))
    for _ in range(3):
        state = sampler.advance(state, curved(*sampler.query(state)))
    ends = [run(sampler, state, curved)[-1].x for _ in range(2)]
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps(name: str, steps: int) -> None:
    """One, two and three steps are enough for a sampler to end, finite, with the model asked as often as planned."""
    sigmas = sigmas_of(name, "normal", steps)
    sampler = make_sampler(name, VarianceExploding())
    states = run(sampler, sampler.start(start_latent(sigmas), sigmas, step_noise(name, 1, sigmas, "cpu")), curved)
    assert states[-1].x.isfinite().all()
    assert states[-1].x.abs().max() < 20
    assert len(states) == evaluations(name, sigmas.numpy())


@pytest.mark.parametrize("name", sorted(set(SAMPLER_NAMES) - {"uni_pc", "uni_pc_bh2"}))
def test_one_step_is_the_prediction(name: str) -> None:
    """A single step to sigma 0 gives the model's prediction."""
    sigmas = torch.tensor([14.0, 0.0])
    x = start_latent(sigmas)
    torch.testing.assert_close(
        sampled(name, x, sigmas, curved), curved(x, torch.tensor([14.0, 14.0])), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_queries_stay_on_the_way_down(name: str) -> None:
    """The model is asked at sigmas from the first to the last above zero, never rising, once per sample."""
    sigmas = sigmas_of(name, "karras", 6)
    asked: list[float] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (2,)
        assert sigma.device.type == "cpu"
        asked.append(float(sigma[0]))
        return curved(x, sigma)

    sampled(name, start_latent(sigmas), sigmas, watched)
    assert asked[0] == pytest.approx(float(sigmas[0]))
    assert all(0 < b <= sigmas[0] for b in asked)
    if name not in TWO_EVALUATIONS:
        assert all(a > b for a, b in itertools.pairwise(asked))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_ignore_the_seed(name: str) -> None:
    """Without noise in its formulas a sampler draws none."""
    sigmas = sigmas_of(name, "normal", 6)
    x = start_latent(sigmas)
    results = [sampled(name, x, sigmas, curved, noise=step_noise(name, seed, sigmas, "cpu")) for seed in (1, 2)]
    assert torch.equal(*results)


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_stochastic_samplers_draw_nothing_for_the_last_step(name: str) -> None:
    """The seed decides; but a step that ends at sigma 0 draws nothing, so a lone one does not depend on it."""
    sigmas = sigmas_of(name, "normal", 6)
    x = start_latent(sigmas)
    results = [sampled(name, x, sigmas, curved, noise=step_noise(name, seed, sigmas, "cpu")) for seed in (1, 2)]
    assert not torch.equal(*results)
    last = [sampled(name, x, sigmas[-2:], curved, noise=step_noise(name, seed, sigmas, "cpu")) for seed in (1, 2)]
    assert torch.equal(*last)


def test_cpu_and_gpu_names_differ_only_in_where_noise_is_drawn() -> None:
    """On the CPU dpmpp_sde_gpu is dpmpp_sde."""
    sigmas = sigmas_of("dpmpp_sde", "karras", 5)
    x = start_latent(sigmas)
    assert torch.equal(sampled("dpmpp_sde", x, sigmas, curved), sampled("dpmpp_sde_gpu", x, sigmas, curved))


def test_latents_of_any_number_of_dimensions() -> None:
    """A latent of video, five-dimensional, is sampled like a picture's."""
    sigmas = sigmas_of("dpmpp_2m", "karras", 5)
    result = sampled("dpmpp_2m", start_latent(sigmas, (1, 4, 2, 3, 3)), sigmas, curved)
    assert result.shape == (1, 4, 2, 3, 3)


def test_unknown_sampler_is_refused() -> None:
    """A wrong name is an error that names the input."""
    with pytest.raises(InputError, match="found 'euler_b'") as wrong:
        make_sampler("euler_b", VarianceExploding())
    assert wrong.value.input == "sampler_name"
