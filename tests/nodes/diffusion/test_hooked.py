"""The weights of a leased model under hooks: those of a lease of the patched recipe, and never a trace of them afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.fileref import FileRef
from engine.models import Digest, ModelRef, Patch
from nodes.diffusion import sample, unet
from nodes.diffusion.alterations import Moment
from nodes.diffusion.budget import Budget
from nodes.diffusion.conditioning import Conditioning
from nodes.diffusion.devices import device_policy
from nodes.diffusion.guidance import CfgGuider, entries_for, guided, predictions
from nodes.diffusion.hooked import prepare
from nodes.diffusion.patches import patcher
from nodes.diffusion.resume import from_bytes, to_bytes
from nodes.diffusion.samplers import State
from nodes.diffusion.store import LoadedModel, LocalModelStore
from nodes.diffusion.weight_hooks import HOOKS, Keyframe, WeightHook, WeightHooks, multipliers, recipe
from tests.nodes.contexts import demo
from tests.nodes.test_lora import random_lora

MODEL = demo("unet")
LARGE = 1 << 30
SIGMA = torch.tensor([2.0])


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> FileRef:
    path = tmp_path_factory.mktemp("loras") / "random.safetensors"
    save_file(random_lora(), path)
    return FileRef(Digest("random"), path, path.name)


@pytest.fixture(scope="module")
def hook(lora: FileRef) -> WeightHook:
    return WeightHook("lora", lora, 0.7)


def store(budget: int = LARGE, dtype: Any = None) -> LocalModelStore:
    return LocalModelStore(device_policy("cpu", dtype), Budget(budget), patcher(torch.device("cpu")))


def patched(hook: WeightHook, model: ModelRef = MODEL, multiplier: float = 1.0) -> ModelRef:
    patch = hook.patch(model, multiplier)
    assert patch is not None
    return model.with_patches(patch)


def told(seed: int, *hooks: WeightHook, **options: Any) -> Conditioning:
    """A prompt of random numbers under ``hooks``."""
    text = torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(seed))
    return [[text, {HOOKS: recipe(hooks), **options} if hooks else options]]


def start() -> Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 2


def look(model: LoadedModel, positive: Conditioning, negative: Conditioning) -> Tensor:
    denoiser = unet.denoiser(model)
    toward = entries_for(denoiser, positive, start(), "positive")
    away = entries_for(denoiser, negative, start(), "negative")
    with torch.no_grad():
        return CfgGuider.between(denoiser, toward, away, 4.0).look(start(), SIGMA).denoised


def predicted(model: LoadedModel, side: Conditioning) -> Tensor:
    denoiser = unet.denoiser(model)
    with torch.no_grad():
        return predictions(denoiser, start(), SIGMA, entries_for(denoiser, side, start(), "positive"), None)[0]


def test_hooks_on_one_side_are_guidance_between_two_models(hook: WeightHook) -> None:
    """The positive side is predicted by the model with the LoRA, the negative one without it."""
    models = store()
    with models.lease(MODEL) as plain, models.lease(patched(hook)) as other:
        found = look(plain, told(1, hook), told(2))
        expected = guided(predicted(other, told(1)), predicted(plain, told(2)), 4.0)
        assert torch.equal(found, expected)
        assert (found - look(plain, told(1), told(2))).abs().max() > 0.01


def test_masked_hooks_change_their_part_alone(hook: WeightHook) -> None:
    """Entries of other hooks are averaged by their masks as any are, two strengths of one LoRA among them."""
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1
    strong = replace(hook, model=1.5)
    models = store()
    with models.lease(MODEL) as plain:
        both = [*told(1, hook, mask=left), *told(1, strong, mask=1 - left), *told(3, default=True)]
        found = look(plain, both, told(2))
        with models.lease(patched(hook)) as one, models.lease(patched(strong)) as two:
            toward = torch.where(left[:, None] > 0, predicted(one, told(1)), predicted(two, told(1)))
        assert torch.allclose(found, guided(toward, predicted(plain, told(2)), 4.0), atol=1e-5)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("static", [0.0, 0.4])
def test_a_set_holds_the_weights_of_a_lease(hook: WeightHook, dtype: Any, static: float) -> None:
    """Bit for bit, in any precision, also behind the recipe's own patches; the model's own come back as the objects they were."""
    base = patched(replace(hook, model=static)) if static else MODEL
    models, other = store(dtype=dtype), store(dtype=dtype)
    with models.lease(base) as model, other.lease(patched(hook, base)) as expected:
        own = dict(model.module.named_parameters())
        bits = {name: tensor.clone() for name, tensor in own.items()}
        wanted = dict(expected.module.named_parameters())
        with under(model, (hook,)):
            found = dict(model.module.named_parameters())
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
            assert found["conv_in.weight"] is own["conv_in.weight"]  # what no hook changes is not copied
        assert sum(not torch.equal(bits[name], wanted[name]) for name in wanted) == 4
        after = dict(model.module.named_parameters())
        assert all(after[name] is own[name] and torch.equal(after[name], bits[name]) for name in own)
    with models.lease(base) as again:
        assert again.module.get_parameter("mid_block.resnets.0.conv1.weight") is own["mid_block.resnets.0.conv1.weight"]
    assert (models.counters.reads, models.counters.loads) == (1, 1)


@contextmanager
def under(model: LoadedModel, hooks: WeightHooks) -> Iterator[None]:
    denoiser = unet.denoiser(model)
    assert denoiser.hooked is not None
    patches = denoiser.hooked.patches(hooks, 2.0, ())
    with denoiser.hooked.altered(patches)(Moment(2.0, 8, 8, denoiser.schedule)):
        yield


def test_a_streamed_model_has_the_same_hooks(hook: WeightHook) -> None:
    """Where the weights do not fit on the device, blocks are sent with those of the hooks in them."""
    whole, tight = store(), store(budget=1 << 20)
    with whole.lease(MODEL) as model, tight.lease(MODEL) as streamed:
        assert streamed.streamed
        assert not model.streamed
        plain = look(streamed, told(1), told(2))
        assert torch.equal(look(streamed, told(1, hook), told(2)), look(model, told(1, hook), told(2)))
        assert torch.equal(look(streamed, told(1), told(2)), plain)
    with tight.lease(MODEL) as again:
        assert torch.equal(look(again, told(1), told(2)), plain)
    assert tight.counters.reads == 1


def test_sets_are_made_anew_where_there_is_no_room_for_two(hook: WeightHook) -> None:
    """And kept from step to step where there is."""
    made: list[Any] = []

    def sides(model: LoadedModel) -> tuple[Tensor, int]:
        denoiser = unet.denoiser(model)
        hooked: Any = denoiser.hooked
        inner = hooked._made
        made.clear()

        def counted(steps: Any) -> Any:
            made.append(steps)
            return inner(steps)

        hooked._made = counted
        two = [*told(1, hook), *told(2, replace(hook, model=-0.5))]
        entries = entries_for(denoiser, two, start(), "positive")
        with torch.no_grad():
            for _ in range(3):
                outputs = predictions(denoiser, start(), SIGMA, entries, None)
        return torch.cat(outputs), len(made)

    with store().lease(MODEL) as model:
        roomy, few = sides(model)
        tight, many = sides(replace(model, spare=0))
    assert (few, many) == (2, 6)
    assert torch.equal(roomy, tight)


def test_without_strength_there_is_nothing_to_exchange(hook: WeightHook) -> None:
    """Such entries go through the network with those that have no hooks."""
    off = replace(hook, keyframes=(Keyframe(0.0, 0.0),))
    with store().lease(MODEL) as model:
        denoiser = unet.denoiser(model)
        ((same, members),) = denoiser.by_weights([(), (off,), (replace(hook, model=0.0),)], SIGMA)
        assert same is denoiser
        assert members == [0, 1, 2]


SIGMAS = [14.6, 9.0, 5.0, 3.0, 1.0, 0.5]


def percent_to_sigma(percent: float) -> float:
    return 1e9 if percent <= 0 else 0.0 if percent >= 1 else 10 * (1 - percent)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([], [1, 1, 1, 1, 1, 1]),
        ([(0.0, 2.0)], [2, 2, 2, 2, 2, 2]),
        ([(0.5, 2.0)], [2, 2, 2, 2, 2, 2]),  # the first one holds from the beginning
        ([(0.0, 2.0), (0.5, 3.0)], [2, 2, 3, 3, 3, 3]),  # at sigma 5 exactly
        ([(0.0, 2.0), (0.51, 3.0)], [2, 2, 2, 3, 3, 3]),
        ([(0.0, 2.0), (0.0, 3.0), (1.0, 4.0)], [3, 3, 3, 3, 3, 3]),
        ([(0.0, 1.0), (0.2, 2.0), (0.3, 3.0), (0.4, 4.0)], [1, 1, 2, 3, 4, 4]),  # each has its step
        ([(0.0, 1.0, 1), (0.2, 2.0, 0), (0.3, 3.0, 0), (0.4, 4.0, 0)], [1, 1, 4, 4, 4, 4]),
        ([(0.0, 1.0), (0.2, 2.0, 0), (0.3, 3.0, 3), (0.4, 4.0)], [1, 1, 3, 3, 3, 4]),
    ],
)
def test_keyframes_along_the_steps(frames: list[tuple[Any, ...]], expected: list[float]) -> None:
    """One that has begun counts from the next step on, and each is sure of the steps it is guaranteed."""
    assert multipliers([Keyframe(*frame) for frame in frames], SIGMAS, percent_to_sigma) == expected


def test_keyframes_before_a_late_start_are_not_made_up_for() -> None:
    """A sampling that begins at half of the noise begins with the keyframe of that time."""
    frames = [Keyframe(0.0, 1.0), Keyframe(0.1, 2.0), Keyframe(0.3, 3.0), Keyframe(0.8, 4.0)]
    assert multipliers(frames, [5.0, 3.0, 1.5], percent_to_sigma) == [3, 3, 4]


def test_strength_does_not_change_within_a_step(hook: WeightHook) -> None:
    """A sampler that looks half way through a step sees the weights that the step began with."""
    timed = replace(hook, keyframes=(Keyframe(0.0, 1.0), Keyframe(0.5, 2.0)))
    with store().lease(MODEL) as model:
        denoiser = unet.denoiser(model)
        assert denoiser.hooked is not None
        levels = (14.6, 5.0, 1.0)  # half of the way is at 1.62

        def strength(sigma: float) -> float:
            assert denoiser.hooked is not None
            (patch,) = denoiser.hooked.patches((timed,), sigma, levels)
            return patch.strength

        assert [strength(sigma) for sigma in (14.6, 5.0, 1.2, 1.0, 0.1)] == [0.7, 0.7, 0.7, 1.4, 1.4]


def test_a_sampling_that_was_cut_goes_on_the_same(hook: WeightHook) -> None:
    """From any state, in another lease of another store: where the keyframes are follows from the state alone."""
    frames = tuple(Keyframe(0.1 + place / 100, strength) for place, strength in enumerate((1.0, 0.5, 0.0, -0.5, 1.5)))
    timed = replace(hook, keyframes=frames)
    settings = sample.Settings(seed=3, steps=6, cfg=3.0, sampler="dpmpp_2s_ancestral", scheduler="karras")
    empty = {"samples": torch.zeros(1, 4, 8, 8)}

    def run(**cut: Any) -> Tensor:
        with store().lease(MODEL) as model:
            sides = told(1, timed), told(2)
            found = sample.sample_latent(
                unet.denoiser(model), settings, *sides, empty, callbacks=sample.Callbacks(**cut)
            )
        latent: Tensor = found["samples"]
        return latent

    states: list[State] = []
    whole = run(save=states.append)
    assert len(states) > 6
    assert all(torch.equal(run(resume=from_bytes(to_bytes(state))), whole) for state in states[3:-1:4])
    timed = replace(hook, keyframes=())
    assert not torch.equal(run(), whole)


def test_the_lease_is_told_of_the_largest_set(hook: WeightHook) -> None:
    """As many numbers as the changed tensors have, each counted once."""
    with store().lease(MODEL) as model:
        sizes = {name: tensor.numel() for name, tensor in model.module.state_dict().items()}
    changed = (
        "mid_block.resnets.0.conv1",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_out.0",
    )
    sides = {"positive": told(1, hook, replace(hook, model=0.1)), "negative": told(2)}
    found = prepare(MODEL, sides, pytest.fail)
    assert found == sum(sizes[f"{name}.weight"] for name in changed)
    assert prepare(MODEL, {"positive": told(1)}, pytest.fail) == 0


def test_a_patch_of_a_hook_is_that_of_the_loader(hook: WeightHook) -> None:
    """So the two are one model to the store."""
    location = str(hook.file.path.resolve())
    assert hook.patch(MODEL, 2.0) == Patch("lora", Digest("random"), 1.4, location)
    assert hook.patch(demo("clip")) is None
