"""The style adapter against torch's own transformer, and its tokens in whole samplings."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from engine.errors import InputError
from engine.models import Digest, ModelRef
from nodes import style_model as nodes
from nodes.diffusion.conditioning import Conditioning
from nodes.diffusion.vision import LAST
from nodes.sampling import k_sampler
from tests.nodes.contexts import context, demo, demo_store
from tests.nodes.studio import Studio

WIDTH, TEXT, TOKENS = 256, 64, 8


@cache
def tensors() -> dict[str, Tensor]:
    """In the layout of t2iadapter_style_sd14v1, narrower."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"style_embedding": (1, TOKENS, WIDTH), "proj": (WIDTH, TEXT)}
    shapes |= {f"ln_{which}.{leaf}": (WIDTH,) for which in ("pre", "post") for leaf in ("weight", "bias")}
    for number in range(3):
        name = f"transformer_layes.{number}"
        shapes |= {f"{name}.attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{name}.attn.in_proj_bias": (3 * WIDTH,)}
        for layer, out, wide in (
            ("attn.out_proj", WIDTH, WIDTH),
            ("mlp.c_fc", 4 * WIDTH, WIDTH),
            ("mlp.c_proj", WIDTH, 4 * WIDTH),
        ):
            shapes |= {f"{name}.{layer}.weight": (out, wide), f"{name}.{layer}.bias": (out,)}
        shapes |= {f"{name}.ln_{place}.{leaf}": (WIDTH,) for place in (1, 2) for leaf in ("weight", "bias")}
    return {name: torch.randn(shape, generator=draw) * 0.1 for name, shape in shapes.items()}


def expected(states: Tensor) -> Tensor:
    """Tokens of the style, by ``torch.nn.TransformerEncoderLayer``, two heads of 128 wide."""
    kept = tensors()
    x = torch.cat([states, kept["style_embedding"].expand(len(states), -1, -1)], 1)
    x = nn.functional.layer_norm(x, (WIDTH,), kept["ln_pre.weight"], kept["ln_pre.bias"])
    names = {
        "self_attn.": "attn.",
        "linear1.": "mlp.c_fc.",
        "linear2.": "mlp.c_proj.",
        "norm1.": "ln_1.",
        "norm2.": "ln_2.",
    }
    for number in range(3):
        layer = nn.TransformerEncoderLayer(
            WIDTH,
            2,
            4 * WIDTH,
            0.0,
            activation=lambda x: x * torch.sigmoid(1.702 * x),
            batch_first=True,
            norm_first=True,
        )
        own = {
            name: next(name.replace(new, old) for new, old in names.items() if new in name)
            for name in layer.state_dict()
        }
        layer.load_state_dict({name: kept[f"transformer_layes.{number}.{old}"] for name, old in own.items()})
        x = layer.eval()(x)
    last = nn.functional.layer_norm(x[:, -TOKENS:], (WIDTH,), kept["ln_post.weight"], kept["ln_post.bias"])
    return last @ kept["proj"]


@pytest.fixture
def style(studio: Studio) -> ModelRef:
    studio.write("style_models/style.safetensors", tensors())
    return ModelRef(
        Digest("style"), "style_model", str(studio.folder / "models" / "style_models" / "style.safetensors")
    )


def seen(count: int = 1) -> dict[str, Tensor]:
    return {LAST: torch.randn(count, 5, WIDTH, generator=torch.Generator().manual_seed(count))}


def prompt() -> list[Any]:
    return [
        [torch.randn(1, 7, TEXT, generator=torch.Generator().manual_seed(9)), {"pooled_output": torch.zeros(1, TEXT)}]
    ]


def test_tokens_stand_behind_those_of_the_prompt(style: ModelRef) -> None:
    """Of every picture, times the strength, and every entry gets them."""
    told = nodes.style_model_apply(
        context(),
        conditioning=prompt() * 2,
        style_model=style,
        clip_vision_output=seen(2),
        strength=0.5,
        strength_type="multiply",
    )
    assert len(told) == 2
    for text, options in told:
        assert_close(text[:, :7], prompt()[0][0])
        assert_close(text[:, 7:], 0.5 * expected(seen(2)[LAST]).flatten(0, 1)[None], atol=1e-5, rtol=1e-5)
        assert options.keys() == {"pooled_output"}


def sampled(positive: Conditioning) -> Tensor:
    latent = k_sampler(
        context(), model=demo("unet"), positive=list(positive), negative=prompt(), latent_image={"samples": torch.zeros(1, 4, 16, 16)},
        seed=1, steps=2, cfg=3.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    found: Tensor = latent["samples"]
    return found


def test_a_bias_of_attention_weighs_the_tokens(style: ModelRef) -> None:
    """Twice as much is as good as two of each, and nothing as good as none. The prompt's own tokens count as before."""

    def applied(to: Conditioning, strength: float, kind: Literal["multiply", "attn_bias"]) -> Conditioning:
        told: Conditioning = nodes.style_model_apply(
            context(), conditioning=list(to), style_model=style, clip_vision_output=seen(), strength=strength, strength_type=kind
        )  # fmt: skip

        return told

    plain, once = sampled(prompt()), applied(prompt(), 1.0, "attn_bias")
    assert_close(
        sampled(applied(prompt(), 2.0, "attn_bias")), sampled(applied(once, 1.0, "multiply")), atol=1e-4, rtol=1e-4
    )
    assert_close(sampled(applied(prompt(), 0.0, "attn_bias")), plain, atol=1e-4, rtol=1e-4)
    both = applied(applied(prompt(), 0.0, "attn_bias"), 1.0, "multiply")
    assert_close(sampled(both), sampled(once), atol=1e-4, rtol=1e-4)
    assert (sampled(once) - plain).abs().max() > 0.05
    with demo_store().lease(demo("unet")) as loaded:
        assert not any(child._forward_pre_hooks for child in loaded.module.modules())


def test_what_does_not_fit_is_refused(style: ModelRef) -> None:
    with pytest.raises(InputError, match="expected states of CLIP vision 256 wide"):
        nodes.style_model_apply(
            context(),
            conditioning=prompt(),
            style_model=style,
            clip_vision_output={LAST: torch.zeros(1, 5, 64)},
            strength_type="multiply",
        )
    with pytest.raises(InputError, match="expected text 64 wide"):
        nodes.style_model_apply(
            context(),
            conditioning=[[torch.zeros(1, 7, 96), {}]],
            style_model=style,
            clip_vision_output=seen(),
            strength_type="multiply",
        )
