"""Tokens that are looked at more, or less, than others: a bias of cross attention, the logarithm of how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.errors import InputError
from nodes.diffusion.alterations import Altered, Arguments, Moment, Wiring, altered
from nodes.diffusion.configs import UNetConfig

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

OPTION: Final = "attention_strength"
"""Option of an entry of conditioning: float32 [T], how much its first tokens count; those beyond count 1."""


def strengths(known: Mapping[str, Any], tokens: int, more: int, strength: float) -> Tensor:
    """``OPTION`` of an entry of so many ``tokens``, with ``more`` of this ``strength`` behind them."""
    before = known.get(OPTION)
    told = torch.ones(0) if before is None else before[:tokens]
    return torch.cat([pad(told, (0, tokens - len(told)), value=1.0), torch.full((more,), strength)])


@dataclass(frozen=True, slots=True, eq=False)
class TextBias:
    """A UNet whose cross attention weighs tokens by ``strength`` [T]; texts that are repeated have it repeated."""

    strength: Tensor

    def install(self, wiring: Wiring, moment: Moment) -> None:
        def weighed(states: Tensor, encoder_hidden_states: Tensor | None = None, **kwargs: Any) -> Arguments:
            text = states if encoder_hidden_states is None else encoder_hidden_states
            bias = self.strength.log().repeat(text.shape[1] // len(self.strength)).to(text)
            whole = bias.expand(len(text), 1, -1)
            return (states,), {**kwargs, "encoder_hidden_states": encoder_hidden_states, "attention_mask": whole}

        for module in wiring.network.modules():
            if type(module).__name__ == "BasicTransformerBlock":
                wiring.rewire(module.attn2, weighed)


def biased(unet: LoadedModel, options: Mapping[str, Any], tokens: int) -> tuple[Altered, ...]:
    """What changes ``unet`` for an entry with these ``options`` and so many ``tokens``. Raises InputError for a transformer."""
    strength: Tensor | None = options.get(OPTION)
    if strength is None:
        return ()
    if not isinstance(unet.config, UNetConfig):
        raise InputError(
            f"expected a UNet for attn_bias, found the transformer of {unet.facts.family.title}; choose the strength_type multiply",
            input="model",
        )
    whole = pad(strength[:tokens], (0, max(0, tokens - len(strength))), value=1.0)
    return (altered(unet.module, TextBias(whole)),)
