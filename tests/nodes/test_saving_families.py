"""Models of every family are saved as they were loaded, and merged by the names that their nodes give to blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.models import Digest, ModelRef, Part, Patch
from nodes.diffusion import saving
from nodes.diffusion.convert import is_ignorable
from nodes.diffusion.patches import contents
from nodes.diffusion.sources import Source

PARTS: tuple[Part, ...] = ("unet", "clip", "vae")


def quiet(done: int, total: int) -> None:
    assert 0 <= done < total


def refs(path: Path) -> list[ModelRef]:
    """The parts that the file has."""
    return [ModelRef(Digest(path.name), part, str(path)) for part in PARTS if part in Source(path).description.parts]


@pytest.mark.parametrize("name", ["sd2", "sdxl", "refiner", "sd3-t5", "sd35-medium", "ssd-1b", "sd15-inpainting"])
def test_a_checkpoint_comes_out_bit_for_bit(tmp_path: Path, name: str) -> None:
    """Every tensor under its name, those in one matrix and those the other way round included; the file loads again."""
    path, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    write_shapes(path, SMALL[name].shapes(), "float16")
    data = saving.checkpoint(refs(path), quiet)
    again.write_bytes(data)
    expected = {key: tensor for key, tensor in load_file(path).items() if not is_ignorable(key) or "projection" in key}
    found = load(data)
    assert expected.keys() <= found.keys()
    assert all(torch.equal(found[key], tensor) and found[key].dtype == tensor.dtype for key, tensor in expected.items())
    first, second = Source(path).description, Source(again).description
    assert second.schedule == first.schedule
    assert {part: it.config for part, it in second.parts.items()} == {
        part: it.config for part, it in first.parts.items()
    }


def test_text_encoders_are_saved_a_file_each(tmp_path: Path) -> None:
    """In the layout of transformers, whatever the checkpoint's is."""
    path = tmp_path / "sd3.safetensors"
    write_shapes(path, SMALL["sd3-t5"].shapes(), "float16")
    ref = ModelRef(Digest("x"), "clip", str(path))
    files = {name: load(data) for name, data in saving.text_encoders(ref, quiet).items()}
    assert list(files) == ["clip_l", "clip_g", "t5xxl"]
    weights = contents(ref).weights
    some = {
        "l.text.encoder.layers.0.self_attn.q_proj.bias": ("clip_l", "text_model.encoder.layers.0.self_attn.q_proj.bias"),
        "g.projection.weight": ("clip_g", "text_projection.weight"),
        "t5.text.embed_tokens.weight": ("t5xxl", "shared.weight"),
        "t5.text.block.0.layer.1.DenseReluDense.wo.weight": (
            "t5xxl", "encoder.block.0.layer.1.DenseReluDense.wo.weight"),
    }  # fmt: skip
    assert all(torch.equal(files[file][stored], weights[name]) for name, (file, stored) in some.items())
    assert sum(map(len, files.values())) == len(weights)


@pytest.mark.parametrize(
    ("family", "ratios"),
    [
        ("sdxl", {"label_emb.": 0.1, "input_blocks.0": 0.2, "middle_block.1": 0.3, "out.": 0.4}),
        (
            "sd3-t5",
            {"pos_embed.": 0.1, "x_embedder.": 0.2, "y_embedder.": 0.3, "joint_blocks.1.": 0.4, "final_layer.": 0.6},
        ),
    ],
)
def test_ratios_go_by_names_of_the_original_layout(tmp_path: Path, family: str, ratios: dict[str, float]) -> None:
    """The mixture is that of the two files, tensor by tensor; what no ratio names has the first one."""
    one, two, mixed = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "mixed"))
    write_shapes(one, SMALL[family].shapes(), "float32", seed=1)
    write_shapes(two, SMALL[family].shapes(), "float32", seed=2)
    prefix = "model.diffusion_model."
    first, second = load_file(one), load_file(two)
    for name in first:
        own = name.removeprefix(prefix)
        ratio = next((ratios[start] for start in ratios if own.startswith(start)), 0.9)
        if name.startswith(prefix):
            first[name] = ratio * first[name] + (1 - ratio) * second[name]
    save_file(first, mixed)
    left, right, wanted = (ModelRef(Digest(path.name), "unet", str(path)) for path in (one, two, mixed))
    patch = Patch("merge", right.source, 0.9, right.location, tuple(ratios.items()), right)
    found, expected = contents(left.with_patches(patch)).weights, contents(wanted).weights
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
