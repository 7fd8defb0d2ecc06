"""Poses of animals: found among COCO's classes, looked at by a network of 17 points, drawn, and drawn again from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import InputError, ModelFileError
from engine.graph.graph import Call
from nodes.diffusion.annotators import animals, dwpose, files
from tests.nodes.studio import Studio, link

POSE = "rtmpose-m_ap10k_256.onnx"


class Session:
    """An ONNX network that gives the same for any picture."""

    def __init__(self, shape: list[int], *outputs: np.ndarray[Any, Any]) -> None:
        self.shape, self.outputs = shape, outputs

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input", type="tensor(float)", shape=self.shape)]

    def run(self, wanted: None, given: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        assert list(given["input"].shape) == self.shape
        return list(self.outputs)


def finder(cells: Mapping[tuple[int, int], tuple[int, float]]) -> Session:
    """Finds something of a class, so sure, 64 pixels wide and high, at cells of YOLOX's coarsest grid."""
    output = np.zeros((1, 8400, 85), np.float32)
    for (column, row), (kind, sure) in cells.items():
        index = 8000 + 20 * row + column
        output[0, index, :4] = (0.5, 0.5, np.log(2), np.log(2))
        output[0, index, [4, 5 + kind]] = (1.0, sure)
    return Session([1, 3, 640, 640], output)


def tables() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The points one behind the other on a slope, from (8, 128) on in steps of 15 and 4 pixels of 256, surer and surer."""
    x, y = np.zeros((1, 17, 512), np.float32), np.zeros((1, 17, 512), np.float32)
    for point in range(17):
        x[0, point, 2 * (8 + 15 * point)] = y[0, point, 2 * (128 + 4 * point)] = 0.1 * point + 0.05
    return x, y


def test_animals_are_found_and_people_are_not() -> None:
    """A cat, a giraffe and one too unsure; a person is none. Points are in the picture's pixels, their confidence in 0..1."""
    sessions = dwpose.Sessions(
        Session([1, 3, 256, 256], *tables()),
        finder({(2, 2): (15, 0.8), (10, 4): (23, 0.5), (15, 15): (16, 0.2), (5, 15): (0, 0.9), (18, 8): (24, 0.9)}),
    )
    found = animals.animal_poses(sessions, np.zeros((640, 640, 3), np.uint8))
    assert {name: found[name] for name in ("version", "canvas_height", "canvas_width")} == {
        "version": "ap10k", "canvas_height": 640, "canvas_width": 640,
    }  # fmt: skip
    cat, giraffe = np.array(found["animals"])
    scale, middle = 64 * 1.25 / 256, np.array([2.5 * 32, 2.5 * 32])
    expected = (np.array([[8 + 15 * point, 128 + 4 * point] for point in range(17)]) - 128) * scale + middle
    assert np.allclose(cat[:, :2], expected, atol=1e-3)
    assert np.allclose(giraffe[:, :2] - cat[:, :2], [8 * 32, 2 * 32], atol=1e-3)
    assert np.allclose(cat[:, 2], np.minimum(0.1 * np.arange(17) + 0.05, 1))
    nothing = animals.animal_poses(dwpose.Sessions(sessions.pose, finder({})), np.zeros((1, 1, 3), np.uint8))
    assert nothing["animals"] == []
    assert not animals.drawn(nothing).any()


def test_a_network_of_other_points_is_refused() -> None:
    wrong = dwpose.Sessions(Session([1, 3, 256, 256], np.zeros((1, 133, 512)), np.zeros((1, 133, 512))))
    with pytest.raises(ModelFileError, match="expected a network that finds 17 points of a body"):
        animals.animal_poses(wrong, np.zeros((8, 8, 3), np.uint8))


def test_limbs_are_drawn_in_their_colours() -> None:
    """All points in one place but the eyes, nose and neck, between which there are four limbs."""
    points = [[60.0, 60.0, 1.0]] * 17
    points[0], points[1], points[2], points[3] = [10, 10, 1], [50, 10, 1], [30, 30, 0.1], [30, 50, 1]
    frame = {"animals": [points], "canvas_height": 64, "canvas_width": 80}
    canvas = animals.drawn(frame)
    assert canvas.shape == (64, 80, 3)
    assert canvas[10, 30].tolist() == [255, 255, 255]
    assert canvas[20, 40].tolist() == [100, 255, 100]
    assert canvas[20, 20].tolist() == [150, 255, 255]
    assert canvas[40, 30].tolist() == [100, 50, 255]
    assert not canvas[:5].any()
    flat = {**frame, "animals": [[number for point in points for number in point]]}
    assert torch.equal(animals.render([frame, flat])[0], animals.render([flat])[0])
    with pytest.raises(InputError, match="expected 17 points of an animal"):
        animals.drawn({**frame, "animals": [[1.0, 2.0]]})
    with pytest.raises(InputError, match="found 2 sizes"):
        animals.render([frame, {**frame, "canvas_width": 81}])


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


def test_the_nodes_read_onnx_files_and_draw_the_same_twice(studio: Studio) -> None:
    """The whole picture taken for one animal, at the resolution asked for; its points drawn again; a word on what is missing before."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    calls = {
        "image": Call("EmptyImage", {"width": 96, "height": 48, "batch_size": 2, "color": 0}),
        "pose": Call("AnimalPosePreprocessor", {"image": link("image"), "bbox_detector": "None", "resolution": 64}),
        "again": Call("RenderAnimalKps", {"kps": link("pose", 1)}),
    }
    assert "mezzotint models pull animalpose" in studio.failure(calls, "pose")
    names = ("simcc_x", "simcc_y")
    values = [onnx.numpy_helper.from_array(table, name) for name, table in zip(names, tables(), strict=True)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [name], [f"{name}_out"]) for name in names],
        "pose",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, 3, 256, 256])],
        [onnx.helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, [1, 17, 512]) for name in names],
        values,
    )
    path = studio.folder / "models" / files.FOLDER / files.NETWORKS[POSE].places[0]
    path.parent.mkdir(parents=True)
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    image, poses = studio.values(calls, "pose")
    assert image.shape == (2, 64, 128, 3)
    assert image[0].any()
    assert [len(pose["animals"]) for pose in poses] == [1, 1]
    assert torch.equal(studio.values(calls, "again")[0], image)
