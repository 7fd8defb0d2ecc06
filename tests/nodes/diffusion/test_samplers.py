from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.names import SAMPLER_NAMES, SCHEDULER_NAMES, TWO_EVALUATIONS
from nodes.diffusion.noise import initial_noise, step_noise
from nodes.diffusion.samplers import (
    ApartSampler,
    State,
    StraightPath,
    VarianceExploding,
    from_tensors,
    make_sampler,
    to_tensors,
)
from nodes.diffusion.schedules import FlowSchedule, evaluations, planned_steps, sampling_sigmas, stable_diffusion
from tests.nodes.diffusion.reference import LOOPS
from tests.nodes.diffusion.reference_cfg_pp import APART, dpmpp_2s
from tests.nodes.diffusion.toys import GaussianData, curved, run, sampled

STOCHASTIC = {"ddpm", "lcm", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece"} | {
    name for name in SAMPLER_NAMES if "sde" in name or "ancestral" in name
}
STOPS_EARLY = {"uni_pc", "uni_pc_bh2", "dpm_fast", "dpm_adaptive"}
"""Samplers that end at a sigma above 0."""
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
    # DPM-Solver leaves the noise of the lowest sigma.
    left = 4 * float(sigmas[-2]) if name in {"dpm_fast", "dpm_adaptive"} else 0.0
    torch.testing.assert_close(result, torch.full_like(result, 0.7), rtol=0, atol=0.06 + left)


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
    "ipndm_v": 1,
    "res_multistep": 2,
    "dpm_fast": 2,
    "gradient_estimation": 1,
}


@pytest.mark.parametrize("name", sorted(APART))
def test_cfg_pp_agrees_with_the_loop_of_its_paper(name: str) -> None:
    """With an unconditional prediction of its own, every such solver gives what a plain loop gives."""
    sigmas = sigmas_of(name, "karras", 7)
    x = start_latent(sigmas).double()
    source = step_noise(name, 42, sigmas, "cpu")

    def draw(start: float, end: float) -> Tensor:
        nonlocal source
        noise, source = source.draw(x, torch.tensor(start), torch.tensor(end))
        return noise

    def both(at: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        guided = curved(at, torch.full((2,), sigma))
        return guided, 0.8 * guided - 0.1 * torch.tanh(at)

    expected = APART[name](both, x, sigmas.double().tolist(), draw)
    sampler = make_sampler(name, VarianceExploding())
    assert isinstance(sampler, ApartSampler)
    state = sampler.start(x, sigmas, step_noise(name, 42, sigmas, "cpu"))
    while not state.done:
        at, sigma = sampler.query(state)
        state = sampler.advance_apart(state, *both(at, float(sigma[0])))
    torch.testing.assert_close(state.x, expected, rtol=1e-5, atol=1e-5)


def test_samplers_that_need_the_unconditional_side_say_so() -> None:
    """Those with cfg_pp in their names, and the one in parts."""
    apart = {name for name in SAMPLER_NAMES if isinstance(make_sampler(name, VarianceExploding()), ApartSampler)}
    assert apart == {name for name in SAMPLER_NAMES if "cfg_pp" in name} == set(APART) - {"euler_twice_guided"}


@pytest.mark.parametrize("steps", [4, 5, 6, 20])
def test_dpm_fast_asks_as_often_as_there_are_steps(steps: int) -> None:
    """Its own steps are a third as many, which a plan knows."""
    sigmas = sigmas_of("dpm_fast", "karras", steps)
    sampler = make_sampler("dpm_fast", VarianceExploding())
    states = run(sampler, sampler.start(start_latent(sigmas), sigmas, step_noise("dpm_fast", 1, sigmas, "cpu")), curved)
    assert len(states) == steps
    assert states[-1].steps == planned_steps("dpm_fast", "karras", steps)
    assert float(states[-1].sigmas[-1]) == pytest.approx(float(sigmas[-2]))


@pytest.mark.parametrize(("rtol", "worst"), [(0.05, 0.1), (1e-4, 1e-3)])
def test_dpm_adaptive_keeps_its_tolerance(rtol: float, worst: float) -> None:
    """On data whose path is known, the smaller the error that is allowed, the smaller it is; it takes more evaluations."""
    table = torch.tensor([10.0, 1.0, 0.1])
    data = GaussianData(std=0.5, mean=0.3)
    x = start_latent(table).double()
    sampler = make_sampler("dpm_adaptive", VarianceExploding(), rtol=rtol, atol=rtol / 10)
    states = run(sampler, sampler.start(x, table, step_noise("dpm_adaptive", 1, table, "cpu")), data.denoise)
    assert float((states[-1].x - data.exact(x, table[0], table[-1])).abs().max()) < worst
    assert sorted(state.step for state in states) == [state.step for state in states]
    assert {state.step for state in states} == {0, 1, 2}
    assert (len(states) > 60) == (rtol == 1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rtol": 0.0, "atol": 1e-12}, "raise one of them"),
        ({"rtol": 0.0, "atol": 0.0}, "found neither"),
        ({"h_init": 0.0}, "h_init of at least"),
    ],
)
def test_dpm_adaptive_does_not_seek_for_ever(options: dict[str, Any], words: str) -> None:
    """Where no step is narrow enough, or none leads anywhere."""
    table = torch.tensor([10.0, 1.0, 0.0])
    sampler = make_sampler("dpm_adaptive", VarianceExploding(), **options)
    x = torch.linspace(-10, 10, 8).reshape(1, 1, 2, 4)
    with pytest.raises(InputError, match=words):
        run(
            sampler,
            sampler.start(x, table, step_noise("dpm_adaptive", 1, table, "cpu")),
            lambda x, sigma: torch.rand_like(x),
        )


def test_dpm_adaptive_ends_when_there_are_no_numbers() -> None:
    """A model that overflows ends the run, whatever the tolerance; rising sigmas are refused."""
    sampler = make_sampler("dpm_adaptive", VarianceExploding())
    table = torch.tensor([10.0, 1.0, 0.1])
    source = step_noise("dpm_adaptive", 1, table, "cpu")
    assert len(run(sampler, sampler.start(torch.ones(1, 4, 2, 2), table, source), lambda x, s: x * torch.nan)) == 3
    with pytest.raises(InputError, match="needs sigmas that fall"):
        sampler.start(torch.ones(1, 4, 2, 2), table.flip(0), source)


@pytest.mark.parametrize(
    ("name", "options", "same"),
    [
        ("euler_ancestral", {"eta": 0.0}, "euler"),
        ("dpmpp_2m_sde", {"eta": 0.0}, "dpmpp_2m"),
        ("dpmpp_2m_sde", {"solver": "heun"}, "dpmpp_2m_sde_heun"),
        ("euler_ancestral_cfg_pp", {"eta": 0.0}, "euler_cfg_pp"),
        ("er_sde", {"kind": "ODE", "max_stage": 1}, "euler"),
        ("er_sde", {"kind": "Reverse-time SDE", "eta": 0.0, "max_stage": 1}, "euler"),
        ("sa_solver", {"pece": True}, "sa_solver_pece"),
        ("sa_solver", {"eta": 0.0, "predictor": 1, "corrector": 0}, "euler"),
        ("dpmpp_sde", {"s_noise": 0.0, "eta": 0.0, "r": 0.5}, "dpmpp_2s"),
    ],
)
def test_options_lead_to_known_solvers(name: str, options: dict[str, Any], same: str) -> None:
    """With some options a solver is another one."""
    sigmas = sigmas_of("euler", "karras", 8)
    x = start_latent(sigmas).double()
    ours = make_sampler(name, VarianceExploding(), **options)
    result = run(ours, ours.start(x, sigmas, step_noise(name, 42, sigmas, "cpu")), curved)[-1].x
    if same == "dpmpp_2s":
        expected = dpmpp_2s(lambda at, s: curved(at, torch.full((2,), s)), x, sigmas.double().tolist(), None)
    else:
        expected = sampled(same, x, sigmas, curved, noise=step_noise(name, 42, sigmas, "cpu"))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde", "seeds_3"])
def test_half_the_noise_is_half_as_far_from_none(name: str) -> None:
    """For one step ``s_noise`` scales what the noise does to the sample."""
    sigmas = torch.tensor([8.0, 3.0])
    x = start_latent(sigmas)

    def end(s_noise: float) -> Tensor:
        sampler = make_sampler(name, VarianceExploding(), s_noise=s_noise)
        steps = run(sampler, sampler.start(x, sigmas, step_noise(name, 7, sigmas, "cpu")), lambda x, s: x * 0)
        return steps[-1].x

    assert float((end(1.0) - end(0.0)).std()) > 0.1
    torch.testing.assert_close(end(0.5) - end(0.0), 0.5 * (end(1.0) - end(0.0)), rtol=1e-4, atol=1e-5)


def test_lms_of_order_one_is_euler() -> None:
    """And of order 8 it still ends where it should."""
    sigmas = sigmas_of("lms", "karras", 12)
    x = start_latent(sigmas)
    first = make_sampler("lms", VarianceExploding(), order=1)
    source = step_noise("lms", 1, sigmas, "cpu")
    torch.testing.assert_close(
        run(first, first.start(x, sigmas, source), curved)[-1].x, sampled("euler", x, sigmas, curved)
    )
    assert (
        run(eighth := make_sampler("lms", VarianceExploding(), order=8), eighth.start(x, sigmas, source), curved)[-1]
        .x.isfinite()
        .all()
    )


@pytest.mark.parametrize(("steps", "sides"), [(-1, [24, 32, 32, 32]), (1, [32, 32, 32, 32]), (4, [20, 24, 28, 32])])
def test_lcm_upscale_grows_over_its_steps(steps: int, sides: list[int]) -> None:
    """The prediction is enlarged evenly, by default over the first half of the sigmas; resumed or not."""
    sigmas = torch.tensor([14.0, 5.0, 2.0, 0.5, 0.0])
    sampler = make_sampler("lcm_upscale", VarianceExploding(), scale=2.0, steps=steps, method="nearest-exact")
    first = sampler.start(torch.ones(1, 4, 16, 16), sigmas, step_noise("lcm", 1, sigmas, "cpu"))
    states = run(sampler, first, curved)
    assert [state.x.shape[-1] for state in states] == sides
    assert torch.equal(run(sampler, through_bytes(states[0]), curved)[-1].x, states[-1].x)


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


EXPLODING_ONLY = {"res_multistep_ancestral", "res_multistep_ancestral_cfg_pp"}
"""Samplers that renoise as on a variance exploding path wherever they are."""


@pytest.mark.parametrize("name", sorted(EXPLODING_ONLY))
def test_renoises_flows_like_others(name: str) -> None:
    """From 0.8 to 0.5 with the prediction 1: down to 0.5^2 / 0.8 = 0.3125, and noise of sqrt(0.25 - 0.3125^2) = 0.39031."""
    sigmas, x = torch.tensor([0.8, 0.5]), torch.full((1, 1, 2, 2), 3.0)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    sampler = make_sampler(name, StraightPath())
    state = sampler.start(x, sigmas, step_noise(name, 1, sigmas, "cpu"))
    after = sampler.advance(state, torch.ones_like(x))
    torch.testing.assert_close(after.x, 1 + 2 / 0.8 * 0.3125 + 0.39031 * noise, atol=1e-5, rtol=0)


@pytest.mark.parametrize("law", [VarianceExploding(), StraightPath()], ids=["exploding", "flow"])
@pytest.mark.parametrize("name", [n for n in SAMPLER_NAMES if n not in {"ddpm", "lcm", "dpmpp_2s_ancestral_cfg_pp"}])
def test_gives_the_spread_of_the_data(name: str, law: VarianceExploding | StraightPath) -> None:
    """With the exact denoiser the samples have the data's mean and standard deviation, on both kinds of path."""
    if name in EXPLODING_ONLY:
        law = VarianceExploding()
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
    if name != "dpm_adaptive":
        assert len(states) == evaluations(name, sigmas.numpy()) + 1
    for state in states[:-1]:
        assert torch.equal(run(sampler, through_bytes(state), curved)[-1].x, states[-1].x)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_advancing_leaves_the_state_as_it_was(name: str) -> None:
    """Advancing one state twice gives the same bits: nothing is kept outside it and nothing in it is changed."""
    sigmas = sigmas_of(name, "normal", 5)
    sampler = make_sampler(name, VarianceExploding())
    state = sampler.start(start_latent(sigmas), sigmas, step_noise(name, 42, sigmas, "cpu"))
    for _ in range(3 if name != "dpm_fast" else 2):
        state = sampler.advance(state, curved(*sampler.query(state)))
    ends = [run(sampler, state, curved)[-1].x for _ in range(2)]
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", sorted(set(SAMPLER_NAMES) - {"dpm_adaptive"}))
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps(name: str, steps: int) -> None:
    """One, two and three steps are enough for a sampler to end, finite, with the model asked as often as planned."""
    if name == "dpm_fast" and steps == 1:
        pytest.skip("its only step leads nowhere")
    sigmas = sigmas_of(name, "normal", steps)
    sampler = make_sampler(name, VarianceExploding())
    states = run(sampler, sampler.start(start_latent(sigmas), sigmas, step_noise(name, 1, sigmas, "cpu")), curved)
    assert states[-1].x.isfinite().all()
    assert states[-1].x.abs().max() < (20 if name != "dpm_fast" else 40)
    assert len(states) == evaluations(name, sigmas.numpy())


@pytest.mark.parametrize("name", sorted(set(SAMPLER_NAMES) - STOPS_EARLY))
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
    if name not in TWO_EVALUATIONS | {"heunpp2", "seeds_3", "sa_solver_pece", "dpm_fast", "dpm_adaptive"}:
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
