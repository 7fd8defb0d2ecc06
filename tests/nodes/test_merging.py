"""Merged models hold, tensor by tensor, what the formula of their node says of the two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.random_sd15 import Sizes, write
from engine.graph.graph import Call
from engine.models import ModelRef, Patch
from tests.nodes.studio import Studio, checkpoint, demo_metadata, demo_tensors, link

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
NAMES = {
    "time_embedding.linear_1.weight": f"{UNET}time_embed.0.weight",
    "conv_in.bias": f"{UNET}input_blocks.0.0.bias",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    ),
    "mid_block.resnets.0.conv1.weight": f"{UNET}middle_block.0.in_layers.2.weight",
    "mid_block.attentions.0.norm.weight": f"{UNET}middle_block.1.norm.weight",
    "up_blocks.0.resnets.1.conv1.weight": f"{UNET}output_blocks.1.0.in_layers.2.weight",
    "conv_norm_out.weight": f"{UNET}out.0.weight",
}
"""Names under a lease -> names in the file, one of each block."""

Formula = Callable[[Tensor, Tensor], Tensor]


def other_tensors() -> dict[str, Tensor]:
    """Another model of the demo's kind."""
    draw = torch.Generator().manual_seed(1)
    return {
        name: it + 0.1 * torch.randn(it.shape, generator=draw) if it.is_floating_point() else it
        for name, it in demo_tensors().items()
    }


@pytest.fixture
def calls(studio: Studio) -> dict[str, Call]:
    """Loaders of the demo and of the other model."""
    name = studio.write("checkpoints/other.safetensors", other_tensors(), demo_metadata())
    return {"one": checkpoint(), "two": checkpoint(name)}


def merge(type_: str, **inputs: float) -> Call:
    side, output = ("clip", 1) if type_.startswith("CLIP") else ("model", 0)
    return Call(type_, {f"{side}1": link("one", output), f"{side}2": link("two", output), **inputs})


def parameters(studio: Studio, ref: ModelRef, names: dict[str, str]) -> dict[str, Tensor]:
    with studio.store.lease(ref) as model:
        tower = model.module.get_submodule("l.text") if ref.part == "clip" else model.module
        return {stored: tower.get_parameter(name).clone() for name, stored in names.items()}


@pytest.mark.parametrize(
    ("node", "formula"),
    [
        (merge("ModelMergeSimple", ratio=0.3), lambda a, b: 0.3 * a + 0.7 * b),
        (merge("ModelMergeAdd"), lambda a, b: a + b),
        (merge("ModelMergeSubtract", multiplier=-2.0), lambda a, b: -2 * (a - b)),
    ],
)
def test_whole_models_are_mixed_added_and_subtracted(
    studio: Studio, calls: dict[str, Call], node: Call, formula: Formula
) -> None:
    """Every tensor of the UNet by one formula."""
    (ref,) = studio.values({**calls, "merged": node}, "merged")
    one, two = demo_tensors(), other_tensors()
    for stored, found in parameters(studio, ref, NAMES).items():
        assert torch.allclose(found, formula(one[stored], two[stored]), atol=1e-6)
    assert studio.warnings == []


@pytest.mark.parametrize(
    ("node", "formula"),
    [
        (merge("CLIPMergeSimple", ratio=0.3), lambda a, b: 0.3 * a + 0.7 * b),
        (merge("CLIPMergeAdd"), lambda a, b: a + b),
        (merge("CLIPMergeSubtract", multiplier=0.5), lambda a, b: 0.5 * (a - b)),
    ],
)
def test_text_encoders_are_mixed_added_and_subtracted(
    studio: Studio, calls: dict[str, Call], node: Call, formula: Formula
) -> None:
    """The same for the text encoder, its embeddings too."""
    (ref,) = studio.values({**calls, "merged": node}, "merged")
    one, two = demo_tensors(), other_tensors()
    names = {name: TEXT + name for name in ("embeddings.position_embedding.weight", "encoder.layers.1.mlp.fc1.bias")}
    for stored, found in parameters(studio, ref, names).items():
        assert torch.allclose(found, formula(one[stored], two[stored]), atol=1e-6)


THIRDS = {"time_embed": 0.1, "input": 0.1, "middle": 0.5, "out": 0.8}
EACH = {"time_embed.": 0.9, "input_blocks.0.": 0.1, "input_blocks.1.": 0.2, "middle_block.0.": 0.3, "middle_block.1.": 0.4,
        "output_blocks.1.": 0.6, "out.": 0.7}  # fmt: skip


@pytest.mark.parametrize(
    ("node", "ratios"),
    [
        (merge("ModelMergeBlocks", input=0.1, middle=0.5, out=0.8), THIRDS),
        (merge("ModelMergeSD1", **EACH), EACH),
        (merge("ModelMergeSD2", **EACH), EACH),
        (
            merge("ModelMergeSDXL", **{name if name in ("time_embed.", "out.") else name[:-1]: it for name, it in EACH.items()}),
            EACH,
        ),
    ],
)  # fmt: skip
def test_each_block_has_the_ratio_of_its_name_in_the_original_layout(
    studio: Studio, calls: dict[str, Call], node: Call, ratios: dict[str, float]
) -> None:
    """The longest start of a name counts; what no input names goes with the first one."""
    (ref,) = studio.values({**calls, "merged": node}, "merged")
    one, two = demo_tensors(), other_tensors()
    for stored, found in parameters(studio, ref, NAMES).items():
        ratio = next(it for start, it in ratios.items() if stored.removeprefix(UNET).startswith(start))
        assert torch.allclose(found, ratio * one[stored] + (1 - ratio) * two[stored], atol=1e-6), stored


def test_the_longest_start_of_a_name_counts(studio: Studio, calls: dict[str, Call]) -> None:
    """A ratio for a block goes before one for all blocks, whichever comes first."""
    one, *_ = studio.values(calls, "one")
    two, *_ = studio.values(calls, "two")
    options = (("input_blocks.", 0.2), ("input_blocks.1.", 0.6), ("", 0.9))
    ref = one.with_patches(Patch("merge", two.source, 1.0, two.location, options, two))
    found = parameters(studio, ref, NAMES)
    for stored, ratio in (("input_blocks.0.0.bias", 0.2), ("middle_block.1.norm.weight", 0.9),
                          ("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", 0.6)):  # fmt: skip
        mixed = ratio * demo_tensors()[UNET + stored] + (1 - ratio) * other_tensors()[UNET + stored]
        assert torch.allclose(found[UNET + stored], mixed, atol=1e-6)


def test_patches_of_both_models_count_in_their_order(studio: Studio, calls: dict[str, Call]) -> None:
    """The other model comes in with its own changes; what was done before the merge is mixed, what comes after is whole."""
    name = "lora_unet_mid_block_resnets_0_conv1.diff"
    stored = f"{UNET}middle_block.0.in_layers.2.weight"
    changes = {label: torch.randn(demo_tensors()[stored].shape) for label in ("before", "of_two", "after")}
    for label, change in changes.items():
        studio.write(f"loras/{label}.safetensors", {name: change})

    def lora(label: str, source: str) -> Call:
        return Call("LoraLoaderModelOnly",
                    {"model": link(source), "lora_name": f"{label}.safetensors", "strength_model": 1.0})  # fmt: skip

    graph = {
        **calls,
        "before": lora("before", "one"),
        "of_two": lora("of_two", "two"),
        "merged": Call("ModelMergeSimple", {"model1": link("before"), "model2": link("of_two"), "ratio": 0.25}),
        "after": lora("after", "merged"),
    }
    (ref,) = studio.values(graph, "after")
    expected = (
        0.25 * (demo_tensors()[stored] + changes["before"])
        + 0.75 * (other_tensors()[stored] + changes["of_two"])
        + changes["after"]
    )
    found = parameters(studio, ref, {"mid_block.resnets.0.conv1.weight": stored})[stored]
    assert torch.allclose(found, expected, atol=1e-5)


def test_models_of_two_kinds_are_refused(studio: Studio, calls: dict[str, Call]) -> None:
    """By the node that was to merge them, in words."""
    path = studio.folder / "models" / "checkpoints" / "narrow.safetensors"
    write(path, Sizes(channels=32, mult=(1, 2), blocks=1, attention=(True, False), vae_channels=32, vae_mult=(1, 2),
                      vae_blocks=1, width=64, layers=2, vocabulary=100), "float32")  # fmt: skip
    graph = {**calls, "two": checkpoint("narrow.safetensors"), "merged": merge("ModelMergeAdd")}
    message = studio.failure(graph, "merged")
    assert "node merged (ModelMergeAdd)" in message
    assert "expected two models of one kind" in message
    assert "UNet of narrow.safetensors" in message


def test_tensors_of_other_shapes_stay_as_they_are(studio: Studio, calls: dict[str, Call]) -> None:
    """A model that reads wider texts is merged but for the layers that read them, and these are named."""
    path = studio.folder / "models" / "checkpoints" / "wide.safetensors"
    write(path, Sizes(channels=64, mult=(1, 2), blocks=1, attention=(True, False), vae_channels=32, vae_mult=(1, 2),
                      vae_blocks=1, width=128, layers=1, vocabulary=100), "float32")  # fmt: skip
    graph = {**calls, "two": checkpoint("wide.safetensors"), "merged": merge("ModelMergeSimple", ratio=0.0)}
    (ref,) = studio.values(graph, "merged")
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    found = parameters(studio, ref, NAMES)
    assert torch.equal(found[NAMES[key]], demo_tensors()[NAMES[key]])
    assert not torch.allclose(found[NAMES["conv_in.bias"]], demo_tensors()[NAMES["conv_in.bias"]])
    (warning,) = studio.warnings
    assert warning.startswith("the UNet of wide.safetensors lacks 8 tensors or has them in other shapes")
    assert key in warning
