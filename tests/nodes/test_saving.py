"""What is saved loads again: bit for bit where nothing was changed, and with the changes where something was."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.random_sd15 import write
from engine.graph.graph import Call
from engine.models import Digest, ModelRef
from nodes.diffusion.checkpoints import read_header
from nodes.diffusion.extract import factors
from nodes.diffusion.unet import previewer
from tests.nodes.diffusion.test_families import TINY
from tests.nodes.diffusion.test_folders import save_part
from tests.nodes.studio import DEMO, Studio, checkpoint, demo_metadata, demo_tensors, link, picture

UNET = "model.diffusion_model."


def saved(studio: Studio, calls: dict[str, Call], kind: str) -> str:
    """Run the output nodes of ``calls``, move the one file they write among the models of ``kind``; gives its name."""
    result = studio.run(calls)
    assert result.status == "succeeded", result.failures
    (item,) = [item for ui in result.ui.values() for item in ui["models"]]
    target = studio.folder / "models" / kind / item["filename"]
    target.parent.mkdir(parents=True, exist_ok=True)
    (studio.folder / "output" / item["subfolder"] / item["filename"]).rename(target)
    return str(item["filename"])


def save_all(model: str = "one") -> Call:
    inputs = {
        "model": link(model),
        "clip": link("one", 1),
        "vae": link("one", 2),
        "filename_prefix": "checkpoints/again",
    }
    return Call("CheckpointSave", inputs)


def test_an_unpatched_checkpoint_is_saved_bit_for_bit(studio: Studio) -> None:
    """The same tensors under the same names in the same dtypes, and settings that shapes do not show; it makes the same picture."""
    name = saved(studio, {"one": checkpoint(), "save": save_all()}, "checkpoints")
    assert name == "again_00001_.safetensors"
    path = studio.folder / "models" / "checkpoints" / name
    expected = {key: it for key, it in load_file(DEMO).items() if not key.endswith("position_ids")}
    found = load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], it) and found[key].dtype == it.dtype for key, it in expected.items())
    assert json.loads(read_header(path).metadata["unet"])["num_heads"] == 8
    parts = [link("one"), link("one", 1), link("one", 2)]
    pictures = [
        studio.values({"one": checkpoint(it), **picture(*parts)}, "picture")[0] for it in ("demo.safetensors", name)
    ]
    assert torch.equal(*pictures)


def test_parts_saved_alone_are_loaded_alone(studio: Studio) -> None:
    """ModelSave for UNETLoader, CLIPSave for CLIPLoader, VAESave for VAELoader: the picture is the checkpoint's."""
    one = {"one": checkpoint()}
    model = saved(
        studio, {**one, "save": Call("ModelSave", {"model": link("one"), "filename_prefix": "m"})}, "diffusion_models"
    )
    clip = saved(
        studio, {**one, "save": Call("CLIPSave", {"clip": link("one", 1), "filename_prefix": "c"})}, "text_encoders"
    )
    vae = saved(studio, {**one, "save": Call("VAESave", {"vae": link("one", 2), "filename_prefix": "v"})}, "vae")
    assert (model, clip, vae) == ("m_00001_.safetensors", "c_clip_l_00001_.safetensors", "v_00001_.safetensors")
    loaders = {
        "model": Call("UNETLoader", {"unet_name": model, "weight_dtype": "default"}),
        "clip": Call("CLIPLoader", {"clip_name": clip, "type": "stable_diffusion", "device": "cpu"}),
        "vae": Call("VAELoader", {"vae_name": vae}),
    }
    parts = picture(link("model"), link("clip"), link("vae"))
    whole = picture(link("one"), link("one", 1), link("one", 2))
    assert torch.equal(studio.values({**loaders, **parts}, "picture")[0], studio.values({**one, **whole}, "picture")[0])
    assert studio.warnings == ["the text encoder runs where all models do; the device cpu is left out of account"]
    names = set(load_file(studio.folder / "models" / "vae" / vae))
    assert "decoder.up.3.block.0.conv1.weight" in names
    assert "text_model.encoder.layers.1.mlp.fc1.weight" in load_file(studio.folder / "models" / "text_encoders" / clip)


def test_a_patched_model_is_saved_with_its_patches(studio: Studio) -> None:
    """In the dtype that the source has, rounded once; what no patch changes is as it was."""
    name = f"{UNET}middle_block.0.in_layers.2.weight"
    change = torch.randn(demo_tensors()[name].shape)
    studio.write("loras/l.safetensors", {"lora_unet_mid_block_resnets_0_conv1.diff": change})
    lora = Call("LoraLoaderModelOnly", {"model": link("one"), "lora_name": "l.safetensors", "strength_model": 0.5})
    again = saved(studio, {"one": checkpoint(), "lora": lora, "save": save_all("lora")}, "checkpoints")
    found = load_file(studio.folder / "models" / "checkpoints" / again)
    assert torch.equal(found[name], (demo_tensors()[name] + 0.5 * change).half())
    del found[name]
    plain = load_file(DEMO)
    assert all(torch.equal(tensor, plain[key]) for key, tensor in found.items())


def folder_of_demo(studio: Studio) -> None:
    """The demo as a diffusers folder called demo."""
    folder = studio.folder / "models" / "diffusers" / "demo"
    parts: dict[Any, str] = {"unet": "unet", "clip": "text_encoder", "vae": "vae"}
    for part, name in parts.items():
        with studio.store.lease(ModelRef(Digest("demo"), part, str(DEMO))) as model:
            save_part(folder / name, model)
    index = {name: ["library", "class"] for name in parts.values()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))


def test_a_diffusers_folder_is_loaded_and_saved_in_the_original_layout(studio: Studio) -> None:
    """Names are the original ones and the autoencoder's attention is convolutions again: it is the file that the folder was made of."""
    folder_of_demo(studio)
    graph = {"one": Call("DiffusersLoader", {"model_path": "demo"}), "save": save_all()}
    found = load_file(studio.folder / "models" / "checkpoints" / saved(studio, graph, "checkpoints"))
    expected = {key: it for key, it in load_file(DEMO).items() if not key.endswith("position_ids")}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], it) for key, it in expected.items())


def test_what_a_model_was_trained_to_predict_is_saved(studio: Studio) -> None:
    """A model of velocities down to no signal is read as one again."""
    marked = demo_tensors() | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    source = studio.write("checkpoints/velocity.safetensors", marked, demo_metadata())
    name = saved(studio, {"one": checkpoint(source), "save": save_all()}, "checkpoints")
    (ref, *_) = studio.values({"one": checkpoint(name)}, "one")
    with studio.store.lease(ref) as model:
        assert (model.facts.schedule.prediction, model.facts.schedule.zero_terminal_snr) == ("v_prediction", True)


def test_a_model_of_the_usual_kind_is_saved_without_settings(studio: Studio) -> None:
    """What shapes show need not be said."""
    path = studio.folder / "models" / "checkpoints" / "usual.safetensors"
    path.parent.mkdir(parents=True)
    write(path, TINY, "float16")
    name = saved(studio, {"one": checkpoint("usual.safetensors"), "save": save_all()}, "checkpoints")
    assert dict(read_header(path.with_name(name)).metadata) == {"format": "pt"}


def test_previews_of_a_model_without_a_vae_are_pictures(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its colours come from a published map; those of a checkpoint are fitted to its VAE. They are kept: the next sampling opens none."""
    name = saved(studio, {"one": checkpoint(), "save": Call("ModelSave", {"model": link("one"), "filename_prefix": "m"})},
                 "diffusion_models")  # fmt: skip
    (ref,) = studio.values({"one": Call("UNETLoader", {"unet_name": name, "weight_dtype": "default"})}, "one")
    with studio.store.lease(ref) as loaded:
        jpeg = previewer(loaded, studio.store)(torch.zeros(1, 4, 8, 8))
    monkeypatch.delattr("nodes.diffusion.unet.open_source")
    with studio.store.lease(ref) as loaded:
        assert previewer(loaded, studio.store)(torch.zeros(1, 4, 8, 8)) == jpeg
    with Image.open(BytesIO(jpeg)) as image:
        assert image.convert("RGB").getpixel((4, 4)) == (128, 128, 128)


def test_a_hypernetwork_is_no_weight_to_save(studio: Studio) -> None:
    """The node says so instead of saving the model without it."""
    content = {f"64.{side}.linear.0.{leaf}": torch.zeros(shape)
               for side in (0, 1) for leaf, shape in (("weight", [64, 64]), ("bias", [64]))}  # fmt: skip
    studio.write("hypernetworks/h.safetensors", content)
    inputs = {"model": link("one"), "hypernetwork_name": "h.safetensors", "strength": 1.0}
    graph = {"one": checkpoint(), "hyper": Call("HypernetworkLoader", inputs), "save": save_all("hyper")}
    result = studio.run(graph)
    assert "one with a hypernetwork, which is layers of its own" in str(result.failures[0])


def extracted(studio: Studio, lora_type: str, rank: int = 4, *, biases: bool = True) -> dict[str, Tensor]:
    """The LoRA of a model that differs from the demo in three tensors."""
    changed = demo_tensors()
    draw = torch.Generator().manual_seed(0)
    for name in (f"{UNET}middle_block.0.in_layers.2.weight", f"{UNET}out.0.weight", f"{UNET}out.2.bias"):
        changed[name] = changed[name] + 0.01 * torch.randn(changed[name].shape, generator=draw)
    other = studio.write("checkpoints/changed.safetensors", changed, demo_metadata())
    graph = {
        "one": checkpoint(other),
        "two": checkpoint(),
        "difference": Call("ModelMergeSubtract", {"model1": link("one"), "model2": link("two"), "multiplier": 1.0}),
        "save": Call(
            "LoraSave",
            {"filename_prefix": "loras/made", "rank": rank, "lora_type": lora_type, "bias_diff": biases,
             "model_diff": link("difference")},
        ),
    }  # fmt: skip
    return load_file(studio.folder / "models" / "loras" / saved(studio, graph, "loras"))


def test_a_whole_difference_makes_one_model_of_the_other(studio: Studio) -> None:
    """Loaded on the model that was subtracted, the LoRA gives the one it was subtracted from, to half precision."""
    assert sorted(extracted(studio, "full_diff")) == [
        "diffusion_model.middle_block.0.in_layers.2.diff",
        "diffusion_model.out.0.diff",
        "diffusion_model.out.2.diff_b",
    ]
    inputs = {"model": link("two"), "lora_name": "made_00001_.safetensors", "strength_model": 1.0}
    (ref,) = studio.values({"two": checkpoint(), "lora": Call("LoraLoaderModelOnly", inputs)}, "lora")
    wanted = load_file(studio.folder / "models" / "checkpoints" / "changed.safetensors")
    with studio.store.lease(ref) as model:
        for name, stored in (("mid_block.resnets.0.conv1.weight", "middle_block.0.in_layers.2.weight"),
                             ("conv_out.bias", "out.2.bias")):  # fmt: skip
            assert torch.allclose(model.module.get_parameter(name), wanted[UNET + stored], atol=3e-5)


def test_a_low_rank_difference_has_factors_of_that_rank(studio: Studio) -> None:
    """Matrices become factors, norms stay whole, and without bias_diff neither norms nor biases are there."""
    found = extracted(studio, "standard", biases=False)
    block = "diffusion_model.middle_block.0.in_layers.2"
    assert {name: tuple(it.shape) for name, it in found.items()} == {
        f"{block}.lora_up.weight": (128, 4, 1, 1),
        f"{block}.lora_down.weight": (4, 128, 3, 3),
    }
    assert all(it.dtype == torch.float16 for it in found.values())


def test_factors_are_the_best_of_their_rank_but_for_the_largest_hundredth() -> None:
    """Where nothing stands out they give a matrix of that rank back; what stands out is cut off."""
    draw = torch.Generator().manual_seed(0)
    signs = torch.sign(torch.randn(40, 1, generator=draw)), torch.sign(torch.randn(1, 30, generator=draw))
    up, down = factors(signs[0] @ signs[1] / 30**0.5, 3)
    assert (up.shape, down.shape) == ((40, 3), (3, 30))
    entries = torch.cat([up.flatten(), down.flatten()]).abs()
    assert entries.max() < 40**0.5
    assert torch.allclose((up @ down).sign(), signs[0] @ signs[1])
    lone = torch.zeros(40, 30)
    lone[3, 4] = 100.0
    assert factors(lone, 1)[0].abs().max() < 100


def test_what_stands_out_is_told_by_the_quantile_of_all_entries() -> None:
    """A column of 1 .. 8 and -1 .. -8 is its only factor, beside a 1: 99 of 100 of these 17 entries lie below 7 + 0.84."""
    up, down = factors(torch.tensor([*range(-8, 0), *range(1, 9)]).float()[:, None], 1)
    assert down.abs().tolist() == [[pytest.approx(1.0)]]
    assert up.abs().sort(0).values[-4:, 0].tolist() == pytest.approx([7.0, 7.0, 7.84, 7.84])


def test_nothing_to_extract_is_an_error(studio: Studio) -> None:
    """The node names what it wants."""
    inputs = {"filename_prefix": "x", "rank": 8, "lora_type": "standard", "bias_diff": True}
    result = studio.run({"save": Call("LoraSave", inputs)})
    assert "expected model_diff or text_encoder_diff, found neither" in str(result.failures[0])


def test_a_config_beside_a_checkpoint_counts_for_its_clip_skip_alone(studio: Studio) -> None:
    """CheckpointLoader gives what CheckpointLoaderSimple gives, and says that the configuration does not matter."""

    def load(config: str) -> Call:
        return Call("CheckpointLoader", {"config_name": config, "ckpt_name": "demo.safetensors"})

    simple = studio.values({"one": checkpoint()}, "one")
    assert studio.values({"one": load("v1-inference.yaml")}, "one") == simple
    assert "v1-inference.yaml is left out of account" in studio.warnings[0]
    clip = studio.values({"one": load("v1-inference_clip_skip_2.yaml")}, "one")[1]
    assert clip == simple[1].with_settings(last_layer=-2)


def test_eight_bit_weights_are_rounded_ones(studio: Studio, tmp_path: Path) -> None:
    """Every weight is one that the dtype can say, near the one of the file."""
    folder = tmp_path / "models" / "diffusion_models"
    folder.mkdir(parents=True)
    (folder / "demo.safetensors").write_bytes(DEMO.read_bytes())
    call = Call("UNETLoader", {"unet_name": "demo.safetensors", "weight_dtype": "fp8_e4m3fn"})
    (ref,) = studio.values({"one": call}, "one")
    with studio.store.lease(ref) as model:
        found = model.module.get_parameter("conv_in.weight")
    assert torch.equal(found, found.to(torch.float8_e4m3fn).float())
    expected = demo_tensors()[f"{UNET}input_blocks.0.0.weight"]
    assert (found - expected).abs().max() <= expected.abs().max() / 16


def test_text_encoders_of_other_kinds_are_refused(studio: Studio) -> None:
    """The input is named and what it may be."""
    studio.write("text_encoders/t.safetensors", {"x": torch.zeros(1)})
    call = Call("CLIPLoader", {"clip_name": "t.safetensors", "type": "mochi"})
    message = studio.failure({"one": call}, "one")
    assert "input type: expected a type among" in message
    assert "found mochi, whose models are not known" in message


@pytest.mark.parametrize(
    ("node", "output", "factors"),
    [
        (
            Call("UNetSelfAttentionMultiply", {"q": 2.0, "k": 3.0, "v": 0.5, "out": 0.0}),
            0,
            {"attn1.to_q.weight": 2, "attn1.to_k.weight": 3, "attn1.to_v.weight": 0.5, "attn1.to_out.0.weight": 0,
             "attn1.to_out.0.bias": 0, "attn2.to_q.weight": 1, "ff.net.2.weight": 1},
        ),
        (
            Call("UNetCrossAttentionMultiply", {"q": 2.0, "k": 3.0, "v": 0.5, "out": 4.0}),
            0,
            {"attn2.to_q.weight": 2, "attn2.to_k.weight": 3, "attn2.to_v.weight": 0.5, "attn2.to_out.0.weight": 4,
             "attn2.to_out.0.bias": 4, "attn1.to_q.weight": 1},
        ),
        (
            Call("UNetTemporalAttentionMultiply", {"self_structural": 2.0, "self_temporal": 9.0, "cross_structural": 3.0,
                                                   "cross_temporal": 9.0}),
            0,
            {"attn1.to_out.0.weight": 2, "attn1.to_out.0.bias": 2, "attn2.to_out.0.weight": 3, "attn1.to_q.weight": 1},
        ),
        (
            Call("CLIPAttentionMultiply", {"q": 2.0, "k": 3.0, "v": 0.5, "out": 4.0}),
            1,
            {"self_attn.q_proj.weight": 2, "self_attn.q_proj.bias": 2, "self_attn.k_proj.weight": 3,
             "self_attn.v_proj.bias": 0.5, "self_attn.out_proj.weight": 4, "mlp.fc1.weight": 1},
        ),
    ],
)  # fmt: skip
def test_attention_is_multiplied_layer_by_layer(
    studio: Studio, node: Call, output: int, factors: dict[str, float]
) -> None:
    """Weights and biases of the named layers, and of no other."""
    side, block, path = [
        ("model", f"{UNET}middle_block.1.transformer_blocks.0.", "mid_block.attentions.0.transformer_blocks.0."),
        ("clip", "cond_stage_model.transformer.text_model.encoder.layers.0.", "encoder.layers.0."),
    ][output]
    call = node.with_inputs(**{side: link("one", output)})
    (ref,) = studio.values({"one": checkpoint(), "scaled": call}, "scaled")
    plain = demo_tensors()
    with studio.store.lease(ref) as model:
        tower = model.module.get_submodule("l.text") if ref.part == "clip" else model.module
        for name, factor in factors.items():
            assert torch.allclose(tower.get_parameter(path + name), factor * plain[block + name]), name
