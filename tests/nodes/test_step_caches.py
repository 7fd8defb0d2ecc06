"""Caches between steps: what is spared, what is kept for whom, and that a cut run goes on with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.errors import InputError
from engine.models import Digest, ModelRef
from nodes import attention_guidance, sampling, step_caches, unet_options
from nodes.diffusion import mag_cache, options, sample, unet
from nodes.diffusion.alterations import Moment, Wiring
from nodes.diffusion.deep_cache import DeepCache, deep_cache
from nodes.diffusion.first_block_cache import FirstBlockCache
from nodes.diffusion.recall import Call
from nodes.diffusion.resume import from_bytes, to_bytes
from nodes.diffusion.sample import Settings
from nodes.diffusion.samplers import State
from nodes.diffusion.schedules import stable_diffusion
from nodes.diffusion.tiled_diffusion import with_windows
from nodes.diffusion.unet_blocks import output_blocks
from tests.nodes.contexts import context, demo, demo_store

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


def network() -> Any:
    """The demo's UNet, which stays in the store."""
    with demo_store().lease(demo("unet")) as loaded:
        return loaded.module


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
    steps: int = 8,
    batch: int = 1,
    area: tuple[int, int, int, int] | None = None,
    **settings: Any,
) -> Tensor:
    """Small latents, the two sides of different lengths and so in calls of their own. The network is left as it was."""
    with demo_store().lease(model) as loaded:
        config: Any = loaded.config
        before = _wired(loaded.module)
        draw = torch.Generator().manual_seed(0)
        vector = {"pooled_output": torch.randn(1, 8, generator=draw)}
        sides: list[Any] = [
            [[torch.randn(1, length, config.context_dim, generator=draw), vector]] for length in (7, 31)
        ]
        if area is not None:
            sides[0].append([sides[0][0][0] + 1, {**vector, "area": area}])
        chosen = Settings(seed=1, steps=steps, cfg=3.0, sampler=sampler, scheduler="simple", **settings)
        callbacks = sample.Callbacks(resume=resume, save=save)
        latent = {"samples": torch.zeros(batch, 4, 12, 8)}
        found: Tensor = sample.sample_latent(
            unet.denoiser(loaded), chosen, sides[0], sides[1], latent, callbacks=callbacks
        )["samples"]
        assert _wired(loaded.module) == before
    return found


def _wired(module: Any) -> list[tuple[str, int, int, int]]:
    """Which modules there are, and how many hooks they have."""
    return [
        (name, id(child), len(child._forward_hooks), len(child._forward_pre_hooks))
        for name, child in module.named_modules()
    ]


@cache
def plain(**settings: Any) -> Tensor:
    """What the demo model makes without a cache."""
    return sampled(demo("unet"), **settings)


RATIOS = "[1.0, 0.99, 0.98, 0.97]"
CACHES: dict[str, Callable[[ModelRef], Any]] = {
    "DeepCache": lambda model: step_caches.deep_cache(model, 3, 1),
    "First Block Cache": lambda model: step_caches.apply_fb_cache_on_model(model=model, residual_diff_threshold=0.3),
    "broadcast": lambda model: step_caches.apply_pab_on_model(model, 2, 3, 0.1, 1.0),
    "TaylorSeer": lambda model: step_caches.apply_taylor_seer_on_model(model, 3, 1, 2, 1),
    "TaylorSeer of attention": lambda model: step_caches.apply_taylor_seer_on_model(model, 3, 2, 2, 1, "attention"),
    "SeaCache": lambda model: step_caches.apply_sea_cache_on_model(model, 1.0),
    "MagCache": lambda model: step_caches.apply_mag_cache_on_model(model, RATIOS, 0.1),
    "FasterCache": lambda model: step_caches.apply_faster_cache_on_model(model, 3, 0.3),
}
NEWER = [name for name in CACHES if name not in ("DeepCache", "First Block Cache")]


def cached(name: str, model: ModelRef) -> ModelRef:
    found: ModelRef = CACHES[name](model)
    return found


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("DeepCache", "heun"),
        ("First Block Cache", "euler"),
        *zip(NEWER, itertools.cycle(["heun", "dpmpp_2m"])),
    ],
)
def test_a_cut_run_goes_on_with_what_was_known(name: str, sampler: str) -> None:
    """To the last bit, from a state early in the run and one late in it."""
    model, states = cached(name, demo("unet")), list[State]()
    whole = sampled(model, save=states.append, sampler=sampler, steps=6)
    assert 1e-3 < (whole - plain(sampler=sampler, steps=6)).abs().mean() < 3
    for state in states[2:-1:2]:
        assert torch.equal(sampled(model, resume=from_bytes(to_bytes(state)), sampler=sampler, steps=6), whole)


@pytest.mark.parametrize("name", ["DeepCache", "FasterCache"])
def test_a_new_run_begins_without(name: str) -> None:
    model = cached(name, demo("unet"))
    assert torch.equal(sampled(model, steps=4), sampled(model, steps=4))


@pytest.mark.parametrize("name", ["DeepCache", "First Block Cache", "broadcast", "TaylorSeer", "FasterCache"])
def test_each_window_of_a_batch_has_its_own(name: str) -> None:
    """Of three windows, two at a time: steps are spared, and a cut run goes on to the last bit."""
    model, states = cached(name, windowed("MultiDiffusion")), list[State]()
    whole = sampled(model, save=states.append, batch=2, steps=6)
    assert 1e-3 < (whole - sampled(windowed("MultiDiffusion"), batch=2, steps=6)).abs().mean() < 2
    assert torch.equal(sampled(model, resume=from_bytes(to_bytes(states[3])), batch=2, steps=6), whole)


def windowed(method: str) -> ModelRef:
    return with_windows(demo("unet"), method, width=64, height=48, overlap=16, at_once=2)


@pytest.mark.parametrize("name", ["DeepCache", "First Block Cache", "broadcast", "TaylorSeer"])
def test_windows_that_move_about_have_none(name: str) -> None:
    moving = windowed("SpotDiffusion")
    assert torch.equal(sampled(cached(name, moving), batch=2, steps=3), sampled(moving, batch=2, steps=3))


def test_each_side_of_guidance_has_its_own(sd3: ModelRef) -> None:
    """Were one side told what the other is, a run without guidance would not be that of the positive side alone."""
    states = list[State]()
    sampled(cached("DeepCache", demo("unet")), save=states.append)
    names = {name for name in states[3].memory if name.endswith("features")}
    assert names == {"call.positive.0.deep_cache.features", "call.negative.0.deep_cache.features"}
    positive, negative = (states[3].memory[name] for name in sorted(names, reverse=True))
    assert not torch.allclose(positive, negative, atol=1e-2)


def test_a_cache_that_never_serves_changes_no_bit() -> None:
    model = demo("unet")
    for never in (
        step_caches.deep_cache(model, 1, 0),
        step_caches.apply_fb_cache_on_model(model=model),
        step_caches.apply_pab_on_model(model, 1, 1, 0.0, 1.0),
        step_caches.apply_taylor_seer_on_model(model, 1, first_steps=0),
        step_caches.apply_taylor_seer_on_model(model, 1, first_steps=0, predict="attention"),
        step_caches.apply_sea_cache_on_model(model, 0.0),
        step_caches.apply_mag_cache_on_model(model, "1 1 1", 0.0, retention_ratio=0.0),
        step_caches.apply_faster_cache_on_model(model, 1, 0.0, attention_interval=1, attention_start=0.0),
    ):
        assert torch.equal(sampled(never, steps=4), plain(steps=4)), never.settings


_SELF, _CROSS = (f"attentions.0.transformer_blocks.0.attn{number}" for number in (1, 2))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("TaylorSeer", {"resnets.0": ([0, 1, 3, 6, 7], [])}),
        ("TaylorSeer of attention", {_SELF: ([0, 1, 3, 6, 7], []), _CROSS: ([0, 1, 3, 6, 7], [])}),
        ("broadcast", {_SELF: ([0, 2, 4, 6], []), _CROSS: ([0, 3, 6], [])}),
        ("MagCache", {"resnets.0": ([0, 1, 5], [])}),
        (
            "FasterCache",
            {
                "resnets.0": ([0, 1, 2, 3, 6], [4, 5, 7]),
                _SELF: ([0, 1, 2, 3, 6], [4]),
                _CROSS: ([0, 1, 2, 3, 6], [4, 5, 7]),
            },
        ),
    ],
)
def test_parts_are_computed_in_some_steps_alone(name: str, parts: dict[str, tuple[list[int], list[int]]]) -> None:
    """In those of the middle; for two samples, on both sides of guidance or, in the steps named second, on the positive one alone, and for
    a part of the picture as well as for all of it: four calls a step, or two."""
    asked: list[str] = []
    middle = network().mid_block
    handles = [
        middle.get_submodule(part).register_forward_hook(lambda *_, part=part: asked.append(part)) for part in parts
    ]
    try:
        found = sampled(cached(name, demo("unet")), batch=2, area=(6, 8, 0, 0))
    finally:
        for handle in handles:
            handle.remove()
    assert found.isfinite().all()
    counts = {part: 4 * len(both) + 2 * len(positive) for part, (both, positive) in parts.items()}
    assert {part: asked.count(part) for part in parts} == counts


def test_magnitudes_are_measured_as_they_are() -> None:
    """Of what lies between the first convolution and the end of the way up, per cell; the picture is that of the plain model."""
    noted: list[Tensor] = []
    whole = network()
    modules = whole.conv_in, whole.up_blocks[-1]
    draw = torch.Generator().manual_seed(0)
    sides = [[[torch.randn(1, 7, 64, generator=draw), {}]] for _ in range(2)]
    named: dict[str, Any] = {"positive": sides[0], "negative": sides[1], "seed": 1, "steps": 4, "cfg": 1.0}
    named |= {"latent_image": {"samples": torch.zeros(1, 4, 12, 8)}, "sampler_name": "euler", "scheduler": "simple"}
    handles = [it.register_forward_hook(lambda _m, _a, out: noted.append(out)) for it in modules]
    try:
        ratios, sample = step_caches.mag_cache_ratios(context(), model=demo("unet"), **named)
    finally:
        for handle in handles:
            handle.remove()
    added = [last - first for first, last in zip(noted[::2], noted[1::2], strict=True)]
    sizes = [it.norm(dim=1) for it in added]
    expected = [1.0, *(float((new / old).mean()) for old, new in itertools.pairwise(sizes))]
    assert mag_cache.parsed(ratios) == pytest.approx(expected, abs=1e-5)
    assert torch.equal(sample["samples"], sampling.k_sampler(context(), model=demo("unet"), **named)["samples"])


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        (" [] ", "found none; MagCacheRatios measures"),
        ("1, x", "found 'x'"),
        ("1 -1", "found '-1'"),
        ("nan", "found 'nan'"),
    ],
)
def test_ratios_that_are_none_are_refused(ratios: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as wrong:
        step_caches.apply_mag_cache_on_model(demo("unet"), ratios)
    assert wrong.value.input == "ratios"


def test_caches_go_with_other_options(sd3: ModelRef) -> None:
    """What guides by another change of the network is computed whole."""
    model = cached("DeepCache", unet_options.free_u(demo("unet"), b1=1.3))
    assert (sampled(model, steps=5) - sampled(cached("DeepCache", demo("unet")), steps=5)).abs().max() > 1e-3
    for guided in (attention_guidance.perturbed_attention_guidance, attention_guidance.self_attention_guidance):
        alone = sampled(guided(demo("unet")), steps=5)
        for name in ("DeepCache", "FasterCache"):
            both = sampled(cached(name, guided(demo("unet"))), steps=5)
            assert 1e-4 < (both - alone).abs().mean() < 3.5, name


def test_transformers_have_all_but_one(sd3: ModelRef) -> None:
    """Each makes another picture than the model alone, but a similar one."""
    plain = sampled(sd3)
    assert sampled(cached("First Block Cache", sd3)).isfinite().all()
    for name in NEWER:
        found = sampled(cached(name, sd3))
        assert 0 < (found - plain).abs().mean() < plain.abs().mean(), name


def test_what_has_no_cache_is_refused(sd3: ModelRef) -> None:
    with pytest.raises(InputError, match="expected a UNet for DeepCache"):
        sampled(cached("DeepCache", sd3))
    with pytest.raises(InputError, match="expected a model without a cache between steps, found TaylorSeer"):
        options.check_uncached(cached("TaylorSeer", sd3))
    with pytest.raises(InputError, match="expected one cache between steps, found DeepCache and First Block Cache"):
        sampled(cached("First Block Cache", cached("DeepCache", demo("unet"))))
    with pytest.raises(InputError, match="expected a cache_depth of at most 3"):
        sampled(step_caches.deep_cache(demo("unet"), 3, 4))
    with pytest.raises(InputError, match="expected diffusion_model, found 'vae'"):
        step_caches.apply_fb_cache_on_model(model=demo("unet"), object_to_patch="vae")
