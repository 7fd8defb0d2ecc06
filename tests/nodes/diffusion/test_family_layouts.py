"""Every family of models loads, key by key, at the size of the released models and much smaller."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from benchmarks.random_models import SMALL, TRUE, Model
from engine.errors import ModelFileError
from nodes.diffusion import networks
from nodes.diffusion.configs import DiTConfig, T5Config, TextConfig, TowersConfig, UNetConfig
from nodes.diffusion.convert import bind
from nodes.diffusion.families import Description, describe
from tests.nodes.diffusion.test_families import infos

FAMILIES = {
    "sd15": "sd1",
    "bk-sdm": "sd1",
    "sd2": "sd2",
    "sdxl": "sdxl",
    "ssd": "sdxl",
    "vega": "sdxl",
    "refiner": "refiner",
    "sd3": "sd3",
    "x4": "upscaler",
}


def described(name: str, models: Mapping[str, Model] = TRUE) -> Description:
    return describe(name, infos(models[name].shapes()), {})


@pytest.mark.parametrize("name", TRUE)
def test_no_tensor_is_missing_and_none_unused(name: str) -> None:
    """At the true size: each part's network wants exactly what the file has for it."""
    shapes = TRUE[name].shapes()
    found = describe(name, infos(shapes), {})
    used: set[str] = set()
    for part, source in found.parts.items():
        wanted = networks.wanted_shapes(networks.build(source.config))
        used |= {stored.name for stored in bind(source.names, shapes, wanted, part).values()}
    assert {key for key in shapes if key not in used} <= {key for key in shapes if "logit_scale" in key}
    assert found.family.name == next(family for start, family in FAMILIES.items() if name.startswith(start))


@pytest.mark.parametrize("name", SMALL)
def test_small_ones_are_of_the_same_family(name: str) -> None:
    """What tells families apart is not their size."""
    assert described(name, SMALL).family == described(name).family


def test_sizes_of_released_models() -> None:
    """Numbers of published configurations come out of the shapes."""
    sdxl, g = described("sdxl").parts["unet"].config, described("sdxl").parts["clip"].config
    assert isinstance(sdxl, UNetConfig)
    assert (sdxl.heads, sdxl.context_dim, sdxl.vector_dim, sdxl.mid_depth) == ((5, 10, 20), 2048, 2816, 10)
    assert isinstance(g, TowersConfig)
    big = g["g"]
    assert isinstance(big, TextConfig)
    assert (g.names, big.width, big.layers, big.heads, big.activation, big.projection) == (
        ("l", "g"),
        1280,
        32,
        20,
        "gelu",
        1280,
    )
    two = described("sd2").parts["unet"].config
    assert isinstance(two, UNetConfig)
    assert (two.heads, two.context_dim, two.linear_projection) == ((5, 10, 20, 20), 1024, True)
    pruned = described("ssd-1b").parts["unet"].config
    assert isinstance(pruned, UNetConfig)
    assert (pruned.down_depths, pruned.up_depths, pruned.mid_depth) == (
        ((0, 0), (2, 2), (4, 4)),
        ((4, 4, 10), (2, 1, 1), (0, 0, 0)),
        0,
    )
    medium, towers = described("sd35-medium").parts["unet"].config, described("sd35-medium").parts["clip"].config
    assert isinstance(medium, DiTConfig)
    assert (medium.layers, medium.heads, medium.positions, medium.dual_layers, medium.qk_norm) == (
        24,
        24,
        384,
        tuple(range(13)),
        True,
    )
    large = described("sd35-large").parts["unet"].config
    assert isinstance(large, DiTConfig)
    assert (large.layers, large.heads, large.positions, large.dual_layers, large.qk_norm) == (38, 38, 192, (), True)
    assert isinstance(towers, TowersConfig)
    assert towers["t5"] == T5Config(4096, 24, 64, 64, 32128, 10240)


def test_a_text_encoder_of_another_model_is_refused() -> None:
    """One that speaks less widely than the UNet listens."""
    shapes = SMALL["sd15"].shapes()
    mixed = {name: shape for name, shape in shapes.items() if not name.startswith("cond_stage_model")}
    mixed |= {name: shape for name, shape in SMALL["sd2"].shapes().items() if name.startswith("cond_stage_model")}
    with pytest.raises(
        ModelFileError, match="expected a text encoder 64 wide in x, as its UNet listens to, found one 128 wide"
    ):
        describe("x", infos(mixed), {})
