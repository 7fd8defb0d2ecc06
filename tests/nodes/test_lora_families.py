"""LoRAs for every family: a recipe with one has the weights of a checkpoint that it was merged into by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.errors import InputError
from engine.models import Digest, ModelRef, Part, Patch
from nodes.diffusion.lora import check, open_lora
from nodes.diffusion.patches import contents

RANK = 2
ALPHA = 3.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small checkpoint of random weights of each family that has more than one text encoder."""
    for name in ("sdxl", "sd3-t5"):
        write_shapes(tmp_path / f"{name}.safetensors", SMALL[name].shapes(), "float32")
    return tmp_path


def factors(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape[0], RANK, generator=draw), torch.randn(RANK, shape[1], generator=draw)


def lora_for(path: Path, modules: dict[str, str]) -> tuple[Path, Path]:
    """A LoRA for ``modules`` (its spelling -> name of a weight in the file), and the checkpoint with 0.5 of it in it."""
    tensors = load_file(path)
    lora: dict[str, Tensor] = {}
    for seed, (spelled, stored) in enumerate(modules.items()):
        up, down = factors(tuple(tensors[stored].shape), seed)
        tensors[stored] = tensors[stored] + 0.5 * ALPHA / RANK * up @ down
        lora |= {f"{spelled}.lora_up.weight": up, f"{spelled}.lora_down.weight": down}
        lora[f"{spelled}.alpha"] = torch.tensor(ALPHA)
    save_file(lora, path.with_name("lora.safetensors"))
    save_file(tensors, path.with_name("merged.safetensors"))
    return path.with_name("lora.safetensors"), path.with_name("merged.safetensors")


def same(path: Path, lora: Path, merged: Path, part: Part) -> bool:
    """Whether all weights of the patched part are those of the merged file, and some are not those of the plain one."""
    ref = ModelRef(Digest(path.name), part, str(path))
    patched = contents(ref.with_patches(Patch("lora", Digest("l"), 0.5, str(lora))))
    wanted = contents(ModelRef(Digest("m"), part, str(merged))).weights
    changed = [name for name, tensor in patched.pristine.items() if not torch.equal(tensor, wanted[name])]
    assert changed
    return all(torch.allclose(patched.weights[name], wanted[name], atol=1e-5) for name in wanted)


def test_sdxl_has_two_text_encoders_and_a_unet(folder: Path) -> None:
    """The second encoder's keys are transformers', though its checkpoint holds query, key and value in one matrix."""
    path = folder / "sdxl.safetensors"
    block = "transformer_blocks.0.attn2.to_k"
    stored = next(name for name in load_file(path) if name.endswith(f"{block}.weight") and ".input_blocks." in name)
    module = stored.removeprefix("model.diffusion_model.").removesuffix(".weight")
    modules = {
        f"lora_unet_{module.replace('.', '_')}": stored,
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": (
            "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
        ),
        "lora_te2_text_model_encoder_layers_1_mlp_fc2": (
            "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_proj.weight"
        ),
    }
    lora, merged = lora_for(path, modules)
    assert check(open_lora(str(lora)), [ModelRef(Digest("x"), part, str(path)) for part in ("unet", "clip")]) == []
    assert same(path, lora, merged, "unet")
    assert same(path, lora, merged, "clip")


def test_a_value_projection_of_the_second_encoder_is_a_third_of_a_matrix(folder: Path) -> None:
    """Its change goes into the last rows of the stored matrix, and of its bias."""
    path = folder / "sdxl.safetensors"
    tensors = load_file(path)
    stored = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    width = tensors[stored].shape[1]
    up, down = factors((width, width), 0)
    name = "text_encoder_2.text_model.encoder.layers.0.self_attn.v_proj"
    lora, merged = path.with_name("lora.safetensors"), path.with_name("merged.safetensors")
    save_file({f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}, lora)
    tensors[stored][2 * width :] += 0.5 * up @ down
    save_file(tensors, merged)
    assert same(path, lora, merged, "clip")


def test_sd3_by_the_names_of_either_layout(folder: Path) -> None:
    """Query, key and value have one change in the original layout, each a third of it; diffusers' names have one each."""
    path = folder / "sd3-t5.safetensors"
    block = "model.diffusion_model.joint_blocks.0"
    modules = {
        "lora_unet_joint_blocks_0_x_block_attn_qkv": f"{block}.x_block.attn.qkv.weight",
        "diffusion_model.joint_blocks.0.context_block.attn.qkv": f"{block}.context_block.attn.qkv.weight",
        "transformer.transformer_blocks.0.ff.net.2": f"{block}.x_block.mlp.fc2.weight",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q": (
            "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight"
        ),
    }
    lora, merged = lora_for(path, modules)
    assert check(open_lora(str(lora)), [ModelRef(Digest("x"), part, str(path)) for part in ("unet", "clip")]) == []
    assert same(path, lora, merged, "unet")
    assert same(path, lora, merged, "clip")


def test_a_lora_for_another_family_than_sd3_is_refused_by_name(folder: Path) -> None:
    """A transformer's family has no width of text of its own to tell it by."""
    zeros = {"lora_up": torch.zeros(8, 2), "lora_down": torch.zeros(2, 2048)}
    reader = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file({f"{reader}.{role}.weight": tensor for role, tensor in zeros.items()}, folder / "wrong.safetensors")
    path = folder / "sd3-t5.safetensors"
    words = "expected a LoRA for Stable Diffusion 3, found wrong.safetensors, made for SDXL"
    with pytest.raises(InputError, match=words):
        check(open_lora(str(folder / "wrong.safetensors")), [ModelRef(Digest("sd3"), "unet", str(path))])


def test_what_is_no_sum_cannot_be_done_to_a_third(folder: Path) -> None:
    """Lengths of the directions of a whole matrix say nothing of one third: the module is left out, with a warning."""
    path = folder / "sd3-t5.safetensors"
    lora, _ = lora_for(path, {"lora_unet_joint_blocks_0_x_block_attn_qkv": (
        "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"
    ), "lora_unet_joint_blocks_0_x_block_mlp_fc1": "model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight"})  # fmt: skip
    tensors = load_file(lora)
    rows = tensors["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight"].shape[0]
    tensors["lora_unet_joint_blocks_0_x_block_attn_qkv.dora_scale"] = torch.ones(rows, 1)
    save_file(tensors, lora)
    (warning,) = check(open_lora(str(lora)), [ModelRef(Digest("x"), "unet", str(path))])
    assert warning == (
        "1 of 2 modules of the LoRA lora.safetensors fit nothing in the model and are left out: "
        "lora_unet_joint_blocks_0_x_block_attn_qkv"
    )
