"""Caches between steps do what those of diffusers do, call by call, on networks of some thousand weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from diffusers.hooks import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    apply_faster_cache,
    apply_first_block_cache,
    apply_mag_cache,
    apply_pyramid_attention_broadcast,
    apply_taylorseer_cache,
)
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from diffusers.hooks.sea_cache import SeaCacheConfig, _apply_sea_filter, apply_sea_cache
from torch import Tensor, nn

from nodes.diffusion.alterations import Alteration, Moment, Wiring
from nodes.diffusion.attention_broadcast import AttentionBroadcast
from nodes.diffusion.conditioning import Entry
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.faster_cache import faster_cache
from nodes.diffusion.first_block_cache import FirstBlockCache
from nodes.diffusion.guidance import NOTHING, Memory, Turn
from nodes.diffusion.mag_cache import MagCache
from nodes.diffusion.predictions import Epsilon, Flow
from nodes.diffusion.recall import Call, Recalls
from nodes.diffusion.schedules import FlowSchedule, ModelSigmas, stable_diffusion
from nodes.diffusion.sea_cache import SeaCache, filtered
from nodes.diffusion.taylor_seer import TaylorSeer

STEPS = 12
SIGMAS = tuple(0.97 - 0.08 * step for step in range(STEPS))
"""Of a straight path."""
RATIOS = [1.0, 1.1, 1.01, 0.98, 1.02, 1.03, 0.97]


def transformer() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8,
        "num_attention_heads": 4, "joint_attention_dim": 16, "caption_projection_dim": 32, "pooled_projection_dim": 8,
        "pos_embed_max_size": 16,
    }  # fmt: skip
    return SD3Transformer2DModel(**sizes).eval()


def unet() -> Any:
    torch.manual_seed(0)
    kinds = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    sizes: dict[str, Any] = {
        "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 16,
        "attention_head_dim": 4, "in_channels": 4, "out_channels": 4,
    }  # fmt: skip
    return UNet2DConditionModel(**kinds, **sizes).eval()


def calls(kind: str) -> Iterator[dict[str, Tensor]]:
    """Inputs that change little, but at one step much."""
    draw = torch.Generator().manual_seed(1)
    x, text, pooled = (torch.randn(2, *shape, generator=draw) for shape in ((4, 8, 8), (5, 16), (8,)))
    for step, sigma in enumerate(SIGMAS):
        x = x + (2.0 if step == 7 else 0.02) * torch.randn(x.shape, generator=draw)
        given = {"encoder_hidden_states": text, "timestep": torch.tensor([1000 * sigma] * 2)}
        yield {"sample": x, **given} if kind == "unet" else {"hidden_states": x, "pooled_projections": pooled, **given}


def alike(
    network: Callable[[], Any],
    ours: Alteration,
    theirs: Callable[[Any, Callable[[], float]], None],
    counted: Callable[[nn.Module], bool],
    schedule: ModelSigmas,
) -> list[int]:
    """Both say the same; how many modules each call of ours computed."""
    kind = "unet" if network is unet else "transformer"
    plain, cached = network(), network()
    cached.load_state_dict(plain.state_dict())
    now = [0.0]
    theirs(cached, lambda: now[0])
    call, computed = Call({}), []
    for step, named in enumerate(calls(kind)):
        now[0] = 1000 * SIGMAS[step]
        wiring, call, number = Wiring(plain), Call(call.kept), [0]
        sigma = float(schedule.sigma(named["timestep"][:1].double().numpy())[0]) if kind == "unet" else SIGMAS[step]
        levels = tuple(float(schedule.sigma(1000 * torch.tensor([s]).double().numpy())[0]) for s in SIGMAS)
        levels = levels if kind == "unet" else SIGMAS
        _set_cache_context(cached, CacheContext("one", step, STEPS, None, SIGMAS[step]))
        for module in filter(counted, list(plain.modules())):
            wiring.after(module, lambda x, number=number: (number.append(0), x)[1])  # type: ignore[misc]
        with torch.no_grad():
            expected = cached(**named, return_dict=False)[0]
            ours.install(wiring, Moment(sigma, 8, 8, schedule, batch=2, call=call, levels=levels))
            args = (named.pop("sample"), named.pop("timestep")) if kind == "unet" else ()
            found = plain(*args, **named, return_dict=False)[0]
        wiring.remove()
        assert torch.allclose(found, expected, atol=1e-5), step
        computed.append(len(number) - 1)
    return computed


def with_text(network: Any) -> Any:
    """The last block gives no text, which the caches of diffusers do not expect."""
    last = network.transformer_blocks[-1]
    forward = last.forward

    def both(*args: Any, **kwargs: Any) -> Any:
        return kwargs["encoder_hidden_states"], forward(*args, **kwargs)[1]

    last.forward = both
    return network


def is_block(module: nn.Module) -> bool:
    return type(module).__name__ == "JointTransformerBlock"


def is_attention(module: nn.Module) -> bool:
    return type(module).__name__ == "Attention"


def blocks(ours: Alteration, theirs: Callable[[Any], None]) -> list[int]:
    return alike(transformer, ours, lambda net, now: theirs(with_text(net)), is_block, FlowSchedule(1.0))


def test_first_block_cache() -> None:
    ours = FirstBlockCache(0.3, 0.0, 1.0, -1)
    spared = blocks(ours, lambda net: apply_first_block_cache(net, FirstBlockCacheConfig(0.3)))
    assert {1, 3} == set(spared)
    assert spared[7] == 3


def test_mag_cache() -> None:
    """Ratios of 7 steps serve for 12: some steps are skipped until the error is too large or three were."""
    config = MagCacheConfig(
        threshold=0.2, max_skip_steps=3, retention_ratio=0.2, num_inference_steps=STEPS, mag_ratios=RATIOS
    )
    spared = blocks(MagCache(tuple(RATIOS), 0.2, 3, 0.2), lambda net: apply_mag_cache(net, config))
    assert spared == [3, 3, 0, 3, 0, 0, 0, 3, 0, 0, 0, 3]


@pytest.mark.parametrize("extrapolates", [True, False])
def test_sea_cache(extrapolates: bool) -> None:
    """The sudden change is computed; so are the first and the last step, and what comes after two that were spared."""

    def seen(module: Any, args: Any, kwargs: Any) -> list[Tensor]:
        return [sample[:, None] for sample in kwargs["hidden_states"]]

    config = SeaCacheConfig(threshold=0.3, residual_order=int(extrapolates), power_exp=2.0, raw_vision_callback=seen)
    spared = blocks(SeaCache(0.3, 2, 1, 1, extrapolates), lambda net: apply_sea_cache(net, config))
    assert (spared[0], spared[7], spared[-1]) == (3, 3, 3)
    assert spared.count(0) == 5


@pytest.mark.parametrize(("order", "first"), [(0, 3), (1, 3), (2, 4), (1, 1)])
def test_taylor_seer(order: int, first: int) -> None:
    config = TaylorSeerCacheConfig(3, first, None, order, torch.float32)
    spared = alike(
        transformer,
        TaylorSeer(3, order, first, 0, attention_only=True),
        lambda net, now: apply_taylorseer_cache(net, config),
        is_attention,
        FlowSchedule(1.0),
    )
    whole = [step < first or (step - first - 1) % 3 == 0 for step in range(STEPS)]
    assert spared == [3 * it for it in whole]


@pytest.mark.parametrize("network", [unet, transformer])
def test_pyramid_attention_broadcast(network: Callable[[], Any]) -> None:
    """Between both ends self attention is asked every second time, cross attention every third."""

    def theirs(net: Any, now: Callable[[], float]) -> None:
        config = PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            cross_attention_block_skip_range=3,
            spatial_attention_timestep_skip_range=(200, 800),
            cross_attention_timestep_skip_range=(200, 800),
            current_timestep_callback=now,
        )
        apply_pyramid_attention_broadcast(net, config)

    schedule = stable_diffusion() if network is unet else FlowSchedule(1.0)
    spared = alike(network, AttentionBroadcast(2, 3, 0.2, 0.8), theirs, is_attention, schedule)
    within = [200 < 1000 * sigma < 800 for sigma in SIGMAS]
    own, cross = ([not (it and step % n) for step, it in enumerate(within)] for n in (2, 3))
    many = sum(map(is_attention, network().modules()))
    half = many // 2 if network is unet else many
    others = many - half
    assert spared == [half * a + others * b for a, b in zip(own, cross, strict=True)]


def as_network(net: Any, kind: str) -> Any:
    """For a ``Denoiser``."""
    if kind == "unet":
        return lambda x, timestep, context: net(x, timestep, context, return_dict=False)[0]

    def call(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
        named = {"hidden_states": x, "timestep": timestep, "encoder_hidden_states": context, **inputs}
        out: Tensor = net(**named, return_dict=False)[0]
        return out

    return call


class TheirFasterCache:
    """On ``net``, a transformer with text behind its last block or a UNet, from its first call on."""

    def __init__(self, net: Any, *, sides: int, **settings: Any) -> None:
        self.net, self.sides, self.step = net, sides, 0
        self.went_on: set[nn.Module] = set()
        inputs = ["hidden_states", "encoder_hidden_states", "timestep", "pooled_projections"]
        config = FasterCacheConfig(
            **settings,
            tensor_format="BCHW",
            is_guidance_distilled=sides == 1,
            current_timestep_callback=lambda: 1000 * SIGMAS[self.step],
            attention_weight_callback=self._weight,
            _unconditional_conditional_input_kwargs_identifiers=inputs,
        )
        apply_faster_cache(net, config)

    def _weight(self, module: nn.Module) -> float:
        self.went_on.add(module)
        return 0.8 * self.step / (STEPS - 1)

    def outputs(self, step: int, named: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """For the inputs of all sides, the negative one first. In the paper, unlike in diffusers, attention that was made up is not what
        others go on from."""
        self.step = step
        self.went_on.clear()
        before = {it: hook.state.cache for it in self.net.modules() if (hook := _block_hook(it)) is not None}
        args = (named.pop("sample"),) if "sample" in named else ()
        out: Tensor = self.net(*args, **named, return_dict=False)[0]
        for module in self.went_on:
            _block_hook(module).state.cache = before[module]
        return out.chunk(self.sides)


def _block_hook(module: nn.Module) -> Any:
    registry = getattr(module, "_diffusers_hook", None)
    return None if registry is None else registry.get_hook("faster_cache_block")


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize(
    ("network", "sides", "attention", "negative", "whole"),
    [
        (transformer, 2, 2, 3, [1, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 0]),
        (transformer, 2, 3, 5, [1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0]),
        (transformer, 1, 2, 3, [1, 1, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0]),
        (unet, 2, 1, 4, [1] * STEPS),
    ],
)
def test_faster_cache(network: Callable[[], Any], sides: int, attention: int, negative: int, whole: list[int]) -> None:
    """Attention from 32 % of the timesteps on, the negative side from 20 % on, the frequencies' turn at 55 %."""
    kind = "unet" if network is unet else "transformer"
    plain, cached = network(), network()
    cached.load_state_dict(plain.state_dict())
    theirs = TheirFasterCache(
        with_text(cached) if kind == "transformer" else cached,
        sides=sides,
        spatial_attention_block_skip_range=attention,
        spatial_attention_timestep_skip_range=(-1, 680),
        unconditional_batch_skip_range=negative,
        unconditional_batch_timestep_skip_range=(-1, 800),
        low_frequency_weight_update_timestep_range=(450, 1001),
        high_frequency_weight_update_timestep_range=(-1, 450),
        alpha_low_frequency=1.2,
        alpha_high_frequency=0.7,
    )
    made = faster_cache(
        plain, attention=attention, attention_start=0.32, weight=0.8, negative=negative, negative_start=0.2, switch=0.55,
        low=1.2, high=0.7,
    )  # fmt: skip
    schedule: ModelSigmas = stable_diffusion() if kind == "unet" else FlowSchedule(1.0)
    levels = tuple(float(it) for it in schedule.sigma(1000 * torch.tensor(SIGMAS).double().numpy()))
    denoiser = Denoiser(
        as_network(plain, kind), schedule, Epsilon() if kind == "unet" else Flow(), levels=levels, faster=made
    )
    memory: Memory = NOTHING
    computed: list[int] = []
    for step, named in enumerate(calls(kind)):
        found, memory, count = ours_of(denoiser, step, named, memory, sides)
        both = {name: torch.cat([_negative(name, it), it][-sides:]) for name, it in named.items()}
        with torch.no_grad():
            expected = theirs.outputs(step, both)
        for one, other in zip(reversed(found), expected, strict=True):
            assert torch.allclose(one, other, atol=1e-5), step
        computed.append(count)
    assert computed == whole


def _negative(name: str, value: Tensor) -> Tensor:
    return value if name in ("sample", "hidden_states", "timestep") else value.flip(-1)


def ours_of(
    denoiser: Denoiser, step: int, named: dict[str, Tensor], memory: Memory, sides: int
) -> tuple[list[Tensor], Memory, int]:
    """What the network puts out for the positive side and the negative one, and whether self attention was computed for it."""
    seen, text = named.get("sample", named.get("hidden_states")), named["encoder_hidden_states"]
    assert seen is not None
    sigma = torch.tensor([denoiser.levels[step]] * len(seen))
    level = sigma[:, None, None, None]
    x = seen / denoiser.prediction.model_input(torch.ones(1, 1, 1, 1), level)
    inputs = {name: it for name, it in named.items() if name == "pooled_projections"}
    entries = [
        [Entry(text, inputs=inputs, name="positive.0")],
        [Entry(text.flip(-1), inputs={name: it.flip(-1) for name, it in inputs.items()}, name="negative.0")],
    ][:sides]
    turn = Turn(denoiser, x, sigma, None, Recalls(memory))
    asked: list[int] = []
    first = next(module for module in denoiser.faster.network.modules() if is_attention(module))  # type: ignore[union-attr]
    handle = first.register_forward_hook(lambda *_: asked.append(1))
    with torch.no_grad():
        found = turn.sides(entries, 1 if sides == 2 else None)
    handle.remove()
    return [(x - it) / level for it in found], turn.recalls.remembered({}), len(asked)


def test_the_filter_is_that_of_sea_cache() -> None:
    x = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([_apply_sea_filter(one.movedim(0, -1)[None], 0.7, 2.0)[0].movedim(-1, 0) for one in x])
    assert torch.allclose(filtered(x, 0.3, 0.7), expected, atol=1e-5)
