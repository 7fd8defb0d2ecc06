"""Weights in formats other than float16 and float32: 8 bits, bfloat16, and GGUF's blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import ModelFileError
from engine.model_folders import ModelFolders
from engine.models import Digest, ModelRef, Patch
from engine.run.settings import DeviceSettings
from nodes.diffusion.budget import Budget
from nodes.diffusion.checkpoints import WeightFile, read_header
from nodes.diffusion.devices import device_policy
from nodes.diffusion.gguf_file import GgufFile
from nodes.diffusion.sources import Source
from nodes.diffusion.store import LocalModelStore, make_store
from tests.nodes.diffusion.conftest import DEMO
from tests.nodes.diffusion.test_store import leased

UNET = "model.diffusion_model."
LAYER = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"


def unet_tensors() -> dict[str, Tensor]:
    """The demo's UNet in float32, by its names without what stands before them."""
    return {name.removeprefix(UNET): it.float() for name, it in load_file(DEMO).items() if name.startswith(UNET)}


def written(path: Path, tensors: Mapping[str, Tensor]) -> ModelRef:
    """A UNet file, with what the demo's metadata say of it."""
    save_file({name: it.contiguous() for name, it in tensors.items()}, path, dict(read_header(DEMO).metadata))
    return ModelRef(Digest(path.name), "unet", str(path))


def store() -> LocalModelStore:
    return make_store(DeviceSettings(device="cpu", dtype="float32"))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16], ids=str)
def test_weights_in_few_bits_run_in_the_devices_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    """As a float32 file of the rounded numbers does, loaded whole or streamed through too small a budget."""
    rounded = {name: it.to(dtype) for name, it in unet_tensors().items()}
    few = written(tmp_path / "few.safetensors", rounded)
    wide = written(tmp_path / "wide.safetensors", {name: it.float() for name, it in rounded.items()})
    expected = leased(store(), wide)
    tight = LocalModelStore(device_policy("cpu"), Budget(4 << 20))
    assert torch.equal(leased(store(), few), expected)
    assert torch.equal(leased(tight, few), expected)
    assert [it.nbytes < 4 << 20 for it in tight.resident()] == [True]
    assert not torch.equal(expected, leased(store(), ModelRef(Digest("demo"), "unet", str(DEMO))))


def test_lora_goes_on_top_of_eight_bits(tmp_path: Path) -> None:
    """The change is added to the widened numbers, and is not rounded to 8 bits."""
    few = {name: it.to(torch.float8_e4m3fn) for name, it in unet_tensors().items()}
    rows, columns = few[LAYER + ".weight"].shape
    draw = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw)
    key = "lora_unet_" + "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k".replace(".", "_")
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, tmp_path / "lora.safetensors")
    patch = Patch("lora", Digest("lora"), 0.5, str(tmp_path / "lora.safetensors"))
    ref = written(tmp_path / "few.safetensors", few).with_patches(patch)
    with store().lease(ref) as loaded:
        found = loaded.module.get_parameter("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight")
        assert torch.allclose(found, few[LAYER + ".weight"].float() + 0.5 * up @ down, atol=1e-5)


@pytest.mark.parametrize("names", [("scale_weight", "scale_input"), ("weight_scale", "input_scale")])
def test_scales_beside_eight_bits_are_multiplied(tmp_path: Path, names: tuple[str, str]) -> None:
    """What is stored times its scale is the weight; the scales are no tensors of their own, and no part of a model is."""
    whole = unet_tensors()
    name = LAYER + ".weight"
    scale = whole[name].abs().max() / 448
    scaled = whole | {
        name: (whole[name] / scale).to(torch.float8_e4m3fn),
        f"{LAYER}.{names[0]}": scale,
        f"{LAYER}.{names[1]}": torch.ones(()),
        "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn),
        "model.diffusion_model.scaled_fp8": torch.zeros(0).to(torch.float8_e4m3fn),
    }
    ref = written(tmp_path / "scaled.safetensors", scaled)
    file = WeightFile(tmp_path / "scaled.safetensors")
    assert file.keys() == whole.keys()
    # three bits of fraction: the nearest number is at most one part in 16 away, or in the flat part near zero half a step of 2^-9
    assert torch.allclose(file[name], whole[name], rtol=1 / 16, atol=float(scale) / 1024)
    leased(store(), ref)


def test_a_number_called_scale_beside_other_weights_is_kept(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2), "a.scale_weight": torch.ones(())}, tmp_path / "a.safetensors")
    assert set(WeightFile(tmp_path / "a.safetensors")) == {"a.weight", "a.scale_weight"}


def write_gguf(path: Path, tensors: Mapping[str, tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]]) -> Path:
    """A file of tensors in the forms they are given in: float32 numbers are quantised here, bytes are blocks already."""
    writer = gguf.GGUFWriter(path, "sd1")
    for name, (data, kind) in tensors.items():
        stored = data if data.dtype == np.uint8 else gguf.quants.quantize(data, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


KINDS = (
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q5_1",
    "Q5_0",
    "Q4_1",
    "Q4_0",
    "Q6_K",
    "Q5_K",
    "Q4_K",
    "Q3_K",
    "Q2_K",
    "IQ4_NL",
    "IQ4_XS",
)


@pytest.mark.parametrize("form", KINDS)
def test_blocks_are_made_numbers_as_the_format_says(tmp_path: Path, form: str) -> None:
    """As gguf's own reference makes them, for blocks of random bytes (their scales kept finite)."""
    kind = gguf.GGMLQuantizationType[form]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(0).integers(0, 256, (3, 512 // block * size), dtype=np.uint8) & 0xBF
    file = GgufFile(write_gguf(tmp_path / "a.gguf", {"a.weight": (data, kind)}))
    reference = torch.from_numpy(gguf.quants.dequantize(data, kind).astype(np.float32))
    assert file.header.tensors["a.weight"].shape == (3, 512)
    assert torch.allclose(file["a.weight"].float(), reference, rtol=1e-6, atol=1e-7)
    assert reference.std() > 0


def demo_gguf(path: Path, kind: gguf.GGMLQuantizationType) -> dict[str, Tensor]:
    """The demo's UNet in ``kind``, as far as rows are made of whole blocks; gives the numbers that it then has."""
    tensors, numbers = {}, {}
    for name, tensor in unet_tensors().items():
        fits = tensor.ndim == 2 and tensor.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        chosen = kind if fits else gguf.GGMLQuantizationType.F32
        tensors[name] = (tensor.numpy(), chosen)
        numbers[name] = torch.from_numpy(
            gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), chosen), chosen).copy()
        ).reshape(tensor.shape)
    write_gguf(path, tensors)
    return numbers


def test_gguf_unet_gives_the_weights_of_its_blocks(tmp_path: Path) -> None:
    """Q8_0 in the original layout, loaded as a float32 file of the same numbers."""
    path = tmp_path / "demo-Q8_0.gguf"
    numbers = demo_gguf(path, gguf.GGMLQuantizationType.Q8_0)
    file = GgufFile(path)
    assert any(info.dtype == "Q8_0" for info in file.header.tensors.values())
    assert all(torch.equal(file[name], it) for name, it in numbers.items())
    source = Source(path)
    weights = source.weights("unet", source.shapes("unet"))
    assert torch.equal(
        weights["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"], numbers[LAYER + ".weight"]
    )


def test_gguf_has_the_shape_that_its_metadata_keep(tmp_path: Path) -> None:
    """A convolution stored as a row of blocks."""
    weights = np.arange(4 * 2 * 4 * 2, dtype=np.float32)
    writer = gguf.GGUFWriter(tmp_path / "row.gguf", "sd1")
    writer.add_tensor("a.weight", weights.reshape(2, 32), raw_dtype=gguf.GGMLQuantizationType.F32)
    writer.add_array("comfy.gguf.orig_shape.a.weight", [4, 2, 4, 2])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "row.gguf")
    assert torch.equal(file["a.weight"], torch.arange(64.0).reshape(4, 2, 4, 2))


def test_a_broken_gguf_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    demo_gguf(path, gguf.GGMLQuantizationType.Q8_0)
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(ModelFileError, match=r"cut\.gguf is not a whole GGUF file"):
        Source(path)
    (tmp_path / "no.gguf").write_bytes(b"not one")
    with pytest.raises(ModelFileError, match=r"no\.gguf is not a whole GGUF file"):
        Source(tmp_path / "no.gguf")


def test_forms_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.IQ2_XXS
    data = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    path = write_gguf(tmp_path / "a.gguf", {"a.weight": (data, kind)})
    with pytest.raises(ModelFileError, match=r"found a\.weight in IQ2_XXS"):
        GgufFile(path)


def test_a_text_model_as_gguf_is_no_unet(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.F32
    path = write_gguf(tmp_path / "llm.gguf", {"token_embd.weight": (np.ones((4, 4), np.float32), kind),
                                              "blk.0.attn_q.weight": (np.ones((4, 4), np.float32), kind)})  # fmt: skip
    with pytest.raises(ModelFileError, match=r"expected a Stable Diffusion model in llm\.gguf"):
        Source(path)


def test_gguf_files_are_listed_among_diffusion_models_alone(tmp_path: Path) -> None:
    for folder in ("unet", "checkpoints"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.gguf").touch()
    folders = ModelFolders.under([tmp_path])
    assert (folders.list("diffusion_models"), folders.list("unet"), folders.list("checkpoints")) == (
        ["a.gguf"],
        ["a.gguf"],
        [],
    )
