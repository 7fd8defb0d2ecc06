"""Attention made stronger or weaker: experiments with its weights."""

from __future__ import annotations

from typing import Annotated

from engine.models import Digest, ModelRef, Patch
from engine.spec import Output, Range, node
from nodes.sockets import Clip, Model

_CATEGORY = "_for_testing/attention_experiments"
Factor = Annotated[float, Range(0.0, 10.0, step=0.01)]


def _scaled(ref: ModelRef, factors: dict[str, float]) -> ModelRef:
    """The recipe with the weights and biases of those layers multiplied whose names end so."""
    return ref.with_patches(Patch("scale", Digest(""), 1.0, "", tuple(factors.items())))


def _unet_factors(attention: str, q: float, k: float, v: float, out: float) -> dict[str, float]:
    layers = {"to_q": q, "to_k": k, "to_v": v, "to_out.0": out}
    return {f"{attention}.{layer}": factor for layer, factor in layers.items()}


@node("UNetSelfAttentionMultiply", category=_CATEGORY, outputs=[Output("MODEL")], experimental=True)
def unet_self_attention_multiply(
    model: Model, q: Factor = 1.0, k: Factor = 1.0, v: Factor = 1.0, out: Factor = 1.0
) -> ModelRef:
    """Queries, keys, values and outputs of the self attention, multiplied."""
    return _scaled(model, _unet_factors("attn1", q, k, v, out))


@node("UNetCrossAttentionMultiply", category=_CATEGORY, outputs=[Output("MODEL")], experimental=True)
def unet_cross_attention_multiply(
    model: Model, q: Factor = 1.0, k: Factor = 1.0, v: Factor = 1.0, out: Factor = 1.0
) -> ModelRef:
    """Queries, keys, values and outputs of the attention to the prompt, multiplied."""
    return _scaled(model, _unet_factors("attn2", q, k, v, out))


@node("CLIPAttentionMultiply", category=_CATEGORY, outputs=[Output("CLIP")], experimental=True)
def clip_attention_multiply(
    clip: Clip, q: Factor = 1.0, k: Factor = 1.0, v: Factor = 1.0, out: Factor = 1.0
) -> ModelRef:
    """Queries, keys, values and outputs of the text encoder's attention, multiplied."""
    layers = {"q_proj": q, "k_proj": k, "v_proj": v, "out_proj": out}
    return _scaled(clip, {f"self_attn.{layer}": factor for layer, factor in layers.items()})


@node("UNetTemporalAttentionMultiply", category=_CATEGORY, outputs=[Output("MODEL")], experimental=True)
def unet_temporal_attention_multiply(
    model: Model,
    self_structural: Factor = 1.0,
    self_temporal: Factor = 1.0,
    cross_structural: Factor = 1.0,
    cross_temporal: Factor = 1.0,
) -> ModelRef:
    """Outputs of self and cross attention, multiplied; those over time, which only video models have, apart from those over the
    picture."""
    layers = {"attn1": (self_temporal, self_structural), "attn2": (cross_temporal, cross_structural)}
    factors = {}
    for attention, (temporal, structural) in layers.items():
        factors[f"temporal_transformer_blocks.*.{attention}.to_out.0"] = temporal
        factors[f"{attention}.to_out.0"] = structural
    return _scaled(model, factors)
