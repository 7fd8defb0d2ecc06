"""Tensors of the original layout find their place in diffusers' and transformers' networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.random_sd15 import Sizes, checkpoint, write
from engine.errors import ModelFileError
from engine.models import Part
from nodes.diffusion import networks
from nodes.diffusion.checkpoints import TensorInfo
from nodes.diffusion.convert import Stored, bind, rename, same_layer
from nodes.diffusion.families import describe
from nodes.diffusion.sources import Source
from tests.nodes.diffusion.test_families import TINY, infos

Case = tuple[dict[str, Stored], dict[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]]

DEMO = Path(__file__).parents[3] / "models" / "checkpoints" / "demo.safetensors"


def diffusers_converted(part: Part, tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """What diffusers' own converter makes of a checkpoint."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    convert = convert_ldm_unet_checkpoint if part == "unet" else convert_ldm_vae_checkpoint
    # the converter counts blocks and knows only as many at every level
    blocks = config.get("layers_per_block")
    uniform = {"layers_per_block": blocks[0] if isinstance(blocks, tuple) else blocks}
    converted: dict[str, Tensor] = convert(dict(tensors), dict(config) | uniform)
    return converted


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize("path", [DEMO, None], ids=["demo", "random"])
def test_tensors_equal_those_of_diffusers_converter(tmp_path: Path, part: Part, path: Path | None) -> None:
    """Every tensor gets the name, the shape and the numbers that diffusers' converter gives it."""
    if path is None:
        write(path := tmp_path / "random.safetensors", TINY, "float16")
    source = Source(path)
    module = networks.build(source.part(part).config)
    ours = source.weights(part, networks.wanted_shapes(module))
    (shelf,) = source._shelves[part]
    file = shelf.file
    theirs = diffusers_converted(part, file, module.config)
    assert set(ours) == {name for name in theirs if "position_ids" not in name}
    for name in ours:
        assert torch.equal(ours[name], theirs[name].reshape(ours[name].shape)), name


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_full_size_names_equal_those_of_diffusers_converter(part: Part) -> None:
    """Key by key, the full-size layout is renamed as diffusers renames it, and is exactly what the network wants."""
    shapes = checkpoint(Sizes())
    source = describe("sd15", infos(shapes), {}).parts[part]
    module = networks.build(source.config)
    wanted = networks.wanted_shapes(module)
    bound = bind(source.names, shapes, wanted, part)
    named = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    theirs = diffusers_converted(part, named, module.config)
    assert bound.keys() == theirs.keys() == wanted.keys()


def test_full_size_text_tower_is_complete() -> None:
    """The text tower's tensors are exactly what transformers' network wants."""
    shapes = checkpoint(Sizes())
    source = describe("sd15", infos(shapes), {}).parts["clip"]
    wanted = networks.wanted_shapes(networks.build(source.config))
    assert wanted == {name: shapes[stored.name] for name, stored in source.names.items()}


def test_distilled_unet_is_built_without_middle() -> None:
    """A UNet without a middle is bound completely to a network without one."""
    shapes = {name: shape for name, shape in checkpoint(TINY).items() if "middle_block" not in name}
    source = describe("x", infos(shapes), {}).parts["unet"]
    wanted = networks.wanted_shapes(networks.build(source.config))
    assert bind(source.names, shapes, wanted, "UNet").keys() == wanted.keys()


def test_longest_path_is_replaced() -> None:
    """The longest module path that is known wins; an unknown one stays."""
    modules = {"a": "x", "a.b": "y"}
    assert rename("a.b.weight", modules) == "y.weight"
    assert rename("a.c.weight", modules) == "x.c.weight"
    assert rename("ab.weight", modules) == "ab.weight"


def test_same_layer_is_equal_but_for_trailing_ones() -> None:
    """A 1x1 convolution and a linear layer hold the same numbers; a 3x3 one does not."""
    assert same_layer((4, 4, 1, 1), (4, 4))
    assert not same_layer((4, 4, 3, 3), (4, 4))
    assert not same_layer((4, 2), (2, 4))


@pytest.fixture
def tiny() -> Case:
    shapes = dict(checkpoint(TINY))
    source = describe("x", infos(shapes), {}).parts["vae"]
    return dict(source.names), shapes, networks.wanted_shapes(networks.build(source.config))


def test_missing_tensors_are_named(tiny: Case) -> None:
    """A file that lacks tensors is refused, saying how many and which."""
    found, shapes, wanted = tiny
    del found["encoder.conv_in.weight"]
    with pytest.raises(ModelFileError, match=r"1 missing: encoder\.conv_in\.weight"):
        bind(found, shapes, wanted, "VAE")


def test_left_over_tensors_are_named(tiny: Case) -> None:
    """A tensor with no place is refused by its name in the file; what training left behind is ignored."""
    found, shapes, wanted = tiny
    ignorable = {"loss.discriminator.x": Stored("first_stage_model.loss.discriminator.x")}
    assert bind(found | ignorable, shapes, wanted, "VAE").keys() == wanted.keys()
    with pytest.raises(ModelFileError, match=r"1 more: first_stage_model\.surprise"):
        bind(found | {"surprise": Stored("first_stage_model.surprise")}, shapes, wanted, "VAE")


def test_wrong_shape_is_named(tiny: Case) -> None:
    """A tensor of a wrong shape is refused, saying which shape was expected and which found."""
    found, shapes, wanted = tiny
    shapes["first_stage_model.encoder.conv_in.weight"] = (32, 3, 5, 5)
    with pytest.raises(
        ModelFileError,
        match=r"\[32, 3, 3, 3\] of encoder.*\[32, 3, 5, 5\] in first_stage_model\.encoder\.conv_in\.weight",
    ):
        bind(found, shapes, wanted, "VAE")


def test_two_names_for_one_place_are_refused() -> None:
    """A VAE that holds a layer under its old and its new name is refused: one of them would be lost."""
    shapes = infos(checkpoint(TINY))
    twin = {"first_stage_model.encoder.mid_block.resnets.0.conv1.weight": TensorInfo("F32", (64, 64, 3, 3))}
    with pytest.raises(ModelFileError, match="found both"):
        describe("x", shapes | twin, {})
