"""A ControlNet, an IP-Adapter, guidance and tiles in one workflow: each counts beside the others, and what does nothing does nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.random_controls import cldm
from engine.graph.graph import Call
from tests.nodes import test_ip_adapter as pictures
from tests.nodes.diffusion.clip_vision import transformers_layout, vision
from tests.nodes.studio import Studio, link
from tests.nodes.test_controlnet import DEMO, tensors


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    studio = Studio(tmp_path_factory.mktemp("together"))
    studio.write("controlnet/net.safetensors", tensors(cldm(DEMO)))
    studio.write("ipadapter/ip-adapter_sd15.safetensors", pictures.adapter())
    studio.write(f"clip_vision/{pictures.H}", transformers_layout(vision()))
    yield studio
    studio.executor.close()


def guided(model: str, scale: float) -> Call:
    return Call("PerturbedAttentionGuidance", {"model": link(model), "scale": scale})


def in_tiles(model: str, size: int) -> Call:
    sizes = {"tile_width": size, "tile_height": size, "tile_overlap": 16, "tile_batch_size": 4}
    return Call("TiledDiffusion", {"model": link(model), "method": "MultiDiffusion", **sizes})


def cached(model: str, interval: int) -> Call:
    whole = {"cache_depth": 1, "start_step": 0, "end_step": 1000}
    return Call("DeepCache", {"model": link(model), "cache_interval": interval, **whole})


def latent(studio: Studio, models: Mapping[str, Call], strength: float = 0.8, weight: float = 1.0) -> Tensor:
    """Sampled with the last of ``models``, whose chain begins at the node ``shown``."""
    net: dict[str, Any] = {
        "control_net": link("net"),
        "image": link("blue"),
        "strength": strength,
        "start_percent": 0.0,
    }
    sides = {"positive": link("positive"), "negative": link("negative"), "end_percent": 1.0}
    nodes = {
        **pictures.calls(shown=pictures.advanced(weight=weight)),
        **models,
        **pictures.sampled(["shown", *models][-1]),
        "net": Call("ControlNetLoader", {"control_net_name": "net.safetensors"}),
        "apply": Call("ControlNetApplyAdvanced", {**net, **sides}),
    }
    steered = {"positive": link("apply"), "negative": link("apply", 1)}
    nodes["sampler"] = Call("KSampler", {**nodes["sampler"].inputs, **steered})
    found: Tensor = studio.values(nodes, "sampler")[0]["samples"]
    return found


def test_each_counts_beside_the_others(studio: Studio) -> None:
    every = {"guided": guided("shown", 3.0), "tiles": in_tiles("guided", 48), "cached": cached("tiles", 2)}
    whole = latent(studio, every)
    assert torch.isfinite(whole).all()
    others = [
        latent(studio, every, strength=0.0),
        latent(studio, every, weight=0.0),
        latent(studio, {**every, "guided": guided("shown", 0.0)}),
        latent(studio, {**every, "tiles": in_tiles("guided", 64)}),
        latent(studio, {**every, "cached": cached("tiles", 1)}),
    ]
    assert all((other - whole).abs().max() > 0.01 for other in others)


def test_what_does_nothing_does_nothing_beside_the_others(studio: Studio) -> None:
    idle = {"guided": guided("shown", 0.0), "tiles": in_tiles("guided", 128), "cached": cached("tiles", 1)}
    assert torch.allclose(latent(studio, idle), latent(studio, {}), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "often", "never"),
    [
        ("ApplyPABOnModel", {"start": 0.0, "end": 1.0}, {"self_attention_interval": 1, "cross_attention_interval": 1}),
        ("ApplyTaylorSeerOnModel", {"cache_interval": 2, "first_steps": 1, "last_steps": 0}, {"cache_interval": 1}),
        ("ApplySeaCacheOnModel", {"threshold": 9.0, "last_steps": 0}, {"threshold": 0.0}),
    ],
)
def test_caches_go_with_a_controlnet_and_an_adapter(
    studio: Studio, kind: str, often: dict[str, Any], never: dict[str, Any]
) -> None:
    """Both are still heard; and what is never cached is as it was."""

    def made(values: dict[str, Any], **weights: float) -> Tensor:
        return latent(studio, {"cached": Call(kind, {"model": link("shown"), **values})}, **weights)

    assert torch.equal(made(never), latent(studio, {}))
    whole = made(often)
    assert all((whole - other).abs().max() > 0.01 for other in (made(never), made(often, strength=0.0)))
