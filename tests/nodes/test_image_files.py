"""Pictures of a folder, and pictures saved under names of one's own, on a real disk."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import InputError
from engine.graph.graph import NodeId
from engine.graph.object_info import object_info
from engine.graph.read import read_workflow
from engine.graph.validate import validate
from engine.run.executor import Run
from nodes import image_files
from nodes.diffusion import pictures
from tests.engine.run.toolbox import graph
from tests.nodes.contexts import Heard, context
from tests.nodes.runs import Bench


def paint(path: Path, level: int = 0, size: tuple[int, int] = (4, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)
    return path


@pytest.fixture
def album(bench: Bench) -> Path:
    """Pictures whose grey is their number."""
    folder = bench.folder / "input" / "album"
    for name, level in [
        ("cat_2.png", 2),
        ("cat_10.jpg", 10),
        ("cat_1.PNG", 1),
        ("dog.bmp", 50),
        ("in/deep/cat_3.png", 3),
    ]:
        paint(folder / name, level)
    (folder / "notes.txt").write_text("no picture")
    paint(folder / ".hidden.png")
    return folder


LOAD = {"folder": "album"}


def _names(bench: Bench, **inputs: Any) -> list[str]:
    return bench.values(graph(r=("LoadImagesFromFolder", {**LOAD, **inputs})), output=2)


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ({}, ["cat_1", "cat_2", "cat_10", "dog"]),
        ({"pattern": "cat_*"}, ["cat_1", "cat_2", "cat_10"]),
        ({"pattern": "*.png"}, ["cat_1", "cat_2"]),
        ({"pattern": "**/*.png"}, ["cat_1", "cat_2", "cat_3"]),
        ({"pattern": "in/*/*"}, ["cat_3"]),
        ({"pattern": "cat_?.*", "limit": 1}, ["cat_1"]),
        ({"folder": "album/in", "pattern": "**/*"}, ["cat_3"]),
        ({"folder": ".", "pattern": "*/d?g.*"}, ["dog"]),
        ({"pattern": "/".join(["**"] * 400) + "/c*"}, ["cat_1", "cat_2", "cat_10", "cat_3"]),
    ],
)
def test_a_pattern_chooses_pictures_of_a_folder(
    bench: Bench, album: Path, inputs: dict[str, Any], names: list[str]
) -> None:
    """In order of name, 2 before 10; hidden files and other kinds are never among them."""
    assert _names(bench, **inputs) == names


def test_pictures_masks_and_names_go_together(bench: Bench, album: Path) -> None:
    """Each is a list with an element a file."""
    load = graph(r=("LoadImagesFromFolder", {**LOAD, "pattern": "cat_*"}))
    images, masks = bench.values(load, 0), bench.values(load, 1)
    assert [tuple(image.shape) for image in images] == [(1, 3, 4, 3)] * 3
    assert [round(image.mean().item() * 255) for image in images[:2]] == [1, 2]
    assert [mask.shape[0] for mask in masks] == [1, 1, 1]


def test_a_folder_is_read_again_only_when_its_pictures_change(bench: Bench, album: Path) -> None:
    """A second run reads nothing; one after a change does; a text file beside them is no change."""
    load = graph(r=("LoadImagesFromFolder", LOAD), s=("PreviewAny", {"source": "r/2"}))
    executor = bench.executor()
    assert executor.run_sync(Run(load)).ran == ("r", "s")
    assert executor.run_sync(Run(load)).ran == ()
    (album / "notes.txt").write_text("still none")
    assert executor.run_sync(Run(load)).ran == ()
    paint(album / "dog.bmp", 51)
    assert "r" in executor.run_sync(Run(load)).ran
    (album / "dog.bmp").rename(album / "wolf.bmp")
    assert executor.run_sync(Run(load)).ui == {"s": {"text": ["cat_1", "cat_2", "cat_10", "wolf"]}}


@pytest.mark.parametrize("folder", ["..", "../album", "/", "album/../..", "gone"])
def test_a_hostile_or_missing_folder_fails_before_the_run(bench: Bench, album: Path, folder: str) -> None:
    """The input is named, nothing is read."""
    failure = bench.failure(graph(r=("LoadImagesFromFolder", {"folder": folder})))
    assert failure.startswith("node r (LoadImagesFromFolder), input folder: expected a f")


def test_a_wrong_folder_is_a_problem_of_the_graph(bench: Bench, album: Path) -> None:
    """With the nearest name; an editor is offered all folders."""
    load = {"folder": "albun", "pattern": "*", "limit": 0}
    wrong = graph(r=("LoadImagesFromFolder", load), s=("PreviewAny", {"source": "r/2"}))
    (problem,) = validate(wrong, bench.registry(), bench.files())
    assert (problem.type, problem.input, problem.nearest) == ("missing_file", "folder", "album")
    assert 'a folder below the folder "input"' in problem.message
    info = object_info(bench.registry()["LoadImagesFromFolder"], bench.files())
    assert info["input"]["required"]["folder"][0] == [".", "album", "album/in", "album/in/deep"]
    assert info["output_is_list"] == [True, True, True]


def test_what_cannot_be_read_is_named(bench: Bench, album: Path) -> None:
    """A broken file by its name, a pattern without a match by the pattern."""
    assert "input pattern: expected pictures called 'x*' in the folder album" in bench.failure(
        graph(r=("LoadImagesFromFolder", {**LOAD, "pattern": "x*"}))
    )
    (album / "cat_2.png").write_bytes(b"no picture")
    assert "cat_2.png cannot be read as a picture" in bench.failure(graph(r=("LoadImagesFromFolder", LOAD)))


def _saved(bench: Bench, metadata: dict[str, Any] | None = None, **inputs: Any) -> list[str]:
    """Names of the files that came of two batches, one of two pictures and one of one, with greys 0, 0 and 128."""
    save = graph(
        a=("EmptyImage", {"width": 4, "height": 2, "batch_size": 2, "color": 0}),
        b=("EmptyImage", {"width": 4, "height": 2, "batch_size": 1, "color": 0x808080}),
        n=("ListLines", {"text": inputs.pop("names", "")}),
        l=("MakeList", {"value0": "a/0", "value1": "b/0"}),
        s=("SaveImages", {"images": "l/0", "names": "n/0", **inputs}),
    )
    result = bench.executor().run_sync(Run(save, metadata=metadata or {}))
    assert result.status == "succeeded", result.failures
    items: Any = result.ui[NodeId("s")]["images"]
    assert all((bench.folder / "output" / item["subfolder"] / item["filename"]).is_file() for item in items)
    return ["/".join(filter(None, (item["subfolder"], item["filename"]))) for item in items]


@pytest.mark.parametrize(
    ("inputs", "files"),
    [
        ({}, ["image_1.png", "image_2.png", "image_3.png"]),
        ({"names": "cat\ndog"}, ["cat_1.png", "cat_2.png", "dog_3.png"]),
        ({"names": "cat\ndog\nfox", "template": "{name}"}, ["cat.png", "dog.png", "fox.png"]),
        ({"names": "cat", "template": "%name%"}, ["cat.png", "cat_2.png", "cat_3.png"]),
        (
            {"names": "cat\ndog", "template": "portraits/{name}_{index:03}", "first": 8},
            ["portraits/cat_008.png", "portraits/cat_009.png", "portraits/dog_010.png"],
        ),
        ({"template": "%width%x{height}/{index}", "format": "jpg"}, ["4x2/1.jpg", "4x2/2.jpg", "4x2/3.jpg"]),
        ({"names": "a/b", "template": "{name}", "format": "webp"}, ["a/b.webp", "a/b_2.webp", "a/b_3.webp"]),
        ({"names": "{index}", "template": "{name}{index}"}, ["{index}1.png", "{index}2.png", "{index}3.png"]),
    ],
)
def test_pictures_are_saved_under_their_names(bench: Bench, inputs: dict[str, Any], files: list[str]) -> None:
    """Numbered over the whole list; names go with elements, or with pictures where there are as many."""
    assert _saved(bench, **inputs) == files


def test_nothing_is_overwritten(bench: Bench) -> None:
    """The same workflow again writes beside what is there, though it computes nothing."""
    assert _saved(bench) == ["image_1.png", "image_2.png", "image_3.png"]
    assert _saved(bench) == ["image_1_2.png", "image_2_2.png", "image_3_2.png"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\x", "a/../../b"])
def test_a_hostile_name_leaves_no_file(bench: Bench, name: str) -> None:
    """It is refused where it would leave the output folder."""
    save = graph(
        a=("EmptyImage", {"width": 4, "height": 2}),
        r=("SaveImages", {"images": "a/0", "names": name, "template": "{name}"}),
    )
    assert "leaves the folder" in bench.failure(save)
    assert not [path for path in bench.folder.rglob("*") if path.suffix == ".png"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{nmae}", "input template: expected one of the fields {name}, {index}, {width}, {height}, found {nmae}"),
        ("{name.x}", "found {name.x}"),
        ("{", "input template: expected a template"),
        ("folder/", "ends in no name"),
        ("x" * 300, "cannot be a file name"),
    ],
)
def test_a_bad_template_is_said(bench: Bench, template: str, message: str) -> None:
    """With what it may hold."""
    save = graph(a=("EmptyImage", {"width": 4, "height": 2}), r=("SaveImages", {"images": "a/0", "template": template}))
    assert message in bench.failure(save)


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_each_format_holds_the_pixels_and_the_workflow(bench: Bench, format: str) -> None:
    """The file is of the kind its name says, and read as a workflow it is the one that made it."""
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {"width": 4}}}
    name = _saved(bench, {"prompt": prompt}, format=format, quality=100)[2]
    path = bench.folder / "output" / name
    with Image.open(path) as picture:
        assert picture.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[format]
        assert abs(np.asarray(picture.convert("RGB")).astype(int) - 128).max() <= 1
    assert json.loads(json.dumps(read_workflow(path, bench.registry()).api)) == prompt


def test_quality_makes_smaller_files_and_100_is_lossless_as_webp() -> None:
    """Measured on noise with alpha, which jpg leaves out."""
    noise = torch.rand(64, 64, 4, generator=torch.Generator().manual_seed(0))
    sizes = [len(pictures.encode(noise, kind, quality)) for kind in ("jpg", "webp") for quality in (10, 90)]
    assert sizes[0] < sizes[1]
    assert sizes[2] < sizes[3]
    exact = pictures.encode(noise, "webp", 100)
    png = pictures.encode(noise, "png", 1)
    assert np.array_equal(_pixels(exact), _pixels(png))
    assert _pixels(pictures.encode(noise, "jpg", 90)).shape == (64, 64, 3)
    assert _pixels(pictures.encode(noise[..., :1], "jpg", 90)).shape == (64, 64)


def _pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    import io

    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def test_a_picture_too_large_for_its_format_is_refused() -> None:
    """WebP has 14 bits for a side."""
    with pytest.raises(InputError, match="expected sides of at most 16383 pixels in a webp, found 16384x1"):
        pictures.encode(torch.zeros(1, 16384, 3), "webp", 90)


def test_pictures_go_to_who_watches() -> None:
    """As PNG, one for each picture, to the last pixel."""
    heard = Heard()
    images = torch.rand(2, 3, 4, 3).mul(255).round() / 255
    image_files.save_image_websocket(context(heard), images)
    assert len(heard.shown) == 2
    for data, image in zip(heard.shown, images, strict=True):
        with Image.open(BytesIO(data)) as picture:
            assert (picture.format, picture.size) == ("PNG", (4, 3))
            assert np.array_equal(np.asarray(picture), image.mul(255).round().numpy().astype(np.uint8))
