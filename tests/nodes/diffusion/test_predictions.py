from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.denoiser import Denoiser, LatentFormat, per_sample
from nodes.diffusion.predictions import Epsilon, Flow, Prediction, Velocity, prediction
from nodes.diffusion.samplers import StraightPath, VarianceExploding
from nodes.diffusion.schedules import FlowSchedule, stable_diffusion

X0, NOISE = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
LEVEL = torch.tensor([0.3, 0.8], dtype=torch.float64).view(2, 1, 1, 1)


def velocity(sigma: Tensor) -> Tensor:
    """``v = alpha n - s x0`` of a variance preserving diffusion with ``s / alpha = sigma``."""
    alpha = 1 / (1 + sigma**2) ** 0.5
    return alpha * NOISE - alpha * sigma * X0


@pytest.mark.parametrize(
    ("name", "out"), [("eps", NOISE), ("v", velocity(LEVEL)), ("flow", NOISE - X0)], ids=["eps", "v", "flow"]
)
def test_a_perfect_network_gives_back_the_clean_latent(name: str, out: Tensor) -> None:
    """From the true target of each parameterisation the clean latent is recovered, sample by sample."""
    rule: Prediction = prediction(name)  # type: ignore[arg-type]
    x = rule.noised(X0, NOISE, LEVEL)
    torch.testing.assert_close(rule.denoised(x, out, LEVEL), X0)


def test_full_noise_has_the_variance_of_a_whole_sample() -> None:
    """At the top of a variance exploding range the noise is scaled by sqrt(1 + sigma^2), the latent is added as it
    is."""
    one = torch.ones(1)
    assert float(Epsilon().noised(one, one, torch.tensor(3.0))) == 4.0
    assert float(Epsilon().noised(one, one, torch.tensor(3.0), full=True)) == pytest.approx(10**0.5 + 1)
    assert float(Flow().noised(one, 2 * one, torch.tensor(0.25), full=True)) == 1.25


def test_flow_undoes_the_scaling_where_it_ends() -> None:
    """A flow that is left at sigma 0.2 is divided by 0.8; others are left as they are."""
    assert float(Flow().finished(torch.tensor(0.8), torch.tensor(0.2))) == pytest.approx(1.0)
    assert float(Velocity().finished(torch.tensor(0.8), torch.tensor(0.2))) == pytest.approx(0.8)


def test_network_sees_scaled_input_and_its_timestep() -> None:
    """An SD1 network is given x / sqrt(sigma^2 + 1) and the index of the sigma; its noise leads to x0."""
    seen: list[Tensor] = []

    def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        seen.extend([x, timestep, context])
        return torch.ones_like(x)

    schedule = stable_diffusion()
    sigma = torch.from_numpy(schedule.table[[999, 100]].astype(np.float32))
    x = torch.full((2, 4, 2, 2), 2.0)
    result = Denoiser(network, schedule, Epsilon(), torch.float64)(x, sigma, torch.zeros(2, 77, 8))
    torch.testing.assert_close(seen[0], (x / (per_sample(sigma, x) ** 2 + 1) ** 0.5).double())
    assert seen[1].tolist() == [999.0, 100.0]
    assert (seen[1].dtype, seen[2].dtype, result.dtype) == (torch.float32, torch.float64, torch.float32)
    torch.testing.assert_close(result, x - per_sample(sigma, x))


def test_the_schedule_decides_the_law() -> None:
    """A flow model's samples lie on a straight path, which solvers enter just below sigma 1."""
    flow = Denoiser(lambda x, timestep, context, /, **inputs: x, FlowSchedule(3.0), Flow()).law
    assert isinstance(flow, StraightPath)
    assert flow.first == pytest.approx(3 * 0.9999 / (1 + 2 * 0.9999))
    assert (
        Denoiser(lambda x, timestep, context, /, **inputs: x, stable_diffusion(), Epsilon()).law == VarianceExploding()
    )


def test_latents_are_scaled_into_the_model_and_back() -> None:
    """SD1 multiplies by 0.18215, SD3 shifts too; an empty latent is not shifted."""
    sd3 = LatentFormat(scale=1.5305, shift=0.0609, channels=16)
    latent = torch.randn(1, 16, 4, 4)
    torch.testing.assert_close(sd3.into_model(latent), (latent - 0.0609) * 1.5305)
    torch.testing.assert_close(sd3.from_model(sd3.into_model(latent)), latent)
    assert not sd3.into_model(torch.zeros(1, 16, 4, 4)).any()
    assert float(LatentFormat().into_model(torch.ones(1))) == pytest.approx(0.18215)


def test_an_empty_latent_takes_the_model_channels() -> None:
    """A zero latent of four channels becomes one of sixteen; one with content is refused."""
    sd3 = LatentFormat(channels=16)
    assert sd3.widened(torch.zeros(2, 4, 8, 8)).shape == (2, 16, 8, 8)
    with pytest.raises(InputError, match="16 channels expected; found 4"):
        sd3.widened(torch.ones(2, 4, 8, 8))
