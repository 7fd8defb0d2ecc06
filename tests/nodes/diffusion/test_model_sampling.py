"""Models sampled in another way than their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import InputError
from nodes import model_sampling as nodes
from nodes.diffusion import unet
from nodes.diffusion.configs import UNetConfig
from nodes.diffusion.denoiser import Denoiser, LatentFormat
from nodes.diffusion.model_sampling import CosineLevels, LogLevels, PlaygroundFormat, Sampling, chosen, flux_shift
from nodes.diffusion.predictions import Clean, Consistency, CosmosFlow, Edm, Epsilon, Flow, ImageToImage, Velocity
from nodes.diffusion.samplers import StraightPath
from nodes.diffusion.schedules import BEYOND_NOISE, FlowSchedule, scheduled, stable_diffusion
from nodes.diffusion.store import LocalModelStore
from tests.nodes.diffusion.conftest import MakeRef
from tests.nodes.diffusion.test_steering import MODEL_REF

OWN = Sampling(stable_diffusion(), Epsilon(), LatentFormat())


def way(model: Any, own: Sampling = OWN) -> Sampling:
    return chosen(model, own, lambda zsnr: stable_diffusion(zero_terminal_snr=zsnr))


def test_without_a_setting_a_model_is_sampled_in_its_own_way() -> None:
    """And the last setting decides."""
    assert way(MODEL_REF) == OWN
    twice = nodes.model_sampling_discrete(nodes.model_sampling_sd3(MODEL_REF, 2.0), "v_prediction")
    assert isinstance(way(twice).prediction, Velocity)


@pytest.mark.parametrize(
    ("sampling", "kind"),
    [("eps", Epsilon), ("v_prediction", Velocity), ("x0", Clean), ("img_to_img", ImageToImage), ("lcm", Consistency)],
)
def test_discrete_models_predict_what_is_said(sampling: Any, kind: type) -> None:
    """At the levels of Stable Diffusion, or with zsnr at those that end without any signal."""
    found = way(nodes.model_sampling_discrete(MODEL_REF, sampling))
    assert isinstance(found.prediction, kind)
    assert float(found.schedule.table[-1]) == pytest.approx(14.614641, rel=1e-6)
    last = way(nodes.model_sampling_discrete(MODEL_REF, sampling, True)).schedule.table[-1]
    assert float(last) == pytest.approx(4518.76, rel=1e-3)


def test_consistency_models_know_fifty_levels() -> None:
    """Every twentieth from the top; the timestep told is the table's; a network's word counts all but for itself at 0."""
    found = way(nodes.model_sampling_discrete(MODEL_REF, "lcm"))
    full = stable_diffusion().table
    assert len(found.schedule.table) == 50
    assert found.schedule.table.tolist() == [full[t] for t in range(19, 1000, 20)]
    assert found.schedule.timestep(np.array([full[999], full[519], full[19]])).tolist() == [999, 519, 19]
    assert found.schedule.sigma(np.array([999.0, 519.0])).tolist() == pytest.approx([full[999], full[519]])
    assert found.schedule.percent_to_sigma(0.0) == BEYOND_NOISE
    x, out = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 0.5)
    sigma = torch.full((1, 1, 1, 1), float(full[19]))
    scaled = 190.0
    expected = scaled / math.sqrt(scaled**2 + 0.25) * (3 - 0.5 * full[19]) + 0.25 / (scaled**2 + 0.25) * 3
    assert float(found.prediction.denoised(x, out, sigma)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("sampling", "kind", "denoised"),
    [
        ("eps", Epsilon, 6 - 2 * 0.5),
        ("v_prediction", Velocity, 6 / 5 - 0.5 * 2 / math.sqrt(5)),
        ("edm", Edm, 6 * 0.25 / 4.25 + 0.5 * 2 * 0.5 / math.sqrt(4.25)),
        ("edm_playground_v2.5", Edm, 6 * 0.25 / 4.25 + 0.5 * 2 * 0.5 / math.sqrt(4.25)),
        ("cosmos_rflow", CosmosFlow, 6 / 3 - 0.5 * 2 / 3),
    ],
)
def test_continuous_models(sampling: Any, kind: type, denoised: float) -> None:
    """All levels between two, evenly in log sigma; what the network says at sigma 2 of a sample 6 is worked out by hand."""
    found = way(nodes.model_sampling_continuous_edm(model=MODEL_REF, sampling=sampling, sigma_max=80.0))
    assert isinstance(found.prediction, kind)
    assert found.schedule.table[[0, -1]].tolist() == pytest.approx([0.002, 80.0])
    assert found.schedule.percent_to_sigma(0.5) == pytest.approx(math.sqrt(0.002 * 80))
    one = torch.ones(1, 1, 1, 1)
    assert float(found.prediction.denoised(6 * one, 0.5 * one, 2 * one)) == pytest.approx(denoised)
    told = {"cosmos_rflow": 2 / 3}.get(sampling, math.log(2) / 4)
    assert float(found.schedule.timestep(np.array([2.0]))[0]) == pytest.approx(told)
    assert float(found.schedule.sigma(np.array([told]))[0]) == pytest.approx(2.0)
    assert isinstance(found.latent_format, PlaygroundFormat) == (sampling == "edm_playground_v2.5")


def test_velocity_models_of_all_angles() -> None:
    """The network is told the angle, from 0 to 1."""
    found = way(nodes.model_sampling_continuous_v(model=MODEL_REF, sampling="v_prediction"))
    assert float(found.schedule.timestep(np.array([1.0]))[0]) == pytest.approx(0.5)
    assert float(found.schedule.sigma(np.array([0.5]))[0]) == pytest.approx(1.0)
    assert found.schedule.table[[0, -1]].tolist() == pytest.approx([0.03, 500.0])
    assert np.isfinite(scheduled(found.schedule, "normal", 10)).all()
    with pytest.raises(InputError, match="sigma_min must be above 0"):
        LogLevels(0.0, 1.0)


def test_flows_with_shifted_times() -> None:
    """SD3 is told 1000 sigma, AuraFlow sigma, whatever the model's own way is."""
    half = np.array([0.5])
    plain = way(nodes.model_sampling_sd3(MODEL_REF, 3.0))
    assert isinstance(plain.prediction, Flow)
    assert (float(plain.schedule.sigma(half * 1000)[0]), float(plain.schedule.timestep(half)[0])) == (0.75, 500.0)
    aura = way(nodes.model_sampling_aura_flow(MODEL_REF, 3.0))
    assert (float(aura.schedule.sigma(half)[0]), float(aura.schedule.timestep(half)[0])) == (0.75, 0.5)
    assert aura.schedule.table.tolist() == plain.schedule.table.tolist()
    own = Sampling(FlowSchedule(1.0, multiplier=1.0), Flow(), LatentFormat(channels=16))
    kept = way(nodes.model_sampling_sd3(MODEL_REF, 3.0), own)
    assert (float(kept.schedule.timestep(half)[0]), kept.schedule.percent_to_sigma(0.5)) == (500.0, 0.75)
    assert kept.latent_format.channels == 16


def test_flux_shifts_by_the_size_of_the_picture() -> None:
    """At 4096 tokens e^max_shift, at 256 e^base_shift, in between on a line of the exponents."""
    assert flux_shift(1.15, 0.5, 1024, 1024) == pytest.approx(math.exp(1.15))
    assert flux_shift(1.15, 0.5, 256, 256) == pytest.approx(math.exp(0.5))
    assert flux_shift(1.15, 0.5, 512, 1088) == pytest.approx(math.exp(0.825))
    found = way(nodes.model_sampling_flux(model=MODEL_REF)).schedule
    assert len(found.table) == 10_000
    assert found.percent_to_sigma(0.5) == pytest.approx(math.exp(1.15) / (math.exp(1.15) + 1))


def test_cosine_levels_of_stable_cascade() -> None:
    """Time and sigma are each other's inverse at shift 1; shift 2 doubles sigma; the ends are clipped."""
    plain, shifted = CosineLevels(1.0), CosineLevels(2.0)
    times = np.array([0.2, 0.5, 0.9])
    np.testing.assert_allclose(plain.timestep(plain.sigma(times)), times, rtol=1e-6)
    np.testing.assert_allclose(shifted.sigma(times), 2 * plain.sigma(times), rtol=1e-6)
    assert float(plain.sigma(np.array([1.0]))[0]) == pytest.approx(math.sqrt(0.9999 / 0.0001))
    found = way(nodes.model_sampling_stable_cascade(MODEL_REF))
    assert len(found.schedule.table) == 10_000
    assert found.schedule.percent_to_sigma(0.5) == pytest.approx(float(shifted.sigma(np.array([0.5]))[0]))


def test_playground_latents_are_normed_channel_by_channel() -> None:
    """There and back; a channel at its mean is 0."""
    form = PlaygroundFormat()
    latent = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(form.from_model(form.into_model(latent)), latent, rtol=1e-4, atol=1e-4)
    means = torch.tensor([-1.6574, 1.886, -1.383, 2.5155]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    assert float(form.into_model(means).abs().max()) == 0
    assert not form.into_model(torch.zeros(1, 4, 2, 2)).any()


def test_settings_reach_the_denoiser(demo: MakeRef, demo_store: LocalModelStore) -> None:
    """Levels, prediction and dtype of a leased model are those that its recipe asks for."""
    flow = nodes.model_sampling_sd3(demo("unet"), 2.0)
    with demo_store.lease(flow) as loaded:
        made: Denoiser = unet.denoiser(loaded)
        assert isinstance(made.prediction, Flow)
        assert isinstance(made.law, StraightPath)
        assert made.dtype == torch.float32
    half = nodes.model_compute_dtype(demo("unet"), "bf16")
    with demo_store.lease(half) as loaded:
        made = unet.denoiser(loaded)
        assert isinstance(loaded.config, UNetConfig)
        width = loaded.config.context_dim
        assert made.dtype == torch.bfloat16
        out = made(torch.ones(1, 4, 8, 8), torch.tensor([2.0]), torch.ones(1, 77, width))
        assert out.dtype == torch.float32
    with demo_store.lease(nodes.model_compute_dtype(half, "default")) as loaded:
        assert loaded.dtype == torch.float32
