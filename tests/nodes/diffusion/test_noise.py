from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.noise import (
    BrownianNoise,
    GeneratorNoise,
    StepNoise,
    initial_noise,
    step_noise,
    step_noise_from_plain,
)

SIGMAS = torch.tensor([14.0, 5.0, 1.0, 0.1, 0.0])


def restored(source: StepNoise) -> StepNoise:
    return step_noise_from_plain(*source.to_plain())


def draws(source: StepNoise, like: Tensor, pairs: list[tuple[float, float]]) -> list[Tensor]:
    found = []
    for start, end in pairs:
        noise, source = source.draw(like, torch.tensor(start), torch.tensor(end))
        found.append(noise)
    return found


def test_initial_noise_of_seed_42() -> None:
    """Seed 42 gives the numbers that every program with this convention gives."""
    noise = initial_noise(torch.zeros(1, 4, 2, 2), 42)
    assert noise.flatten()[:4].tolist() == pytest.approx([1.926915, 1.487284, 0.900717, -2.105521], abs=1e-6)


def test_the_largest_seed_is_a_seed() -> None:
    """Seeds have 64 bits."""
    assert initial_noise(torch.zeros(1, 1, 2, 2), 2**64 - 1).isfinite().all()


def test_batch_index_makes_a_picture_of_a_batch_alone() -> None:
    """Sample i of a batch drawn one by one is the noise of batch_index [i], repeated indices included."""
    alone = initial_noise(torch.zeros(1, 4, 3, 3), 7, [2])
    batch = initial_noise(torch.zeros(4, 4, 3, 3), 7, [0, 1, 2, 2])
    assert torch.equal(alone[0], batch[2])
    assert torch.equal(batch[2], batch[3])
    assert torch.equal(batch[:1], initial_noise(torch.zeros(1, 4, 3, 3), 7))


def test_batch_index_must_fit() -> None:
    """An index list of another length than the batch is refused."""
    with pytest.raises(InputError, match="must name 2 samples"):
        initial_noise(torch.zeros(2, 4, 3, 3), 7, [0])


def test_first_step_noise_on_the_cpu_is_the_initial_noise() -> None:
    """On the CPU the step generator starts where the initial noise started."""
    latent = torch.zeros(2, 4, 8, 8)
    source = step_noise("euler_ancestral", 42, SIGMAS, "cpu")
    assert torch.equal(draws(source, latent, [(14.0, 5.0)])[0], initial_noise(latent, 42))


def test_a_draw_leaves_its_source_as_it_was() -> None:
    """Drawing twice from one source gives the same noise; drawing from what it returned gives other noise."""
    source, like = GeneratorNoise.seeded(3, "cpu"), torch.zeros(1, 4, 4, 4)
    first, after = source.draw(like, SIGMAS[0], SIGMAS[1])
    again, _ = source.draw(like, SIGMAS[0], SIGMAS[1])
    second, _ = restored(after).draw(like, SIGMAS[1], SIGMAS[2])
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(second, draws(source, like, [(14.0, 5.0), (5.0, 1.0)])[1])


def test_brownian_noise_does_not_depend_on_what_was_asked_before() -> None:
    """The path is fixed: in any order, and from a restored source, an increment has the same bits."""
    like = torch.zeros(1, 4, 8, 8)
    pairs = [(14.0, 5.0), (5.0, 1.0), (1.0, 0.1), (14.0, 8.3), (5.0, 2.2)]
    forward = draws(step_noise("dpmpp_sde", 42, SIGMAS, "cpu"), like, pairs)
    for pair, expected in zip(reversed(pairs), reversed(forward), strict=True):
        alone = draws(restored(step_noise("dpmpp_sde", 42, SIGMAS, "cpu")), like, [pair])[0]
        assert torch.equal(alone, expected)
    backward = draws(step_noise("dpmpp_sde", 42, SIGMAS, "cpu"), like, pairs[::-1])
    assert all(torch.equal(a, b) for a, b in zip(forward, backward[::-1], strict=True))


def test_brownian_increments_add_up() -> None:
    """The path's increments over two parts are its increment over the whole, and each has variance one when scaled."""
    like = torch.zeros(1, 4, 64, 64)
    first, second, whole = draws(BrownianNoise(1, 0.1, 14.0, "cpu"), like, [(14.0, 5.0), (5.0, 1.0), (14.0, 1.0)])
    torch.testing.assert_close(first * 9**0.5 + second * 4**0.5, whole * 13**0.5, rtol=1e-4, atol=1e-4)
    assert float(first.std()) == pytest.approx(1, abs=0.03)
    assert float(whole.std()) == pytest.approx(1, abs=0.03)


def test_sources_by_sampler_and_device() -> None:
    """SDE solvers walk a Brownian path, drawn on the CPU unless the name ends in _gpu; noise_device decides over
    all."""

    def place(sampler: str, noise_device: str = "model") -> tuple[str, object]:
        _, numbers = step_noise(sampler, 1, SIGMAS, "meta", "cpu" if noise_device == "cpu" else "model").to_plain()
        return str(numbers["kind"]), numbers["device"]

    assert place("dpmpp_2m_sde") == ("brownian", "cpu")
    assert place("dpmpp_2m_sde_gpu") == ("brownian", "meta")
    assert place("dpmpp_2m_sde_gpu", "cpu") == ("brownian", "cpu")
    assert place("euler_ancestral", "cpu") == ("generator", "cpu")


def test_brownian_range_is_that_of_the_noise_levels() -> None:
    """The path spans from the smallest sigma above zero to the largest."""
    _, numbers = step_noise("dpmpp_3m_sde", 5, SIGMAS, "cpu").to_plain()
    assert (numbers["seed"], numbers["sigma_max"]) == (5, 14.0)
    assert numbers["sigma_min"] == pytest.approx(0.1)
