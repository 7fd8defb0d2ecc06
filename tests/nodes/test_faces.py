"""Faces: found by a network whose weights are written by hand, brought upright, restored, put back where they were."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import InputError, ModelFileError
from engine.fileref import FileRef
from engine.graph.graph import Call
from engine.models import Digest
from engine.run.context import NodeContext
from nodes.diffusion.annotators.networks import load
from nodes.diffusion.faces import finding
from nodes.diffusion.faces.aligning import FEATHER, SIDE, TEMPLATE, alignment, cut_out, put_back
from nodes.diffusion.faces.finding import SURE, chosen, decoded_boxes, decoded_points, find, prepared, squares
from nodes.diffusion.faces.retinaface import RetinaFace
from nodes.diffusion.inspection import inspect_model
from nodes.faces import crop_face, face_restore_with_model
from tests.nodes.contexts import Heard, context
from tests.nodes.studio import Studio, link
from tests.nodes.upscalers import compact

MOBILE = "retinaface_mobile0.25"
FILE = "detection_mobilenet0.25_Final.pth"
Shapes = dict[str, tuple[int, ...]]


def _normed(name: str, outer: int, inner: int, side: int, at: int = 0) -> Shapes:
    norm = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (outer,))
    return {
        f"{name}.{at}.weight": (outer, inner, side, side),
        **{f"{name}.{at + 1}.{part}": shape for part, shape in norm.items()},
        f"{name}.{at + 1}.num_batches_tracked": (),
    }


def _after_the_backbone(inner: tuple[int, int, int], width: int) -> Shapes:
    half, quarter = width // 2, width // 4
    shapes: Shapes = {}
    for number, channels in enumerate(inner, start=1):
        shapes |= _normed(f"fpn.output{number}", width, channels, 1)
        contexts = {"conv3X3": (half, width), "conv5X5_1": (quarter, width), "conv5X5_2": (quarter, quarter),
                    "conv7X7_2": (quarter, quarter), "conv7x7_3": (quarter, quarter)}  # fmt: skip
        for name, (outer, seen) in contexts.items():
            shapes |= _normed(f"ssh{number}.{name}", outer, seen, 3)
        for head, numbers in (("ClassHead", 4), ("BboxHead", 8), ("LandmarkHead", 20)):
            layer = f"{head}.{number - 1}.conv1x1"
            shapes |= {f"{layer}.weight": (numbers, width, 1, 1), f"{layer}.bias": (numbers,)}
    return shapes | _normed("fpn.merge1", width, width, 3) | _normed("fpn.merge2", width, width, 3)


def mobile_layout() -> Shapes:
    """The tensors of the released file on MobileNet-0.25, by the network's description."""
    shapes = _normed("body.stage1.0", 8, 3, 3)
    channels = [8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256]
    blocks = [("stage1", index) for index in range(1, 6)]
    blocks += [("stage2", index) for index in range(6)] + [("stage3", index) for index in range(2)]
    for (stage, index), (inner, outer) in zip(blocks, pairwise(channels), strict=True):
        name = f"body.{stage}.{index}"
        shapes |= _normed(name, inner, 1, 3) | _normed(name, outer, inner, 1, at=3)
    return shapes | _after_the_backbone((64, 128, 256), 64)


def spot_finder() -> dict[str, Tensor]:
    """Weights on MobileNet-0.25 that find white spots: a face is where every 32nd pixel is white, half the template's size around its cell.

    One channel passes the brightness at that pixel on; only the squares of 256 pixels answer.
    """
    state = {name: torch.zeros(shape) for name, shape in mobile_layout().items()}
    for name, shape in mobile_layout().items():
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            state[name] += 1
        elif name.startswith(("body.", "fpn.output3", "ssh3.conv3X3")) and len(shape) == 4:
            state[name][0, :, shape[2] // 2, shape[2] // 2] = 1 / 384 if shape[1] == 3 else torch.eye(shape[1])[0]
            if shape[1] == 1:
                state[name][:, 0, 1, 1] = 1
    for level in range(3):
        state[f"ClassHead.{level}.conv1x1.bias"][1::2] = -10
    state["ClassHead.2.conv1x1.weight"][1, 0] = 20
    state["LandmarkHead.2.conv1x1.bias"][:10] = torch.from_numpy((TEMPLATE - 256) / 2 / 25.6).flatten().float()
    return state


def spot(height: int = 640, width: int = 640) -> np.ndarray[Any, Any]:
    """A dark picture with a white spot, whose face is the square from 208 to 464."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[304:336, 304:336] = 255
    return pixels


def inverter() -> dict[str, Tensor]:
    """An upscaler by 1 that makes negatives: x + (1 - 2 x)."""
    weights = {name: torch.zeros_like(tensor) for name, tensor in compact(1).items()}
    layers = sorted(
        (name for name, tensor in weights.items() if tensor.ndim == 4), key=lambda it: int(it.split(".")[1])
    )
    for name in layers:
        weights[name][:3, :3, 1, 1] = torch.eye(3) * (-2 if name == layers[-1] else 1)
    weights[layers[-1].replace("weight", "bias")] += 1
    return weights


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """The finder of spots and the maker of negatives, where nodes look for them."""
    studio = Studio(tmp_path_factory.mktemp("faces"))
    folder = studio.folder / "models" / "facedetection"
    folder.mkdir(parents=True)
    torch.save({f"module.{name}": tensor for name, tensor in spot_finder().items()}, folder / FILE)
    studio.write("facerestore_models/negative.safetensors", inverter())
    (studio.folder / "input").mkdir()
    cv2.imwrite(str(studio.folder / "input" / "spot.png"), spot())
    return studio


def workflow(**more: Call) -> dict[str, Call]:
    return {
        "model": Call("FaceRestoreModelLoader", {"model_name": "negative.safetensors"}),
        "spot": Call("LoadImage", {"image": "spot.png"}),
        **more,
    }


def restoring(image: str, finder: str = MOBILE) -> Call:
    inputs = {
        "facerestore_model": link("model"),
        "image": link(image),
        "facedetection": finder,
        "codeformer_fidelity": 0.5,
    }
    return Call("FaceRestoreCFWithModel", inputs)


def test_the_layouts_are_those_that_were_released() -> None:
    """Tensor by tensor: the narrow network as described, the wide one around torchvision's ResNet-50; its three maps answer in order."""
    from torchvision.models import resnet50

    with torch.device("meta"):
        narrow, wide, backbone = RetinaFace(MOBILE), RetinaFace("retinaface_resnet50"), resnet50()
    assert {name: tuple(tensor.shape) for name, tensor in narrow.state_dict().items()} == mobile_layout()
    body = {f"body.{name}": tuple(it.shape) for name, it in backbone.state_dict().items() if not name.startswith("fc.")}
    layout = body | _after_the_backbone((512, 1024, 2048), 256)
    assert {name: tuple(tensor.shape) for name, tensor in wide.state_dict().items()} == layout
    scores, boxes, points = wide(torch.empty(1, 3, 64, 96, device="meta"))
    assert scores.shape == (1, len(squares(64, 96))) == (1, 2 * (8 * 12 + 4 * 6 + 2 * 3))
    assert boxes.shape[1:] == (252, 4)
    assert points.shape[1:] == (252, 10)


def test_answers_are_relative_to_squares() -> None:
    """Worked by hand, on a picture of 2 x 3 cells of 8 pixels."""
    at = squares(16, 24)
    assert at.tolist()[:4] == [[4, 4, 16], [4, 4, 32], [12, 4, 16], [12, 4, 32]]
    assert at.tolist()[6:8] == [[4, 12, 16], [4, 12, 32]]
    assert at.tolist()[12:] == [[8, 8, 64], [8, 8, 128], [24, 8, 64], [24, 8, 128], [16, 16, 256], [16, 16, 512]]
    said = torch.tensor([[5.0, -5.0, float(5 * np.log(2)), 0.0]])
    assert torch.allclose(decoded_boxes(said, at[:1]), torch.tensor([[12 - 16, -4 - 8, 12 + 16, -4 + 8.0]]))
    points = decoded_points(torch.tensor([[0.0, 0, 1, 0, 0, 1, -10, 0, 0, 10]]), at[3:4])
    assert torch.allclose(points, torch.tensor([[[12, 4], [15.2, 4], [12, 7.2], [-20, 4], [12, 36]]]))
    levels = np.array([[[10, 20, 30]]], np.uint8)
    assert prepared(levels).flatten().tolist() == [30 - 104, 20 - 117, 10 - 123]


def test_of_boxes_that_share_much_the_surest_counts() -> None:
    """Two of 100 x 100 that share 60 of their 140 columns are one face, two that share 50 of 150 are two; unsure ones are none."""
    boxes = torch.tensor([[0, 0, 100, 100], [40, 0, 140, 100], [50, 0, 150, 100], [500, 0, 600, 100.0]])
    assert chosen(torch.tensor([0.9, 0.95, 0.1, 0.7]), boxes).tolist() == [1]
    assert chosen(torch.tensor([0.9, 0.1, 0.99, 0.81]), boxes).tolist() == [2, 0, 3]


def drawing() -> np.ndarray[Any, Any]:
    """Smooth spots of several colours where a face has its points, on a slope."""
    y, x = np.mgrid[:SIDE, :SIDE]
    picture = np.stack([x / 1024, y / 1024, np.full_like(x, 0.2, float)], -1)
    for number, (left, top) in enumerate(TEMPLATE):
        near = np.exp(-((x - left) ** 2 + (y - top) ** 2) / 800)
        picture[..., number % 3] += 0.5 * near
    return picture.clip(0, 1).astype(np.float32)


def turned(scale: float, degrees: float, left: float, top: float) -> np.ndarray[Any, Any]:
    """The way from a picture to the square of a face that stands in it turned and scaled, with its middle at (left, top)."""
    angle = np.radians(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    return np.column_stack([linear, [256, 256] - linear @ [left, top]])


@pytest.mark.parametrize(("scale", "degrees"), [(0.5, 30), (1.3, -75), (0.2, 180)])
def test_a_turned_face_comes_out_upright(scale: float, degrees: float) -> None:
    there = turned(scale, degrees, 400, 380)
    back = cv2.invertAffineTransform(there)
    points = TEMPLATE @ back[:, :2].T + back[:, 2]
    found = alignment(points)
    assert np.allclose(found, there, atol=1e-8)
    small = cv2.resize(drawing(), None, fx=min(scale, 1), fy=min(scale, 1), interpolation=cv2.INTER_AREA)
    grown = SIDE / small.shape[0]
    matrix = np.column_stack([back[:, :2] * grown, back[:, :2] @ np.full(2, (grown - 1) / 2) + back[:, 2]])
    picture = cv2.warpAffine(small, matrix, (800, 760), borderMode=cv2.BORDER_REPLICATE)
    off = np.abs(cut_out(np.asarray(picture, np.float32), found) - drawing())[20:-20, 20:-20]
    assert off.max() < 0.05
    assert off.mean() < 0.005


def test_points_that_do_not_fit_are_met_halfway() -> None:
    """The least squares of a general solver, over a, b and the offsets of [[a, -b], [b, a]]."""
    points = TEMPLATE * 0.4 + np.random.default_rng(0).normal(0, 9, (5, 2))
    rows = [row for x, y in points for row in ([x, -y, 1, 0], [y, x, 0, 1])]
    a, b, left, top = np.linalg.lstsq(np.array(rows), TEMPLATE.flatten(), rcond=None)[0]
    assert np.allclose(alignment(points), [[a, -b, left], [b, a, top]])


@pytest.mark.parametrize(("scale", "left", "top"), [(0.12, 100, 60), (0.4, 150, 150), (1.5, 10, 290), (0.5, -900, 0)])
def test_what_is_put_back_stays_within_its_square(scale: float, left: float, top: float) -> None:
    """The negative of a face is there a tenth of the side inwards, nothing beyond the side; also where the square is half beyond the
    picture, or all of it."""
    matrix = turned(scale, 20, left, top)
    picture = np.random.default_rng(0).random((300, 320, 3)).astype(np.float32)
    result = picture.copy()
    put_back(result, np.full((SIDE, SIDE, 3), 2.0, np.float32), matrix)
    y, x = np.mgrid[:300, :320]
    place = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
    depth = np.minimum(place, SIDE - 1 - place).min(0)
    assert (result[depth <= 0] == picture[depth <= 0]).all()
    assert np.allclose(result[depth >= FEATHER * SIDE + 1], 2, atol=1e-5)
    if left >= 0:
        assert (depth > FEATHER * SIDE + 1).any()
        assert (depth <= 0).any()


def test_faces_are_restored_and_all_else_stays(studio: Studio) -> None:
    """A batch of a picture with a face and one without: the negative stands in the square, the second picture is as it was."""
    calls = workflow(
        plain=Call("EmptyImage", {"width": 640, "height": 640, "batch_size": 1, "color": 0x141414}),
        both=Call("ImageBatch", {"image1": link("spot"), "image2": link("plain")}),
        result=restoring("both"),
    )
    (result,) = studio.values(calls, "result")
    given = torch.from_numpy(spot()).float() / 255
    assert studio.warnings.pop() == "no face was found in 1 of 2 pictures: 2"
    assert result.shape == (2, 640, 640, 3)
    inside = slice(208 + 27, 464 - 27)
    assert torch.allclose(result[0, inside, inside].median(), 1 - given[0, 0, 0], atol=1e-4)
    assert float(result[0, 320, 320].max()) < 0.01
    kept = torch.ones(640, 640, dtype=torch.bool)
    kept[208:464, 208:464] = False
    assert torch.equal(result[0][kept], given[kept])
    assert torch.equal(result[1], given[:1, :1].expand(640, 640, 3))


def context_of(studio: Studio, heard: Heard) -> NodeContext:
    """For a node called directly: the studio's models, and its files by their folder and name."""

    def find_file(folder: str, name: str) -> FileRef | None:
        path = studio.folder / "models" / folder / name
        return FileRef(Digest(name), path, name) if path.exists() else None

    return dataclasses.replace(context(heard), find_file=find_file, model_store=lambda: studio.store)


def test_alpha_and_grey_pictures_and_the_smallest(studio: Studio) -> None:
    """Alpha stays; of one colour channel one comes back; a picture of a pixel has no face, and comes back with a word to the user."""
    heard = Heard()
    ctx, model = context_of(studio, heard), studio.values(workflow(), "model")[0]
    colours = torch.from_numpy(spot()).float()[None] / 255
    alpha = torch.full((1, 640, 640, 1), 0.999)
    for picture in (torch.cat([colours, alpha], -1), colours[..., :1]):
        result = face_restore_with_model.fn(ctx, model, picture, MOBILE)
        assert result.shape == picture.shape
        assert torch.allclose(result[0, 400, 400, 0], 1 - picture[0, 400, 400, 0], atol=1e-4)
        assert torch.equal(result[0, 100], picture[0, 100])
        if picture.shape[-1] == 4:
            assert torch.equal(result[..., 3:], alpha)
    pixel = torch.full((1, 1, 1, 3), 0.1)
    assert torch.equal(face_restore_with_model.fn(ctx, model, pixel, MOBILE), pixel)
    assert not crop_face.fn(ctx, pixel, MOBILE).any()
    assert heard.warnings == 2 * ["no face was found in the picture"]
    with pytest.raises(InputError, match="found 5"):
        crop_face.fn(ctx, torch.zeros(1, 8, 8, 5), MOBILE)


def test_huge_pictures_are_looked_at_smaller_and_endless_ones_refused(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spot of 160 pixels in a picture of 2560, seen at a fifth; the points are the picture's own."""
    monkeypatch.setattr(finding, "_MOST", 2**18)
    network = load(MOBILE, studio.folder / "models" / "facedetection" / FILE)
    huge = np.zeros((2560, 2560, 3), np.uint8)
    huge[1200:1360, 1200:1360] = 255
    (face,) = find(network, huge)
    assert face.score > SURE
    assert np.allclose(face.points, 5 * ((TEMPLATE - 256) / 2 + 272), atol=1e-3)
    assert find(network, np.zeros((3, 20_000, 3), np.uint8)) == []
    with pytest.raises(InputError, match="at most 32000 pixels a side, found 40000 x 1"):
        find(network, np.zeros((1, 40_000, 3), np.uint8))


def test_faces_are_cropped(studio: Studio) -> None:
    """The face of the first picture fills its square, the second picture has a black one."""
    calls = workflow(
        plain=Call("EmptyImage", {"width": 640, "height": 640, "batch_size": 1, "color": 0x141414}),
        both=Call("ImageBatch", {"image1": link("spot"), "image2": link("plain")}),
        faces=Call("CropFace", {"image": link("both"), "facedetection": MOBILE}),
    )
    (faces,) = studio.values(calls, "faces")
    assert faces.shape == (2, 512, 512, 3)
    white = torch.nonzero(faces[0, ..., 0] > 0.9)
    assert white.min(0).values.tolist() == [2 * (304 - 208)] * 2
    assert white.max(0).values.tolist() == [2 * (335 - 208)] * 2
    assert not faces[1].any()


def test_what_is_not_there_is_said(studio: Studio) -> None:
    """A finder that is not built in before anything runs, weights that are missing with their place and where they are published."""
    graph = workflow(result=restoring("spot", "YOLOv5l"))
    assert "facedetection: expected retinaface_resnet50 or retinaface_mobile0.25, found YOLOv5l" in studio.failure(
        graph, "result"
    )
    problem = studio.failure(workflow(result=restoring("spot", "retinaface_resnet50")), "result")
    assert "models/facedetection/detection_Resnet50_Final.pth" in problem
    assert "https://github.com/xinntao/facexlib/releases/download/v0.1.0/detection_Resnet50_Final.pth" in problem
    with pytest.raises(ModelFileError, match="RetinaFace on ResNet-50 in detection_mobilenet0"):
        load("retinaface_resnet50", studio.folder / "models" / "facedetection" / FILE)


def test_a_converted_finder_is_the_same(studio: Studio, tmp_path: Path) -> None:
    source = studio.folder / "models" / "facedetection" / FILE
    save_file({f"module.{name}": tensor for name, tensor in spot_finder().items()}, tmp_path / "finder.safetensors")
    state, expected = load(MOBILE, tmp_path / "finder.safetensors").state_dict(), load(MOBILE, source).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    assert inspect_model(source).folder == "facedetection"
