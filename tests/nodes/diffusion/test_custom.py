"""Samplings put together from recipes, on a network of one formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from engine.models import Recipe
from nodes.diffusion import custom, sample
from nodes.diffusion.denoiser import Denoiser, LatentFormat
from nodes.diffusion.noise import initial_noise
from nodes.diffusion.predictions import Flow
from nodes.diffusion.schedules import FlowSchedule
from tests.nodes.diffusion.test_sample import EMPTY, MODEL, NEGATIVE, POSITIVE, SETTINGS, network
from tests.nodes.diffusion.test_steering import MODEL_REF

CFG = custom.guider("cfg", MODEL_REF, {"positive": POSITIVE, "negative": NEGATIVE}, scale=3.0)
EULER = custom.sampler("euler")
FLOW = Denoiser(network, FlowSchedule(3.0), Flow(), latent_format=LatentFormat(1.5305, 0.0609, 4))


def both(
    sigmas: list[float], latent: dict[str, Any] = EMPTY, model: Denoiser = MODEL, **parts: Any
) -> tuple[Tensor, Tensor]:
    given: dict[str, Any] = {"sampler": EULER, "noise": custom.noise(42), "guider": CFG, **parts}
    found, shown = custom.sample(model, sigmas=torch.tensor(sigmas), latent=latent, **given)
    return found["samples"], shown["samples"]


def sampled(sigmas: list[float], latent: dict[str, Any] = EMPTY, model: Denoiser = MODEL, **parts: Any) -> Tensor:
    return both(sigmas, latent, model, **parts)[0]


def test_a_single_sigma_says_how_noisy_the_latent_is_to_be() -> None:
    """No step is made, with whatever sampler; of no sigma nothing comes at all."""
    latent: dict[str, Any] = {"samples": torch.ones(2, 4, 8, 8), "batch_index": [0, 1]}
    noise = initial_noise(latent["samples"], 42, [0, 1])
    for name in ("euler", "dpm_fast", "dpmpp_2m_sde"):
        found = sampled([3.0], latent, sampler=custom.sampler(name))
        torch.testing.assert_close(found * 0.18215, 0.18215 + 3 * noise)
    assert torch.equal(sampled([], latent), latent["samples"])
    assert torch.equal(sampled([0.0], latent), latent["samples"])


def test_without_noise_the_steps_draw_from_the_seed_they_are_given() -> None:
    """SamplerCustom without noise has its seed for the steps; DisableNoise has seed 0."""
    ancestral = custom.sampler("euler_ancestral")
    silent = custom.noise(None)
    sigmas = [3.0, 1.0, 0.2, 0.0]

    def run(seed: int | None) -> Tensor:
        found, _ = custom.sample(MODEL, ancestral, torch.tensor(sigmas), silent, CFG, EMPTY, step_seed=seed)
        result: Tensor = found["samples"]
        return result

    assert torch.equal(run(None), run(0))
    assert not torch.equal(run(0), run(1))


def test_uni_pc_scales_flows_from_where_it_stops() -> None:
    """Two steps to 0.001 with the prediction 0: ``x`` times ``0.001 / sigma``, divided by 1 - 0.001."""

    def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        return x / (timestep.view(-1, 1, 1, 1) / 1000)  # predicts zeros

    flow = replace(FLOW, network=network)
    latent = {"samples": torch.full((1, 4, 8, 8), 0.3)}
    silent = custom.noise(None)
    found = sampled([0.5, 0.25, 0.0], latent, flow, sampler=custom.sampler("uni_pc"), noise=silent)
    started = (0.3 - 0.0609) * 1.5305 * (1 - 0.5)
    expected = started * 0.001 / 0.5 / 0.999 / 1.5305 + 0.0609
    torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2"])
def test_one_step_of_uni_pc_moves_nothing(name: str) -> None:
    """There is no order below 1: ``x / sqrt(1 + 3^2)`` stays, and becomes ``x`` at 0.001. The prediction is shown all the same."""
    latent = {"samples": torch.full((1, 4, 8, 8), 0.5)}
    found, shown = both([3.0, 0.0], latent, sampler=custom.sampler(name), noise=custom.noise(None))
    torch.testing.assert_close(found, torch.full_like(found, 0.5 / 10**0.5), rtol=1e-5, atol=0)
    assert not torch.allclose(found, shown, atol=1e-2)


def test_lcm_upscale_draws_behind_the_initial_noise() -> None:
    """One step to sigma 1 ends at the same prediction: lcm adds the first draw of the seed to it once more, lcm_upscale the second."""
    plain = sampled([3.0, 1.0], sampler=custom.sampler("lcm"))
    upscale = sampled([3.0, 1.0], sampler=custom.sampler("lcm_upscale", scale=1.0))
    generator = torch.Generator().manual_seed(42)
    first, second = (torch.randn(plain.shape, generator=generator) for _ in range(2))
    torch.testing.assert_close((upscale - plain) * 0.18215, second - first)


@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_masks_count_as_in_the_simple_sampler(name: str) -> None:
    """The same latent with a mask gives the same bits, for ddim with its own noise too."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    latent = {"samples": torch.full((2, 4, 8, 8), 0.5), "noise_mask": mask}
    settings = replace(SETTINGS, sampler=name)
    plain = sample.sample_latent(MODEL, settings, POSITIVE, NEGATIVE, latent)
    _, sigmas = sample.planned(MODEL, settings)
    assert torch.equal(sampled(sigmas.tolist(), latent, sampler=custom.sampler(name)), plain["samples"])
    with pytest.raises(InputError, match="lcm_upscale cannot repaint a part"):
        sampled([3.0, 0.0], latent, sampler=custom.sampler("lcm_upscale", scale=2.0))


@pytest.mark.parametrize(
    ("sigmas", "level"), [([8.0, 2.0, 0.0], 8.0), ([8.0, 2.0], 6.0), ([0.5], 0.5), ([2.0, 8.0], 6.0)]
)
def test_added_noise_is_as_high_as_the_way_is_long(sigmas: list[float], level: float) -> None:
    """From the first sigma to the last, for either kind of path; the latent's other parts stay."""
    latent: dict[str, Any] = {"samples": torch.ones(2, 4, 8, 8), "batch_index": [3, 4]}
    noise = initial_noise(latent["samples"], 5, [3, 4])
    found = custom.add_noise(MODEL, custom.noise(5), torch.tensor(sigmas), latent)
    torch.testing.assert_close(found["samples"], 1 + level * noise / 0.18215)
    assert found["batch_index"] == [3, 4]
    flow = custom.add_noise(FLOW, custom.noise(None), torch.tensor([0.75, 0.0]), latent)
    torch.testing.assert_close(flow["samples"], 0.25 * (latent["samples"] - 0.0609) + 0.0609)
    assert custom.add_noise(MODEL, custom.noise(5), torch.tensor([]), latent) == latent


def test_flow_models_end_where_the_last_sigma_says() -> None:
    """Cut at sigma 0.5 the latent is divided by the signal that is left, so that the rest of the way goes on from there."""
    high = sampled([1.0, 0.8, 0.5], model=FLOW)
    whole = sampled([1.0, 0.8, 0.5, 0.2, 0.0], model=FLOW)
    low = sampled([0.5, 0.2, 0.0], {"samples": high}, FLOW, noise=custom.noise(None))
    torch.testing.assert_close(low, whole, rtol=1e-3, atol=1e-3)


def test_unknown_recipes_are_refused() -> None:
    """In one line that says what there is."""
    strange = Recipe("guider", {"guidance": "odd", "model": MODEL_REF, "sides": {}, "numbers": {}})
    with pytest.raises(InputError, match="guider must be basic, cfg, dual_cfg or perp_neg; found 'odd'"):
        sampled([3.0, 0.0], guider=strange)
    with pytest.raises(InputError, match="sampler must be one of"):
        sampled([3.0, 0.0], sampler=custom.sampler("eulr"))
