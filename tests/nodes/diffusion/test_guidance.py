from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nodes.diffusion.areas import Area, bounds, faded
from nodes.diffusion.batching import groups, stretched
from nodes.diffusion.conditioning import Entry, at_sigma, for_batch, resolve
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.guidance import NOTHING, CfgGuider, Guidance, InpaintGuider, Memory, averaged, guided, latent_mask
from nodes.diffusion.predictions import Epsilon, Flow
from nodes.diffusion.schedules import BEYOND_NOISE, stable_diffusion
from nodes.diffusion.sides import match_areas, matched

LATENT = torch.zeros(1, 4, 16, 16)
SIGMA = torch.tensor([2.0])


@dataclass
class Recorder:
    """A network whose noise is minus half the mean of its context, so that at sigma 2 it predicts ``x`` plus that
    mean."""

    calls: list[tuple[tuple[int, ...], tuple[int, ...], Mapping[str, Tensor]]] = field(default_factory=list)

    def __call__(self, x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        self.calls.append((tuple(x.shape), tuple(context.shape), inputs))
        return -0.5 * context.mean(dim=(1, 2))[:, None, None, None].expand_as(x)


def denoiser(network: Recorder) -> Denoiser:
    return Denoiser(network, stable_diffusion(), Epsilon())


def told(value: float, *, tokens: int = 77, batch: int = 1, **options: Any) -> list[Any]:
    """A conditioning entry whose mean is ``value``."""
    return [torch.full((batch, tokens, 8), value), options]


def entries(*conditioning: list[Any], latent: Tensor = LATENT) -> tuple[Entry, ...]:
    return resolve(list(conditioning), latent, stable_diffusion())


def predicted(positive: tuple[Entry, ...], negative: tuple[Entry, ...] = (), scale: float = 1.0) -> Tensor:
    return CfgGuider.between(denoiser(Recorder()), positive, negative, scale).look(LATENT, SIGMA).denoised


def test_guidance_goes_beyond_the_positive_prediction() -> None:
    """At scale 7 the result is the negative prediction plus seven times the difference, in one call of the network."""
    network = Recorder()
    guider = CfgGuider.between(denoiser(network), entries(told(3.0)), entries(told(1.0)), 7.0)
    torch.testing.assert_close(guider.look(LATENT, SIGMA).denoised, torch.full_like(LATENT, 15.0))
    assert [call[0] for call in network.calls] == [(2, 4, 16, 16)]


def test_scale_one_skips_the_negative_side() -> None:
    """At scale 1 only the positive side goes through the network."""
    network = Recorder()
    guider = CfgGuider.between(denoiser(network), entries(told(3.0)), entries(told(1.0)), 1.0)
    torch.testing.assert_close(guider.look(LATENT, SIGMA).denoised, torch.full_like(LATENT, 3.0))
    assert [call[0] for call in network.calls] == [(1, 4, 16, 16)]


@given(st.floats(-20, 20), st.floats(-5, 5), st.floats(-5, 5))
def test_guided_is_linear(scale: float, positive: float, negative: float) -> None:
    """Guidance extrapolates on the line through both predictions."""
    result = float(
        guided(torch.tensor(positive, dtype=torch.float64), torch.tensor(negative, dtype=torch.float64), scale)
    )
    assert result == pytest.approx((1 - scale) * negative + scale * positive, abs=1e-9)


def test_combined_entries_are_averaged_by_strength() -> None:
    """Two entries of strengths 1 and 3 count one to three; equal ones are averaged plainly."""
    assert predicted(entries(told(1.0), told(5.0, strength=3.0)))[0, 0, 0, 0] == pytest.approx(4.0)
    assert predicted(entries(told(1.0), told(5.0)))[0, 0, 0, 0] == pytest.approx(3.0)


def test_area_is_cropped_and_the_rest_left_to_others() -> None:
    """The model sees only the area; outside of it the other entry alone counts, inside both do."""
    network = Recorder()
    positive = entries(told(1.0), told(3.0, area=(8, 8, 0, 0)))
    result = CfgGuider.between(denoiser(network), positive, (), 1.0).look(LATENT, SIGMA).denoised
    assert sorted(call[0] for call in network.calls) == [(1, 4, 8, 8), (1, 4, 16, 16)]
    assert result[0, 0, 0, 0] == pytest.approx(2.0)
    assert result[0, 0, 12, 12] == pytest.approx(1.0)
    # At the corner that lies inside the picture the area's weight is 1/2 * 1/2.
    assert result[0, 0, 7, 7] == pytest.approx((1 + 0.25 * 3) / 1.25)


def test_area_fades_at_inner_edges_only() -> None:
    """Over a quarter of its size an area fades in, but not at the border of the picture."""
    weight = faded(Area(8, 8, 0, 4), 16, 16)
    assert weight[0].tolist() == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    assert weight[:, 4].tolist() == [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    assert faded(Area(64, 64, 8, 0), 80, 64)[:10, 0].tolist() == [i / 8 for i in range(1, 9)] + [1.0, 1.0]


def test_percentage_area_is_rounded_and_never_empty() -> None:
    """Fractions of the latent become cells; a vanishing fraction becomes one cell."""
    areas = [
        entries(told(1.0, area=("percentage", 0.5, 0.3, 0.25, 0.6)))[0].area,
        entries(told(1.0, area=("percentage", 0.0, 0.0, 0.0, 1.0)))[0].area,
    ]
    assert areas == [Area(8, 5, 4, 10), Area(1, 1, 0, 15)]


def test_area_beyond_the_picture_is_cut() -> None:
    """An area made for a larger latent covers what there is of it."""
    assert entries(told(1.0, area=(12, 12, 8, 8)))[0].area == Area(8, 8, 8, 8)


def test_mask_weighs_pixel_by_pixel() -> None:
    """A mask of another size is resized; its strength and the entry's multiply; where no entry has weight the result is
    0."""
    mask = torch.zeros(1, 32, 32)
    mask[:, :, :16] = 1
    positive = entries(told(3.0, mask=mask, mask_strength=0.5, strength=2.0))
    assert positive[0].weight is not None
    assert positive[0].weight[0, 0, 0].tolist() == [1.0] * 8 + [0.0] * 8
    result = predicted(positive)
    assert (float(result[0, 0, 0, 0]), float(result[0, 0, 0, 15])) == (3.0, 0.0)


def test_mask_bounds_become_the_area() -> None:
    """With mask bounds the model sees the box around the mask, at least eight cells wide and high, without fading."""
    mask = torch.zeros(1, 16, 16)
    mask[:, 2:4, 1:13] = 1
    (entry,) = entries(told(1.0, mask=mask, set_area_to_bounds=True))
    assert entry.area == Area(8, 12, 2, 1)
    assert entry.weight is not None
    assert entry.weight.shape == (1, 1, 8, 12)
    assert float(entry.weight.sum()) == 24
    assert bounds(torch.zeros(1, 16, 16)) == Area(8, 8, 0, 0)


def test_timestep_range_holds_between_its_sigmas() -> None:
    """An entry for 20 to 50 percent of the way is active between the sigmas at those percents."""
    (entry,) = entries(told(1.0, start_percent=0.2, end_percent=0.5))
    assert [entry.active(s) for s in (14.6, 5.1, 5.0, 1.7, 1.6, 0.0)] == [False, False, True, True, False, False]
    (always,) = entries(told(1.0, start_percent=0.0, end_percent=1.0))
    assert always.active(BEYOND_NOISE)
    assert always.active(0.0)


def test_no_active_entry_predicts_nothing() -> None:
    """Where a side has no entry at this sigma its prediction is 0."""
    assert not predicted(entries(told(1.0, start_percent=0.9))).any()


def test_default_entry_fills_what_is_uncovered() -> None:
    """A default entry has the weight that the others leave, and is left out when they leave none."""
    mask = torch.zeros(1, 16, 16)
    mask[:, :, :8] = 0.75
    listed = entries(told(4.0, mask=mask), told(8.0, default=True))
    assert predicted(listed)[0, 0, 0, 0] == pytest.approx(5.0)
    assert predicted(listed)[0, 0, 0, 15] == pytest.approx(8.0)
    assert len(at_sigma(entries(told(4.0), told(8.0, default=True)), 2.0, LATENT)) == 1


def test_token_counts_are_repeated_to_a_common_multiple() -> None:
    """77 and 231 tokens go together as 231; 77 and 462 would need six repeats and go apart."""
    network = Recorder()
    CfgGuider.between(denoiser(network), entries(told(1.0)), entries(told(2.0, tokens=231)), 2.0).look(LATENT, SIGMA)
    assert [call[1] for call in network.calls] == [(2, 231, 8)]
    assert len(groups(entries(told(1.0), told(2.0, tokens=462)), LATENT)) == 2
    assert stretched(torch.tensor([[[1.0], [2.0]]]), 4).flatten().tolist() == [1, 2, 1, 2]


@given(st.lists(st.sampled_from([1, 2, 3, 4, 6, 77, 154]), min_size=1, max_size=8), st.integers(1, 4) | st.none())
def test_groups_cover_every_entry_once(tokens: list[int], most: int | None) -> None:
    """Whatever the token counts, each entry is in one group, whose tokens all of its members divide, within the
    limits."""
    listed = entries(*[told(0.0, tokens=t) for t in tokens])
    found = groups(listed, LATENT, most)
    assert sorted(i for group in found for i in group.members) == list(range(len(tokens)))
    for group in found:
        counts = [tokens[i] for i in group.members]
        assert all(group.tokens % count == 0 for count in counts)
        assert group.tokens <= 4 * min(counts)
        assert most is None or len(counts) <= most


def test_entries_with_other_inputs_go_apart() -> None:
    """Entries whose further inputs differ in shape are not batched; the inputs reach the network."""
    network = Recorder()
    context = torch.zeros(1, 77, 8)
    one, two = Entry(context, inputs={"y": torch.ones(1, 5)}), Entry(context, inputs={"y": torch.ones(1, 6)})
    CfgGuider(denoiser(network), (one,), (two,), 2.0).look(LATENT.expand(3, -1, -1, -1), SIGMA.expand(3))
    assert [call[2]["y"].shape for call in network.calls] == [(3, 5), (3, 6)]


def test_conditioning_is_repeated_over_the_batch() -> None:
    """Two prompts for a batch of five alternate; more prompts than latents are cut."""
    assert for_batch(torch.tensor([[1.0], [2.0]]), 5).flatten().tolist() == [1, 2, 1, 2, 1]
    assert for_batch(torch.tensor([[1.0], [2.0]]), 1).flatten().tolist() == [1]


def test_other_side_gets_the_same_crop() -> None:
    """An area on the positive side makes the negative side be asked for the same crop, with its closest entry's
    text."""
    wide, close = told(1.0), told(2.0, area=(12, 12, 0, 0))
    side = (replace(entries(told(9.0, area=(8, 8, 2, 2), strength=0.5))[0], name="positive.0"),)
    negative = match_areas(side, [replace(it, name=f"negative.{n}") for n, it in enumerate(entries(wide, close))])
    assert [entry.area for entry in negative] == [None, Area(12, 12, 0, 0), Area(8, 8, 2, 2)]
    assert float(negative[2].context.mean()) == 2.0
    assert [entry.name for entry in negative] == ["negative.0", "negative.1", "negative.1 over positive.0"]
    positive, negative = matched(entries(told(9.0, area=(8, 8, 2, 2))), entries(wide))
    assert (len(positive), len(negative)) == (1, 2)


def test_equal_areas_need_no_copy() -> None:
    """Where the other side has that very area already, nothing is added."""
    side = entries(told(1.0, area=(8, 8, 0, 0)))
    assert len(match_areas(side, entries(told(0.0), told(2.0, area=(8, 8, 0, 0))))) == 2


def test_average_of_outputs_is_weighted_pixel_by_pixel() -> None:
    """sum(w out) / sum(w), worked by hand in two pixels."""
    x = torch.zeros(1, 1, 1, 2)
    first = Entry(torch.zeros(1, 1, 1), weight=torch.tensor([[[[1.0, 0.25]]]]))
    second = Entry(torch.zeros(1, 1, 1), weight=torch.tensor([[[[1.0, 0.75]]]]))
    outputs = [torch.tensor([[[[2.0, 4.0]]]]), torch.tensor([[[[6.0, 8.0]]]])]
    assert averaged(x, [first, second], outputs).flatten().tolist() == [4.0, 7.0]


class Constant:
    """Predicts 5 everywhere and remembers what it saw."""

    seen: Tensor

    def look(self, x: Tensor, sigma: Tensor, memory: Memory = NOTHING, *, apart: bool = False) -> Guidance:
        self.seen = x
        return Guidance(torch.full_like(x, 5.0), torch.full_like(x, 2.0), {"passed": x})


@pytest.mark.parametrize(("prediction", "kept"), [(Epsilon(), 1.0 + 0.5 * 3.0), (Flow(), 0.5 * 1.0 + 0.5 * 3.0)])
def test_inpainting_keeps_what_is_not_masked(prediction: Epsilon | Flow, kept: float) -> None:
    """The model sees the kept part noised to the sample's level; the prediction there is the kept latent itself."""
    inner = Constant()
    mask = torch.tensor([[[[1.0, 0.0, 0.5]]]])
    guider = InpaintGuider(inner, mask, torch.full((1, 1, 1, 3), 1.0), torch.full((1, 1, 1, 3), 3.0), prediction)
    seen = guider.look(torch.full((1, 1, 1, 3), 10.0), torch.tensor([0.5]), apart=True)
    result = seen.denoised
    assert inner.seen.flatten().tolist() == pytest.approx([10.0, kept, (10 + kept) / 2])
    assert result.flatten().tolist() == pytest.approx([5.0, 1.0, 3.0])
    assert seen.unconditional.flatten().tolist() == [2.0, 2.0, 2.0]
    assert set(seen.memory) == {"passed"}


def test_the_unconditional_side_is_told_apart_where_it_is_asked_for() -> None:
    """Even at scale 1, where guidance does without it; without a negative side it is nothing."""
    network = Recorder()
    guider = CfgGuider.between(denoiser(network), entries(told(3.0)), entries(told(1.0)), 1.0)
    seen = guider.look(LATENT, SIGMA, apart=True)
    assert (float(seen.denoised.mean()), float(seen.unconditional.mean())) == (3.0, 1.0)
    assert [call[0] for call in network.calls] == [(2, 4, 16, 16)]
    alone = CfgGuider.between(denoiser(network), entries(told(3.0)), (), 1.0).look(LATENT, SIGMA, apart=True)
    assert not alone.unconditional.any()


def test_noise_mask_is_resized_and_repeated() -> None:
    """Masks of any leading shape and size fit a batch of latents."""
    mask = torch.zeros(2, 32, 32)
    mask[1] = 1
    fitted = latent_mask(mask, torch.zeros(3, 4, 4, 4))
    assert fitted.shape == (3, 1, 4, 4)
    assert fitted.mean(dim=(1, 2, 3)).tolist() == [0.0, 1.0, 0.0]
    assert latent_mask(torch.ones(8, 8), torch.zeros(2, 4, 4, 4)).shape == (2, 1, 4, 4)
