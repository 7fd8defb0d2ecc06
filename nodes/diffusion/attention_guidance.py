"""Guidance by what a network says without a part of its attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

from engine.errors import InputError
from nodes.diffusion.alterations import Altered, Arguments, Moment, Wiring, altered, is_within
from nodes.diffusion.perturbations import Look, Notes
from nodes.diffusion.schedules import ModelSigmas
from nodes.diffusion.unet_blocks import self_attentions

_BLUR: Final = 9
"""Cells of the kernel that blurs."""

_MUCH: Final = 1.0
"""How much attention a cell must get in all to be blurred: as much as if all were looked at alike."""


class _OwnValues:
    """Attention in which every token sees itself alone."""

    def __call__(self, attention: Any, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        values: Tensor = attention.to_v(hidden_states)
        for layer in attention.to_out:
            values = layer(values)
        return values


class OwnValues:
    """The self attention in the middle of a UNet with the identity for its map (Ahn et al. 2024, section 4.2)."""

    def install(self, wiring: Wiring, moment: Moment) -> None:
        for attention in self_attentions(wiring.network.mid_block):
            wiring.replace_processor(attention, _OwnValues())


@dataclass(frozen=True, slots=True, eq=False)
class PerturbedAttention:
    """Ahn et al. 2024, "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance", eq. 15: away from what the UNet says
    when its middle does not look around; ``scale`` 0..100."""

    needs_negative: ClassVar[bool] = False
    perturbed: Altered
    scale: float

    def on_negative(self, notes: Notes, sigma: float, schedule: ModelSigmas) -> Altered | None:
        return None

    def steered(self, result: Tensor, look: Look) -> Tensor:
        return result + self.scale * (look.toward - look.again("positive", look.x, (self.perturbed,)))


@dataclass(frozen=True, slots=True)
class Attended:
    """Notes how much attention each token of the middle gets in its first self attention: [B,T], the mean of the heads."""

    notes: Notes

    def install(self, wiring: Wiring, moment: Moment) -> None:
        attention = self_attentions(wiring.network.mid_block)[0]

        def note(tokens: Tensor) -> Tensor:
            query, key = (attention.head_to_batch_dim(layer(tokens)) for layer in (attention.to_q, attention.to_k))
            weights: Tensor = attention.get_attention_scores(query, key)
            heads = weights.unflatten(0, (len(tokens), attention.heads))
            self.notes.append(heads.float().mean(1).sum(1))
            return tokens

        wiring.before(attention, note)


def blurred(latent: Tensor, sigma: float) -> Tensor:
    """``latent`` [B,C,h,w] under a Gaussian of deviation ``sigma`` cells, 9 of them wide; reflected at the borders."""
    if sigma == 0:
        return latent
    places = torch.arange(_BLUR, device=latent.device, dtype=latent.dtype) - _BLUR // 2
    bell = torch.exp(-0.5 * (places / sigma) ** 2)
    bell = bell / bell.sum()
    planes = pad(latent, (_BLUR // 2,) * 4, mode="reflect").flatten(0, 1)[:, None]
    smooth = conv2d(conv2d(planes, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))
    return smooth.view_as(latent)


def rows_of(tokens: int, height: int, width: int) -> int:
    """The rows of a grid of so many tokens that has about the aspect of ``height`` x ``width``."""
    ideal = round((height / width * tokens) ** 0.5)
    return min((n for n in range(1, tokens + 1) if tokens % n == 0), key=lambda n: (abs(n - ideal), -n))


def blurred_where_attended(latent: Tensor, attention: Tensor, sigma: float) -> Tensor:
    """``latent`` [B,C,h,w] blurred where ``attention`` [B,T], all that the tokens of a coarser grid get, is more than 1."""
    height, width = latent.shape[-2:]
    grid = (attention > _MUCH).unflatten(1, (rows_of(attention.shape[1], height, width), -1))
    mask = interpolate(grid[:, None].to(latent.dtype), (height, width))
    return blurred(latent, sigma) * mask + latent * (1 - mask)


@dataclass(frozen=True, slots=True, eq=False)
class SelfAttention:
    """Hong et al. 2023, "Improving Sample Quality of Diffusion Models Using Self-Attention Guidance", alg. 1: away from what the
    network says where what it looks at most is blurred. ``scale`` -2..5; ``blur`` is the deviation, 0..10 cells.
    """

    needs_negative: ClassVar[bool] = True
    noting: Callable[[Notes], Altered]
    scale: float
    blur: float

    def on_negative(self, notes: Notes, sigma: float, schedule: ModelSigmas) -> Altered | None:
        return self.noting(notes)

    def steered(self, result: Tensor, look: Look) -> Tensor:
        if look.away is None:
            raise InputError(
                "expected a negative side for self-attention guidance, found none; use a guider with one", input="model"
            )
        if min(look.x.shape[-2:]) <= _BLUR // 2:
            return result  # there is too little to reflect
        degraded = blurred_where_attended(look.away, look.notes[0][: len(look.x)], self.blur)
        # the noise that was predicted stays
        seen = look.again("negative", degraded + look.x - look.away, ())
        return result + self.scale * (degraded - seen)


@dataclass(frozen=True, slots=True)
class SkippedLayers:
    """A transformer without some of its layers."""

    layers: tuple[int, ...]

    def install(self, wiring: Wiring, moment: Moment) -> None:
        def skipping(*args: Any, **kwargs: Any) -> Arguments:
            return args, {**kwargs, "skip_layers": list(self.layers)}

        wiring.rewire(wiring.network, skipping)


@dataclass(frozen=True, slots=True, eq=False)
class SkipLayers:
    """Skip-layer guidance, known from Stable Diffusion 3.5 medium: away from what the transformer says without some layers, between
    two parts of a run.

    With ``rescaling`` (0..10) the result is brought back, so far, to the deviation of the positive prediction.
    """

    needs_negative: ClassVar[bool] = False
    skipping: Altered
    scale: float
    start: float
    end: float
    rescaling: float

    def on_negative(self, notes: Notes, sigma: float, schedule: ModelSigmas) -> Altered | None:
        return None

    def steered(self, result: Tensor, look: Look) -> Tensor:
        if not is_within(look.sigma, look.schedule, self.start, self.end):
            return result
        result = result + self.scale * (look.toward - look.again("positive", look.x, (self.skipping,)))
        if self.rescaling == 0:
            return result
        return result * (self.rescaling * look.toward.std() / result.std() + 1 - self.rescaling)


@dataclass(frozen=True, slots=True, eq=False)
class SkipLayersOfNegative:
    """The negative side is predicted without some layers, between two parts of a run: no call more than usual."""

    needs_negative: ClassVar[bool] = False
    skipping: Altered
    start: float
    end: float

    def on_negative(self, notes: Notes, sigma: float, schedule: ModelSigmas) -> Altered | None:
        return self.skipping if is_within(sigma, schedule, self.start, self.end) else None

    def steered(self, result: Tensor, look: Look) -> Tensor:
        return result


def perturbed_attention(unet: nn.Module, scale: float) -> PerturbedAttention:
    _checked_middle(unet, "perturbed-attention guidance")
    return PerturbedAttention(altered(unet, OwnValues()), scale)


def self_attention(unet: nn.Module, scale: float, blur: float) -> SelfAttention:
    _checked_middle(unet, "self-attention guidance")
    return SelfAttention(lambda notes: altered(unet, Attended(notes)), scale, blur)


def skip_layers(
    transformer: nn.Module, layers: list[int], scale: float, start: float, end: float, rescaling: float
) -> SkipLayers:
    return SkipLayers(_skipping(transformer, layers), scale, start, end, rescaling)


def skip_layers_of_negative(
    transformer: nn.Module, layers: list[int], start: float, end: float
) -> SkipLayersOfNegative:
    return SkipLayersOfNegative(_skipping(transformer, layers), start, end)


def _checked_middle(unet: Any, name: str) -> None:
    if not self_attentions(unet.mid_block):
        raise InputError(
            f"expected a UNet with attention in its middle for {name}, found none there; sample this model without it",
            input="model",
        )


def _skipping(transformer: Any, layers: list[int]) -> Altered:
    """Without those of ``layers`` that there are: a number beyond the last one skips nothing, so that one list goes with small and large
    models."""
    count = len(transformer.transformer_blocks)
    return altered(transformer, SkippedLayers(tuple(layer for layer in layers if layer < count)))
