"""Pictures in every format, with the workflow inside them, and read back from there."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.errors import InputError
from engine.graph.graph import NodeId
from engine.graph.read import read_workflow
from engine.run.executor import Run
from nodes.diffusion import picture_files, pictures
from tests.engine.run.toolbox import graph
from tests.nodes.runs import Bench

FORMATS = {"png": "PNG", "png (16 bit)": "PNG", "webp": "WEBP", "jpeg": "JPEG", "avif": "AVIF"}
PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {"width": 4}, "_meta": {"title": "größer"}}}
WORKFLOW = {"nodes": [{"id": 1, "type": "EmptyImage"}], "links": [], "version": 0.4}


def smooth(channels: int = 3, height: int = 32, width: int = 48) -> Tensor:
    """Slow waves, which every format keeps well."""
    across, down = torch.linspace(0, 3, width), torch.linspace(0, 3, height)[:, None]
    return torch.stack([(across + down * (c + 1) / 2).sin() / 2.5 + 0.5 for c in range(channels)], dim=-1)


def read(data: bytes, mode: str | None = None) -> Any:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert(mode) if mode else picture).astype(float)


def saved(bench: Bench, metadata: dict[str, Any], **inputs: Any) -> list[Path]:
    save = graph(
        a=("EmptyImage", {"width": 20, "height": 12, "batch_size": 2, "color": 0x8040C0}),
        s=("SaveImageAs", {"images": "a/0", **inputs}),
    )
    result = bench.executor().run_sync(Run(save, metadata=metadata))
    assert result.status == "succeeded", result.failures
    items: Any = result.ui[NodeId("s")]["images"]
    return [bench.folder / "output" / item["subfolder"] / item["filename"] for item in items]


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_holds_the_picture_and_the_workflow(bench: Bench, format: str) -> None:
    """Numbered as SaveImage numbers; read as a workflow it is the editor's, or the one that ran where there was no editor."""
    paths = saved(bench, {"prompt": PROMPT, "workflow": WORKFLOW}, format=format, filename_prefix="in/%width%_x")
    extension = picture_files.EXTENSIONS[format]
    assert [path.name for path in paths] == [f"20_x_00001_.{extension}", f"20_x_00002_.{extension}"]
    with Image.open(paths[1]) as picture:
        assert (picture.format, picture.size) == (FORMATS[format], (20, 12))
        assert abs(np.asarray(picture.convert("RGB")).astype(int) - [128, 64, 192]).max() <= 4
    assert read_workflow(paths[1], bench.registry()).editor == WORKFLOW
    (alone, _) = saved(bench, {"prompt": PROMPT}, format=format)
    assert (
        read_workflow(alone, bench.registry()).graph
        == read_workflow(json.dumps(PROMPT).encode(), bench.registry()).graph
    )


@pytest.mark.parametrize("format", ["webp", "jpeg", "avif"])
def test_the_workflow_is_where_editors_look_for_it(bench: Bench, format: str) -> None:
    """EXIF tags Model and Make, key and colon before the JSON."""
    path = saved(bench, {"prompt": PROMPT, "workflow": WORKFLOW}, format=format)[0]
    with Image.open(path) as picture:
        exif = picture.getexif()
    assert json.loads(exif[0x0110].removeprefix("prompt:")) == PROMPT
    assert json.loads(exif[0x010F].removeprefix("workflow:")) == WORKFLOW


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_may_go_without_the_workflow(bench: Bench, format: str) -> None:
    path = saved(bench, {"prompt": PROMPT, "workflow": WORKFLOW}, format=format, embed_workflow=False)[0]
    assert b"EmptyImage" not in path.read_bytes()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("format", FORMATS)
def test_channels(format: str, channels: int, mode: str) -> None:
    """Grey, colours and alpha; but a jpeg has no alpha."""
    image = smooth(channels)
    found = read(picture_files.encode(image, format, quality=95), "RGB" if (format, channels) == ("jpeg", 4) else mode)
    wanted = image[..., 0] if channels == 1 else image[..., :3] if format == "jpeg" else image
    if format == "png (16 bit)" and channels == 1:
        return  # its levels are looked at elsewhere
    assert abs(found / 255 - wanted.numpy()).max() < 0.06


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_16_bits(channels: int) -> None:
    """Every level, by a decoder that is not ours; odd sides too."""
    cv2 = pytest.importorskip("cv2")
    image = torch.rand(7, 5, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = picture_files.deep_png(image)
    levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert levels.dtype == np.uint16
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    wanted = (image.numpy() * 65535).round().astype(np.uint16)[..., order]
    assert np.array_equal(levels.reshape(7, 5, channels), wanted)


def test_16_bits_are_read_again(tmp_path: Path) -> None:
    """As pictures, within the 8 bits that are read."""
    for channels in (1, 3, 4):
        image = smooth(channels)
        (tmp_path / "a.png").write_bytes(picture_files.deep_png(image))
        found, mask = pictures.read(tmp_path / "a.png")
        assert abs(found[0] - (image[..., :3] if channels > 1 else image)).max() < 1.1 / 255
        assert channels < 4 or abs(mask[0] - (1 - image[..., 3])).max() < 1.1 / 255


def test_lossless_webp_is_exact_and_others_cannot_be() -> None:
    """Colours below alpha 0 too."""
    noise = torch.rand(16, 16, 4, generator=torch.Generator().manual_seed(0))
    exact = picture_files.encode(noise, "webp", lossless=True)
    assert np.array_equal(read(exact), read(picture_files.encode(noise, "png")))
    for format in ("jpeg", "avif"):
        with pytest.raises(InputError, match=f"can be lossless, found {format}; choose webp or png") as caught:
            picture_files.encode(noise, format, lossless=True)
        assert caught.value.input == "lossless"


@pytest.mark.parametrize("format", ["webp", "jpeg", "avif"])
def test_quality_makes_larger_and_better_files(format: str) -> None:
    noise = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    low, high = (picture_files.encode(noise, format, quality=quality) for quality in (10, 95))
    assert len(low) < len(high)
    wanted = noise.numpy() * 255
    assert abs(read(high, "RGB") - wanted).mean() < abs(read(low, "RGB") - wanted).mean()


def test_a_side_too_long_for_the_format_is_refused() -> None:
    with pytest.raises(InputError, match="at most 16383 pixels in a webp, found 16384x1; save it as png"):
        picture_files.encode(torch.zeros(1, 16384, 3), "webp")
    assert read(picture_files.encode(torch.zeros(1, 16384, 3), "png (16 bit)")).shape == (1, 16384, 3)


def test_a_workflow_too_large_for_a_jpeg_leaves_the_picture(bench: Bench) -> None:
    """What runs has the first right to the 64 KiB; where even that has no room the picture goes without."""
    paths = [
        saved(bench, {"prompt": PROMPT, "workflow": {"text": "x" * size}}, format="jpeg")[0] for size in (100, 70_000)
    ]
    assert b"xxxx" in paths[0].read_bytes()
    assert b"xxxx" not in paths[1].read_bytes()
    assert read_workflow(paths[1], bench.registry()).source == "api"
