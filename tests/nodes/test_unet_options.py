"""Options of the UNet through whole samplings of the demo model, which is as it was afterwards."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from engine.models import ModelRef
from nodes import sampling, unet_options
from nodes.diffusion import unet
from nodes.diffusion.configs import DiTConfig, UNetConfig
from nodes.diffusion.listed import options
from nodes.diffusion.options import ALTERATIONS
from tests.nodes.contexts import context, demo, demo_store


def sampled(model: ModelRef, pooled: int = 1) -> torch.Tensor:
    """A latent of 16 x 12 cells, sampled in three steps; the store must not have had to open the model again."""
    with demo_store().lease(replace(model, settings=())) as loaded:
        assert isinstance(loaded.config, UNetConfig | DiTConfig)
        module, width = loaded.module, loaded.config.context_dim
    draw = torch.Generator().manual_seed(0)
    vector = {"pooled_output": torch.randn(1, pooled, generator=draw)}
    sides = [[[torch.randn(1, 4, width, generator=draw), vector]] for _ in range(2)]
    latent = sampling.k_sampler(
        context(), model=model, positive=sides[0], negative=sides[1], latent_image={"samples": torch.zeros(1, 4, 16, 12)},
        seed=1, steps=3, cfg=3.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    with demo_store().lease(model) as loaded:
        assert loaded.module is module
    found: torch.Tensor = latent["samples"]
    return found


@cache
def plain() -> torch.Tensor:
    return sampled(demo("unet"))


SHRINK: dict[str, Any] = {"downscale_method": "bicubic", "upscale_method": "bislerp"}
OPTIONS: dict[str, tuple[Any, dict[str, Any], dict[str, Any] | None]] = {
    "FreeU": (unet_options.free_u, {}, {"b1": 1.0, "b2": 1.0, "s1": 1.0, "s2": 1.0}),
    "FreeU_V2": (unet_options.free_u_v2, {}, {"b1": 1.0, "b2": 1.0, "s1": 1.0, "s2": 1.0}),
    "HyperTile": (unet_options.hyper_tile, {"tile_size": 32, "max_depth": 2}, {"tile_size": 128, "max_depth": 2}),
    "TomePatchModel": (unet_options.tome_patch_model, {"ratio": 0.5}, {"ratio": 0.0}),
    "PatchModelAddDownscale": (
        unet_options.patch_model_add_downscale, {"block_number": 1, **SHRINK}, {"downscale_factor": 1.0, **SHRINK},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_changes_what_is_sampled_and_leaves_the_model_as_it_was(name: str) -> None:
    """What changes nothing changes no bit."""
    make, strong, none = OPTIONS[name]
    before = plain()
    changed = sampled(make(model=demo("unet"), **strong))
    assert changed.isfinite().all()
    assert (changed - before).abs().max() > 1e-3
    assert torch.equal(sampled(make(model=demo("unet"), **strong)), changed)
    assert torch.equal(sampled(make(model=demo("unet"), **(none or {}))), before)
    assert torch.equal(sampled(demo("unet")), before)


def test_options_add_up_in_their_order() -> None:
    model = unet_options.tome_patch_model(unet_options.free_u(unet_options.free_u(demo("unet"), b1=1.2)), 0.4)
    assert [name for name, _ in options(model, ALTERATIONS)] == ["FreeU", "FreeU", "token merging"]
    assert options(model, ALTERATIONS)[0][1]["b1"] == 1.2
    assert not torch.equal(sampled(model), sampled(unet_options.tome_patch_model(demo("unet"), 0.4)))


def test_a_network_that_fails_is_left_without_hooks() -> None:
    model = unet_options.patch_model_add_downscale(model=demo("unet"), **SHRINK)
    with demo_store().lease(model) as loaded:
        denoiser = unet.denoiser(loaded)
        with pytest.raises(RuntimeError):
            denoiser(torch.zeros(1, 4, 8, 8), torch.ones(1), torch.zeros(1, 2, 3))
        assert not any(child._forward_pre_hooks or child._forward_hooks for child in loaded.module.modules())
