"""Token merging (Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion"): queries that are alike are asked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nodes.diffusion.alterations import Arguments, Moment, Wiring
from nodes.diffusion.unet_blocks import self_attentions

_STRIDE: Final = 2
"""One token in every square of this side stays what others are merged into."""


def split(height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The numbers of the tokens of a grid that may be merged, and of those that they may be merged into (section 3.2).

    The latter are one at random in every whole square of 2 x 2.
    """
    rows, columns = height // _STRIDE, width // _STRIDE
    chosen = torch.randint(_STRIDE**2, (rows, columns), generator=generator)
    at_row = torch.arange(rows)[:, None] * _STRIDE + chosen // _STRIDE
    at_column = torch.arange(columns) * _STRIDE + chosen % _STRIDE
    into = (at_row * width + at_column).flatten()
    is_source = torch.ones(height * width, dtype=torch.bool)
    is_source[into] = False
    return is_source.nonzero().flatten(), into


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Which tokens are merged: ``kept`` stay alone, ``merged`` go into those at ``targets`` of ``into``.

    ``into`` is [D]; the others are [B,n], numbers of tokens but for ``targets``, which are places in ``into``.
    """

    into: Tensor
    kept: Tensor
    merged: Tensor
    targets: Tensor

    @classmethod
    def of(cls, tokens: Tensor, sources: Tensor, into: Tensor, count: int) -> Matching:
        """The ``count`` of ``sources`` [S] that are most like one of ``into`` [D], by the cosine between ``tokens`` [B,T,C]."""
        unit = normalize(tokens, dim=-1)
        likeness, nearest = (unit[:, sources] @ unit[:, into].mT).max(-1)
        order = likeness.argsort(dim=-1, descending=True, stable=True)
        merged, kept = order[:, :count], order[:, count:]
        return cls(into, sources[kept], sources[merged], nearest.gather(1, merged))

    def merge(self, tokens: Tensor) -> Tensor:
        """Tokens [B,T,C] to [B,T - count,C]: those that stay alone, then the means."""
        means = tokens[:, self.into].scatter_reduce(
            1, _wide(self.targets, tokens), tokens.gather(1, _wide(self.merged, tokens)), reduce="mean"
        )
        return torch.cat([tokens.gather(1, _wide(self.kept, tokens)), means], 1)

    def unmerge(self, tokens: Tensor) -> Tensor:
        """The reverse of ``merge``: every token gets what it was merged into."""
        alone = self.kept.shape[1]
        means = tokens[:, alone:]
        whole = tokens.new_empty(len(tokens), tokens.shape[1] + self.merged.shape[1], tokens.shape[2])
        whole[:, self.into] = means
        whole.scatter_(1, _wide(self.kept, tokens), tokens[:, :alone])
        return whole.scatter_(1, _wide(self.merged, tokens), means.gather(1, _wide(self.targets, tokens)))


def _wide(numbers: Tensor, tokens: Tensor) -> Tensor:
    return numbers[..., None].expand(-1, -1, tokens.shape[-1])


@dataclass(frozen=True, slots=True)
class TokenMerging:
    """Merges the queries of self attention on the finest level: the part ``ratio`` (0..1) of them, at most three in four."""

    ratio: float

    def install(self, wiring: Wiring, moment: Moment) -> None:
        if int(moment.height * moment.width * self.ratio) == 0:
            return
        for attention in self_attentions(wiring.network):
            self._merge(wiring, attention, moment)

    def _merge(self, wiring: Wiring, attention: Any, moment: Moment) -> None:
        matched: list[Matching] = []

        def enter(tokens: Tensor, **kwargs: Any) -> Arguments:
            if tokens.shape[1] != moment.height * moment.width or kwargs["encoder_hidden_states"] is not None:
                return (tokens,), kwargs
            sources, into = (part.to(tokens.device) for part in split(moment.height, moment.width, moment.chance))
            matched.append(Matching.of(tokens, sources, into, int(tokens.shape[1] * self.ratio)))
            return (matched[-1].merge(tokens),), {**kwargs, "encoder_hidden_states": tokens}

        def leave(tokens: Tensor) -> Tensor:
            return matched.pop().unmerge(tokens) if matched else tokens

        wiring.rewire(attention, enter)
        wiring.after(attention, leave, first=True)
