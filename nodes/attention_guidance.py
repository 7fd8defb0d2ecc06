"""Guidance away from what a model would say without a part of its attention. Each costs a further call of the network in a step, but
for SkipLayerGuidanceDiTSimple."""

from __future__ import annotations

import re
from typing import Annotated, Any

from engine.models import ModelRef
from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Model
from nodes.widgets import Percent

ADVANCED = "advanced/guidance"

SkipScale = Annotated[float, Range(0.0, 10.0, step=0.1)]


def _perturbed(model: ModelRef, name: str, **values: Any) -> ModelRef:
    return diffusion.steering.with_option(model, name, **values)


def _numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"\d+", text)]


@node("PerturbedAttentionGuidance", category="model_patches/unet", outputs=[Output("MODEL")])
def perturbed_attention_guidance(
    model: Model, scale: Annotated[float, Range(0.0, 100.0, step=0.01, round=0.01)] = 3.0
) -> ModelRef:
    """Guidance away from what a UNet says when its middle does not look around: better structure, with a prompt or without."""
    return _perturbed(model, "perturbed-attention guidance", scale=scale) if scale else model


@node(
    "SelfAttentionGuidance",
    title="Self-Attention Guidance",
    category="_for_testing",
    outputs=[Output("MODEL")],
    experimental=True,
)
def self_attention_guidance(
    model: Model,
    scale: Annotated[float, Range(-2.0, 5.0, step=0.01)] = 0.5,
    blur_sigma: Annotated[float, Range(0.0, 10.0, step=0.1)] = 2.0,
) -> ModelRef:
    """Guidance away from what a UNet says where what it looks at most is blurred: finer details."""
    return _perturbed(model, "self-attention guidance", scale=scale, blur=blur_sigma) if scale else model


@node("SkipLayerGuidanceSD3", category=ADVANCED, outputs=[Output("MODEL")], experimental=True)
def skip_layer_guidance_sd3(
    *,
    model: Model,
    layers: str = "7, 8, 9",
    scale: SkipScale = 3.0,
    start_percent: Percent = 0.01,
    end_percent: Percent = 0.15,
) -> ModelRef:
    """Guidance away from what Stable Diffusion 3 says without some of its layers: better structure."""
    return _skipping(model, layers, scale, start_percent, end_percent, 0.0)


@node("SkipLayerGuidanceDiT", category=ADVANCED, outputs=[Output("MODEL")], experimental=True)
def skip_layer_guidance_dit(
    *,
    model: Model,
    double_layers: str = "7, 8, 9",
    single_layers: str = "7, 8, 9",
    scale: SkipScale = 3.0,
    start_percent: Percent = 0.01,
    end_percent: Percent = 0.15,
    rescaling_scale: Annotated[float, Range(0.0, 10.0, step=0.01)] = 0.0,
) -> ModelRef:
    """Guidance away from what a transformer says without some of its layers.

    Single layers are those that read picture and text as one; Stable Diffusion 3 has none.
    """
    return _skipping(model, double_layers, scale, start_percent, end_percent, rescaling_scale)


@node("SkipLayerGuidanceDiTSimple", category=ADVANCED, outputs=[Output("MODEL")], experimental=True)
def skip_layer_guidance_dit_simple(
    *,
    model: Model,
    double_layers: str = "7, 8, 9",
    single_layers: str = "7, 8, 9",
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> ModelRef:
    """The negative prediction made without some of a transformer's layers.

    Single layers are those that read picture and text as one; Stable Diffusion 3 has none.
    """
    if not _numbers(double_layers):
        return model
    return _perturbed(
        model,
        "skip-layer guidance of the negative",
        layers=_numbers(double_layers),
        start=start_percent,
        end=end_percent,
    )


def _skipping(model: ModelRef, layers: str, scale: float, start: float, end: float, rescaling: float) -> ModelRef:
    if not (_numbers(layers) and scale):
        return model
    return _perturbed(
        model, "skip-layer guidance", layers=_numbers(layers), scale=scale, start=start, end=end, rescaling=rescaling
    )
