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
from nodes.diffusion.recall import Call, Recalls, unique
from nodes.diffusion.resume import from_bytes, to_bytes
from nodes.diffusion.sample import Settings
from nodes.diffusion.samplers import State
from nodes.diffusion.schedules import stable_diffusion
from nodes.diffusion.taylor import expanded, predicted
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
    batch: int = 1,
    area: tuple[int, int, int, int] | None = None,
    **settings: Any,
) -> Tensor:
    """Small latents of eight steps, the two sides of different lengths and so in calls of their own."""
    with demo_store().lease(model) as loaded:
        config: Any = loaded.config
        draw = torch.Generator().manual_seed(0)
        vector = {"pooled_output": torch.randn(1, 8, generator=draw)}
        sides: list[Any] = [
            [[torch.randn(1, length, config.context_dim, generator=draw), vector]] for length in (7, 31)
        ]
        if area is not None:
            sides[0].append([sides[0][0][0] + 1, {**vector, "area": area}])
        chosen = Settings(seed=1, steps=8, cfg=3.0, sampler=sampler, scheduler="simple", **settings)
        callbacks = sample.Callbacks(resume=resume, save=save)
        latent = {"samples": torch.zeros(batch, 4, 12, 8)}
        found: Tensor = sample.sample_latent(
            unet.denoiser(loaded), chosen, sides[0], sides[1], latent, callbacks=callbacks
        )["samples"]
        assert not any("Spared" in type(child).__name__ for child in loaded.module.modules())
    return found


RATIOS = "[1.0, 0.99, 0.98, 0.97]"
CACHES: dict[str, Callable[[ModelRef], Any]] = {
    "DeepCache": lambda model: step_caches.deep_cache(model, 3, 1),
    "First Block Cache": lambda model: step_caches.apply_fb_cache_on_model(model=model, residual_diff_threshold=0.3),
    "broadcast": lambda model: step_caches.apply_pab_on_model(model, 2, 3, 0.1, 1.0),
    "TaylorSeer": lambda model: step_caches.apply_taylor_seer_on_model(model, 3, 1, 2, 1),
    "TaylorSeer of attention": lambda model: step_caches.apply_taylor_seer_on_model(model, 3, 2, 2, 1, "attention"),
    "SeaCache": lambda model: step_caches.apply_sea_cache_on_model(model, 1.0),
    "MagCache": lambda model: step_caches.apply_mag_cache_on_model(model, RATIOS, 0.1),
}
NEWER = [name for name in CACHES if name not in ("DeepCache", "First Block Cache")]


def cached(name: str, model: ModelRef) -> ModelRef:
    found: ModelRef = CACHES[name](model)
    return found


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        *itertools.product(["DeepCache", "First Block Cache"], ["euler", "heun", "dpmpp_2m"]),
        *zip(NEWER, itertools.cycle(["heun", "dpmpp_2m"])),
    ],
)
def test_a_cut_run_goes_on_with_what_was_known(name: str, sampler: str) -> None:
    """From every state, to the last bit; a new run begins without it, and the plain model is as it was."""
    model, states = cached(name, demo("unet")), list[State]()
    plain = sampled(demo("unet"), sampler=sampler)
    whole = sampled(model, save=states.append, sampler=sampler)
    assert 1e-3 < (whole - plain).abs().mean() < 2
    assert torch.equal(sampled(model, sampler=sampler), whole)
    for state in states[1:-1:3]:
        assert torch.equal(sampled(model, resume=from_bytes(to_bytes(state)), sampler=sampler), whole)
    assert torch.equal(sampled(demo("unet"), sampler=sampler), plain)


@pytest.mark.parametrize("name", ["DeepCache", "First Block Cache", "broadcast", "TaylorSeer"])
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
    assert torch.equal(sampled(step_caches.apply_pab_on_model(demo("unet"), 1, 1)), plain)
    assert torch.equal(sampled(step_caches.apply_taylor_seer_on_model(demo("unet"), 1)), plain)
    assert torch.equal(sampled(step_caches.apply_taylor_seer_on_model(demo("unet"), 1, predict="attention")), plain)
    assert torch.equal(sampled(step_caches.apply_sea_cache_on_model(demo("unet"), 0.0)), plain)
    assert torch.equal(sampled(step_caches.apply_mag_cache_on_model(demo("unet"), "1 1 1", 0.0)), plain)


@pytest.mark.parametrize(
    ("name", "part", "whole"),
    [
        ("TaylorSeer", "mid_block.resnets.0", [0, 1, 3, 6, 7]),
        ("TaylorSeer of attention", "mid_block.attentions.0.transformer_blocks.0.attn1", [0, 1, 3, 6, 7]),
        ("broadcast", "mid_block.attentions.0.transformer_blocks.0.attn1", [0, 2, 4, 6]),
        ("broadcast", "mid_block.attentions.0.transformer_blocks.0.attn2", [0, 3, 6]),
        ("MagCache", "mid_block.resnets.0", [0, 1, 5]),
    ],
)
def test_parts_are_computed_in_some_steps_alone(name: str, part: str, whole: list[int]) -> None:
    """For two samples, on both sides of guidance, and for a part of the picture as well as for all of it: four calls a step."""
    asked: list[int] = []
    handle = network().get_submodule(part).register_forward_hook(lambda *_: asked.append(1))
    try:
        found = sampled(cached(name, demo("unet")), batch=2, area=(6, 8, 0, 0))
    finally:
        handle.remove()
    assert found.isfinite().all()
    assert len(asked) == 4 * len(whole)


def test_a_step_has_its_number_whatever_a_solver_asks() -> None:
    """Between two levels it is that of the next; a run may go up as well."""
    levels = (8.0, 4.0, 2.0, 1.0)

    def step(sigma: float, levels: tuple[float, ...] = levels) -> tuple[int, int]:
        at = Moment(sigma, 8, 8, stable_diffusion(), levels=levels)
        return at.step, at.steps

    assert [step(sigma) for sigma in (9.0, 8.0, 6.0, 4.0000001, 1.0, 0.5)] == [(n, 4) for n in (0, 0, 1, 1, 3, 3)]
    assert [step(sigma, levels[::-1])[0] for sigma in (1.0, 1.5, 8.0)] == [0, 1, 3]
    assert step(3.0, ()) == (0, 0)


def test_an_expansion_goes_on_as_it_was() -> None:
    """Of 1, 4, 9 at steps 0, 2 and 3: differences 3/2 and 5, and (5 - 3/2) / 1; two steps on that makes 9 + 2 * 5 + 2 * 7/2."""
    one, four, nine = (torch.full((1, 2), number) for number in (1.0, 4.0, 9.0))
    known = expanded(nine, expanded(four, expanded(one, [], 0, 2), 2, 2), 1, 2)
    assert [it[0, 0].item() for it in known] == [9, 5, 3.5]
    assert predicted(known, 2).tolist() == [[26.0, 26.0]]
    assert expanded(one, known, 0, 2) == [one, *known[1:]]
    assert expanded(one, known, -1, 2) == [one]
    assert expanded(torch.ones(2, 2), known, 1, 2)[1:] == []


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
    assert (sampled(model) - sampled(cached("DeepCache", demo("unet")))).abs().max() > 1e-3
    for guided in (attention_guidance.perturbed_attention_guidance, attention_guidance.self_attention_guidance):
        both = sampled(cached("DeepCache", guided(demo("unet"))))
        assert 1e-4 < (both - sampled(guided(demo("unet")))).abs().mean() < 2


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
