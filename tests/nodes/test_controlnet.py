"""ControlNets in workflows: applied, chained, in time and place, and refused where they do not belong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.random_controls import SMALL, cldm, full_adapter, stability
from benchmarks.random_models import UNet
from benchmarks.random_sd15 import values, write_shapes
from engine.graph.graph import Call
from engine.models import Digest, ModelRef, Recipe
from nodes.diffusion import control
from nodes.diffusion.areas import Area
from nodes.diffusion.batching import groups
from nodes.diffusion.conditioning import Entry
from nodes.diffusion.control_configs import AdapterConfig, ControlConfig
from nodes.diffusion.control_hints import Picture, with_channels
from nodes.diffusion.control_nets import Controls
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.inspection import inspect_model
from nodes.diffusion.leases import leases
from nodes.diffusion.listed import with_option
from nodes.diffusion.options import ALTERATIONS
from nodes.diffusion.resume import from_bytes, to_bytes
from nodes.diffusion.sample import Callbacks, Settings, sample_latent
from nodes.diffusion.samplers import State
from nodes.diffusion.sides import with_controls
from nodes.diffusion.sources import open_source
from nodes.diffusion.unet import denoiser
from tests.nodes.contexts import demo, demo_store
from tests.nodes.studio import Studio, checkpoint, demo_tensors, link, picture
from tests.nodes.test_codecs import _round_trip as round_trip

DEMO = UNet(((1,), (0,)), ((0, 0), (1, 1)), middle=1, mult=(1, 2), context=64, channels=64)
"""The demo model's network."""


def tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random numbers, scaled as those of ``random_models`` are."""
    noise = np.random.default_rng(3).standard_normal(1 << 20, dtype=np.float32)
    found = {}
    for name, shape in shapes.items():
        parts = [np.array(part) for part in values(name, shape, noise)]
        found[name] = torch.from_numpy(np.concatenate(parts)).reshape(shape)
    return found


def workflow(studio: Studio, **changes: Any) -> dict[str, Call]:
    """A picture of the demo model that follows a picture; ``changes`` are inputs of the node ``apply``."""
    studio.write("controlnet/net.safetensors", tensors(cldm(DEMO)))
    calls = {"model": checkpoint(), **picture(link("model"), link("model", 1), link("model", 2))}
    calls |= {
        "net": Call("ControlNetLoader", {"control_net_name": "net.safetensors"}),
        "hint": Call("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0x3060C0}),
    }
    given = {
        "strength": 0.8,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "control_net": link("net"),
        "image": link("hint"),
    }
    sides = {"positive": link("positive"), "negative": link("negative")}
    calls["apply"] = Call("ControlNetApplyAdvanced", {**given, **sides, **changes})
    return followed(calls, positive=link("apply"), negative=link("apply", 1))


def followed(calls: Mapping[str, Call], **inputs: Any) -> dict[str, Call]:
    """With other inputs of the sampler."""
    return {**calls, "sampler": Call("KSampler", {**calls["sampler"].inputs, **inputs})}


def latent(studio: Studio, calls: Mapping[str, Call]) -> Tensor:
    found: Tensor = studio.values(calls, "sampler")[0]["samples"]
    return found


def test_a_picture_is_followed_and_strength_0_is_none(studio: Studio) -> None:
    calls = workflow(studio)
    plain = latent(studio, followed(calls, positive=link("positive"), negative=link("negative")))
    steered = latent(studio, calls)
    assert (steered - plain).abs().max() > 0.1
    assert torch.equal(latent(studio, workflow(studio, strength=0.0)), plain)
    assert torch.equal(latent(studio, workflow(studio, end_percent=0.0)), plain)
    early = latent(studio, workflow(studio, end_percent=0.5))
    assert not torch.equal(early, plain)
    assert not torch.equal(early, steered)
    assert not studio.warnings


def test_nets_behind_each_other_add_up(studio: Studio) -> None:
    """What is added inside is a sum: the same net at 0.3 and at 0.5 is one at 0.8."""
    calls = workflow(studio, strength=0.3)
    again = {**calls["apply"].inputs, "positive": link("apply"), "negative": link("apply", 1), "strength": 0.5}
    calls["more"] = Call("ControlNetApplyAdvanced", again)
    found = latent(studio, followed(calls, positive=link("more"), negative=link("more", 1)))
    assert torch.allclose(found, latent(studio, workflow(studio)), atol=1e-4)


def test_the_old_node_steers_the_other_side_too(studio: Studio) -> None:
    """Applied to the positive prompt alone it is as the new one on both; the new one on one side is something else."""
    calls = workflow(studio)
    both = latent(studio, calls)
    given = {"conditioning": link("positive"), "control_net": link("net"), "image": link("hint"), "strength": 0.8}
    calls["old"] = Call("ControlNetApply", given)
    assert torch.allclose(
        latent(studio, followed(calls, positive=link("old"), negative=link("negative"))), both, atol=1e-5
    )
    assert not torch.allclose(latent(studio, followed(calls, negative=link("negative"))), both, atol=1e-2)


def test_a_difference_wants_its_model(studio: Studio) -> None:
    """Zeros beside a mark are the model's own encoder, behind what is given of the rest."""
    base = demo_tensors()
    whole = tensors(cldm(DEMO))
    told = {f"control_model.{name}": it for name, it in whole.items()}
    for name in whole:
        own = base.get(f"model.diffusion_model.{name}")
        if own is not None:
            told[f"control_model.{name}"] = it = whole[name] - own.reshape(whole[name].shape)
            assert it.any()
    studio.write("controlnet/difference.safetensors", {**told, "difference": torch.zeros(1)})
    calls = workflow(studio)
    expected = latent(studio, calls)
    file = {"control_net_name": "difference.safetensors"}
    calls["net"] = Call("DiffControlNetLoader", {"model": link("model"), **file})
    assert torch.allclose(latent(studio, calls), expected, atol=1e-3)
    calls["net"] = Call("ControlNetLoader", file)
    assert "load it with DiffControlNetLoader" in studio.failure(calls, "sampler")


def test_a_difference_to_another_model_is_refused(studio: Studio) -> None:
    shapes = {**{f"control_model.{name}": shape for name, shape in SMALL["sdxl"].items()}, "difference": (1,)}
    studio.write("controlnet/other.safetensors", tensors(shapes))
    calls = workflow(studio)
    calls["net"] = Call("DiffControlNetLoader", {"model": link("model"), "control_net_name": "other.safetensors"})
    assert (
        "expected a ControlNet for Stable Diffusion 1, as the model is, found other.safetensors, one for Stable Diffusion XL"
        in studio.failure(calls, "sampler")
    )


REFUSED: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "sdxl": (SMALL["sdxl"], "for Stable Diffusion 1, as the model is, found net.safetensors, one for Stable Diffusion XL"),
    "larger": (SMALL["sd15"], "expected a ControlNet that fits this Stable Diffusion 1 model, found net.safetensors, which steers blocks"),
    "adapter": (full_adapter((64, 64, 128), 192), "whose levels are 64 64 128 wide, not 64 128"),
    "LoRA": ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": (64, 4)}, "found a LoRA"),
    "VAE": ({"decoder.conv_in.weight": (32, 4, 3, 3)}, "expected"),
    "cut short": (
        {name: shape for name, shape in cldm(DEMO).items() if not name.startswith("zero_convs.1")},
        "expected 128 tensors in the ControlNet of net.safetensors, found 2 missing: controlnet_down_blocks.1.bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_before_sampling(studio: Studio, kind: str) -> None:
    shapes, said = REFUSED[kind]
    calls = workflow(studio)
    studio.write("controlnet/net.safetensors", tensors(shapes))
    message = studio.failure(calls, "sampler")
    assert said in message
    assert "step" not in message


def test_a_net_that_sees_latents_wants_a_vae(studio: Studio) -> None:
    net = tensors(stability(1, 128, 128))
    studio.write("controlnet/sd35.safetensors", net)
    calls = workflow(studio)
    calls["net"] = Call("ControlNetLoader", {"control_net_name": "sd35.safetensors"})
    assert "expected a VAE for this ControlNet" in studio.failure(calls, "sampler")
    calls = {**calls, "apply": Call("ControlNetApplyAdvanced", {**calls["apply"].inputs, "vae": link("model", 2)})}
    assert "as the model is, found sd35.safetensors, one for Stable Diffusion 3" in studio.failure(calls, "sampler")


def test_a_type_for_a_net_of_one_kind_is_said(studio: Studio) -> None:
    calls = workflow(studio)
    expected = latent(studio, calls)
    calls["typed"] = Call("SetUnionControlNetType", {"control_net": link("net"), "type": "depth"})
    calls["apply"] = Call("ControlNetApplyAdvanced", {**calls["apply"].inputs, "control_net": link("typed")})
    assert torch.equal(latent(studio, calls), expected)
    assert "its type is left out of account" in studio.warnings[0]


def test_a_diffusers_folder_says_what_its_tensors_do_not(studio: Studio) -> None:
    """A net whose residuals are averaged, by its config.json; the folder is chosen by its name."""
    from diffusers.models.controlnets.controlnet import ControlNetModel

    torch.manual_seed(0)
    module: Any = ControlNetModel(
        block_out_channels=(64, 128), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), layers_per_block=1,
        cross_attention_dim=64, attention_head_dim=4, global_pool_conditions=True, controlnet_conditioning_channel_order="bgr",
    )  # fmt: skip
    folder = studio.folder / "models" / "controlnet" / "shuffle"
    module.save_pretrained(folder)
    ref = open_source(str(folder)).part("control").config
    assert isinstance(ref, ControlConfig)
    assert (ref.is_pooled, ref.is_bgr, ref.heads) == (True, True, (4, 4))
    calls = workflow(studio)
    calls["net"] = Call("ControlNetLoader", {"control_net_name": "shuffle"})
    assert bool(latent(studio, calls).isfinite().all())
    assert inspect_model(folder).what == "a ControlNet for Stable Diffusion 1"


def test_what_a_file_is_named(tmp_path: Path) -> None:
    names = {
        "sdxl": "a ControlNet for Stable Diffusion XL",
        "sd15-lora": "a control-LoRA for Stable Diffusion 1",
        "sdxl-adapter": "a T2I-Adapter for Stable Diffusion XL",
        "sd35": "a ControlNet for Stable Diffusion 3",
    }
    for name, said in names.items():
        write_shapes(tmp_path / "x.safetensors", SMALL[name], "float16")
        found = inspect_model(tmp_path / "x.safetensors")
        assert (found.what, found.folder) == (said, "controlnet")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A net for the demo model, random and whole."""
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    write_shapes(path, cldm(DEMO), "float32")
    return ModelRef(Digest("net"), "control", str(path))


def seen(seed: int, count: int = 1) -> Tensor:
    return torch.rand(count, 64, 64, 3, generator=torch.Generator().manual_seed(seed))


def told(*controls: Recipe, seed: int = 1, **options: Any) -> list[Any]:
    embedding = torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(seed))
    return [[embedding, {"control": list(controls), **options} if controls else options]]


def sampled(positive: list[Any], negative: list[Any], given: Mapping[str, Any] | None = None, **more: Any) -> Tensor:
    settings = Settings(seed=5, steps=2, cfg=3.0, sampler="euler", scheduler="simple")
    start = given or {"samples": torch.zeros(1, 4, 8, 8)}
    with demo_store().lease(more.pop("model", demo("unet"))) as loaded, leases(demo_store()) as beside:
        denoise = more.pop("change", lambda it: it)(denoiser(loaded, beside))
        found: Tensor = sample_latent(denoise, settings, positive, negative, start, **more)["samples"]
    return found


def test_each_of_a_batch_follows_its_own_picture(net: ModelRef) -> None:
    """Pictures are taken in turn: of three latents the third follows the first of two again."""
    two = control.recipe(net, torch.cat([seen(1), seen(2)]), 1.0)
    start = {"samples": torch.zeros(3, 4, 8, 8), "batch_index": [0, 0, 0]}
    found = sampled(told(two), told(two, seed=2), start)
    for number, picture_of in enumerate((1, 2, 1)):
        one = control.recipe(net, seen(picture_of), 1.0)
        assert torch.allclose(found[number : number + 1], sampled(told(one), told(one, seed=2)), atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def counted(calls: list[tuple[int, ...]]) -> Any:
    """Notes the shape of every call of the network, and whether it is steered."""

    def change(denoise: Denoiser) -> Denoiser:
        def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Any) -> Tensor:
            calls.append((len(x), int("mid_block_additional_residual" in inputs)))
            return denoise.network(x, timestep, context, **inputs)

        return replace(denoise, network=network)

    return change


def test_equal_controls_share_calls_and_others_do_not(net: ModelRef) -> None:
    """Equal by content: what comes out of a cache is a copy."""
    one = control.recipe(net, seen(1), 1.0)
    copied = round_trip(one)
    assert isinstance(copied, Recipe)
    calls: list[tuple[int, ...]] = []
    both = sampled(told(one), told(copied, seed=2), change=counted(calls))
    assert calls == [(2, 1)] * 2
    calls.clear()
    other = replace(one, parts={**one.parts, "strength": 0.5})
    apart = sampled(told(one), told(other, seed=2), change=counted(calls))
    assert calls == [(1, 1)] * 4
    calls.clear()
    sampled(told(one), told(seed=2), change=counted(calls))
    assert sorted(calls) == [(1, 0), (1, 0), (1, 1), (1, 1)]
    assert not torch.allclose(both, apart, atol=1e-2)


def test_a_control_holds_between_two_parts_of_a_run(net: ModelRef) -> None:
    """The same noise levels that other ranges have: 0.2 and 0.8 of SD1's."""
    window = control.recipe(net, seen(1), 1.0, 0.2, 0.8)
    with demo_store().lease(demo("unet")) as loaded, leases(demo_store()) as beside:
        found = denoiser(loaded, beside).reader.control_of({"control": [window]}, 8, 8)
    assert isinstance(found, Controls)
    (one,) = found.nets
    assert (one.sigma_start, one.sigma_end) == pytest.approx((5.0924, 0.5712), abs=1e-3)
    assert [one.active(sigma) for sigma in (5.2, 5.0, 0.6, 0.5)] == [False, True, True, False]


def test_a_cut_sampling_goes_on_with_its_control(net: ModelRef) -> None:
    one = control.recipe(net, seen(1), 1.0)
    states: list[State] = []
    whole = sampled(told(one), told(one, seed=2), callbacks=Callbacks(save=states.append))
    resumed = from_bytes(to_bytes(states[0]))
    assert torch.equal(sampled(told(one), told(one, seed=2), callbacks=Callbacks(resume=resumed)), whole)


def test_an_area_sees_the_whole_picture_at_its_size(net: ModelRef) -> None:
    """The other side gets the area with its control, so that they share a call."""
    one = control.recipe(net, seen(1), 1.0)
    calls: list[tuple[int, ...]] = []
    area: dict[str, Any] = {"area": (4, 8, 0, 0)}
    found = sampled([*told(one, **area), *told(seed=3)], told(seed=2), change=counted(calls))
    assert bool(found.isfinite().all())
    assert sorted(set(calls)) == [(2, 0), (2, 1)]


def test_a_net_reads_a_text_of_its_own(net: ModelRef) -> None:
    """What CLIPTextEncodeControlnet sets is read by the net, and not by the model."""
    one = control.recipe(net, seen(1), 1.0)
    text = torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(9))
    plain = sampled(told(one), told(one, seed=2))
    assert not torch.allclose(sampled(told(one, cross_attn_controlnet=text), told(one, seed=2)), plain, atol=1e-3)
    own = told(one)
    own[0][1]["cross_attn_controlnet"] = own[0][0]
    assert torch.allclose(sampled(own, told(one, seed=2)), plain, atol=1e-4)


@pytest.mark.parametrize("after_skip", [False, True])
@pytest.mark.parametrize("kind", ["net", "adapter"])
def test_deep_shrink_makes_what_steers_it_smaller(net: ModelRef, tmp_path: Path, kind: str, after_skip: bool) -> None:
    """A net and an adapter see the whole picture, and are added to a smaller one."""
    if kind == "adapter":
        path = tmp_path / "adapter.safetensors"
        write_shapes(path, full_adapter((64, 128), 192), "float32")
        net = ModelRef(Digest("adapter"), "control", str(path))
    one = control.recipe(net, seen(1), 1.0)
    values: dict[str, Any] = {"block": 1, "factor": 2.0, "start": 0.0, "end": 1.0}
    values |= {"after_skip": after_skip, "down": "bicubic", "up": "bicubic"}
    model = with_option(demo("unet"), ALTERATIONS, "deep shrink", **values)
    steered = sampled(told(one), told(one, seed=2), model=model)
    plain = sampled(told(), told(seed=2), model=model)
    assert not torch.allclose(steered, plain, atol=1e-2)
    assert not torch.allclose(steered, sampled(told(one), told(one, seed=2)), atol=1e-2)


class Named:
    """A control told apart by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def told(self, call: Any) -> dict[str, Any]:
        return {}


def test_shared_controls_go_round_the_other_side() -> None:
    """Each to the next entry in turn; not where the other side has its own, and not from or to areas."""
    text, a, b, c = torch.zeros(1, 1, 1), Named("a"), Named("b"), Named("c")
    side = [Entry(text, control=it, shares_control=True) for it in (a, b, c)]
    inside = Entry(text, area=Area(1, 1, 0, 0), control=a, shares_control=True)
    plain = Entry(text)
    given = with_controls(side, [plain, plain])
    assert [entry.control for entry in given] == [c, b]
    assert with_controls(side, [plain, Entry(text, control=b)])[0].control is None
    assert with_controls([inside, replace(side[0], shares_control=False)], [plain])[0].control is None
    assert [entry.control for entry in with_controls(side[:1], [replace(inside, control=None), plain])] == [None, a]
    x = torch.zeros(1, 4, 2, 2)
    assert len(groups([side[0], replace(plain, control=a)], x)) == 1
    assert len(groups([side[0], plain], x)) == 2


def test_a_picture_is_cut_in_the_middle_and_takes_the_nearest_pixels() -> None:
    """16 x 32 pixels for one cell: the middle 16 x 16, of which every second pixel is taken, from the second on."""
    config = AdapterConfig("full_adapter", 3, (64,), 2, 8)
    columns = torch.arange(32.0).expand(16, 32)
    image = torch.stack([columns, columns, columns], -1)[None]
    found = Picture(image, config).sized(1, 1)
    assert found.shape == (1, 3, 8, 8)
    assert torch.equal(found[0, 0, 0], torch.arange(9.0, 25.0, 2.0))
    large = Picture(image, replace(config, kind="full_adapter_xl", downscale=16)).sized(3, 2)
    assert large.shape == (1, 3, 32, 16)


def test_channels_are_made_to_fit() -> None:
    pixels = torch.tensor([1.0, 2.0, 6.0, 100.0]).reshape(1, 4, 1, 1)
    assert with_channels(pixels, 3).flatten().tolist() == [1, 2, 6]
    assert with_channels(pixels, 1).flatten().tolist() == [3]
    assert with_channels(pixels[:, :1], 3).flatten().tolist() == [1, 1, 1]


def test_a_picture_of_nothing_is_refused(net: ModelRef) -> None:
    with pytest.raises(Exception, match="expected a picture with pixels"):
        control.recipe(net, torch.zeros(0, 8, 8, 3), 1.0)


def test_what_packs_put_there_is_refused() -> None:
    with pytest.raises(Exception, match="expected controls of ControlNetApply"):
        control.recipes(Named("a"))


def test_shuffled_pictures_are_known_by_the_files_name(tmp_path: Path) -> None:
    """Nothing in the file tells that what it adds is averaged."""
    path = tmp_path / "control_v11e_sd15_shuffle.safetensors"
    write_shapes(path, cldm(DEMO), "float32")
    ref = control.net(open_source(str(path)), ModelRef(Digest("s"), "control", str(path)))
    assert ref.setting(control.POOLED)
    own, plain = (sampled(told(it), told(it, seed=2)) for it in (
        control.recipe(ref, seen(1), 1.0), control.recipe(replace(ref, settings=()), seen(1), 1.0)))  # fmt: skip
    assert not torch.allclose(own, plain, atol=1e-2)
    assert json.dumps(ref.to_plain())
