"""Sigma sequences made of numbers, and changed ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engine.errors import InputError
from nodes.diffusion import gits, schedules, sequences
from nodes.diffusion.schedules import FlowSchedule, stable_diffusion

HIGH, LOW = 14.614642, 0.0291675
GIVEN = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("made", "scheduler"),
    [(sequences.karras(10, HIGH, LOW, 7.0), "karras"), (sequences.polyexponential(10, HIGH, LOW), "exponential")],
)
def test_the_defaults_are_those_of_stable_diffusion(made: torch.Tensor, scheduler: str) -> None:
    """With the default ends a sequence is the scheduler's of its name."""
    expected = torch.from_numpy(schedules.scheduled(stable_diffusion(), scheduler, 10))
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-6)


def test_polyexponential_of_power_two() -> None:
    """log sigma falls as the square of what is left of the way."""
    made = sequences.polyexponential(3, 100.0, 1.0, 2.0)
    assert made.tolist() == pytest.approx([100.0, 10 ** (2 * 0.25), 1.0, 0.0])


def test_laplace_has_its_middle_at_mu_and_no_zero() -> None:
    """The middle quantile is e^mu; its neighbours at 1/4 and 3/4 lie log 2 times the width from it; the ends are cut."""
    made = sequences.laplace(5, HIGH, LOW, 0.5, 0.5)
    middle = math.exp(0.5)
    assert made.tolist() == pytest.approx([HIGH, middle * 2**0.5, middle, middle / 2**0.5, LOW], rel=1e-4)


def test_variance_preserving_begins_at_the_largest_time() -> None:
    """sigma^2 = e^(beta_d / 2 + beta_min) - 1 at t = 1, and at eps_s likewise."""
    made = sequences.variance_preserving(2, 19.9, 0.1, 0.001)
    first = math.sqrt(math.exp(19.9 / 2 + 0.1) - 1)
    last = math.sqrt(math.exp(19.9e-6 / 2 + 1e-4) - 1)
    assert made.tolist() == pytest.approx([first, last, 0.0], rel=1e-4)


@pytest.mark.parametrize(
    ("steps", "denoise", "timesteps"), [(1, 1.0, [999]), (4, 1.0, [999, 899, 799, 699]), (3, 0.5, [499, 399, 299])]
)
def test_turbo_takes_every_hundredth_timestep(steps: int, denoise: float, timesteps: list[int]) -> None:
    """From the top, or with denoise from below it."""
    table = stable_diffusion().table
    assert sequences.turbo(stable_diffusion(), steps, denoise).tolist() == pytest.approx(
        [*(table[t] for t in timesteps), 0.0]
    )


def test_align_your_steps() -> None:
    """Ten steps are the table, its last level 0; twenty pass through it; half of them are its end."""
    table = sequences.ALIGN_YOUR_STEPS["SDXL"]
    ten = sequences.align_your_steps("SDXL", 10, 1.0)
    assert ten.tolist() == pytest.approx([*table[:-1], 0.0])
    twenty = sequences.align_your_steps("SDXL", 20, 1.0)
    assert twenty[::2].tolist() == pytest.approx(ten.tolist())
    assert float(twenty[1]) == pytest.approx(math.sqrt(table[0] * table[1]))
    assert sequences.align_your_steps("SDXL", 10, 0.5).tolist() == pytest.approx(ten[5:].tolist())
    assert len(sequences.align_your_steps("SD1", 10, 0.0)) == 0


def test_the_ways_of_gits_are_those_of_a_table_that_fits_together() -> None:
    """A way of n steps has n + 1 levels of the teacher's hundred, downwards; and, being the best, from any level on with so many steps to
    go it is one with all other ways of its coefficient."""
    table = gits.table()
    assert [round(0.8 + 0.05 * n, 2) for n in range(15)] == list(table.ways)
    teacher = stable_diffusion().sigma(np.linspace(999, 0, 101))
    assert all(min(abs(teacher / level - 1)) < 5e-5 for level in table.levels)
    assert (table.levels[0], table.levels[-1]) == (14.61464119, 0.02916753)
    assert {place for ways in table.ways.values() for way in ways for place in way} == set(range(len(table.levels)))
    for ways in table.ways.values():
        onwards: dict[tuple[int, int], tuple[int, ...]] = {}
        assert [len(way) for way in ways] == list(range(3, 22))
        for way in ways:
            assert (way[0], way[-1]) == (0, len(table.levels) - 1)
            assert list(way) == sorted(set(way))
            for passed, place in enumerate(way[1:], 1):
                assert onwards.setdefault((place, len(way) - passed), way[passed:]) == way[passed:]


GITS_THIRTY = (
    *(14.61464119, 9.35946941, 6.39175272, 4.65472794, 3.52900577, 2.74887061, 2.19988537, 1.7906853, 1.47980762),
    *(1.24153244, 1.04120433, 0.87942225, 0.74807048, 0.64230049, 0.56202602, 0.50118381, 0.43900734, 0.38714039),
    *(0.34370604, 0.31257147, 0.28130382, 0.25053367, 0.23352164, 0.21624818, 0.19894916, 0.17933175, 0.1587158),
    *(0.13792117, 0.11000647, 0.0655402, 0.0),
)


@pytest.mark.parametrize(
    ("coeff", "steps", "expected"),
    [
        (0.8, 2, (14.61464119, 7.49001646, 0)),
        (0.95, 5, (14.61464119, 7.49001646, 4.86714602, 2.36326075, 0.803307, 0)),
        (
            *(1.2, 10),
            (
                *(14.61464119, 5.85520077, 2.84484982, 1.67050016, 1.08895338, 0.74807048, 0.50118381, 0.32104823),
                *(0.19894916, 0.09824532, 0),
            ),
        ),
        (1.5, 4, (14.61464119, 0.86115354, 0.32104823, 0.09824532, 0)),
        (1.2, 30, GITS_THIRTY),
    ],
)
def test_gits_is_as_published(coeff: float, steps: int, expected: tuple[float, ...]) -> None:
    """And between the levels of twenty steps for more."""
    assert sequences.gits(coeff, steps, 1.0).tolist() == pytest.approx(expected, rel=1e-6)


def test_gits_of_a_part_is_the_end_of_the_whole() -> None:
    """Half of 5 steps are 2, since halves go to even numbers; of nothing there is none; 0.8 + 0.05 is 0.85."""
    whole = sequences.gits(1.2, 5, 1.0)
    assert sequences.gits(1.2, 5, 0.5).tolist() == whole[-3:].tolist()
    assert len(sequences.gits(1.2, 5, 0.0)) == 0
    assert torch.equal(sequences.gits(0.8 + 0.05, 7, 1.0), sequences.gits(0.85, 7, 1.0))
    with pytest.raises(InputError, match=r"found 1\.17; 1\.15 and 1\.20 are the nearest") as wrong:
        sequences.gits(1.17, 5, 1.0)
    assert wrong.value.input == "coeff"


def test_the_scheduler_never_gives_more_steps_than_asked_for() -> None:
    """Every 33rd level from 1 to 991 makes 31 steps of the 30 asked for: the first, from level 991, is left out."""
    model = stable_diffusion()
    found = sequences.of_model(model, "ddim_uniform", 30, 1.0)
    assert len(found) == 31
    assert float(found[0]) == pytest.approx(model.table[958])


def test_splitting_keeps_the_level_in_both_parts() -> None:
    """The low part begins where the high one ends, but for one without steps; the given sequence stays as it was."""
    high, low = sequences.split(GIVEN, 1)
    assert (high.tolist(), low.tolist()) == ([8.0, 4.0], [4.0, 2.0, 1.0, 0.0])
    high, low = sequences.split_by_denoise(GIVEN, 0.5)
    assert (high.tolist(), low.tolist()) == ([8.0, 4.0, 2.0], [2.0, 1.0, 0.0])
    high, low = sequences.split_by_denoise(GIVEN, 0.0)
    assert (high.tolist(), low.tolist()) == ([], [0.0])
    high, low = sequences.split_by_denoise(GIVEN, 1.0)
    assert (high.tolist(), low.tolist()) == ([8.0], GIVEN.tolist())


def test_a_refiner_takes_over_at_a_share_of_the_timesteps() -> None:
    """Of timesteps 999 - 25.615 i, 32 are at least 200; a schedule of other timesteps is cut at another step, at the same noise."""
    model = stable_diffusion()
    even = sequences.of_model(model, "normal", 40, 1.0)
    high, low = sequences.split_by_noise(model, even, 0.8)
    assert (len(high), len(low), float(high[-1])) == (33, 9, float(low[0]))
    steep = sequences.of_model(model, "karras", 40, 1.0)
    high, low = sequences.split_by_noise(model, steep, 0.8)
    assert float(high[-2]) >= float(model.sigma(np.array(199.5))) > float(low[0])
    assert len(high) == 26
    assert [len(part) for part in sequences.split_by_noise(model, even, 1.0)] == [41, 1]
    assert [len(part) for part in sequences.split_by_noise(model, even, 0.0)] == [1, 41]
    flow = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.0])
    assert len(sequences.split_by_noise(FlowSchedule(), flow, 0.8)[0]) == 4


def test_flipping_begins_above_zero() -> None:
    """0 at the beginning would leave nothing to divide by."""
    assert sequences.flipped(GIVEN).tolist() == pytest.approx([0.0001, 1.0, 2.0, 4.0, 8.0])
    assert GIVEN[-1] == 0
    assert len(sequences.flipped(GIVEN[:0])) == 0


def test_the_first_sigma_is_set_in_a_copy() -> None:
    """Of nothing there is no first."""
    assert sequences.with_first(GIVEN, 20.0).tolist() == [20.0, 4.0, 2.0, 1.0, 0.0]
    assert GIVEN[0] == 8
    assert len(sequences.with_first(GIVEN[:0], 20.0)) == 0


@pytest.mark.parametrize(
    ("start", "end", "spacing", "expected"),
    [
        (-1.0, 3.0, "linear", [8.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.0]),
        (5.0, 2.0, "linear", [8.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.0]),
        (-1.0, 8.0, "cosine", [8.0, 8 - 4 * math.sin(math.pi / 4), 4.0, 2.0, 1.0, 0.0]),
        (-1.0, 8.0, "sine", [8.0, 4 + 4 * math.cos(math.pi / 4), 4.0, 2.0, 1.0, 0.0]),
    ],
)
def test_extending_cuts_the_steps_between_two_levels(
    start: float, end: float, spacing: str, expected: list[float]
) -> None:
    """In two each, evenly or by a curve; other steps stay."""
    assert sequences.extended(GIVEN, 2, start, end, spacing).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("percent", "actual", "expected"), [(0.0, True, 14.614641), (1.0, True, 0.02916716), (1.0, False, 0.0)]
)
def test_the_ends_of_the_way(percent: float, actual: bool, expected: float) -> None:
    """The model's own where they are wanted; between the ends there is no difference."""
    model = stable_diffusion()
    assert sequences.at_percent(model, percent, actual=actual) == pytest.approx(expected, rel=1e-5)
    assert sequences.at_percent(model, 0.5, actual=actual) == pytest.approx(1.6156, abs=1e-4)
    assert sequences.at_percent(FlowSchedule(3.0), 0.5, actual=actual) == pytest.approx(0.75)


def test_what_has_no_logarithm_is_refused() -> None:
    """The error names the input."""
    with pytest.raises(InputError, match="must be above 0; found 0") as wrong:
        sequences.polyexponential(5, 10.0, 0.0)
    assert wrong.value.input == "sigma_min"
    with pytest.raises(InputError, match="rho must be above 0"):
        sequences.karras(5, 10.0, 1.0, 0.0)
