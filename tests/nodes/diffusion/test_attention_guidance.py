"""Guidance by worse models: what makes them worse, and where the prediction goes then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import InputError
from nodes.diffusion import networks
from nodes.diffusion.alterations import Altered, Moment, altered
from nodes.diffusion.attention_guidance import (
    Attended,
    OwnValues,
    PerturbedAttention,
    SelfAttention,
    SkipLayers,
    SkipLayersOfNegative,
    SkippedLayers,
    blurred,
    blurred_where_attended,
    perturbed_attention,
    rows_of,
    skip_layers,
)
from nodes.diffusion.configs import DiTConfig
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.guidance import CfgGuider
from nodes.diffusion.guiders import DualCfgGuider, PerpNegGuider
from nodes.diffusion.perturbations import Look, Notes, Perturbation, Side
from nodes.diffusion.predictions import Epsilon
from nodes.diffusion.schedules import FlowSchedule, stable_diffusion
from tests.nodes.diffusion.test_alterations import SCHEDULE, attention_block, run, unet
from tests.nodes.diffusion.test_guidance import LATENT, SIGMA, entries, told

MOMENT = Moment(1.0, 4, 4, SCHEDULE)


@contextmanager
def nothing(_moment: Moment) -> Iterator[None]:
    yield


def within(block: Any, alteration: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """The self attention of a transformer block in the middle of something."""
    network = SimpleNamespace(mid_block=block)
    with torch.no_grad(), altered(network, alteration)(MOMENT):  # type: ignore[arg-type]
        found: Tensor = block[0].attn1(tokens, encoder_hidden_states=None, attention_mask=mask)
    return found


class _Unchanged:
    def install(self, hooks: Any, moment: Moment) -> None: ...


def test_the_identity_as_a_map_lets_every_token_see_itself_alone() -> None:
    """As attention does whose mask lets nothing else through."""
    block, tokens = attention_block(), torch.randn(2, 16, 8)
    mask = torch.full((16, 16), -torch.inf).fill_diagonal_(0.0)[None].expand(2, -1, -1)
    found = within(block, OwnValues(), tokens)
    torch.testing.assert_close(found, within(block, _Unchanged(), tokens, mask))
    assert not torch.allclose(found, within(block, _Unchanged(), tokens))


def test_only_the_middle_of_the_unet_is_perturbed() -> None:
    network = unet()
    own = {name: child.processor for name, child in network.named_modules() if hasattr(child, "processor")}
    with altered(network, OwnValues())(MOMENT):
        changed = [name for name, processor in own.items() if network.get_submodule(name).processor is not processor]
    assert changed == ["mid_block.attentions.0.transformer_blocks.0.attn1"]
    assert all(network.get_submodule(name).processor is processor for name, processor in own.items())
    assert not torch.allclose(run(network, OwnValues()), run(network), atol=1e-4)


def test_attention_is_noted_token_by_token() -> None:
    """What each token gets of all the others, head by head, from the definition; the block's output stays."""
    block, tokens = attention_block(), torch.randn(2, 16, 8)
    notes: Notes = []
    assert torch.equal(within(block, Attended(notes), tokens), within(block, _Unchanged(), tokens))
    attention = block[0].attn1
    for sample, noted in zip(tokens, notes[0], strict=True):
        total = torch.zeros(16)
        for head in (slice(0, 4), slice(4, 8)):
            query, key = (sample @ layer.weight[head].T for layer in (attention.to_q, attention.to_k))
            total += (query @ key.T / math.sqrt(4)).softmax(-1).sum(0) / 2
        torch.testing.assert_close(noted, total.detach())


def test_blur_is_a_gaussian_that_reflects_the_borders() -> None:
    latent = torch.randn(1, 2, 6, 7)
    weights = [math.exp(-((place / 1.5) ** 2) / 2) for place in range(-4, 5)]
    total = sum(weights) ** 2

    def at(row: int, column: int) -> Tensor:
        row, column = abs(row), abs(column)
        return latent[0, :, 5 - abs(5 - row), 6 - abs(6 - column)]

    found = blurred(latent, 1.5)
    for row, column in ((0, 0), (3, 3), (5, 6), (2, 5)):
        expected = sum(
            at(row + down, column + across) * weights[down + 4] * weights[across + 4] / total
            for down in range(-4, 5)
            for across in range(-4, 5)
        )
        torch.testing.assert_close(found[0, :, row, column], expected)
    assert torch.equal(blurred(latent, 0.0), latent)


@pytest.mark.parametrize(
    ("tokens", "height", "width", "rows"), [(64, 64, 64, 8), (96, 64, 96, 8), (96, 96, 64, 12), (35, 11, 14, 5), (7, 16, 16, 1)]
)  # fmt: skip
def test_the_grid_of_tokens_has_the_aspect_of_the_latent(tokens: int, height: int, width: int, rows: int) -> None:
    assert rows_of(tokens, height, width) == rows


def test_only_what_is_attended_much_is_blurred() -> None:
    """Four tokens, the second of them gets more than 1: the upper right quarter."""
    latent = torch.randn(1, 3, 8, 8)
    found = blurred_where_attended(latent, torch.tensor([[0.9, 2.0, 1.0, 0.1]]), 2.0)
    expected = latent.clone()
    expected[..., :4, 4:] = blurred(latent, 2.0)[..., :4, 4:]
    assert torch.equal(found, expected)


def look(again: Any, sigma: float = 0.5, away: Tensor | None = None, notes: Notes | None = None) -> Look:
    """At x = 3, with a positive prediction of 1."""
    x = torch.full((1, 1, 8, 8), 3.0)
    return Look(x, sigma, FlowSchedule(1.0), torch.ones_like(x), away, again, notes or [])


def test_perturbed_attention_goes_away_from_the_perturbed_prediction() -> None:
    """5 + 3 (1 - 0.25) is 7.25."""

    def again(side: Side, x: Tensor, changes: tuple[Altered, ...]) -> Tensor:
        assert (side, changes) == ("positive", (nothing,))
        return torch.full_like(x, 0.25)

    kind = PerturbedAttention(nothing, 3.0)
    assert torch.equal(kind.steered(torch.full((1, 1, 8, 8), 5.0), look(again)), torch.full((1, 1, 8, 8), 7.25))


def test_self_attention_guidance_goes_away_from_the_degraded_prediction() -> None:
    """Nowhere much attention: the sample is not degraded, and the network is asked at x itself; all: at x - x0 + blurred x0."""
    away = torch.randn(1, 1, 8, 8)
    asked: list[Tensor] = []

    def again(side: Side, x: Tensor, changes: tuple[Altered, ...]) -> Tensor:
        assert (side, changes) == ("negative", ())
        asked.append(x)
        return torch.full_like(x, 0.25)

    kind = SelfAttention(lambda notes: nothing, 0.5, 2.0)
    for level, degraded in ((0.0, away), (2.0, blurred(away, 2.0))):
        seen = look(again, away=away, notes=[torch.full((2, 16), level)])
        result = kind.steered(torch.full_like(away, 5.0), seen)
        torch.testing.assert_close(asked[-1], 3.0 + degraded - away)
        torch.testing.assert_close(result, 5.0 + 0.5 * (degraded - 0.25))
    with pytest.raises(InputError, match="expected a negative side for self-attention guidance"):
        kind.steered(away, look(again))


def test_skip_layer_guidance_has_its_time_and_brings_deviations_back() -> None:
    """With a shift of 1 the sigma of a percent p is 1 - p: 0.1..0.4 is active at 0.9..0.6."""
    x = torch.randn(1, 1, 8, 8)

    def again(side: Side, x: Tensor, changes: tuple[Altered, ...]) -> Tensor:
        assert (side, changes) == ("positive", (nothing,))
        return x * 0 + 0.5

    kind = SkipLayers(nothing, 2.0, 0.1, 0.4, 0.0)
    assert torch.equal(kind.steered(x, look(again, 0.7)), x + 1)
    assert kind.steered(x, look(again, 0.95)) is x
    assert kind.steered(x, look(again, 0.55)) is x
    toward = torch.randn(1, 1, 8, 8) * 4
    seen = replace(look(again, 0.7), toward=toward)
    guided = x + 2 * (toward - 0.5)
    factor = 0.75 * float(toward.std()) / float(guided.std()) + 0.25
    torch.testing.assert_close(replace(kind, rescaling=0.75).steered(x, seen), guided * factor)


def test_skipped_layers_are_as_if_they_were_not_there() -> None:
    config = DiTConfig(channels=4, patch=2, layers=4, heads=1, head_width=16, context_dim=8, pooled_dim=8, positions=8)

    def transformer() -> Any:
        module = networks.build(config)
        draw = torch.Generator().manual_seed(0)
        shapes = networks.wanted_shapes(module).items()
        networks.assign(module, [(name, torch.randn(shape, generator=draw) * 0.3) for name, shape in shapes])
        return module

    inputs = {
        "hidden_states": torch.randn(1, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 3, 8),
        "pooled_projections": torch.randn(1, 8),
        "timestep": torch.tensor([500.0]),
        "return_dict": False,
    }
    whole, cut = transformer(), transformer()
    cut.transformer_blocks = nn.ModuleList([cut.transformer_blocks[0], cut.transformer_blocks[3]])
    with torch.no_grad():
        plain = whole(**inputs)[0]
        with altered(whole, SkippedLayers((1, 2)))(MOMENT):
            found = whole(**inputs)[0]
        torch.testing.assert_close(found, cut(**inputs)[0])
        assert torch.equal(whole(**inputs)[0], plain)
    assert not torch.allclose(found, plain, atol=1e-3)
    with torch.no_grad(), skip_layers(whole, [1, 2, 4, 9], 1.0, 0.0, 1.0, 0.0).skipping(MOMENT):
        torch.testing.assert_close(whole(**inputs)[0], found)  # there are no layers 4 and 9


def test_a_middle_without_attention_is_refused() -> None:
    with pytest.raises(InputError, match="expected a UNet with attention in its middle for perturbed-attention"):
        perturbed_attention(unet(None), 1.0)


@dataclass
class Worsening:
    """A network that predicts (at sigma 2) ``x`` plus the mean of its context, or ten times that while it is worse."""

    factor: float = 1.0
    calls: list[tuple[int, float]] = field(default_factory=list)
    """Batch and factor of each."""

    def __call__(self, x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        self.calls.append((len(x), self.factor))
        return -0.5 * self.factor * context.mean(dim=(1, 2))[:, None, None, None].expand_as(x)

    @contextmanager
    def worse(self, _moment: Moment) -> Iterator[None]:
        self.factor = 10.0
        yield
        self.factor = 1.0


def denoiser(network: Worsening, *kinds: Perturbation) -> Denoiser:
    return Denoiser(network, stable_diffusion(), Epsilon(), perturbations=kinds)


ONE, TWO, THREE = (entries(told(value)) for value in (1.0, 2.0, 3.0))


def shown(guider: Any) -> float:
    found: Tensor = guider.look(LATENT, SIGMA).denoised
    assert (found == found.flatten()[0]).all()
    return float(found.flatten()[0])


def test_further_guidance_comes_after_the_classifier_free_one() -> None:
    """1 + 2 (2 - 1) is 3, and then twice 2 - 20; without a negative 2 and the same. Kinds add up."""
    network = Worsening()
    kind = PerturbedAttention(network.worse, 2.0)
    assert shown(CfgGuider(denoiser(network, kind), TWO, ONE, 2.0)) == 3 - 36
    assert network.calls == [(2, 1.0), (1, 10.0)]
    assert shown(CfgGuider(denoiser(network, kind, kind), TWO, ONE, 1.0)) == 2 - 72
    assert shown(CfgGuider(denoiser(network), TWO, ONE, 2.0)) == 3


def test_the_negative_side_alone_may_be_predicted_by_less() -> None:
    """10 + 2 (2 - 10) is -6 while it is; two negative entries are averaged."""
    network = Worsening()
    kind = SkipLayersOfNegative(network.worse, 0.0, 1.0)
    assert shown(CfgGuider(denoiser(network, kind), TWO, ONE, 2.0)) == -6
    assert shown(CfgGuider(denoiser(network, kind), TWO, (*ONE, *THREE), 2.0)) == 20 + 2 * (2 - 20)
    assert shown(CfgGuider(denoiser(network, replace(kind, start=0.9)), TWO, ONE, 2.0)) == 3
    assert shown(CfgGuider(denoiser(network, kind), TWO, ONE, 1.0)) == 2


def test_a_kind_that_needs_the_negative_side_gets_it_at_a_scale_of_1() -> None:
    """Nothing is blurred and the network says the same again: 2 + 1/2 (1 - 1)."""

    class Noting(Worsening):
        def noting(self, notes: Notes) -> Altered:
            notes.append(torch.zeros(1, 16))
            return nothing

    network = Noting()
    kind = SelfAttention(network.noting, 0.5, 2.0)
    assert shown(CfgGuider(denoiser(network, kind), TWO, ONE, 1.0)) == 2
    assert network.calls == [(1, 1.0)] * 3


def test_guiders_of_three_sides_are_guided_further_too() -> None:
    """The pair that is guided by the scale beside them: second and negative, nested first and second; positive and negative."""
    network = Worsening()
    kind = PerturbedAttention(network.worse, 1.0)
    sides = ONE, TWO, THREE
    plain = [
        DualCfgGuider(denoiser(network), *sides, 2.0, 3.0, nested) for nested in (False, True)
    ]  # fmt: skip
    steered = [replace(guider, denoiser=denoiser(network, kind)) for guider in plain]
    assert shown(steered[0]) == shown(plain[0]) + 2 - 20
    assert shown(steered[1]) == pytest.approx(shown(plain[1]) + 3.0 * (1 - 10))
    alone = replace(steered[0], inner=1.0, outer=1.0)
    assert shown(alone) == 1 + 2 - 20
    perp = PerpNegGuider(denoiser(network), TWO, ONE, THREE, 2.0, 1.0)
    assert shown(replace(perp, denoiser=denoiser(network, kind))) == pytest.approx(shown(perp) + 2 - 20)
