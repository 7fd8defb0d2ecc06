"""What options do to guidance, with numbers worked out by hand or by another form of the formula."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.models import Digest, ModelRef
from nodes.diffusion import custom, sample, steering
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.guidance import CfgGuider, Guidance
from nodes.diffusion.guiders import DualCfgGuider, PerpNegGuider
from nodes.diffusion.predictions import Epsilon
from nodes.diffusion.resume import from_bytes, to_bytes
from nodes.diffusion.samplers import State
from nodes.diffusion.schedules import stable_diffusion
from nodes.diffusion.steering import Option, Seen, combined, finished, options_of, prepared, with_option
from nodes.guidance import perp_neg
from tests.nodes.diffusion.test_guidance import LATENT, SIGMA, Recorder, entries, told
from tests.nodes.diffusion.test_sample import EMPTY, MODEL, NEGATIVE, POSITIVE, SETTINGS

MODEL_REF = ModelRef(Digest("d"), "unet", "/demo")


def seen(scale: float = 3.0, *, alone: bool = False, sigma: float = 2.0) -> Seen:
    """Two predictions of a batch of two."""
    generator = torch.Generator().manual_seed(3)
    x, positive, negative = (torch.randn(2, 4, 6, 6, generator=generator) for _ in range(3))
    level = torch.full((2, 1, 1, 1), sigma)
    return Seen(x * 2, level, positive, None if alone else negative, scale, {})


def steered(option: str, given: Seen, **numbers: Any) -> Tensor:
    options = (Option(option, numbers),)
    known = prepared(options, given)
    return finished(options, known, combined(options, known), ())


def plain(given: Seen) -> Tensor:
    assert given.negative is not None
    return given.negative + given.scale * (given.positive - given.negative)


def test_options_keep_their_order_and_their_numbers() -> None:
    """Each node adds one behind the others; without any the model is as it was."""
    model = with_option(with_option(MODEL_REF, "normed", strength=0.5), "mahiro")
    assert options_of(model) == (Option("normed", {"strength": 0.5}), Option("mahiro", {}))
    assert options_of(MODEL_REF) == ()
    assert ModelRef.from_plain(model.to_plain()) == model


def test_without_options_guidance_is_plain() -> None:
    """u + s (c - u), and the positive prediction alone where there is no other."""
    given = seen()
    torch.testing.assert_close(combined((), given), plain(given))
    assert torch.equal(combined((), seen(alone=True)), seen(alone=True).positive)


def test_rescaling_brings_back_the_deviation_of_the_velocity() -> None:
    """Wholly rescaled, the guided velocity deviates as much as the positive one; not at all, it is plain guidance."""
    given = seen()
    torch.testing.assert_close(steered("rescaled", given, multiplier=0.0), plain(given), rtol=1e-4, atol=1e-4)
    result = steered("rescaled", given, multiplier=1.0)

    def velocity(denoised: Tensor) -> Tensor:
        # x0 = x / (s^2 + 1) - v s / sqrt(s^2 + 1), at s = 2
        return (given.x / 5 - denoised) * math.sqrt(5) / 2

    for sample_, wanted in zip(velocity(result), velocity(given.positive), strict=True):
        assert float(sample_.std()) == pytest.approx(float(wanted.std()), rel=1e-4)
    assert float(np.corrcoef(velocity(result)[0].ravel(), velocity(plain(given))[0].ravel())[0, 1]) == pytest.approx(1)


def test_zero_star_guides_from_the_nearest_multiple() -> None:
    """The result is ``a u + s (c - a u)`` with the a that makes ``x - a' u``'s noise nearest, per sample."""
    given = seen()
    assert given.negative is not None
    result = steered("zero_star", given)
    for i in range(2):
        c, u = (given.x - given.positive)[i].ravel(), (given.x - given.negative)[i].ravel()
        best = float(np.linalg.lstsq(u[:, None].numpy(), c.numpy(), rcond=None)[0][0])
        scaled = best * given.negative[i]
        torch.testing.assert_close(result[i], scaled + 3.0 * (given.positive[i] - scaled), rtol=1e-3, atol=1e-3)


def test_norming_shortens_and_never_lengthens() -> None:
    """Cells whose vector grew come back to the positive one's length; others stay; all times the strength."""
    given = seen()
    result = steered("normed", given, strength=0.5)
    before, allowed = plain(given).norm(dim=1), given.positive.norm(dim=1)
    torch.testing.assert_close(result.norm(dim=1), 0.5 * torch.minimum(before, allowed), rtol=1e-4, atol=1e-5)
    assert bool((before > allowed).any())
    assert bool((before < allowed).any())
    torch.testing.assert_close(steered("normed", seen(alone=True), strength=1.0), given.positive)


def test_mahiro_lies_between_the_leap_and_the_guided() -> None:
    """Where the negative agrees with both it is plain guidance, where it is opposite the scaled positive prediction."""
    given = seen()
    same = replace(given, negative=given.positive)
    torch.testing.assert_close(steered("mahiro", same), given.positive, rtol=1e-4, atol=1e-4)
    opposite = replace(given, negative=-given.positive * 1e-6)
    torch.testing.assert_close(steered("mahiro", opposite), 3 * given.positive, rtol=1e-4, atol=1e-4)


def test_epsilon_scaling_divides_the_noise() -> None:
    """x - x0 becomes x - x0 over the factor, also where there is no negative side."""
    for given in (seen(), seen(alone=True)):
        before = given.positive if given.negative is None else plain(given)
        result = steered("epsilon_scaled", given, factor=1.25)
        torch.testing.assert_close((given.x - result) * 1.25, given.x - before, rtol=1e-4, atol=1e-4)


def test_tangential_damping_keeps_the_main_direction_alone() -> None:
    """The damped negative noise lies along the main axis of both: the eigenvector of their 2x2 products."""
    given = seen()
    assert given.negative is not None
    damped = prepared((Option("tangential"),), given).negative
    assert damped is not None
    for i in range(2):
        noises = torch.stack([(given.x - side)[i].ravel() for side in (given.negative, given.positive)])
        _, vectors = torch.linalg.eigh(noises @ noises.T)
        axis = vectors[:, -1] @ noises
        axis = axis / axis.norm()
        torch.testing.assert_close((given.x - damped)[i].ravel(), (noises[0] @ axis) * axis, rtol=1e-3, atol=1e-3)


def test_projection_takes_apart_what_lies_along_the_prediction() -> None:
    """With eta 0 the change is perpendicular to the positive prediction; with 1 nothing is lost; it is never too long."""
    given = seen()
    assert given.negative is not None
    base = given.positive
    none = steered("projected", given, eta=0.0, norm_threshold=0.0, momentum=0.0) - base
    whole = steered("projected", given, eta=1.0, norm_threshold=0.0, momentum=0.0) - base
    torch.testing.assert_close(whole, 3.0 * (given.positive - given.negative), rtol=1e-4, atol=1e-4)
    assert (none * base).sum((1, 2, 3)).abs().max() < 1e-3
    assert (none * (whole - none)).sum((1, 2, 3)).abs().max() < 1e-2
    short = steered("projected", given, eta=1.0, norm_threshold=2.0, momentum=0.0) - base
    assert short.flatten(1).norm(dim=1).tolist() == pytest.approx([6.0, 6.0], rel=1e-4)


def test_projection_takes_a_negative_side_that_is_left_out_for_zeros() -> None:
    """At scale 1 the positive prediction, which is all of the difference then, is added to itself, no longer than the threshold."""
    given = seen(1.0, alone=True)
    short = steered("projected", given, eta=1.0, norm_threshold=2.0, momentum=0.0) - given.positive
    assert short.flatten(1).norm(dim=1).tolist() == pytest.approx([2.0, 2.0], rel=1e-4)
    whole = steered("projected", given, eta=0.5, norm_threshold=0.0, momentum=0.0)
    torch.testing.assert_close(whole, 1.5 * given.positive, rtol=1e-4, atol=1e-4)


def test_momentum_remembers_the_differences_and_forgets_them_in_a_new_run() -> None:
    """The second difference has momentum times the first in it; sigma above the last one begins anew."""
    numbers = {"eta": 1.0, "norm_threshold": 0.0, "momentum": -0.5}
    options = (Option("projected", numbers),)
    first = prepared(options, seen(sigma=2.0))
    again = prepared(options, replace(seen(sigma=1.0), memory=first.memory))
    anew = prepared(options, replace(seen(sigma=3.0), memory=first.memory))
    torch.testing.assert_close(anew.positive, first.positive)
    assert again.negative is not None
    difference = seen().positive - again.negative
    torch.testing.assert_close(again.positive - first.positive, -0.5 * difference, rtol=1e-4, atol=1e-4)


def test_frequencies_have_scales_of_their_own() -> None:
    """The mean of the difference is low, a chessboard is high."""
    given = seen()
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).expand(2, 4, 8, 8)
    for difference, gain in ((torch.ones(2, 4, 8, 8), 0.5), (board, 2.0)):
        changed = prepared(
            (Option("frequencies", {"low": 0.5, "high": 2.0, "cutoff": 2}),),
            replace(given, positive=difference, negative=torch.zeros(2, 4, 8, 8)),
        )
        torch.testing.assert_close(changed.positive, gain * difference, rtol=1e-4, atol=1e-4)


def test_the_last_combination_decides_and_results_are_changed_in_order() -> None:
    """Two of RescaleCFG are the last; norms before and after a scaling differ."""
    given = seen()
    twice = (Option("rescaled", {"multiplier": 1.0}), Option("rescaled", {"multiplier": 0.2}))
    torch.testing.assert_close(combined(twice, given), steered("rescaled", given, multiplier=0.2))
    scaled, normed = Option("epsilon_scaled", {"factor": 1.4}), Option("normed", {"strength": 1.0})
    one, other = (finished(way, given, plain(given), ()) for way in ((scaled, normed), (normed, scaled)))
    assert not torch.allclose(one, other, atol=1e-2)


def test_guidance_by_worse_models_has_its_place_among_the_options() -> None:
    """What stands before it changes what it gets, what stands behind it what it gives."""
    given = seen()
    result = torch.ones(2, 4, 6, 6)
    halved, worse = Option("normed", {"strength": 0.5}), Option("perturbed-attention guidance", {"scale": 1.0})
    short = replace(given, positive=torch.full_like(result, 10.0))
    first = finished((halved, worse), short, result, [lambda found: found + 1])
    last = finished((worse, halved), short, result, [lambda found: found + 1])
    torch.testing.assert_close(first, torch.full_like(result, 1.5))
    torch.testing.assert_close(last, torch.full_like(result, 1.0))


def test_options_hold_wherever_guidance_happens() -> None:
    """In every guider: 7 divided by the scaling of the noise, worked out for each; unconditional predictions too."""
    halved = (Option("epsilon_scaled", {"factor": 2.0}),)
    model = Denoiser(Recorder(), stable_diffusion(), Epsilon(), options=halved)
    first, second, third = (entries(told(value)) for value in (9.0, 4.0, 1.0))

    def mean(guidance: Guidance) -> float:
        return float(guidance.denoised.mean())

    assert mean(CfgGuider.between(model, first, second, 3.0).look(LATENT, SIGMA)) == (4 + 3 * 5) / 2
    assert mean(CfgGuider.between(model, first, (), 1.0).look(LATENT, SIGMA)) == 4.5
    dual = DualCfgGuider.between(model, first, second, third, 2.0, 3.0)
    assert mean(dual.look(LATENT, SIGMA)) == (1 + 3 * 3) / 2 + 2 * 5
    nested = DualCfgGuider.between(model, first, second, third, 2.0, 3.0, nested=True)
    assert mean(nested.look(LATENT, SIGMA)) == 1 + 3 * ((4 + 2 * 5) / 2 - 1)
    perpendicular = PerpNegGuider.between(model, first, second, third, 2.0, 1.0)
    assert mean(perpendicular.look(LATENT, SIGMA)) == pytest.approx((1 + 2 * 8) / 2)


def test_a_third_side_travels_with_the_model() -> None:
    """PerpNeg as an option of the model gives what its guider gives; a negative side that is left out counts as zeros."""
    empty: list[list[Any]] = [[torch.full((1, 77, 8), 0.7), {"strength": 1.0}]]
    model = perp_neg(MODEL_REF, empty, 1.5)
    steered_model = replace(MODEL, options=options_of(model))
    sides = {"positive": POSITIVE, "negative": NEGATIVE, "empty": empty}
    recipe = custom.guider("perp_neg", MODEL_REF, sides, scale=3.0, negative_scale=1.5)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([2.0, 2.0])
    as_option = sample.cfg_guider(steered_model, POSITIVE, NEGATIVE, 3.0, EMPTY["samples"])
    as_guider = custom.make_guider(recipe, MODEL, EMPTY["samples"])
    torch.testing.assert_close(as_option.look(x, sigma).denoised, as_guider.look(x, sigma).denoised)
    alone = sample.cfg_guider(steered_model, POSITIVE, NEGATIVE, 1.0, EMPTY["samples"]).look(x, sigma)
    positive, blank = (
        sample.cfg_guider(MODEL, side, [], 1.0, EMPTY["samples"]).look(x, sigma).denoised for side in (POSITIVE, empty)
    )
    share = np.linalg.lstsq((positive - blank).reshape(-1, 1).numpy(), -blank.reshape(-1).numpy(), rcond=None)[0]
    perpendicular = -blank - float(share[0]) * (positive - blank)
    torch.testing.assert_close(alone.denoised, positive - 1.5 * perpendicular, rtol=1e-4, atol=1e-4)


def test_guidance_with_a_memory_goes_on_with_the_same_bits() -> None:
    """APG's momentum is part of the state: a run cut anywhere ends as it would have."""
    momentum = Option("projected", {"eta": 0.5, "norm_threshold": 2.0, "momentum": -0.75})
    model = replace(MODEL, options=(momentum,))
    states: list[State] = []

    def run(**extra: Any) -> Tensor:
        found: Tensor = sample.sample_latent(
            model, SETTINGS, POSITIVE, NEGATIVE, EMPTY, callbacks=sample.Callbacks(**extra)
        )["samples"]
        return found

    whole = run(save=states.append)
    assert states[2].memory
    for state in states:
        assert torch.equal(run(resume=from_bytes(to_bytes(state))), whole)
    assert not torch.equal(run(resume=replace(states[2], memory={})), whole)


def test_every_option_has_one_place() -> None:
    """Before, in the middle or after; a name is in one of them."""
    names = [*steering.BEFORE, *steering.COMBINE, *steering.AFTER]
    assert len(names) == len(set(names)) == 10
