"""Batches of pictures as films, and pictures of the output folder."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from engine.errors import InputError
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.graph.object_info import object_info
from engine.graph.png import read_text
from engine.graph.webp import read_text as read_webp
from engine.run.executor import Run
from engine.run.outputs import with_metadata
from nodes import animation as film_nodes
from nodes import image as picture_nodes
from tests.nodes.runs import Bench


def levels(data: bytes) -> list[tuple[float, float]]:
    """How light the frames of a film are, and how long each is shown."""
    with Image.open(io.BytesIO(data)) as film:
        frames: list[tuple[float, float]] = []
        for frame in ImageSequence.Iterator(film):
            film.load()
            frames.append((round(float(np.asarray(frame.convert("L")).mean())), float(film.info["duration"])))
        return frames


def batch(*shades: int) -> torch.Tensor:
    return (torch.tensor(shades).view(-1, 1, 1, 1).repeat(1, 8, 12, 3) + 0.5) / 255


def test_an_animated_webp_has_all_frames_and_carries_the_workflow() -> None:
    """Four pictures a second are shown for 250 ms each; lossless they are the pictures themselves."""
    outputs = film_nodes.save_animated_webp(images=batch(0, 100, 200), fps=4.0, method="fastest")
    (file,) = outputs.files
    assert (file.prefix, file.extension, file.width, file.height) == ("ComfyUI", "webp", 12, 8)
    assert levels(file.data) == [(0, 250.0), (100, 250.0), (200, 250.0)]
    assert outputs.ui == {"animated": [True]}
    signed = with_metadata(file, {"prompt": {"1": "x"}})
    assert read_webp(signed)["prompt"] == '{"1": "x"}'
    assert levels(signed) == levels(file.data)


def test_an_animated_png_has_all_frames_and_carries_the_workflow() -> None:
    outputs = film_nodes.save_animated_png(batch(0, 100, 200), "films/a", 10.0, 0)
    (file,) = outputs.files
    assert (file.prefix, file.extension) == ("films/a", "png")
    assert levels(file.data) == [(0, 100.0), (100, 100.0), (200, 100.0)]
    signed = with_metadata(file, {"prompt": {"1": "x"}})
    assert read_text(signed)["prompt"] == '{"1": "x"}'
    assert levels(signed) == levels(file.data)


def test_what_is_too_large_for_a_webp_is_refused() -> None:
    with pytest.raises(InputError, match="at most 16383 pixels in a webp, found 16384x1; save it with SaveAnimatedPNG"):
        film_nodes.save_animated_webp(images=torch.zeros(1, 1, 16384, 3), method="default")


def test_a_film_is_put_into_the_output_folder(bench: Bench) -> None:
    """And told to be one."""
    graph = Graph(
        {
            NodeId("1"): Call("EmptyImage", {"width": 8, "height": 8, "batch_size": 2, "color": 0xFFFFFF}),
            NodeId("r"): Call(
                "SaveAnimatedPNG",
                {"images": Link(NodeId("1"), 0), "filename_prefix": "film", "fps": 6.0, "compress_level": 4},
            ),
        }
    )
    result = bench.executor().run_sync(Run(graph))
    assert result.status == "succeeded", result.failures
    shown = result.ui[NodeId("r")]
    assert shown["images"] == [{"filename": "film_00001_.png", "subfolder": "", "type": "output"}]
    assert list(shown["animated"]) == [True]
    assert (bench.folder / "output" / "film_00001_.png").is_file()


@pytest.mark.parametrize("name", ["a.png", "a.png [output]"])
def test_a_picture_of_the_output_folder_is_read(bench: Bench, name: str) -> None:
    """By its name, marked or not."""
    (bench.folder / "output").mkdir()
    Image.new("RGB", (3, 2), "white").save(bench.folder / "output" / "a.png")
    (image,) = bench.values(Graph({NodeId("r"): Call("LoadImageOutput", {"image": name})}))
    assert image.shape == (1, 2, 3, 3)
    assert float(image.mean()) == 1.0


def test_editors_fetch_the_names_of_outputs() -> None:
    kind, options = object_info(picture_nodes.load_image_output)["input"]["required"]["image"]
    assert kind == "COMBO"
    assert options == {
        "image_upload": True,
        "image_folder": "output",
        "remote": {
            "route": "/internal/files/output",
            "refresh_button": True,
            "control_after_refresh": "first",
        },
    }


def test_films_are_as_small_as_they_are_told_to_be() -> None:
    """Lossy and of poor quality, or packed well, a noisy film takes less than half as much, or less at all."""
    noise = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    exact, poor = (
        film_nodes.save_animated_webp(images=noise, lossless=lossless, quality=5, method="default").files[0].data
        for lossless in (True, False)
    )
    assert len(poor) < len(exact) / 2
    plain, packed = (film_nodes.save_animated_png(batch(0, 9), "p", 6.0, level).files[0].data for level in (0, 9))
    assert len(packed) < len(plain)
