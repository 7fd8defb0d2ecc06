"""Cross attention that looks at pictures beside the text (Ye et al. 2023, "IP-Adapter", eq. 5): ``softmax(Q K') V'`` is added to what the
text gives, with keys and values that layers of an adapter's own make of the picture's tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, linear, scaled_dot_product_attention

from nodes.diffusion.alterations import Altered, Arguments, Moment, Wiring, altered
from nodes.diffusion.attention_guidance import rows_of
from nodes.diffusion.conditioning import InputsOf, Surroundings
from nodes.diffusion.ip_adapter import AdapterFile, open_adapter
from nodes.diffusion.ip_prompts import SCALINGS, ImagePrompt, prompts_of
from nodes.diffusion.unet_blocks import CrossAttention, cross_attentions

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

_SAMPLES: Final = "image_prompt_samples"
"""An input of the network [B,4]: side (0 positive, 1 negative), number in the batch, height and width of the whole latent."""
_CELLS: Final = "image_prompt_cells"
"""An input of the network [B,2,h,w]: row and column of each cell in the whole latent. It is cut to an entry's area as the latent is."""

_FULL_WIDTH: Final = 1280
"""The widest attention, for scalings with a penalty on narrower ones."""


def image_prompts(unet: LoadedModel) -> tuple[Altered, ...]:
    """The change of a leased UNet by the pictures of its recipe; nothing where it has none."""
    found = [Sight(open_adapter(location), prompt) for location, prompt in prompts_of(unet.ref)]
    return (altered(unet.module, ImagePrompts(found)),) if found else ()


def telling_samples(inputs_of: InputsOf) -> InputsOf:
    """``inputs_of``, and which side, which sample and which cells of it the network is asked for."""

    def inputs(options: Mapping[str, Any], around: Surroundings) -> Mapping[str, Tensor]:
        count, _, height, width = around.latent.shape
        rows, columns = torch.arange(height, dtype=torch.int16), torch.arange(width, dtype=torch.int16)
        cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
        numbers = [[int(around.is_negative), sample, height, width] for sample in range(count)]
        return {**inputs_of(options, around), _CELLS: cells, _SAMPLES: torch.tensor(numbers)}

    return inputs


@dataclass(slots=True, eq=False)
class Sight:
    """A picture as the attentions see it: their keys and values of it, made when they are first asked for."""

    adapter: AdapterFile
    prompt: ImagePrompt
    _known: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    _weights: dict[int, Tensor] = field(default_factory=dict)
    _mask: Tensor | None = None

    def keys_and_values(self, at: CrossAttention, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [2,n,T,C] for the positive and the negative side, beside ``like`` and in its dtype."""
        place = at.number, at.transformer
        if place not in self._known:
            weights = self.adapter.layer(at.number, like.device, like.dtype)
            tokens = self._tokens(at.transformer).to(like.device, like.dtype)
            key, value = (linear(tokens, weight) for weight in weights)
            if at.transformer in self.prompt.reversed:
                key, value = (torch.stack([torch.zeros_like(it[0]), it[0]]) for it in (key, value))
            self._known[place] = key, value
        return self._known[place]

    def _tokens(self, transformer: int) -> Tensor:
        toward = self.prompt.others.get(transformer, self.prompt.toward)
        count = max(len(toward), len(self.prompt.away))
        return torch.stack([filled(toward, count), filled(self.prompt.away, count)])

    def is_seen(self, transformer: int) -> bool:
        return any(self.prompt.weights[transformer])

    def weight(self, transformer: int, samples: Tensor, like: Tensor) -> float | Tensor:
        """The weight of a transformer: one for all samples, or of each by its number in the batch, [B,1,1]."""
        given = self.prompt.weights[transformer]
        if len(given) == 1:
            return given[0]
        if transformer not in self._weights:
            self._weights[transformer] = torch.tensor(given, dtype=like.dtype, device=like.device)
        return self._weights[transformer][samples.clamp(max=len(given) - 1)][:, None, None]

    def mask(self, like: Tensor) -> Tensor:
        """The prompt's mask, float32 [m,h,w] beside ``like``; it stays there."""
        assert self.prompt.mask is not None
        if self._mask is None:
            self._mask = self.prompt.mask.to(like.device, torch.float32)
        return self._mask


def filled(value: Tensor, count: int) -> Tensor:
    """``value`` [n,...] with its last sample repeated, or cut, to ``count``."""
    more = count - len(value)
    return torch.cat([value, value[-1:].expand(more, *value.shape[1:])]) if more > 0 else value[:count]


@dataclass(slots=True, eq=False)
class Asked:
    """What one call of the network is for, as it was told."""

    height: int
    width: int
    negative: Tensor
    """[B], 1 on the negative side."""
    sample: Tensor
    """[B], numbers in the batch."""
    origin: Tensor
    """[B,2], row and column of the first cell."""
    whole: Tensor
    """[B,2], height and width of the whole latent."""
    _masks: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, x: Tensor, samples: Tensor, cells: Tensor) -> Asked:
        height, width = x.shape[-2:]
        return cls(height, width, samples[:, 0], samples[:, 1], cells[:, :, 0, 0].float(), samples[:, 2:].float())

    def over(self, sight: Sight, tokens: int) -> Tensor:
        """The mask of a picture for attention of so many tokens, float32 [B,tokens,1]."""
        grid = grid_of(tokens, self.height, self.width)
        place = id(sight), *grid
        if place not in self._masks:
            self._masks[place] = self._sampled(sight.mask(self.origin), grid).flatten(1)[..., None]
        return self._masks[place]

    def _sampled(self, mask: Tensor, grid: tuple[int, int]) -> Tensor:
        """``mask`` [m,h,w] bicubic at the middles of the cells of ``grid`` laid over what is asked for, [B,h,w]."""
        places = [
            (self.origin[:, axis, None] + (torch.arange(count, device=self.origin.device) + 0.5) * side / count)
            / self.whole[:, axis, None] * 2 - 1
            for axis, (count, side) in enumerate(zip(grid, (self.height, self.width), strict=True))
        ]  # fmt: skip
        rows, columns = places[0][:, :, None].expand(-1, *grid), places[1][:, None].expand(-1, *grid)
        masks = mask[self.sample.clamp(max=len(mask) - 1)][:, None]
        at = torch.stack([columns, rows], -1)
        return grid_sample(masks, at, "bicubic", padding_mode="border", align_corners=False)[:, 0]


def grid_of(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the attention of so many tokens, for a latent of ``height`` x ``width`` cells: halved, odd sides rounded up, as
    often as it takes. Where that does not come to as many, the grid of the nearest aspect."""
    rows, columns = height, width
    while rows * columns > tokens and (rows, columns) != (1, 1):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    if rows * columns != tokens:
        rows = rows_of(tokens, height, width)
    return rows, tokens // rows


@dataclass(frozen=True, slots=True, eq=False)
class ImagePrompts:
    """Pictures beside the text of a UNet, each with its weights."""

    sights: Sequence[Sight]

    def install(self, wiring: Wiring, moment: Moment) -> None:
        active = [sight for sight in self.sights if moment.within(sight.prompt.start, sight.prompt.end)]
        asked: list[Asked] = []

        def take(x: Tensor, *args: Any, **kwargs: Any) -> Arguments:
            asked[:] = [Asked.of(x, kwargs.pop(_SAMPLES), kwargs.pop(_CELLS))]
            return (x, *args), kwargs

        wiring.rewire(wiring.network, take)
        for at in cross_attentions(wiring.network) if active else ():
            seen = [sight for sight in active if sight.is_seen(at.transformer)]
            if seen:
                wiring.replace_processor(at.module, _Looking(at, seen, lambda: asked[0]))


@dataclass(frozen=True, slots=True, eq=False)
class _Looking:
    """Computes one cross attention, to the text and to pictures."""

    at: CrossAttention
    sights: Sequence[Sight]
    asked: Callable[[], Asked]

    def __call__(
        self, attention: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> Tensor:
        query = attention.to_q(hidden_states)
        key, value = attention.to_k(encoder_hidden_states), attention.to_v(encoder_hidden_states)
        found = _attended(query, key, value, attention.heads)
        for sight in self.sights:
            found = found + self._looked(query, sight, attention.heads)
        for layer in attention.to_out:
            found = layer(found)
        return found

    def _looked(self, query: Tensor, sight: Sight, heads: int) -> Tensor:
        """What the query [B,L,C] finds in a picture, weighed and masked."""
        asked, prompt = self.asked(), sight.prompt
        key, value = (self._for_samples(it, prompt, asked) for it in sight.keys_and_values(self.at, query))
        weight = sight.weight(self.at.transformer, asked.sample, query)
        if prompt.scaling != SCALINGS[0]:
            key, value = scaled(key, value, weight, prompt.scaling)
        found = _attended(query, key.flatten(1, 2), value.flatten(1, 2), heads)
        if prompt.scaling == SCALINGS[0]:
            found = found * weight
        if prompt.mask is not None:
            found = found * asked.over(sight, query.shape[1]).to(found.dtype)
        return found

    @staticmethod
    def _for_samples(both: Tensor, prompt: ImagePrompt, asked: Asked) -> Tensor:
        """Of tokens [2,n,T,C] those that each sample sees, [B,n,T,C], or [B,1,T,C] where each has a picture of its own."""
        if prompt.apart:
            return both[asked.negative, asked.sample.clamp(max=both.shape[1] - 1)][:, None]
        return both[asked.negative]


def scaled(key: Tensor, value: Tensor, weight: float | Tensor, scaling: str) -> tuple[Tensor, Tensor]:
    """Keys and values [B,n,T,C] of pictures, weighed by ``weight``, or that of each sample [B,1,1], in a way that ``SCALINGS`` names; the
    mean of values is that of a picture."""
    if isinstance(weight, Tensor):
        weight = weight[..., None]
    if scaling.endswith("C penalty"):
        weight = weight * (key.shape[-1] / _FULL_WIDTH)
    if "mean" in scaling:
        mean = value.mean(2, keepdim=True)
        return key * weight, value - mean + mean * weight
    return key * weight, value * weight


def _attended(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of several heads: [B,L,C] and [B,T,C] twice to [B,L,C]."""
    parts = [it.unflatten(-1, (heads, -1)).transpose(1, 2) for it in (query, key, value)]
    return scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
