"""Pictures resized, cropped, counted, in the ways of a widely used pack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import image_fitting as fitting_nodes
from tests.engine.run.toolbox import graph
from tests.nodes.runs import Bench


def numbered(height: int, width: int, channels: int = 3) -> Tensor:
    """Every pixel its own level."""
    return (
        (torch.arange(height * width).float() / (height * width)).view(1, height, width, 1).expand(1, -1, -1, channels)
    )


def resize(image: Tensor, width: int, height: int, method: str = "stretch", **given: Any) -> Tensor:
    values = {"interpolation": "nearest", "condition": "always"} | given
    result, *size = fitting_nodes.image_resize(image=image, width=width, height=height, method=method, **values)
    assert size == [result.shape[2], result.shape[1]]
    assert isinstance(result, Tensor)
    return result


@pytest.mark.parametrize(
    ("method", "wanted", "size"),
    [
        ("stretch", (10, 30), (10, 30)),
        ("stretch", (0, 30), (40, 30)),
        ("keep proportion", (20, 20), (20, 10)),
        ("keep proportion", (80, 80), (80, 40)),
        ("keep proportion", (0, 10), (20, 10)),
        ("keep proportion", (80, 0), (80, 40)),
        ("keep proportion", (0, 0), (40, 20)),
        ("fill / crop", (20, 20), (20, 20)),
        ("fill / crop", (0, 5), (40, 5)),
        ("pad", (20, 20), (20, 20)),
        ("pad", (0, 10), (20, 10)),
    ],
)
def test_sizes(method: str, wanted: tuple[int, int], size: tuple[int, int]) -> None:
    """Of a picture of 40 x 20; a side of 0 follows from the other, or stays."""
    result = resize(numbered(20, 40), *wanted, method)
    assert (result.shape[2], result.shape[1]) == size


def test_filling_cuts_the_middle_out_and_padding_puts_it_on_black() -> None:
    """To the pixel, where nothing has to be scaled."""
    image = numbered(4, 8)
    assert torch.equal(resize(image, 4, 4, "fill / crop"), image[:, :, 2:6])
    padded = resize(image, 8, 8, "pad")
    assert torch.equal(padded[:, 2:6], image)
    assert not padded[:, :2].any()
    assert not padded[:, 6:].any()
    assert resize(numbered(4, 8, 4), 8, 8, "pad")[0, 0, 0].tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("condition", "wanted", "changed"),
    [
        ("downscale if bigger", (4, 30), True),
        ("downscale if bigger", (9, 9), False),
        ("upscale if smaller", (9, 4), True),
        ("upscale if smaller", (4, 4), False),
        ("if bigger area", (4, 15), True),
        ("if bigger area", (8, 8), False),
        ("if smaller area", (4, 17), True),
        ("if smaller area", (8, 8), False),
    ],
)
def test_conditions(condition: str, wanted: tuple[int, int], changed: bool) -> None:
    """Of a picture of 8 x 8."""
    result = resize(numbered(8, 8), *wanted, condition=condition)
    assert (result.shape[1:3] != (8, 8)) == changed


def test_multiples_are_cut_from_all_sides() -> None:
    """Also where nothing is scaled; what is smaller than one is an error."""
    image = numbered(11, 21)
    assert torch.equal(resize(image, 99, 99, condition="downscale if bigger", multiple_of=8), image[:, 1:9, 2:18])
    assert resize(image, 30, 30, multiple_of=8).shape == (1, 24, 24, 3)
    assert resize(image, 16, 16, "keep proportion", multiple_of=8).shape == (1, 8, 16, 3)
    with pytest.raises(InputError, match="expected a picture of at least 16 pixels a side, found one of 21x11"):
        resize(image, 0, 0, "keep proportion", multiple_of=16)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "area", "nearest-exact", "lanczos"])
def test_every_interpolation_keeps_a_flat_picture(interpolation: str) -> None:
    result = resize(torch.full((2, 9, 9, 4), 0.6), 20, 5, interpolation=interpolation)
    assert result.shape == (2, 5, 20, 4)
    assert (result - 0.6).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("position", "offset", "size", "place"),
    [
        ("top-left", (0, 0), (4, 2), (0, 0)),
        ("top-right", (0, 0), (4, 2), (4, 0)),
        ("bottom-center", (0, 0), (4, 2), (2, 4)),
        ("left-center", (0, 0), (4, 2), (0, 2)),
        ("center", (1, -1), (4, 2), (3, 1)),
        ("center", (0, 0), (99, 99), (0, 0)),
        ("bottom-right", (2, 1), (2, 1), (6, 5)),
        ("top-left", (-3, 0), (1, 2), (0, 0)),
    ],
)
def test_crops(position: str, offset: tuple[int, int], size: tuple[int, int], place: tuple[int, int]) -> None:
    """Of a picture of 8 x 6; what lies outside is left out."""
    image = numbered(6, 8)
    wanted = size if size == (99, 99) else (4, 2)
    part, *found = fitting_nodes.image_crop_at(
        image=image, width=wanted[0], height=wanted[1], position=position, x_offset=offset[0], y_offset=offset[1]
    )
    width, height = min(size[0], 8), min(size[1], 6)
    assert tuple(found) == place
    assert torch.equal(part, image[:, place[1] : place[1] + height, place[0] : place[0] + width])


@pytest.mark.parametrize(
    ("given", "name"),
    [({"x_offset": 8}, "x_offset"), ({"y_offset": -2}, "y_offset"), ({"width": 0}, "width"), ({"height": 0}, "height")],
)
def test_a_crop_of_nothing_is_refused(given: dict[str, int], name: str) -> None:
    values = {"width": 4, "height": 2} | given
    with pytest.raises(InputError, match="something lies in the picture of 8x6 pixels") as caught:
        fitting_nodes.image_crop_at(image=numbered(6, 8), position="top-left", **values)
    assert caught.value.input == name


def test_flips_and_sizes() -> None:
    image = numbered(2, 3)
    assert torch.equal(fitting_nodes.image_flip_axis(image, "xy"), image.flip(1, 2))
    assert torch.equal(fitting_nodes.image_flip_axis(image, "y"), image.flip(1))
    assert fitting_nodes.get_image_size_plus(image) == (3, 2, 1)


@pytest.mark.parametrize(
    ("count", "method", "places"),
    [
        (6, "expand", [0, 0, 1, 1, 2, 2]),
        (2, "expand", [0, 2]),
        (1, "expand", [0]),
        (5, "repeat all", [0, 1, 2, 0, 1]),
        (5, "repeat first", [0, 0, 0, 1, 2]),
        (5, "repeat last", [0, 1, 2, 2, 2]),
        (2, "repeat first", [0, 1]),
    ],
)
def test_batches_grow_and_shrink(count: int, method: str, places: list[int]) -> None:
    batch = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 2, 3)
    assert fitting_nodes.image_expand_batch(batch, count, method=method)[:, 0, 0, 0].tolist() == places


def test_a_list_becomes_a_batch(bench: Bench) -> None:
    """At the size of the first."""
    joined = graph(
        a=("EmptyImage", {"width": 4, "height": 2, "batch_size": 2, "color": 0xFFFFFF}),
        b=("EmptyImage", {"width": 9, "height": 9, "batch_size": 1, "color": 0}),
        l=("MakeList", {"value0": "a/0", "value1": "b/0"}),
        r=("ImageListToBatch+", {"image": "l/0"}),
    )
    (batch,) = bench.values(joined)
    assert batch.mean((1, 2, 3)).tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("method", "grey"),
    [
        ("luminance (Rec.709)", 0.2126 * 0.8 + 0.0722 * 0.4),
        ("luminance (Rec.601)", 0.299 * 0.8 + 0.114 * 0.4),
        ("average", 0.4),
        ("lightness", 0.4),
    ],
)
def test_greys(method: str, grey: float) -> None:
    """All the way, half of it; alpha does not count."""
    image = torch.tensor([[[[0.8, 0.0, 0.4, 0.1]]]])
    assert fitting_nodes.image_desaturate(image, 1.0, method=method)[0, 0, 0].tolist() == pytest.approx(
        [grey] * 3 + [0.1]
    )
    half = fitting_nodes.image_desaturate(image, 0.5, method=method)[0, 0, 0].tolist()
    assert half == pytest.approx([(0.8 + grey) / 2, grey / 2, (0.4 + grey) / 2, 0.1])
