from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from nodes.diffusion.names import DROPS_PENULTIMATE, SAMPLER_NAMES, SCHEDULER_NAMES
from nodes.diffusion.schedules import (
    BEYOND_NOISE,
    SCHEDULERS,
    FlowSchedule,
    ModelSigmas,
    evaluations,
    planned_steps,
    sampling_sigmas,
    scheduled,
    stable_diffusion,
)

GOLDEN = json.loads((Path(__file__).parent / "sigmas_golden.json").read_text())
MODELS: dict[str, ModelSigmas] = {"sd15": stable_diffusion(), "sd3_shift3": FlowSchedule(3.0)}


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("scheduler", SCHEDULER_NAMES)
@pytest.mark.parametrize("model", sorted(MODELS))
def test_golden_sigmas(model: str, scheduler: str, steps: int) -> None:
    """Every scheduler gives the sigmas that the reference gives, for a noise table and for a flow model."""
    expected = GOLDEN[model][scheduler][str(steps)]
    np.testing.assert_allclose(scheduled(MODELS[model], scheduler, steps), expected, rtol=1e-6, atol=1e-6)


def test_table_of_stable_diffusion() -> None:
    """The table's ends, and percents of the way, are the published ones."""
    model = stable_diffusion()
    assert model.table[0] == pytest.approx(0.0291672, rel=1e-5)
    assert model.table[-1] == pytest.approx(14.614641, rel=1e-6)
    assert [model.percent_to_sigma(p) for p in (0.0, 0.2, 0.5, 0.8, 1.0)] == pytest.approx(
        [BEYOND_NOISE, 5.0924, 1.6156, 0.5712, 0.0], abs=1e-4
    )


@pytest.mark.parametrize(("scheduler", "steps"), [("normal", 15), ("normal", 19), ("sgm_uniform", 18)])
def test_half_way_between_two_timesteps(scheduler: str, steps: int) -> None:
    """Sigmas at timestep 499.5 and the like are told to the network as in ComfyUI: torch's float32 decides between the two."""
    import torch

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    logs = ((1 - abar) / abar).sqrt().log().float()
    times = torch.linspace(999, 0, steps + (scheduler != "normal"))[:steps]
    low, high, share = times.floor().long(), times.ceil().long(), times.frac()
    sigmas = ((1 - share) * logs[low] + share * logs[high]).exp()
    expected = (sigmas.log() - logs[:, None]).abs().argmin(0)
    model = stable_diffusion()
    ours = scheduled(model, scheduler, steps)[:-1].astype(np.float64)
    assert model.timestep(ours).tolist() == expected.tolist()


def test_zero_terminal_snr_keeps_the_first_level() -> None:
    """With zero terminal signal the last sigma is enormous but finite and the first is what it was."""
    plain, zero = stable_diffusion(), stable_diffusion(zero_terminal_snr=True)
    assert zero.table[0] == pytest.approx(plain.table[0], rel=1e-5)
    assert zero.table[-1] == pytest.approx(4518.7, rel=1e-3)


def test_flow_model_is_told_shifted_time() -> None:
    """A flow model's timestep is a thousand times its sigma, and its range is that of the shifted table."""
    model = FlowSchedule(3.0)
    assert model.table[0] == pytest.approx(0.002994, abs=1e-6)
    assert model.timestep(np.array([0.25]))[0] == 250.0
    assert model.percent_to_sigma(0.5) == pytest.approx(0.75)


@given(st.integers(0, 999))
def test_timestep_is_the_inverse_of_sigma(t: int) -> None:
    """On the table, timestep undoes sigma."""
    model = stable_diffusion()
    assert model.timestep(model.sigma(np.array([float(t)])))[0] == t


@given(st.sampled_from(SCHEDULER_NAMES), st.integers(1, 200), st.sampled_from(sorted(MODELS)))
def test_sequences_fall_to_zero(scheduler: str, steps: int, model: str) -> None:
    """Whatever the scheduler and the count, sigmas fall strictly and end in 0."""
    sigmas = scheduled(MODELS[model], scheduler, steps)
    assert sigmas[-1] == 0
    assert (np.diff(sigmas) < 0).all()


def test_denoise_keeps_the_end_of_a_longer_sequence() -> None:
    """A denoise of 0.5 at 10 steps walks the last 10 of 20 steps; 0 leaves nothing to do."""
    model = stable_diffusion()
    half = sampling_sigmas(model, "euler", "karras", 10, denoise=0.5)
    np.testing.assert_array_equal(half, scheduled(model, "karras", 20)[-11:])
    assert len(sampling_sigmas(model, "euler", "karras", 10, denoise=0.0)) == 0


@pytest.mark.parametrize("sampler", sorted(DROPS_PENULTIMATE))
def test_some_samplers_skip_the_second_last_sigma(sampler: str) -> None:
    """dpm_2 and uni_pc plan one step more and leave out the second last sigma."""
    model = stable_diffusion()
    longer = scheduled(model, "normal", 11)
    expected = [*longer[:-2], longer[-1]]
    np.testing.assert_array_equal(sampling_sigmas(model, sampler, "normal", 10), expected)


def test_start_and_end_cut_the_sequence() -> None:
    """An end step ends at 0 unless noise may be left; a start step skips; a start behind the end leaves nothing."""
    model = stable_diffusion()
    full = scheduled(model, "normal", 10)
    np.testing.assert_array_equal(sampling_sigmas(model, "euler", "normal", 10, start=3), full[3:])
    np.testing.assert_array_equal(sampling_sigmas(model, "euler", "normal", 10, end=4), [*full[:4], 0.0])
    leftover = sampling_sigmas(model, "euler", "normal", 10, start=2, end=4, leftover_noise=True)
    np.testing.assert_array_equal(leftover, full[2:5])
    assert len(sampling_sigmas(model, "euler", "normal", 10, start=4, end=4)) == 0
    assert len(sampling_sigmas(model, "euler", "normal", 10, start=20)) == 0


def test_evaluations_count_the_second_stage() -> None:
    """A two-stage step costs two evaluations, but one where it ends at 0."""
    whole = sampling_sigmas(stable_diffusion(), "heun", "karras", 10)
    open_end = sampling_sigmas(stable_diffusion(), "heun", "karras", 10, end=5, leftover_noise=True)
    assert (evaluations("euler", whole), evaluations("heun", whole), evaluations("heun", open_end)) == (10, 19, 10)
    assert evaluations("heun", whole[:0]) == 0


def test_planned_steps_know_short_sequences() -> None:
    """The plan knows that ddim_uniform may take another number of steps than was asked for."""
    assert (
        planned_steps("euler", "ddim_uniform", 7)
        == len(sampling_sigmas(stable_diffusion(), "euler", "ddim_uniform", 7)) - 1
    )
    assert planned_steps("euler", "normal", 20, denoise=0.5, start=5, end=12) == 7


def test_every_name_is_known() -> None:
    """The names that are listed without torch are exactly those that there are, in the same order."""
    assert tuple(SCHEDULERS) == SCHEDULER_NAMES
    from nodes.diffusion.samplers import SAMPLERS

    assert tuple(SAMPLERS) == SAMPLER_NAMES


def test_unknown_scheduler_and_no_steps_are_refused() -> None:
    """A wrong scheduler or count is an error that names the input."""
    with pytest.raises(InputError, match="found 'cosine'") as wrong:
        scheduled(stable_diffusion(), "cosine", 10)
    assert wrong.value.input == "scheduler"
    with pytest.raises(InputError, match="found 0"):
        scheduled(stable_diffusion(), "normal", 0)


def test_planning_does_not_import_torch() -> None:
    """Names and schedules can be read in a process that has no torch."""
    plan = "import sys, nodes.diffusion.schedules as s; s.planned_steps('lms', 'beta', 20)"
    code = f"{plan}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
