"""Things put into boxes (Li et al. 2023, "GLIGEN: Open-Set Grounded Text-to-Image Generation", sections 3.2 and 3.3).

Each box is made into a token of its words and its corners. In every transformer block of the UNet, between the attention of the picture to
itself and that to the text, the picture looks at itself and at these tokens once more, through a gate that training has opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import InputError
from engine.models import ModelRef
from nodes.diffusion.alterations import Altered, Arguments, Moment, Wiring, altered
from nodes.diffusion.beside_configs import GligenConfig
from nodes.diffusion.configs import PartConfig, UNetConfig
from nodes.diffusion.leases import Lease
from nodes.diffusion.store import COMPUTE_DTYPE, LoadedModel

OPTION: Final = "gligen"
"""Option of an entry of conditioning: ``("position", model, boxes)``, each box ``(words [1,D], height, width, y, x)`` in latent cells."""

MOST: Final = 30
"""Boxes that GLIGEN was trained with at most; there are always so many tokens, and those without a box say nothing."""

_BASE: Final = 100.0
"""Of the frequencies: ``100 ** (k / n)``."""

Box = tuple[Tensor, int, int, int, int]


class PositionNet(nn.Module):
    """From words and corners to tokens (eq. 5 of the paper)."""

    def __init__(self, config: GligenConfig) -> None:
        super().__init__()
        self.frequencies = config.frequencies
        corners = 2 * 4 * config.frequencies
        self.null_positive_feature = nn.Parameter(torch.zeros(config.text_width))
        self.null_position_feature = nn.Parameter(torch.zeros(corners))
        self.linears = nn.Sequential(
            nn.Linear(config.text_width + corners, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.token_width),
        )

    def forward(self, words: Tensor, corners: Tensor) -> Tensor:
        """Tokens [1,30,D] of up to 30 ``words`` [N,W] and ``corners`` [N,4]: left, top, right, bottom in parts of the picture."""
        spare = MOST - len(words)
        known = torch.cat([words, self.null_positive_feature.expand(spare, -1)])
        placed = torch.cat([self._features(corners), self.null_position_feature.expand(spare, -1)])
        tokens: Tensor = self.linears(torch.cat([known, placed], -1)[None])
        return tokens

    def _features(self, corners: Tensor) -> Tensor:
        """[N,8F]: for each frequency the sines of the corners, then their cosines."""
        powers = torch.arange(self.frequencies, device=corners.device) / self.frequencies
        angles = corners[:, None].float() * (_BASE**powers)[:, None]
        return torch.stack([angles.sin(), angles.cos()], 2).flatten(1).to(corners.dtype)


class _Attention(nn.Module):
    """Its layers; ``Fuser`` does the rest."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])


class _Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        opened: Tensor = value * functional.gelu(gate)
        return opened


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_Gated(width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.net(x)
        return changed


class Fuser(nn.Module):
    """Gated self attention over the picture and the boxes (eq. 8), and a gated layer behind it."""

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(token_width, width)
        self.attn = _Attention(width)
        self.ff = _FeedForward(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.alpha_attn, self.alpha_dense = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, tokens: Tensor, heads: int) -> Tensor:
        """``x`` [B,T,C], a picture's states, having looked at ``tokens`` [1,N,D]."""
        told = self.linear(tokens).expand(len(x), -1, -1)
        x = x + self.alpha_attn.tanh() * self._attended(self.norm1(torch.cat([x, told], 1)), x.shape[1], heads)
        changed: Tensor = x + self.alpha_dense.tanh() * self.ff(self.norm2(x))
        return changed

    def _attended(self, states: Tensor, most: int, heads: int) -> Tensor:
        """What the first ``most`` states see in all of them."""

        def split(layer: nn.Module, of: Tensor) -> Tensor:
            wide: Tensor = layer(of)
            parts: Tensor = wide.unflatten(-1, (heads, -1))
            return parts.transpose(1, 2)

        query = split(self.attn.to_q, states[:, :most])
        seen = functional.scaled_dot_product_attention(
            query, split(self.attn.to_k, states), split(self.attn.to_v, states)
        )
        out: Tensor = self.attn.to_out[0](seen.transpose(1, 2).flatten(2))
        return out


class Gligen(nn.Module):
    """The position net, and a fuser for every transformer block of the UNet, from the way in to the way out."""

    def __init__(self, config: GligenConfig) -> None:
        super().__init__()
        self.position_net = PositionNet(config)
        self.fusers = nn.ModuleList(Fuser(width, config.token_width) for width in config.widths)


def transformer_blocks(unet: Any) -> list[Any]:
    """The transformer blocks of diffusers' UNet, from the way in to the way out."""
    parts = (unet.down_blocks, unet.mid_block, unet.up_blocks)
    modules = (child for part in parts if part is not None for child in part.modules())
    return [child for child in modules if type(child).__name__ == "BasicTransformerBlock"]


@dataclass(frozen=True, slots=True, eq=False)
class Grounding:
    """A UNet that puts things into boxes: of each the words [1,W], and height, width, y and x in cells of what the UNet sees."""

    gligen: Any
    boxes: Sequence[Box]

    def install(self, wiring: Wiring, moment: Moment) -> None:
        blocks = transformer_blocks(wiring.network)
        tokens = self._tokens(moment)

        def told(*args: Any, **kwargs: Any) -> Arguments:
            return args, {**kwargs, "cross_attention_kwargs": {"gligen": {"objs": tokens}}}

        wiring.attach(wiring.network, "position_net", lambda objs: objs)
        wiring.rewire(wiring.network, told)
        for block, fuser in zip(blocks, self.gligen.fusers, strict=True):
            wiring.attach(block, "fuser", _with_heads(fuser, block.attn1.heads))

    def _tokens(self, moment: Moment) -> Tensor:
        like = self.gligen.position_net.null_position_feature
        width, height = moment.width, moment.height
        corners = [(x / width, y / height, (x + w) / width, (y + h) / height) for _, h, w, y, x in self.boxes]
        words = torch.cat([words for words, *_ in self.boxes])
        tokens: Tensor = self.gligen.position_net(words.to(like), torch.tensor(corners).to(like))
        return tokens


def _with_heads(fuser: nn.Module, heads: int) -> Callable[[Tensor, Tensor], Tensor]:
    def fused(states: Tensor, tokens: Tensor) -> Tensor:
        changed: Tensor = fuser(states, tokens, heads)
        return changed

    return fused


def grounded(unet: LoadedModel, lease: Lease, options: Mapping[str, Any]) -> tuple[Altered, ...]:
    """What changes ``unet`` for an entry of conditioning with these ``options``: nothing where no box is told of.

    Raises InputError where the GLIGEN model is not made for the UNet.
    """
    if not (told := options.get(OPTION)):
        return ()
    _, ref, boxes = told
    if not isinstance(unet.config, UNetConfig):
        raise InputError(
            f"expected a UNet for boxes, found the transformer of {unet.facts.family.title}; sample this model without GLIGEN",
            input="model",
        )
    gligen = lease(ref.with_settings(**{COMPUTE_DTYPE: unet.ref.setting(COMPUTE_DTYPE)}))
    assert isinstance(gligen.config, GligenConfig)
    wanted = tuple(block.norm1.normalized_shape[0] for block in transformer_blocks(unet.module))
    if gligen.config.widths != wanted or gligen.config.token_width != unet.config.context_dim:
        raise InputError(
            f"expected a GLIGEN model for the {len(wanted)} transformer blocks of this {unet.facts.family.title} model, {_row(wanted)} "
            f"wide, found one for {len(gligen.config.widths)}, {_row(gligen.config.widths)} wide; use it with the model it was made for",
            input="model",
        )
    return (altered(unet.module, Grounding(gligen.module, boxes)),)


def _row(numbers: Sequence[int]) -> str:
    return " ".join(map(str, sorted(set(numbers))))


def with_box(known: Mapping[str, Any], ref: ModelRef, box: Box) -> dict[str, Any]:
    """The options ``known`` of an entry with one more box. Raises InputError for more than GLIGEN knows."""
    boxes = [*(known[OPTION][2] if known.get(OPTION) else ()), box]
    if len(boxes) > MOST:
        raise InputError(
            f"expected at most {MOST} boxes, as GLIGEN was trained with, found {len(boxes)}; leave some out"
        )
    return {**known, OPTION: ("position", ref, boxes)}


def check_words(words: Tensor, config: PartConfig) -> None:
    """Raise InputError for a state of words that another text encoder made."""
    assert isinstance(config, GligenConfig)
    if words.shape[-1] != config.text_width:
        raise InputError(
            f"expected a text encoder whose states are {config.text_width} wide, as the GLIGEN model listens to, found "
            f"{words.shape[-1]}; connect the CLIP of the model that GLIGEN was made for",
            input="clip",
        )
