"""A picture's style as words (Mou et al. 2023, "T2I-Adapter: Learning Adapters to Dig out More Controllable Ability for Text-to-Image
Diffusion Models"): a transformer makes a few tokens of what CLIP sees, and they stand behind those of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from engine.errors import InputError
from nodes.diffusion import text_bias
from nodes.diffusion.beside_configs import StyleConfig
from nodes.diffusion.conditioning import Conditioning
from nodes.diffusion.vision import LAST

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel


class _QuickGelu(nn.Module):
    """CLIP's, ``x * sigmoid(1.702 x)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.gelu, self.c_proj = nn.Linear(width, 4 * width), _QuickGelu(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return changed


class _Layer(nn.Module):
    """A layer of CLIP's transformers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        known = self.ln_1(x)
        x = x + self.attn(known, known, known, need_weights=False)[0]
        changed: Tensor = x + self.mlp(self.ln_2(x))
        return changed


class StyleModel(nn.Module):
    """From the states of a picture to tokens of its style."""

    def __init__(self, config: StyleConfig) -> None:
        super().__init__()
        self.style_embedding = nn.Parameter(torch.zeros(1, config.tokens, config.width))
        self.ln_pre, self.ln_post = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.layers = nn.Sequential(*(_Layer(config.width, config.heads) for _ in range(config.layers)))
        self.proj = nn.Parameter(torch.zeros(config.width, config.context_dim))

    def forward(self, states: Tensor) -> Tensor:
        """Tokens [B,N,D] of the last states [B,T,W] of CLIP's image encoder."""
        tokens = self.style_embedding.expand(len(states), -1, -1)
        x = self.layers(self.ln_pre(torch.cat([states, tokens], 1)))
        styled: Tensor = self.ln_post(x[:, -tokens.shape[1] :]) @ self.proj
        return styled


@torch.inference_mode()
def tokens_of(seen: Mapping[str, Tensor], style: LoadedModel) -> Tensor:
    """The style of what CLIP's image encoder saw, float32 [1,B*N,D] on the CPU. Raises InputError for another encoder's states."""
    config = style.config
    assert isinstance(config, StyleConfig)
    states = seen[LAST]
    if states.shape[-1] != config.width:
        raise InputError(
            f"expected states of CLIP vision {config.width} wide, as the style model listens to, found {states.shape[-1]}; "
            "encode the picture with the CLIP vision model that it was made for",
            input="clip_vision_output",
        )
    tokens: Tensor = style.module(states.to(style.device, style.dtype))
    return tokens.float().cpu().flatten(0, 1)[None]


def applied(
    conditioning: Conditioning, tokens: Tensor, strength: float, kind: Literal["multiply", "attn_bias"]
) -> list[Any]:
    """Every entry with ``tokens`` [1,N,D] behind its own: times ``strength``, or looked at ``strength`` times as much.

    Raises InputError for text of another width.
    """
    return [_with_tokens(text, known, tokens, strength, kind) for text, known in conditioning]


def _with_tokens(
    text: Tensor, known: Mapping[str, Any], tokens: Tensor, strength: float, kind: Literal["multiply", "attn_bias"]
) -> list[Any]:
    if text.shape[-1] != tokens.shape[-1]:
        raise InputError(
            f"expected text {tokens.shape[-1]} wide, for which the style model is made, found {text.shape[-1]}; "
            "encode the prompt with the text encoder of the model that it was made for",
            input="conditioning",
        )
    scaled = tokens * strength if kind == "multiply" else tokens
    options = dict(known)
    if (kind == "attn_bias" and strength != 1.0) or text_bias.OPTION in known:
        counts = strength if kind == "attn_bias" else 1.0
        options[text_bias.OPTION] = text_bias.strengths(known, text.shape[1], tokens.shape[1], counts)
    return [torch.cat([text, scaled.expand(len(text), -1, -1)], 1), options]
