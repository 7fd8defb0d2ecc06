"""Every ControlNet and adapter loads, key by key, in the layouts that it was released in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.random_controls import CLDM, SMALL, TRUE
from benchmarks.random_models import TRUE as MODELS
from benchmarks.random_sd15 import Shape
from engine.errors import InputError, ModelFileError
from nodes.diffusion import networks
from nodes.diffusion.control_configs import AdapterConfig, AnyControl, ControlConfig, TransformerControlConfig
from nodes.diffusion.control_find import MARKS
from nodes.diffusion.control_fit import check_fits
from nodes.diffusion.control_weights import check_low_rank
from nodes.diffusion.convert import bind
from nodes.diffusion.families import Description, describe
from tests.nodes.diffusion.test_families import infos

FAMILIES = {"sd2": "sd2", "sdxl": "sdxl", "sd35": "sd3"}


def described(shapes: Mapping[str, Shape], name: str = "net") -> Description:
    return describe(name, infos(shapes), {})


def unused(shapes: Mapping[str, Shape]) -> set[str]:
    """What of a file no network wants; fails where it wants more."""
    source = described(shapes).parts["control"]
    wanted = networks.wanted_shapes(networks.build(source.config))
    if isinstance(source.config, ControlConfig) and source.config.form == "low_rank":
        check_low_rank(source.names, shapes, wanted, "net")
        used = {it.name for it in source.names.values()}
    else:
        used = {it.name for it in bind(source.names, shapes, wanted, "net").values()}
    return set(shapes) - used


@pytest.mark.parametrize("name", TRUE)
def test_no_tensor_is_missing_and_none_unused(name: str) -> None:
    """At the true size, in the original layouts."""
    assert unused(TRUE[name]) <= MARKS
    family = next((family for start, family in FAMILIES.items() if name.startswith(start)), "sd1")
    assert described(TRUE[name]).family.name == family


@pytest.mark.parametrize("name", SMALL)
def test_small_ones_are_of_the_same_kind(name: str) -> None:
    large, small = (described(shapes[name]) for shapes in (TRUE, SMALL))
    assert type(small.parts["control"].config) is type(large.parts["control"].config)
    assert unused(SMALL[name]) <= MARKS


def test_names_without_the_prefix_are_read_alike() -> None:
    bare = {name.removeprefix(CLDM): shape for name, shape in TRUE["sd15"].items()}
    assert described(bare).parts["control"].config == described(TRUE["sd15"]).parts["control"].config


XL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""Of controlnet-canny-sdxl-1.0's config.json."""
SMALL_XL: dict[str, Any] = XL | {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"}
"""Of controlnet-canny-sdxl-1.0-small's: no attention anywhere."""
UNION: dict[str, Any] = XL | {"conditioning_embedding_out_channels": (48, 96, 192, 384), "num_control_type": 8}
"""Of controlnet-union-sdxl-1.0 promax's."""
SD3: dict[str, Any] = {
    "num_layers": 12,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
"""Of InstantX's for Stable Diffusion 3 medium."""


def theirs(kind: str, config: Mapping[str, Any]) -> dict[str, Shape]:
    """Names and shapes of what diffusers saves of its class ``kind``."""
    import diffusers

    with torch.device("meta"):
        module: nn.Module = getattr(diffusers, kind)(**config)
    return networks.wanted_shapes(module)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "config", "family"),
    [
        ("ControlNetModel", {"cross_attention_dim": 768}, "sd1"),
        ("ControlNetModel", XL, "sdxl"),
        ("ControlNetModel", SMALL_XL, "sdxl"),
        ("ControlNetUnionModel", UNION, "sdxl"),
        ("SD3ControlNetModel", SD3, "sd3"),
        ("SD3ControlNetModel", SD3 | {"num_layers": 23, "extra_conditioning_channels": 1}, "sd3"),
        ("T2IAdapter", {}, "sd1"),
        ("T2IAdapter", {"adapter_type": "light_adapter", "channels": [320, 640, 1280], "num_res_blocks": 4}, "sd1"),
        ("T2IAdapter", {"adapter_type": "full_adapter_xl", "downscale_factor": 16}, "sdxl"),
    ],
)
def test_what_diffusers_saves_is_read(kind: str, config: dict[str, Any], family: str) -> None:
    """At the true size, by the configurations that were published; SDXL's vector goes by another name there."""
    shapes = theirs(kind, config)
    found = described(shapes)
    assert not unused(shapes)
    assert found.family.name == family


def test_sizes_of_released_nets() -> None:
    """Numbers of published configurations come out of the shapes."""
    sd1 = described(TRUE["sd15"]).parts["control"].config
    assert sd1 == ControlConfig(
        in_channels=4,
        model_channels=320,
        channel_mult=(1, 2, 4, 4),
        blocks=2,
        depths=(1, 1, 1, 0),
        mid_depth=1,
        context_dim=768,
        heads=(8, 8, 8, 8),
        hint_channels=3,
        hint_widths=(16, 32, 96, 256),
    )
    assert sd1.residuals == (320, 320, 320, 320, 640, 640, 640, 1280, 1280, 1280, 1280, 1280)
    union = described(theirs("ControlNetUnionModel", UNION)).parts["control"].config
    assert isinstance(union, ControlConfig)
    assert (union.union_types, union.union_width, union.union_layers, union.heads) == (8, 320, 1, (5, 10, 20))
    assert (union.depths, union.mid_depth, union.hint_widths) == ((0, 2, 10), 10, (48, 96, 192, 384))
    lora = described(TRUE["sdxl-lora"]).parts["control"].config
    assert isinstance(lora, ControlConfig)
    assert (lora.form, lora.depths, lora.vector_dim, lora.linear_projection) == ("low_rank", (0, 2, 10), 2816, True)
    masked = described(theirs("SD3ControlNetModel", SD3 | {"extra_conditioning_channels": 1})).parts["control"].config
    assert isinstance(masked, TransformerControlConfig)
    assert (masked.layers, masked.heads, masked.mask_channels, masked.positions) == (12, 24, 1, 192)
    alone = described(TRUE["sd35"]).parts["control"].config
    assert isinstance(alone, TransformerControlConfig)
    assert (alone.layers, alone.heads, alone.context_dim, alone.positions) == (19, 38, None, None)
    grey = described(TRUE["sd15-grey-adapter"]).parts["control"].config
    assert grey == AdapterConfig("full_adapter", 1, (320, 640, 1280, 1280), 2, 8)
    large = described(TRUE["sdxl-adapter"]).parts["control"].config
    assert large == AdapterConfig("full_adapter_xl", 3, (320, 640, 1280, 1280), 2, 16)


def test_a_difference_is_known_by_its_mark() -> None:
    config = described({**SMALL["sd15"], "difference": ()}).parts["control"].config
    assert isinstance(config, ControlConfig)
    assert config.form == "difference"


def test_a_net_that_is_not_whole_is_refused() -> None:
    """What a configuration is read off is missed when the file is looked at."""
    shapes = {name: shape for name, shape in SMALL["sd15"].items() if name != f"{CLDM}input_blocks.0.0.weight"}
    with pytest.raises(
        ModelFileError, match=r"a whole ControlNet in net, found .* expected a tensor conv_in\.weight, found none"
    ):
        described(shapes)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd35", "sd15-adapter", "sd15-light-adapter", "sdxl-lora"])
def test_a_missing_tensor_is_named(name: str) -> None:
    last = [key for key in SMALL[name] if not key.endswith((".up", ".down")) and key not in MARKS][-1]
    shapes = {key: shape for key, shape in SMALL[name].items() if key != last}
    with pytest.raises(ModelFileError, match="1 missing"):
        unused(shapes)


@pytest.mark.parametrize(
    ("net", "model", "fits"),
    [
        ("sdxl", "ssd-1b", True),
        ("sdxl", "vega", True),
        ("sdxl-adapter", "ssd-1b", True),
        ("bk-sdm-base", "bk-sdm-base", True),
        ("bk-sdm-base", "bk-sdm-small", True),
        ("sd15", "sd15-inpainting", True),
        ("sd15-adapter", "bk-sdm-base", True),
        ("sd15", "bk-sdm-base", False),
        ("sd15", "sd2", False),
        ("sdxl", "refiner", False),
        ("sd15-adapter", "sdxl", False),
        ("sdxl-adapter", "sd15", False),
        ("sd35", "sdxl", False),
        ("sdxl", "sd3", False),
        ("sd35", "sd3", False),
    ],
)
def test_a_net_fits_where_the_shapes_inside_do(net: str, model: str, fits: bool) -> None:
    """At the true size: also pruned models, as far as they have what it is added to. Others are refused by their family."""
    config, of = described(TRUE[net]).parts["control"].config, describe(model, infos(MODELS[model].shapes()), {})
    assert isinstance(config, AnyControl)
    if fits:
        check_fits(config, of.parts["unet"].config, of.family, net)
        return
    with pytest.raises(InputError, match=f"for {of.family.title}|fits this {of.family.title}"):
        check_fits(config, of.parts["unet"].config, of.family, net)
