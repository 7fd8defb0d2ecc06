from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import Cancelled, InputError
from nodes.diffusion.alterations import Moment
from nodes.diffusion.denoiser import Denoiser, LatentFormat
from nodes.diffusion.guidance import NOTHING, Guidance, Memory
from nodes.diffusion.noise import initial_noise, step_noise
from nodes.diffusion.predictions import Epsilon, Flow
from nodes.diffusion.sample import Callbacks, Settings, StepInfo, begin, cfg_guider, sample, sample_latent
from nodes.diffusion.samplers import State, VarianceExploding, from_tensors, make_sampler, to_tensors
from nodes.diffusion.schedules import FlowSchedule, scheduled, stable_diffusion

SETTINGS = Settings(seed=42, steps=6, cfg=3.0, sampler="euler", scheduler="normal")
POSITIVE: list[list[Any]] = [[torch.full((1, 77, 8), 1.0), {}]]
NEGATIVE: list[list[Any]] = [[torch.full((1, 77, 8), -0.5), {}]]
EMPTY = {"samples": torch.zeros(2, 4, 8, 8)}


def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
    """Noise that depends on everything: the sample, the time, the text."""
    time = (timestep / 1000).view(-1, 1, 1, 1)
    text = context.mean(dim=(1, 2)).view(-1, 1, 1, 1)
    return torch.tanh(x * (0.5 + time) - 0.2 * text) + 0.1 * x.roll(1, -1)


MODEL = Denoiser(network, stable_diffusion(), Epsilon())


def sampled(settings: Settings = SETTINGS, latent: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    return sample_latent(MODEL, settings, POSITIVE, NEGATIVE, latent or EMPTY, callbacks=Callbacks(**extra))


def test_steps_are_reported_in_order() -> None:
    """Every step is reported once, with its count, its falling sigma, and a prediction: the last one is the result."""
    seen: list[StepInfo] = []
    result = sampled(replace(SETTINGS, sampler="heun"), on_step=seen.append)
    assert [(info.step, info.total) for info in seen] == [(i, 6) for i in range(1, 7)]
    assert [info.sigma for info in seen] == sorted((info.sigma for info in seen), reverse=True)
    torch.testing.assert_close(seen[-1].denoised / 0.18215, result["samples"])


@pytest.mark.parametrize(
    "sampler", ["heun", "heunpp2", "dpm_2", "dpmpp_2s_ancestral", "dpmpp_sde", "seeds_3", "dpm_fast"]
)
def test_a_step_shows_what_was_predicted_where_it_began(sampler: str) -> None:
    """Not what its later stages predict, also in a run that was cut between them."""
    states: list[State] = []
    seen: list[StepInfo] = []
    settings = replace(SETTINGS, sampler=sampler, end=4, leftover_noise=True)
    sampled(settings, on_step=seen.append, save=states.append)
    starts = [state for state in states if state.pending is None and not state.done]
    for state, info in zip(starts, seen[1:], strict=True):
        guided = cfg_guider(MODEL, POSITIVE, NEGATIVE, 3.0, EMPTY["samples"]).look(state.x, state.sigma.expand(2))
        assert torch.equal(info.denoised, guided.denoised)
    for state in (from_tensors(*to_tensors(state)) for state in states if not state.done):
        again: list[StepInfo] = []
        sampled(settings, on_step=again.append, resume=state)
        assert torch.equal(again[0].denoised, seen[state.step].denoised)
    assert any(state.pending is not None for state in states)


def test_the_same_seed_gives_the_same_latent() -> None:
    """A run is a function of its arguments."""
    assert torch.equal(sampled()["samples"], sampled()["samples"])
    assert not torch.equal(sampled()["samples"], sampled(replace(SETTINGS, seed=43))["samples"])


def test_sampling_starts_from_scaled_noise() -> None:
    """The first sample is the seed's noise times sqrt(1 + sigma^2) over an empty latent."""
    sigmas = torch.tensor([14.614641, 1.0, 0.0])
    noise = initial_noise(EMPTY["samples"], 42)
    sampler = make_sampler("euler", VarianceExploding())
    source = step_noise("euler", 42, sigmas, "cpu")
    state = begin(MODEL, sampler, sigmas, noise, EMPTY["samples"], source)
    torch.testing.assert_close(state.x, noise * (1 + 14.614641**2) ** 0.5)
    below = begin(MODEL, sampler, sigmas[1:], noise, torch.ones_like(noise), source)
    torch.testing.assert_close(below.x, noise + 1)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde", "uni_pc", "heun"])
def test_a_saved_run_goes_on_with_the_same_bits(sampler: str) -> None:
    """From any state that was saved, through plain tensors and numbers, the run ends as it would have."""
    settings = replace(SETTINGS, sampler=sampler)
    states: list[State] = []
    whole = sampled(settings, save=states.append)["samples"]
    for state in states:
        resumed = sampled(settings, resume=from_tensors(*to_tensors(state)))["samples"]
        assert torch.equal(resumed, whole)


def test_a_resumed_run_does_not_repeat_steps() -> None:
    """Continuing from the fourth step reports the fifth first."""
    states: list[State] = []
    sampled(save=states.append)
    seen: list[int] = []
    sampled(resume=states[3], on_step=lambda info: seen.append(info.step))
    assert seen == [5, 6]


def test_two_halves_make_a_whole() -> None:
    """Steps 0 to 3 with leftover noise and then 3 to 6 without new noise give what six steps give."""
    first = sampled(replace(SETTINGS, end=3, leftover_noise=True))
    second = sampled(replace(SETTINGS, start=3, add_noise=False), first)
    torch.testing.assert_close(second["samples"], sampled()["samples"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [replace(SETTINGS, denoise=0.0), replace(SETTINGS, start=6)])
def test_nothing_to_do_gives_the_latent_back(settings: Settings) -> None:
    """Without a step left the latent is returned with the same bits, and everything beside it."""
    samples = torch.randn(1, 4, 8, 8)
    result = sampled(settings, {"samples": samples, "batch_index": [3]})
    assert torch.equal(result["samples"], samples)
    assert result["batch_index"] == [3]


def test_batch_index_makes_the_same_picture_alone() -> None:
    """The second picture of a batch can be made alone by its index."""
    batch = sampled(latent={"samples": torch.zeros(2, 4, 8, 8), "batch_index": [0, 1]})["samples"]
    alone = sampled(latent={"samples": torch.zeros(1, 4, 8, 8), "batch_index": [1]})["samples"]
    torch.testing.assert_close(alone[0], batch[1])


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m_sde"])
def test_inpainting_keeps_the_unmasked_part(sampler: str) -> None:
    """Where the mask is 0 the latent comes back; where it is 1 it is made anew."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    latent = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), "noise_mask": mask}
    result = sampled(replace(SETTINGS, sampler=sampler), latent)
    torch.testing.assert_close(result["samples"][..., :4], latent["samples"][..., :4], rtol=0, atol=1e-4)
    assert (result["samples"][..., 4:] - latent["samples"][..., 4:]).abs().mean() > 0.1
    assert result["noise_mask"] is mask


def test_ddim_is_euler_but_for_the_noise_of_inpainting() -> None:
    """Without a mask ddim gives euler's bits; with one the kept part gets noise of its own."""
    ddim = replace(SETTINGS, sampler="ddim")
    assert torch.equal(sampled(ddim)["samples"], sampled()["samples"])
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    latent = {"samples": torch.ones(1, 4, 8, 8), "noise_mask": mask}
    assert not torch.equal(sampled(ddim, latent)["samples"], sampled(latent=latent)["samples"])


def test_flow_models_sample_too() -> None:
    """A flow model on an empty four-channel latent gives a latent of its own channels, in VAE space."""
    model = Denoiser(network, FlowSchedule(3.0), Flow(), latent_format=LatentFormat(1.5305, 0.0609, 16))
    result = sample_latent(model, replace(SETTINGS, sampler="dpmpp_2m_sde"), POSITIVE, NEGATIVE, EMPTY)
    assert result["samples"].shape == (2, 16, 8, 8)
    assert result["samples"].isfinite().all()


def test_samplers_that_need_it_are_given_the_unconditional_side() -> None:
    """CFG++ in a whole sampling is its formula step by step: the guided prediction and the unconditional noise."""
    sigmas = scheduled(MODEL.schedule, "normal", SETTINGS.steps).tolist()
    guider = cfg_guider(MODEL, POSITIVE, NEGATIVE, SETTINGS.cfg, EMPTY["samples"])
    x = initial_noise(EMPTY["samples"], 42) * (1 + sigmas[0] ** 2) ** 0.5
    for a, b in itertools.pairwise(sigmas):
        c, u, _ = guider.look(x, torch.full((2,), a), apart=True)
        x = c + b * (x - u) / a
    result = sampled(replace(SETTINGS, sampler="euler_cfg_pp"))["samples"]
    torch.testing.assert_close(result * 0.18215, x, rtol=1e-4, atol=1e-4)


def test_cancelling_ends_the_run_at_once() -> None:
    """What on_step raises ends the run; no further step is made."""
    seen: list[int] = []

    def stop(info: StepInfo) -> None:
        seen.append(info.step)
        if info.step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        sampled(on_step=stop)
    assert seen == [1, 2]


def test_latents_that_are_not_finite_are_an_error_with_the_step() -> None:
    """A network that overflows ends the run with one line that says where and what to do."""

    def broken(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        return torch.where(timestep.view(-1, 1, 1, 1) < 500, torch.nan, x)

    with pytest.raises(InputError, match="after step 4 of 6: run the model in float32") as wrong:
        sample_latent(Denoiser(broken, stable_diffusion(), Epsilon()), SETTINGS, POSITIVE, NEGATIVE, EMPTY)
    assert "\n" not in str(wrong.value)


def test_sampling_keeps_no_graph() -> None:
    """A model whose weights require gradients is sampled without recording them."""
    weight = torch.ones(1, requires_grad=True)

    class Weighted:
        def look(self, x: Tensor, sigma: Tensor, memory: Memory = NOTHING, *, apart: bool = False) -> Guidance:
            return Guidance(x * weight, x, memory)

    sigmas = torch.tensor([2.0, 1.0, 0.0])
    sampler = make_sampler("euler", VarianceExploding())
    state = sampler.start(torch.ones(1, 4, 2, 2), sigmas, step_noise("euler", 1, sigmas, "cpu"))
    assert not sample(Weighted(), sampler, state).x.requires_grad


def test_a_schedule_that_is_zero_before_its_end_is_what_is_wrong() -> None:
    """No step of Euler's begins at a noise level of 0: the network has no part in it."""

    class Zeros:
        def look(self, x: Tensor, sigma: Tensor, memory: Memory = NOTHING, *, apart: bool = False) -> Guidance:
            return Guidance(torch.zeros_like(x), x, memory)

    sigmas = torch.tensor([2.0, 0.0, 0.0])
    sampler = make_sampler("euler", VarianceExploding())
    state = sampler.start(torch.ones(1, 4, 2, 2), sigmas, step_noise("euler", 1, sigmas, "cpu"))
    with pytest.raises(
        InputError, match="after step 2 of 2: give a schedule that reaches a noise level of 0 at its end"
    ):
        sample(Zeros(), sampler, state)


def test_unknown_names_are_refused() -> None:
    """A wrong sampler or scheduler is an error that names the input."""
    with pytest.raises(InputError, match="sampler must be one of"):
        sampled(replace(SETTINGS, sampler="eulr"))
    with pytest.raises(InputError, match="scheduler must be one of"):
        sampled(replace(SETTINGS, scheduler="norml"))


def drawing(drawn: list[int]) -> Denoiser:
    """A model that is changed at random in every call: what is drawn is noted, and added to what it is told."""

    @contextmanager
    def altered(moment: Moment) -> Iterator[None]:
        drawn.append(int(torch.randint(1000, (1,), generator=moment.chance)))
        yield

    def listening(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        return network(x, timestep, context + drawn[-1] / 1000, **inputs)

    return replace(MODEL, network=listening, alterations=(altered,), chance=torch.Generator("cpu"))


def test_what_networks_draw_comes_behind_the_noise_and_goes_on_in_a_run_that_was_cut() -> None:
    """Call by call, one sequence; from a saved state on it is the rest of that, and the latent the same."""
    settings = replace(SETTINGS, sampler="heun")
    whole: list[int] = []
    states: list[State] = []
    found = sample_latent(drawing(whole), settings, POSITIVE, NEGATIVE, EMPTY, callbacks=Callbacks(save=states.append))
    chance = torch.Generator("cpu").manual_seed(42)
    torch.randn(2, 4, 8, 8, generator=chance)
    assert whole == [int(torch.randint(1000, (1,), generator=chance)) for _ in whole]
    assert len(whole) == 11
    fresh: list[int] = []
    sample_latent(drawing(fresh), replace(SETTINGS, sampler="ddim"), POSITIVE, NEGATIVE, EMPTY)
    torch.randn(2, 4, 8, 8, generator=chance.manual_seed(43))  # ddim's noise for a mask is drawn without one, too
    assert fresh == [int(torch.randint(1000, (1,), generator=chance)) for _ in fresh]
    for calls in (1, 4):
        rest: list[int] = []
        state = from_tensors(*to_tensors(states[calls - 1]))
        resumed = sample_latent(drawing(rest), settings, POSITIVE, NEGATIVE, EMPTY, callbacks=Callbacks(resume=state))
        assert rest == whole[calls:]
        assert torch.equal(resumed["samples"], found["samples"])
