"""Guidance by worse models through whole samplings: of the demo model and of a small Stable Diffusion 3 of random weights."""

from __future__ import annotations

import pytest
import torch

from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.errors import InputError
from engine.models import Digest, ModelRef
from nodes import attention_guidance, guidance, unet_options
from tests.nodes.contexts import demo
from tests.nodes.test_unet_options import plain, sampled

UNETS = [
    (attention_guidance.perturbed_attention_guidance, {"scale": 3.0}, {"scale": 0.0}),
    (attention_guidance.self_attention_guidance, {"scale": 0.75, "blur_sigma": 1.0}, {"scale": 0.0}),
]
DIT = [
    (attention_guidance.skip_layer_guidance_sd3, {"layers": "0"}, {"layers": "0", "scale": 0.0}),
    (attention_guidance.skip_layer_guidance_sd3, {"layers": "0"}, {"layers": "none"}),
    (attention_guidance.skip_layer_guidance_dit, {"double_layers": "0, 1"}, {"double_layers": "0", "end_percent": 0.0}),
    (attention_guidance.skip_layer_guidance_dit_simple, {"double_layers": "1"}, {"double_layers": ""}),
]


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """The recipe of a transformer of two layers."""
    path = tmp_path_factory.mktemp("models") / "sd3.safetensors"
    write_shapes(path, SMALL["sd3"].shapes(), "float16")
    return ModelRef(Digest("sd3"), "unet", str(path))


@pytest.mark.parametrize(("make", "strong", "none"), UNETS)
def test_a_unet_is_guided_and_left_as_it_was(make: object, strong: dict[str, float], none: dict[str, float]) -> None:
    """Also where the same attention is changed by something else; no strength changes no bit."""
    assert callable(make)
    before = plain()
    changed = sampled(make(model=demo("unet"), **strong))
    assert changed.isfinite().all()
    assert (changed - before).abs().max() > 1e-3
    assert torch.equal(sampled(make(model=demo("unet"), **none)), before)
    assert torch.equal(sampled(demo("unet")), before)
    tiled = unet_options.hyper_tile(model=demo("unet"), tile_size=32, max_depth=3)
    assert not torch.equal(sampled(make(model=tiled, **strong)), sampled(tiled))


def test_kinds_of_guidance_follow_each_other_as_their_nodes_do() -> None:
    """Norms behind the attention's guidance cut it, before it they do not."""
    perturbed = attention_guidance.perturbed_attention_guidance
    behind = sampled(guidance.cfg_norm(perturbed(demo("unet"), scale=8.0)))
    before = sampled(perturbed(guidance.cfg_norm(demo("unet")), scale=8.0))
    assert (behind - before).abs().max() > 1e-2


@pytest.mark.parametrize(("make", "strong", "none"), DIT)
def test_a_transformer_is_guided_and_left_as_it_was(
    sd3: ModelRef, make: object, strong: dict[str, str], none: dict[str, object]
) -> None:
    assert callable(make)
    before = sampled(sd3, 128)
    changed = sampled(make(model=sd3, **{"start_percent": 0.0, "end_percent": 1.0} | strong), 128)
    assert changed.isfinite().all()
    assert (changed - before).abs().max() > 1e-4
    assert torch.equal(sampled(make(model=sd3, **none), 128), before)
    assert torch.equal(sampled(sd3, 128), before)


def test_guidance_and_model_must_fit(sd3: ModelRef) -> None:
    """In words, before anything is sampled."""
    with pytest.raises(InputError, match="expected a UNet for perturbed-attention guidance, found the transformer of"):
        sampled(attention_guidance.perturbed_attention_guidance(sd3), 128)
    with pytest.raises(InputError, match="expected a UNet for FreeU, found the transformer of Stable Diffusion 3"):
        sampled(unet_options.free_u(sd3), 128)
    with pytest.raises(InputError, match="expected a transformer for skip-layer guidance, found the UNet of"):
        sampled(attention_guidance.skip_layer_guidance_sd3(model=demo("unet")))


def test_layers_that_are_not_there_are_not_skipped(sd3: ModelRef) -> None:
    """The defaults are for a larger model than this one of two layers."""
    before = sampled(sd3, 128)
    torch.testing.assert_close(
        sampled(attention_guidance.skip_layer_guidance_sd3(model=sd3, end_percent=1.0), 128), before
    )
    torch.testing.assert_close(sampled(attention_guidance.skip_layer_guidance_dit_simple(model=sd3), 128), before)
