"""Prompts combined, placed in the picture and in time: what the nodes say, and what sampling makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import conditioning as conditioning_nodes
from nodes import text as text_nodes
from nodes.diffusion import entries
from nodes.diffusion.areas import Area
from nodes.diffusion.conditioning import Entry, resolve
from nodes.diffusion.schedules import stable_diffusion
from tests.nodes.contexts import context, demo

LATENT = torch.zeros(1, 4, 16, 16)


def told(*tokens: float, **options: Any) -> list[Any]:
    """A prompt of one entry, whose tokens are pairs of equal numbers."""
    return [[torch.tensor(tokens).view(1, -1, 1).repeat(1, 1, 2), options]]


def silent(message: str) -> None:
    raise AssertionError(f"nothing was to be said: {message}")


def resolved(conditioning: list[Any]) -> Entry:
    (entry,) = resolve(conditioning, LATENT, stable_diffusion())
    return entry


def numbers(conditioning: list[Any], index: int = 0) -> list[float]:
    """The first number of every token."""
    embedding: Tensor = conditioning[index][0]
    return [float(number) for number in embedding[0, :, 0]]


def test_combine_keeps_the_entries_of_both() -> None:
    both = conditioning_nodes.conditioning_combine(told(1.0), told(2.0, strength=3.0))
    assert [numbers(both, 0), numbers(both, 1)] == [[1.0], [2.0]]
    assert both[1][1] == {"strength": 3.0}


def test_concat_puts_the_first_entry_behind_every_entry() -> None:
    """The options stay those of the first prompt; that more entries came is said."""
    said: list[str] = []
    to = [*told(1.0, 2.0, strength=2.0), *told(7.0)]
    joined = entries.concatenated(to, [*told(3.0), *told(4.0)], said.append)
    assert [numbers(joined, 0), numbers(joined, 1)] == [[1.0, 2.0, 3.0], [7.0, 3.0]]
    assert joined[0][1] == {"strength": 2.0}
    assert "found 2" in said[0]


def test_average_cuts_or_fills_up_to_the_first_prompts_tokens() -> None:
    """0.25 of the one and 0.75 of the other; tokens that the other lacks count as zeros, those beyond do not count."""
    mixed = entries.averaged(told(4.0, 8.0), told(2.0), 0.25, silent)
    assert numbers(mixed) == [0.25 * 4 + 0.75 * 2, 0.25 * 8]
    assert numbers(entries.averaged(told(4.0), told(2.0, 100.0), 0.25, silent)) == [2.5]


def test_average_mixes_pooled_outputs() -> None:
    """Alike where both have one; where the first prompt has none it gets the other's."""
    one, other = torch.tensor([[4.0]]), torch.tensor([[2.0]])
    mixed = entries.averaged(told(0.0, pooled_output=one), told(0.0, pooled_output=other), 0.25, silent)
    assert mixed[0][1]["pooled_output"].tolist() == [[2.5]]
    taken = entries.averaged(told(0.0), told(0.0, pooled_output=other), 0.25, silent)
    assert taken[0][1]["pooled_output"].tolist() == [[2.0]]
    kept = entries.averaged(told(0.0, pooled_output=one), told(0.0), 0.25, silent)
    assert kept[0][1]["pooled_output"].tolist() == [[4.0]]


def test_a_batch_of_prompts_goes_with_a_single_one() -> None:
    batch = [[torch.tensor([1.0, 3.0]).view(2, 1, 1), {}]]
    single = [[torch.tensor([5.0]).view(1, 1, 1), {}]]
    joined = entries.concatenated(batch, single, silent)[0][0]
    assert joined.flatten(1).tolist() == [[1.0, 5.0], [3.0, 5.0]]
    mixed = entries.averaged(single, batch, 0.5, silent)[0][0]
    assert mixed.flatten().tolist() == [3.0, 4.0]


@pytest.mark.parametrize("join", [entries.concatenated, lambda a, b, warn: entries.averaged(a, b, 0.5, warn)])
def test_prompts_that_do_not_go_together_are_refused(join: Any) -> None:
    """No entries, and embeddings of another model."""
    with pytest.raises(InputError, match="found a conditioning without entries"):
        join(told(1.0), [], silent)
    other_model = [[torch.zeros(1, 1, 3), {}]]
    with pytest.raises(InputError, match=r"2 numbers a token, found 3; .*same model"):
        join(told(1.0), other_model, silent)


def test_zero_out_leaves_the_shape_and_the_other_options() -> None:
    before = told(1.0, 2.0, pooled_output=torch.ones(1, 3), strength=2.0)
    zeros = conditioning_nodes.conditioning_zero_out(before)
    assert zeros[0][0].tolist() == [[[0.0, 0.0], [0.0, 0.0]]]
    assert zeros[0][1]["pooled_output"].tolist() == [[0.0, 0.0, 0.0]]
    assert zeros[0][1]["strength"] == 2.0
    assert numbers(before) == [1.0, 2.0]
    assert conditioning_nodes.conditioning_zero_out(told(1.0, pooled_output=None))[0][1] == {"pooled_output": None}


def test_an_area_in_pixels_is_a_rectangle_of_the_latent() -> None:
    """64 x 72 pixels at (16, 32), strength 2: cells of 8 pixels, (height, width, y, x). The mask bounds of before are gone."""
    placed = conditioning_nodes.conditioning_set_area(
        conditioning=told(1.0, set_area_to_bounds=True), width=64, height=72, x=16, y=32, strength=2.0
    )
    entry = resolved(placed)
    assert entry.area == Area(9, 8, 4, 2)
    assert entry.weight is not None
    assert float(entry.weight[0, 0, 4, 4]) == 2.0
    assert placed[0][1]["set_area_to_bounds"] is False


def test_an_area_outside_the_picture_is_refused_and_one_across_its_edge_is_cut() -> None:
    def at(x: int) -> list[Any]:
        return list(conditioning_nodes.conditioning_set_area(conditioning=told(1.0), width=64, height=64, x=x, y=0))

    assert resolved(at(120)).area == Area(8, 1, 0, 15)
    with pytest.raises(InputError, match=r"16 x 16 latent cells, found one that begins at cell \(16, 0\)"):
        resolved(at(128))


def test_an_area_in_fractions() -> None:
    placed = conditioning_nodes.conditioning_set_area_percentage(
        conditioning=told(1.0), width=0.5, height=0.25, x=0.5, y=0.75, strength=0.5
    )
    assert resolved(placed).area == Area(4, 8, 12, 8)
    assert placed[0][1]["strength"] == 0.5


def test_area_strength_changes_the_strength_alone() -> None:
    changed = conditioning_nodes.conditioning_set_area_strength(told(1.0, area=(8, 8, 0, 0), strength=1.0), 4.0)
    assert changed[0][1] == {"area": (8, 8, 0, 0), "strength": 4.0}


def test_a_mask_weighs_and_its_bounds_crop() -> None:
    mask = torch.zeros(16, 16)
    mask[:10, 4:14] = 1
    whole = conditioning_nodes.conditioning_set_mask(
        conditioning=told(1.0), mask=mask, strength=0.5, set_cond_area="default"
    )
    entry = resolved(whole)
    assert entry.area is None
    assert entry.weight is not None
    assert entry.weight.shape == (1, 1, 16, 16)
    assert entry.weight[0, 0, 0].tolist() == [0.0] * 4 + [0.5] * 10 + [0.0] * 2
    boxed = conditioning_nodes.conditioning_set_mask(conditioning=told(1.0), mask=mask, set_cond_area="mask bounds")
    assert resolved(boxed).area == Area(10, 10, 0, 4)


def test_a_mask_without_pixels_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected a mask with pixels, found one of shape \[1, 0, 4\]"):
        conditioning_nodes.conditioning_set_mask(
            conditioning=told(1.0), mask=torch.zeros(1, 0, 4), set_cond_area="default"
        )


def test_a_timestep_range_holds_between_its_noise_levels() -> None:
    """From 20 to 50 percent of an SD1 model: sigma 5.0924 down to 1.6156."""
    entry = resolved(conditioning_nodes.conditioning_set_timestep_range(told(1.0), 0.2, 0.5))
    assert [entry.active(sigma) for sigma in (5.1, 5.09, 1.62, 1.61)] == [False, True, True, False]


def test_nodes_change_nothing_they_are_given() -> None:
    options: dict[str, Any] = {"strength": 1.0}
    given: list[Any] = [[torch.ones(1, 1, 2), options]]
    conditioning_nodes.conditioning_set_area_strength(given, 2.0)
    entries.averaged(given, told(5.0, pooled_output=torch.ones(1, 1)), 0.5, silent)
    entries.concatenated(given, told(5.0), silent)
    assert given[0][0].tolist() == [[[1.0, 1.0]]]
    assert options == {"strength": 1.0}


def test_a_controlnet_is_told_a_prompt_of_its_own() -> None:
    """Beside what the model hears, which stays; what is given is not changed."""
    before = told(1, 2, strength=0.5)
    (entry,) = text_nodes.clip_text_encode_controlnet(
        context(), clip=demo("clip"), conditioning=before, text="a red circle"
    )
    ((states, options),) = text_nodes.clip_text_encode(context(), text="a red circle", clip=demo("clip"))
    assert torch.equal(entry[0], before[0][0])
    assert torch.equal(entry[1]["cross_attn_controlnet"], states)
    assert torch.equal(entry[1]["pooled_output_controlnet"], options["pooled_output"])
    assert (entry[1]["strength"], before[0][1]) == (0.5, {"strength": 0.5})
