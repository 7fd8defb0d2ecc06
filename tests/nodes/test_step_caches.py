"""Caches between steps: what is spared, what is kept for whom, and that a cut run goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from torch import Tensor

from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.errors import InputError
from engine.models import Digest, ModelRef
from nodes import attention_guidance, step_caches, unet_options
from nodes.diffusion import sample, unet
from nodes.diffusion.alterations import Moment, Wiring
from nodes.diffusion.deep_cache import DeepCache, deep_cache
from nodes.diffusion.first_block_cache import FirstBlockCache
from nodes.diffusion.recall import Call, Recalls, unique
from nodes.diffusion.resume import from_bytes, to_bytes
from nodes.diffusion.sample import Settings
from nodes.diffusion.samplers import State
from nodes.diffusion.schedules import stable_diffusion
from nodes.diffusion.tiled_diffusion import with_windows
from nodes.diffusion.unet_blocks import output_blocks
from tests.nodes.contexts import demo, demo_store

Change = Callable[[Wiring], object]


@cache
def inputs(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, 12, 8, generator=draw), torch.tensor([500.0]), torch.randn(2, 7, 64, generator=draw)


def output(network: Any, seed: int, *changes: Change, counting: list[str] | None = None) -> Tensor:
    """What the demo's UNet says under ``changes``; ``counting`` gets the names of the residual blocks that were computed."""
    wiring = Wiring(network)
    try:
        for change in changes:
            change(wiring)
        for name, module in network.named_modules() if counting is not None else ():
            if type(module).__name__ == "ResnetBlock2D":
                wiring.after(module, lambda x, name=name: (counting.append(name), x)[1])  # type: ignore[union-attr,misc]
        with torch.no_grad():
            found: Tensor = network(*inputs(seed), return_dict=False)[0]
            return found
    finally:
        wiring.remove()


def moment(call: Call, sigma: float = 5.0) -> Moment:
    return Moment(sigma, 12, 8, stable_diffusion(), batch=2, call=call)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_deep_cache_is_the_unet_with_what_comes_from_within_unchanged(depth: int) -> None:
    """The outer blocks alone are computed, and give what they do in a whole UNet whose inner part is that of the first call."""
    with demo_store().lease(demo("unet")) as loaded:
        network = loaded.module
        cached = deep_cache(network, 2, depth, 0, 1000)
        first = Call({})
        assert torch.equal(output(network, 1, lambda it: cached.install(it, moment(first))), output(network, 1))
        inner = 3 - depth
        source = output_blocks(network)[inner - 1] if inner else None
        module: Any = network.mid_block if source is None else source.upsampler or source.last
        known = first.kept["deep_cache.features"]
        expected = output(network, 2, lambda it: it.after(module, lambda _: known))
        whole: list[str] = []
        outer: list[str] = []
        second = Call(first.kept)
        found = output(network, 2, lambda it: cached.install(it, moment(second, 4.0)), counting=outer)
        assert torch.equal(found, expected)
        assert not torch.equal(found, output(network, 2, counting=whole))
        blocks = {0: 1, 1: 3, 2: 4, 3: 6}[depth]
        assert len(whole) == 8
        assert len(outer) == blocks
        assert second.kept["deep_cache.features"] is known or torch.equal(second.kept["deep_cache.features"], known)


def test_deep_cache_is_whole_every_so_often_within_its_window() -> None:
    """Counted from pure noise; at a higher noise level, another size, and outside of its window it begins anew."""
    schedule = stable_diffusion()
    sigmas = [float(schedule.sigma(np.array([t]))[0]) for t in (900, 800, 700, 600, 500, 400, 300, 600, 550)]
    computed = []
    with demo_store().lease(demo("unet")) as loaded:
        call = Call({})
        for sigma in sigmas:
            counted: list[str] = []
            call = Call(call.kept)
            at = moment(call, sigma)
            output(loaded.module, 1, lambda it, at=at: DeepCache(3, 0, 150, 650).install(it, at), counting=counted)  # type: ignore[misc]
            computed.append(len(counted))
    assert computed == [8, 8, 1, 1, 8, 1, 8, 8, 1]


def test_first_block_cache_adds_what_the_others_did() -> None:
    with demo_store().lease(demo("unet")) as loaded:
        network: Any = loaded.module
        cached = FirstBlockCache(0.3, 0.0, 1.0, 1)
        first, counted = Call({}), list[str]()
        assert torch.equal(output(network, 1, lambda it: cached.install(it, moment(first))), output(network, 1))
        again = Call(first.kept)
        same = output(network, 1, lambda it: cached.install(it, moment(again)), counting=counted)
        assert counted == ["down_blocks.0.resnets.0"]
        assert torch.allclose(same, output(network, 1), atol=1e-5)
        third, counted = Call(again.kept), list[str]()
        output(network, 1, lambda it: cached.install(it, moment(third)), counting=counted)
        assert len(counted) == 8, "no more than once in a row"
        other, counted = Call(again.kept | {"first_block.hits": torch.zeros(2, 1)}), list[str]()
        changed = output(network, 2, lambda it: cached.install(it, moment(other)), counting=counted)
        assert len(counted) == 8, "the first block did something else"
        assert torch.equal(changed, output(network, 2))


def test_a_transformer_keeps_what_that_of_diffusers_does() -> None:
    """Over a row of calls with inputs that change little, then much."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8,
        "num_attention_heads": 4, "joint_attention_dim": 16, "caption_projection_dim": 32, "pooled_projection_dim": 8,
        "pos_embed_max_size": 16,
    }  # fmt: skip
    ours, theirs = (SD3Transformer2DModel(**sizes).eval() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    apply_first_block_cache(_with_text(theirs), FirstBlockCacheConfig(0.2))
    _set_cache_context(theirs, CacheContext("one"))
    draw = torch.Generator().manual_seed(1)
    x, text, pooled = (torch.randn(2, *shape, generator=draw) for shape in ((4, 8, 8), (5, 16), (8,)))
    call = Call({})
    spared = []
    for step, change in enumerate((0.0, 0.01, 0.01, 2.0, 0.01)):
        x = x + change * torch.randn(x.shape, generator=draw)
        named = {
            "hidden_states": x,
            "encoder_hidden_states": text,
            "pooled_projections": pooled,
            "timestep": torch.tensor([900.0 - step] * 2),
        }
        call, wiring = Call(call.kept), Wiring(ours)
        with torch.no_grad():
            expected = theirs(**named, return_dict=False)[0]
            FirstBlockCache(0.2, 0.0, 1.0, -1).install(wiring, moment(call))
            found = ours(**named, return_dict=False)[0]
            wiring.remove()
        assert torch.allclose(found, expected, atol=1e-5), step
        spared.append(call.kept["first_block.hits"][0].item() > 0)
    assert spared == [False, True, True, False, True]


def _with_text(transformer: Any) -> Any:
    """The last block gives no text, which the cache of diffusers does not expect."""
    last = transformer.transformer_blocks[-1]
    forward = last.forward

    def both(*args: Any, **kwargs: Any) -> Any:
        return kwargs["encoder_hidden_states"], forward(*args, **kwargs)[1]

    last.forward = both
    return transformer


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    path = tmp_path_factory.mktemp("models") / "sd3.safetensors"
    write_shapes(path, SMALL["sd3"].shapes(), "float16")
    return ModelRef(Digest("sd3"), "unet", str(path))


def sampled(
    model: ModelRef,
    *,
    resume: State | None = None,
    save: Callable[[State], None] | None = None,
    sampler: str = "euler",
    batch: int = 1,
    **settings: Any,
) -> Tensor:
    """Small latents of eight steps, the two sides of different lengths and so in calls of their own."""
    with demo_store().lease(model) as loaded:
        config: Any = loaded.config
        draw = torch.Generator().manual_seed(0)
        vector = {"pooled_output": torch.randn(1, 8, generator=draw)}
        sides = [[[torch.randn(1, length, config.context_dim, generator=draw), vector]] for length in (7, 31)]
        chosen = Settings(seed=1, steps=8, cfg=3.0, sampler=sampler, scheduler="simple", **settings)
        callbacks = sample.Callbacks(resume=resume, save=save)
        latent = {"samples": torch.zeros(batch, 4, 12, 8)}
        found: Tensor = sample.sample_latent(
            unet.denoiser(loaded), chosen, sides[0], sides[1], latent, callbacks=callbacks
        )["samples"]
        assert not any("Spared" in type(child).__name__ for child in loaded.module.modules())
    return found


def cached(name: str, model: ModelRef) -> ModelRef:
    found: ModelRef = (
        step_caches.deep_cache(model, 3, 1)
        if name == "DeepCache"
        else step_caches.apply_fb_cache_on_model(model=model, residual_diff_threshold=0.3)
    )
    return found


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("name", ["DeepCache", "First Block Cache"])
def test_a_cut_run_goes_on_with_what_was_known(name: str, sampler: str) -> None:
    """From every state, to the last bit; a new run begins without it, and the plain model is as it was."""
    model, states = cached(name, demo("unet")), list[State]()
    plain = sampled(demo("unet"), sampler=sampler)
    whole = sampled(model, save=states.append, sampler=sampler)
    assert 1e-3 < (whole - plain).abs().mean() < 2
    assert torch.equal(sampled(model, sampler=sampler), whole)
    for state in states[:-1:2]:
        assert torch.equal(sampled(model, resume=from_bytes(to_bytes(state)), sampler=sampler), whole)
    assert torch.equal(sampled(demo("unet"), sampler=sampler), plain)


@pytest.mark.parametrize("name", ["DeepCache", "First Block Cache"])
def test_each_window_of_a_batch_has_its_own(name: str) -> None:
    """Of three windows, two at a time: steps are spared, a cut run goes on to the last bit; windows that move about have none."""
    tiled, states = (
        with_windows(demo("unet"), "MultiDiffusion", width=64, height=48, overlap=16, at_once=2),
        list[State](),
    )
    model = cached(name, tiled)
    whole = sampled(model, save=states.append, batch=2)
    assert 1e-3 < (whole - sampled(tiled, batch=2)).abs().mean() < 2
    assert torch.equal(sampled(model, resume=from_bytes(to_bytes(states[3])), batch=2), whole)
    moving = with_windows(demo("unet"), "SpotDiffusion", width=64, height=48, overlap=16, at_once=2)
    assert torch.equal(sampled(cached(name, moving), batch=2), sampled(moving, batch=2))


def test_each_side_of_guidance_has_its_own(sd3: ModelRef) -> None:
    """Were one side told what the other is, a run without guidance would not be that of the positive side alone."""
    states = list[State]()
    sampled(cached("DeepCache", demo("unet")), save=states.append)
    names = {name for name in states[3].memory if name.endswith("features")}
    assert names == {"call.positive.0.deep_cache.features", "call.negative.0.deep_cache.features"}
    positive, negative = (states[3].memory[name] for name in sorted(names, reverse=True))
    assert not torch.allclose(positive, negative, atol=1e-2)


def test_a_cache_that_never_serves_changes_no_bit() -> None:
    plain = sampled(demo("unet"))
    assert torch.equal(sampled(step_caches.deep_cache(demo("unet"), 1, 0)), plain)
    assert torch.equal(sampled(step_caches.apply_fb_cache_on_model(model=demo("unet"))), plain)


def test_caches_go_with_other_options(sd3: ModelRef) -> None:
    """What guides by another change of the network is computed whole."""
    model = cached("DeepCache", unet_options.free_u(demo("unet"), b1=1.3))
    assert (sampled(model) - sampled(cached("DeepCache", demo("unet")))).abs().max() > 1e-3
    for guided in (attention_guidance.perturbed_attention_guidance, attention_guidance.self_attention_guidance):
        both = sampled(cached("DeepCache", guided(demo("unet"))))
        assert 1e-4 < (both - sampled(guided(demo("unet")))).abs().mean() < 2
    assert sampled(cached("First Block Cache", sd3)).isfinite().all()


def test_what_has_no_cache_is_refused(sd3: ModelRef) -> None:
    with pytest.raises(InputError, match="expected a UNet for DeepCache"):
        sampled(cached("DeepCache", sd3))
    with pytest.raises(InputError, match="expected one cache between steps, found DeepCache and First Block Cache"):
        sampled(cached("First Block Cache", cached("DeepCache", demo("unet"))))
    with pytest.raises(InputError, match="expected a cache_depth of at most 3"):
        sampled(step_caches.deep_cache(demo("unet"), 3, 4))
    with pytest.raises(InputError, match="expected diffusion_model, found 'vae'"):
        step_caches.apply_fb_cache_on_model(model=demo("unet"), object_to_patch="vae")


def test_what_is_kept_is_found_by_those_who_kept_it() -> None:
    """Side by side; what one of them lacks, or has in another shape, is not found, and what nobody keeps is forgotten."""
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a+1", "a+2"]
    recalls = Recalls({"other": torch.ones(1), "call.c.x": torch.ones(1)})
    call = recalls.call(["a", "b"])
    assert call.found == {}
    call.kept["x"] = torch.tensor([[1.0], [2.0]])
    recalls.keep(["a", "b"], call)
    memory = recalls.remembered(recalls.memory)
    assert memory.keys() == {"other", "call.a.x", "call.b.x"}
    assert Recalls(memory).call(["b", "a"]).found["x"].flatten().tolist() == [2, 1]
    assert Recalls(memory).call(["b", "c"]).found == {}
    assert Recalls({"call.a.x": torch.ones(1, 2), "call.b.x": torch.ones(1, 3)}).call(["a", "b"]).found == {}
    assert Call({"n": torch.tensor([[1.0, 2.0], [1.0, 3.0]])}).numbers("n") is None
