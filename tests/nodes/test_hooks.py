"""Weight hooks: a LoRA or a model on some prompts alone. Predictions are those of the models that a lease of the patched recipe gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.graph.graph import Call, Link
from engine.run.values import locations
from nodes.diffusion.weight_hooks import HOOKS, frames_of, hooks_of
from tests.nodes.studio import Studio, checkpoint, demo_metadata, demo_tensors, link
from tests.nodes.test_lora import random_lora, sdxl_lora, vae_file

SAMPLING = {"seed": 3, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
SIDES = ("positive", "negative")


@pytest.fixture
def lora(studio: Studio) -> str:
    return studio.write("loras/random.safetensors", random_lora())


def prompts(clip: Link) -> dict[str, Call]:
    return {
        "checkpoint": checkpoint(),
        "latent": Call("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "positive": Call("CLIPTextEncode", {"text": "a red circle on a blue background", "clip": clip}),
        "negative": Call("CLIPTextEncode", {"text": "", "clip": clip}),
    }


def sampled(model: Link, positive: str = "positive", negative: str = "negative", output: int = 0) -> Call:
    sides = {"positive": link(positive), "negative": link(negative, output)}
    return Call("KSampler", {**SAMPLING, "model": model, **sides, "latent_image": link("latent")})


def hook(name: str, model: float = 1.0, **more: Any) -> Call:
    return Call("CreateHookLoraModelOnly", {"lora_name": name, "strength_model": model, **more})


def pair(hooks: str, **more: Any) -> Call:
    """Both sides under hooks."""
    sides = {"positive_NEW": link("positive"), "negative_NEW": link("negative")}
    return Call(
        "PairConditioningSetProperties",
        {**sides, "strength": 1.0, "set_cond_area": "default", "hooks": link(hooks), **more},
    )


def latent(studio: Studio, calls: Mapping[str, Call], keep: str = "sampler") -> Tensor:
    found: Tensor = studio.values(calls, keep)[0]["samples"]
    return found


def test_hooks_on_both_sides_are_the_model_with_the_lora(studio: Studio, lora: str) -> None:
    """Bit for bit, at a strength of its own and behind another LoRA; the next sampling sees nothing of it."""
    behind = Call("LoraLoaderModelOnly", {"model": link("checkpoint"), "lora_name": lora, "strength_model": 0.3})
    loaded = behind.with_inputs(model=link("behind"), strength_model=0.7)
    base = {**prompts(link("checkpoint", 1)), "behind": behind, "loaded": loaded, "hook": hook(lora, 0.7)}
    calls = {
        **base,
        "sides": pair("hook"),
        "hooked": sampled(link("behind"), "sides", "sides", 1),
        "expected": sampled(link("loaded")),
        "plain": sampled(link("behind")),
    }
    plain = latent(studio, calls, "plain")
    found = latent(studio, calls, "hooked")
    assert torch.equal(found, latent(studio, calls, "expected"))
    assert (found - plain).abs().mean() > 0.01
    studio.executor.close()
    del studio.executor  # and what it knows; the models stay
    reads = studio.store.counters.reads
    assert torch.equal(latent(studio, calls, "plain"), plain)
    assert studio.store.counters.reads == reads
    assert studio.warnings == []


def test_keyframes_switch_between_steps(studio: Studio, lora: str) -> None:
    """Nothing up to half of the sampling, and then the LoRA, is two samplings one after the other."""
    frames = {
        "off": Call("CreateHookKeyframe", {"strength_mult": 0.0, "start_percent": 0.0}),
        "on": Call("CreateHookKeyframe", {"strength_mult": 1.0, "start_percent": 0.5, "prev_hook_kf": link("off")}),
        "hook": hook(lora),
        "timed": Call("SetHookKeyframes", {"hooks": link("hook"), "hook_kf": link("on")}),
    }
    half = {
        **{name: value for name, value in SAMPLING.items() if name not in ("seed", "denoise")},
        "noise_seed": 3, "positive": link("positive"), "negative": link("negative"),
    }  # fmt: skip
    first = {"model": link("checkpoint"), "add_noise": "enable", "latent_image": link("latent"),
             "start_at_step": 0, "end_at_step": 3, "return_with_leftover_noise": "enable"}  # fmt: skip
    second = {"model": link("loaded"), "add_noise": "disable", "latent_image": link("first"),
              "start_at_step": 3, "end_at_step": 10, "return_with_leftover_noise": "disable"}  # fmt: skip
    calls = {
        **prompts(link("checkpoint", 1)),
        **frames,
        "sides": pair("timed"),
        "sampler": sampled(link("checkpoint"), "sides", "sides", 1),
        "loaded": Call("LoraLoaderModelOnly", {"model": link("checkpoint"), "lora_name": lora, "strength_model": 1.0}),
        "first": Call("KSamplerAdvanced", {**half, **first}),
        "second": Call("KSamplerAdvanced", {**half, **second}),
    }
    # sigmas 14.61, 2.92, 0.83, 0.03, 0 for four steps; half of the way is at 1.62
    expected = latent(studio, {**calls, "second": calls["second"].with_inputs(start_at_step=2),
                               "first": calls["first"].with_inputs(end_at_step=2)}, "second")  # fmt: skip
    found = latent(studio, calls)
    assert (found - expected).abs().max() < 1e-4
    assert (found - latent(studio, calls, "second")).abs().max() > 1e-3


def halves() -> dict[str, Call]:
    """Masks of the left and of the right half of the picture."""
    onto = {"destination": link("empty"), "source": link("stripe"), "y": 0, "operation": "add"}
    return {
        "empty": Call("SolidMask", {"value": 0.0, "width": 64, "height": 64}),
        "stripe": Call("SolidMask", {"value": 1.0, "width": 32, "height": 64}),
        "left": Call("MaskComposite", {**onto, "x": 0}),
        "right": Call("MaskComposite", {**onto, "x": 32}),
    }


def test_defaults_fill_what_masks_leave(studio: Studio, lora: str) -> None:
    """A default prompt is one with the mask of the rest, its own hooks with it, whatever mask it had before."""
    base = {
        **prompts(link("checkpoint", 1)),
        **halves(),
        "hook": hook(lora),
        "other": Call("CLIPTextEncode", {"text": "a green square", "clip": link("checkpoint", 1)}),
    }
    region = {"cond_NEW": link("positive"), "strength": 1.0, "set_cond_area": "default", "mask": link("left")}
    rest = {"cond_NEW": link("other"), "strength": 1.0, "set_cond_area": "default", "hooks": link("hook")}
    calls = {
        **base,
        "region": Call("ConditioningSetProperties", region),
        "default": Call(
            "ConditioningSetDefaultCombine",
            {"cond": link("region"), "cond_DEFAULT": link("other"), "hooks": link("hook")},
        ),
        "both": Call("ConditioningSetPropertiesAndCombine", {"cond": link("region"), **rest, "mask": link("right")}),
        "filled": sampled(link("checkpoint"), "default"),
        "masked": sampled(link("checkpoint"), "both"),
        "region alone": sampled(link("checkpoint"), "region"),
    }
    found = latent(studio, calls, "filled")
    assert torch.allclose(found, latent(studio, calls, "masked"), atol=1e-5)
    assert (found - latent(studio, calls, "region alone")).abs().max() > 0.01


def test_a_model_as_a_lora_is_a_merge(studio: Studio) -> None:
    """At strength 1 the other model, at 0.25 a quarter of the way there; behind a LoRA the difference to the file counts."""
    draw = torch.Generator().manual_seed(1)
    other = {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=draw) if "diffusion_model" in name else tensor
        for name, tensor in demo_tensors().items()
    }
    name = studio.write("checkpoints/other.safetensors", other, demo_metadata())
    create = Call("CreateHookModelAsLoraModelOnly", {"ckpt_name": name, "strength_model": 1.0})
    merged = {"model1": link("checkpoint"), "model2": link("other"), "ratio": 0.75}
    calls = {
        **prompts(link("checkpoint", 1)),
        "other": checkpoint(name),
        "hook": create,
        "quarter": create.with_inputs(strength_model=0.25),
        "whole sides": pair("hook"),
        "quarter sides": pair("quarter"),
        "whole": sampled(link("checkpoint"), "whole sides", "whole sides", 1),
        "part": sampled(link("checkpoint"), "quarter sides", "quarter sides", 1),
        "alone": sampled(link("other")),
        "mixture": Call("ModelMergeSimple", merged),
        "mixed": sampled(link("mixture")),
        "plain": sampled(link("checkpoint")),
    }
    whole, plain = latent(studio, calls, "whole"), latent(studio, calls, "plain")
    assert (whole - plain).abs().mean() > 0.05
    assert (whole - latent(studio, calls, "alone")).abs().max() < 1e-3
    assert (latent(studio, calls, "part") - latent(studio, calls, "mixed")).abs().max() < 1e-3


def test_hooks_of_the_text_encoder_go_on_to_the_model(studio: Studio, lora: str) -> None:
    """With both strengths it is as if LoraLoader had been there; without passing them on only the text is."""
    both = {"lora_name": lora, "strength_model": 0.8, "strength_clip": 1.2}
    loader = Call("LoraLoader", {"model": link("checkpoint"), "clip": link("checkpoint", 1), **both})
    clip = {"clip": link("checkpoint", 1), "hooks": link("hook"), "apply_to_conds": True, "schedule_clip": False}
    calls = {"hook": Call("CreateHookLora", both), "hooked": Call("SetClipHooks", clip), "loaded": loader}
    under = {**prompts(link("hooked")), **calls, "sampler": sampled(link("checkpoint"))}
    loaded = {**prompts(link("loaded", 1)), **calls, "sampler": sampled(link("loaded"))}
    assert torch.equal(latent(studio, under), latent(studio, loaded))
    ((embedding, options),) = studio.values(under, "positive")[0]
    assert [found.model for found in hooks_of(options[HOOKS])] == [0.8]
    assert any(path.endswith("random.safetensors") for path in locations(options))
    (carrying,) = studio.values(under, "hooked")
    assert any(path.endswith("random.safetensors") for path in carrying.locations())
    with studio.store.lease(carrying) as one, studio.store.lease(replace(carrying, patches=())) as other:
        pairs = zip(one.module.parameters(), other.module.parameters(), strict=True)
        assert all(torch.equal(carried, plain) for carried, plain in pairs)  # prompts alone see the hooks
    alone = {**under, "hooked": Call("SetClipHooks", {**clip, "apply_to_conds": False})}
    ((same, without),) = studio.values(alone, "positive")[0]
    assert torch.equal(embedding, same)
    assert HOOKS not in without


def test_a_schedule_encodes_each_part_of_the_sampling(studio: Studio, lora: str) -> None:
    """One entry for each strength, told when it holds, with the text as the LoRA at that strength makes it."""
    create = {"lora_name": lora, "strength_model": 0.0, "strength_clip": 2.0}
    late = Call("CreateHookKeyframe", {"strength_mult": 0.5, "start_percent": 0.0})
    calls = {
        "late": late,
        "later": late.with_inputs(strength_mult=0.0, start_percent=0.6, prev_hook_kf=link("late")),
        "same": late.with_inputs(strength_mult=0.0, start_percent=0.7, prev_hook_kf=link("later")),
        "hook": Call("CreateHookLora", create),
        "timed": Call("SetHookKeyframes", {"hooks": link("hook"), "hook_kf": link("same")}),
        "hooked": Call(
            "SetClipHooks",
            {"clip": link("checkpoint", 1), "hooks": link("timed"), "apply_to_conds": True, "schedule_clip": True},
        ),
    }
    scheduled = studio.values({**prompts(link("hooked")), **calls}, "positive")[0]
    ranges = [(options["clip_start_percent"], options["clip_end_percent"]) for _, options in scheduled]
    assert ranges == [(0.0, 0.6), (0.6, 1.0)]
    loader = Call(
        "LoraLoader",
        {"model": link("checkpoint"), "clip": link("checkpoint", 1), "lora_name": lora, "strength_model": 0.0,
         "strength_clip": 1.0},
    )  # fmt: skip
    at_one = studio.values({**prompts(link("loaded", 1)), "loaded": loader}, "positive")[0]
    plain = studio.values(prompts(link("checkpoint", 1)), "positive")[0]
    assert torch.equal(scheduled[0][0], at_one[0][0])
    assert torch.equal(scheduled[1][0], plain[0][0])
    assert not torch.equal(at_one[0][0], plain[0][0])
    by_hand = {
        **prompts(link("checkpoint", 1)),
        "loaded": loader,
        "early text": Call("CLIPTextEncode", {"text": "a red circle on a blue background", "clip": link("loaded", 1)}),
        "early": Call("ConditioningSetTimestepRange", {"conditioning": link("early text"), "start": 0.0, "end": 0.6}),
        "late": Call("ConditioningSetTimestepRange", {"conditioning": link("positive"), "start": 0.6, "end": 1.0}),
        "both": Call("ConditioningCombine", {"conditioning_1": link("early"), "conditioning_2": link("late")}),
        "sampler": sampled(link("checkpoint"), "both"),
    }
    on_its_own = {**prompts(link("hooked")), **calls, "sampler": sampled(link("checkpoint"))}
    on_its_own["negative"] = by_hand["negative"]
    assert torch.equal(latent(studio, on_its_own), latent(studio, by_hand))


def test_the_same_hook_counts_once_and_one_added_twice_counts_twice(studio: Studio, lora: str) -> None:
    """Joining knows hooks again; adding does not look."""
    calls = {
        "one": hook(lora, 0.5),
        "two": hook(lora, 0.5, prev_hooks=link("one")),
        "other": hook(lora, 0.25, prev_hooks=link("one")),
        "nothing": hook(lora, 0.0, prev_hooks=link("one")),
        "frame": Call("CreateHookKeyframe", {"strength_mult": 3.0, "start_percent": 0.0}),
        "timed": Call("SetHookKeyframes", {"hooks": link("one"), "hook_kf": link("frame")}),
        "joined": Call("CombineHooks4", {"hooks_A": link("timed"), "hooks_C": link("two"), "hooks_D": link("other")}),
        "none": Call("CombineHooks2", {}),
    }

    def strengths(name: str) -> list[float]:
        return [found.model for found in hooks_of(studio.values(calls, name)[0])]

    assert strengths("two") == [0.5, 0.5]
    assert strengths("nothing") == [0.5]
    assert strengths("joined") == [0.5, 0.5, 0.25]
    assert strengths("none") == []
    first = hooks_of(studio.values(calls, "joined")[0])[0]
    assert [(frame.start, frame.strength) for frame in first.keyframes] == [(0.0, 3.0)]


@pytest.mark.parametrize(
    ("interpolation", "strengths"),
    [
        ("linear", [1.0, 1.5, 2.0, 2.5, 3.0]),
        ("ease_in", [1.0, 1.125, 1.5, 2.125, 3.0]),
        ("ease_out", [1.0, 1.875, 2.5, 2.875, 3.0]),
        ("ease_in_out", [1.0, 1.292893, 2.0, 2.707107, 3.0]),
    ],
)
def test_keyframes_between_two_strengths(studio: Studio, interpolation: str, strengths: list[float]) -> None:
    """They stand at even distances, behind those there are, and only the first is sure of a step."""
    call = Call(
        "CreateHookKeyframesInterpolated",
        {"strength_start": 1.0, "strength_end": 3.0, "interpolation": interpolation, "start_percent": 0.2,
         "end_percent": 0.6, "keyframes_count": 5, "print_keyframes": True, "prev_hook_kf": link("before")},
    )  # fmt: skip
    calls = {"before": Call("CreateHookKeyframe", {"strength_mult": 9.0, "start_percent": 0.3}), "frames": call}
    frames = frames_of(studio.values(calls, "frames")[0])
    assert [frame.start for frame in frames] == pytest.approx([0.2, 0.3, 0.3, 0.4, 0.5, 0.6])
    own = [frame for frame in frames if frame.strength != 9.0]
    assert [frame.strength for frame in own] == pytest.approx(strengths, abs=1e-6)
    assert [frame.guarantee for frame in own] == [1, 0, 0, 0, 0]
    assert studio.warnings[0] == "hook keyframe at 0.200: strength 1.000"


def test_a_range_of_time_and_what_is_around_it(studio: Studio) -> None:
    calls = {
        **prompts(link("checkpoint", 1)),
        "range": Call("ConditioningTimestepsRange", {"start_percent": 0.2, "end_percent": 0.7}),
    }
    assert studio.values(calls, "range") == ((0.2, 0.7), (0.0, 0.2), (0.7, 1.0))
    options = {"cond_NEW": link("positive"), "strength": 0.5, "set_cond_area": "default", "timesteps": link("range", 2)}
    ((_, known),) = studio.values({**calls, "set": Call("ConditioningSetProperties", options)}, "set")[0]
    assert (known["start_percent"], known["end_percent"]) == (0.7, 1.0)
    assert "strength" not in known


@pytest.mark.parametrize("sampler", ["KSampler", "PerpNeg", "SamplerCustomAdvanced"])
def test_a_lora_of_another_family_is_refused_before_sampling(studio: Studio, sampler: str) -> None:
    """By the node that samples, whichever it is, since a hook knows no model before."""
    name = studio.write("loras/wrong.safetensors", sdxl_lora())
    calls = {**prompts(link("checkpoint", 1)), "hook": hook(name), "sides": pair("hook")}
    if sampler == "KSampler":
        calls["sampler"] = sampled(link("checkpoint"), "sides", "sides", 1)
    elif sampler == "PerpNeg":
        empty = {"model": link("checkpoint"), "empty_conditioning": link("sides"), "neg_scale": 1.0}
        calls |= {"perp": Call("PerpNeg", empty), "sampler": sampled(link("perp"))}
    else:
        guider = {"model": link("checkpoint"), "positive": link("positive"), "negative": link("sides", 1), "cfg": 4.0}
        calls |= {
            "guider": Call("CFGGuider", guider),
            "noise": Call("RandomNoise", {"noise_seed": 1}),
            "solver": Call("KSamplerSelect", {"sampler_name": "euler"}),
            "sigmas": Call("BasicScheduler", {"model": link("checkpoint"), "scheduler": "normal", "steps": 2, "denoise": 1.0}),
            "sampler": Call(
                "SamplerCustomAdvanced",
                {"noise": link("noise"), "guider": link("guider"), "sampler": link("solver"),
                 "sigmas": link("sigmas"), "latent_image": link("latent")},
            ),
        }  # fmt: skip
    message = studio.failure(calls, "sampler")
    assert "UNet reads texts 64 wide" in message
    assert "wrong.safetensors, made for SDXL" in message
    assert studio.store.counters.reads == 1  # the text encoder


def test_what_is_no_lora_is_refused_where_it_is_named(studio: Studio) -> None:
    name = studio.write("loras/vae.safetensors", vae_file())
    assert "expected a LoRA in vae.safetensors, found a VAE" in studio.failure({"hook": hook(name)}, "hook")


def test_text_encoders_refuse_a_lora_for_others(studio: Studio) -> None:
    """One that has nothing for any of them changes nothing, without a word."""
    wrong = {
        f"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_{side}.weight": torch.zeros(4, 9) for side in ("up", "down")
    }
    names = [studio.write("loras/wrong.safetensors", wrong), studio.write("loras/unet.safetensors", sdxl_lora())]
    clip = Call("SetClipHooks", {"clip": link("checkpoint", 1), "hooks": link("hook")})

    def calls(name: str) -> dict[str, Call]:
        create = {"lora_name": name, "strength_model": 1.0, "strength_clip": 1.0}
        return {**prompts(link("clip")), "hook": Call("CreateHookLora", create), "clip": clip}

    message = studio.failure(calls(names[0]), "positive")
    assert "expected a LoRA for the text encoder of Stable Diffusion 1, found wrong.safetensors" in message
    studio.values(calls(names[1]), "positive")
    assert studio.store.counters.reads == 1
