"""Pictures compared, put side by side and in grids."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.errors import InputError
from engine.graph.graph import NodeId
from engine.graph.object_info import object_info
from engine.graph.validate import validate
from engine.run.executor import Run
from nodes import image_compare as compare_nodes
from nodes.diffusion.comparing import LABEL
from tests.engine.run.toolbox import graph
from tests.nodes.runs import Bench


def flat(*levels: float, height: int = 2, width: int = 3, channels: int = 3) -> Tensor:
    """One grey picture a level."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, height, width, channels).clone()


def test_two_pictures_are_shown_as_an_editor_asks_for_them(bench: Bench) -> None:
    """Two lists of files in the temp folder; either side may be missing; what the widget sends of itself is taken."""
    compared = graph(
        a=("EmptyImage", {"width": 4, "height": 2, "batch_size": 2, "color": 0xFF0000}),
        b=("EmptyImage", {"width": 4, "height": 2, "batch_size": 1, "color": 0x0000FF}),
        c=("ImageCompare", {"image_a": "a/0", "image_b": "b/0", "compare_view": {"beforeImages": []}}),
        d=("ImageCompare", {"image_b": "b/0"}),
    )
    assert validate(compared, bench.registry(), bench.files()) == []
    result = bench.executor().run_sync(Run(compared))
    assert result.status == "succeeded", result.failures
    shown: Any = result.ui[NodeId("c")]
    assert (len(shown["a_images"]), len(shown["b_images"]), set(result.ui[NodeId("d")])) == (2, 1, {"b_images"})
    with Image.open(bench.folder / "temp" / shown["b_images"][0]["filename"]) as picture:
        assert picture.convert("RGB").getpixel((3, 1)) == (0, 0, 255)
    info = object_info(bench.registry()["ImageCompare"])
    assert info["input"]["optional"]["compare_view"][0] == "IMAGECOMPARE"
    assert info["output_node"] is True


def test_the_difference_of_two_pictures() -> None:
    """As a picture, as a mask, and as numbers worked out by hand."""
    first, second = flat(0.5), flat(0.5)
    second[0, 0, 0, 1] = 0.3
    shown, mask, mean, psnr = compare_nodes.image_difference(image1=first, image2=second, gain=2.0)
    assert shown[0, 0, 0].tolist() == pytest.approx([0.0, 0.4, 0.0])
    assert mask[0].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert mean == pytest.approx(0.2 / 18)
    assert psnr == pytest.approx(-10 * np.log10(0.04 / 18))
    assert compare_nodes.image_difference(image1=first, image2=first)[2:] == (0.0, 100.0)
    assert not compare_nodes.image_difference(image1=first, image2=second, threshold=0.2001)[1].any()


def test_pictures_of_other_sizes_batches_and_channels_are_compared() -> None:
    """The second takes the first's size, the shorter batch goes on with its last, missing alpha is opaque and is not hidden."""
    second = flat(0.25, height=8, width=12, channels=4)
    second[..., 3] = 1
    shown, mask, mean, _ = compare_nodes.image_difference(image1=flat(0.25, 0.75), image2=second)
    assert shown.shape == (2, 2, 3, 4)
    assert mask.mean((1, 2)).tolist() == [0.0, 1.0]
    assert mean == pytest.approx(0.5 * 3 / 8, abs=1e-5)
    assert shown[..., 3].min() == 1


def test_an_enhanced_difference_is_one_sided() -> None:
    result = compare_nodes.image_enhance_difference(flat(0.5, 0.2), flat(0.25), 0.5)
    assert result[:, 0, 0, 0].tolist() == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize(
    ("direction", "row"), [("right", [0.1, 0.9]), ("left", [0.9, 0.1]), ("down", [0.1]), ("up", [0.9])]
)
def test_side_by_side(direction: str, row: list[float]) -> None:
    result = compare_nodes.image_concanate(flat(0.1, height=1, width=1), flat(0.9, height=1, width=1), direction, True)
    assert result[0, 0, :, 0].tolist() == pytest.approx(row, abs=1 / 255)


def test_a_batch_as_one_picture() -> None:
    """Row by row, what is left over black; smaller in whole eights where it would be too large."""
    images = flat(0.1, 0.2, 0.3, 0.4, 0.5, height=1, width=1)
    sheet = compare_nodes.image_concat_from_batch(images, 3, False, 4096)
    assert sheet.shape == (1, 2, 3, 3)
    assert sheet[0, :, :, 0].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.0])
    small = compare_nodes.image_concat_from_batch(flat(0.5, 0.5, height=40, width=60), 2, False, 100)
    assert small.shape == (1, 32, 96, 3)
    assert small.min() > 0.49


def grid(images: list[Tensor], **given: Any) -> Tensor:
    values = {"columns": 2, "cell_width": 32, "cell_height": 32, "padding": 3} | given
    result: Tensor = compare_nodes.image_grid(
        images=images, **{name: value if isinstance(value, list) else [value] for name, value in values.items()}
    )
    return result


def test_a_grid_of_pictures_of_any_sizes() -> None:
    """Each as large as fits, in the middle of its cell, with black between."""
    result = grid([flat(1.0, 1.0, height=10, width=20), flat(1.0, height=64, width=64)])
    assert result.shape == (1, 67, 67, 3)
    light = result[0, ..., 0]
    assert light[8:24, :32].min() == 1
    assert not light[:8, :32].any()
    assert not light[:, 32:35].any()
    assert not light[32:35].any()
    assert light[35:, :32].min() == 1
    assert not light[35:, 35:].any()
    assert grid([flat(1.0)], columns=20).shape == (1, 32, 32, 3)


def test_a_grid_has_alpha_where_a_picture_has() -> None:
    result = grid([flat(1.0, height=32, width=32), flat(0.5, height=32, width=32, channels=4)])
    assert result[0, 16, 16].tolist() == [1, 1, 1, 1]
    assert result[0, 16, 50].tolist() == pytest.approx([0.5] * 4, abs=0.01)


def test_labels_stand_below_their_pictures() -> None:
    """One a line, or one an element; white on black; what is too long is cut."""
    images = [flat(0.0, 0.0, height=32, width=32)]
    result = grid(images, labels=["one\n" + "long " * 99], cell_width=64)
    assert result.shape == (1, 32 + LABEL, 131, 3)
    line = result[0, 32:, :, 0]
    assert line[:, :64].max() > 0.9
    assert line[:, 67:].max() > 0.9
    assert torch.equal(grid(images, labels=["a", "b"]), grid(images, labels=["a\nb"]))
    assert not torch.equal(grid(images, labels=["a", "b"]), grid(images, labels=["a"]))
    assert not grid(images, labels=[""]).any()
    assert grid(images, labels=["\n"]).shape[1] == 32


def test_a_grid_too_large_is_refused() -> None:
    with pytest.raises(InputError, match=r"the grid of 40 pictures would have .* at most 65536 a side"):
        grid([flat(*[0.0] * 40, height=1, width=1)], columns=1, cell_height=2048)


def test_a_grid_takes_a_list_as_a_whole(bench: Bench) -> None:
    """One picture comes of it, with its defaults."""
    gridded = graph(
        a=("EmptyImage", {"width": 9, "height": 9, "batch_size": 2, "color": 0xFFFFFF}),
        b=("EmptyImage", {"width": 90, "height": 9, "batch_size": 1, "color": 0xFFFFFF}),
        l=("MakeList", {"value0": "a/0", "value1": "b/0"}),
        r=("ImageGrid", {"images": "l/0"}),
    )
    (picture,) = bench.values(gridded)
    assert picture.shape == (1, 256, 3 * 256 + 2 * 4, 3)


def test_the_files_of_a_comparison_are_pictures() -> None:
    files = compare_nodes.image_compare(image_a=flat(0.2), image_b=flat(0.4, 0.6)).files
    assert [file.ui for file in files] == ["a_images", "b_images", "b_images"]
    assert np.asarray(Image.open(io.BytesIO(files[2].data)))[0, 0].tolist() == [153] * 3
