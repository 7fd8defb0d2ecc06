"""Poses for ControlNets: drawn on black, and as the points of OpenPose's JSON."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Annotated, Any, Final, Literal

from engine.run.context import NodeContext
from engine.run.results import OutputFile, Outputs
from engine.spec import Optional, Output, Socket, node
from nodes import diffusion
from nodes.annotating import IMAGE, ROOT, Off, On, Reads, Resolution, file_of, leased
from nodes.sockets import Image, Tensor

POSES: Final = f"{ROOT}/Faces and Poses Estimators"
POINTS: Final = f"{ROOT}/Pose Keypoint Postprocess"

PoseKeypoint = Annotated[list[Any], Socket("POSE_KEYPOINT")]

_POSED: Final = (Output("IMAGE"), Output("POSE_KEYPOINT"))


def _posed(image: Tensor, poses: list[Any]) -> Outputs:
    return Outputs((image, poses), ui={"openpose_json": [json.dumps(poses, indent=4)]})


def _openpose_networks(detect_hand: object = None, detect_face: object = None, **others: object) -> tuple[str, ...]:
    parts = {"openpose_hand": detect_hand, "openpose_face": detect_face}
    return ("openpose_body", *(name for name, wanted in parts.items() if wanted != "disable"))


@node(
    "OpenposePreprocessor",
    title="OpenPose Pose",
    category=POSES,
    outputs=_POSED,
    reads=Reads(_openpose_networks),
)
def openpose(
    ctx: NodeContext,
    image: Image,
    detect_hand: On = "enable",
    detect_body: On = "enable",
    detect_face: On = "enable",
    resolution: Resolution = 512,
    scale_stick_for_xinsr_cn: Off = "disable",
) -> Outputs:
    """Poses by OpenPose: bodies, and their hands and faces where these are looked for. Where nobody is, the picture is black."""
    tools, poses = diffusion.annotators, []
    shown = {"hand": detect_hand == "enable", "body": detect_body == "enable", "face": detect_face == "enable"}
    with ExitStack() as stack:
        names = _openpose_networks(detect_hand, detect_face)
        found = {name: stack.enter_context(leased(ctx, name, image, resolution)).module for name in names}
        networks = tools.poses.Networks(**{name.removeprefix("openpose_"): module for name, module in found.items()})

        def find(pixels: Any) -> Any:
            frame = tools.frames.fitted(pixels, resolution)
            poses.append(tools.poses.openpose(networks, frame.pixels, frame.height, frame.width))
            return tools.keypoints.drawn(poses[-1], wide=scale_stick_for_xinsr_cn == "enable", **shown)

        return _posed(tools.frames.each(image, find, ctx.progress), poses)


_TWINS: Final = {
    "yolox_l.torchscript.pt": "yolox_l.onnx",
    "dw-ll_ucoco_384_bs5.torchscript.pt": "dw-ll_ucoco_384.onnx",
    "rtmpose-m_ap10k_256_bs5.torchscript.pt": "rtmpose-m_ap10k_256.onnx",
}
"""Networks that are there as ONNX too: TorchScript is a program, which is not run."""


def _onnx(*chosen: object) -> tuple[str, ...]:
    return tuple(_TWINS.get(str(name), str(name)) for name in chosen if name != "None")


def _dwpose_networks(bbox_detector: object = None, pose_estimator: object = None, **others: object) -> tuple[str, ...]:
    return _onnx(pose_estimator or "dw-ll_ucoco_384.onnx", bbox_detector or "yolox_l.onnx")


def _animal_networks(bbox_detector: object = None, pose_estimator: object = None, **others: object) -> tuple[str, ...]:
    return _onnx(pose_estimator or "rtmpose-m_ap10k_256.onnx", bbox_detector or "yolox_l.onnx")


BoxDetector = Literal[
    "None",
    "yolox_l.torchscript.pt",
    "yolox_l.onnx",
    "yolo_nas_l_fp16.onnx",
    "yolo_nas_m_fp16.onnx",
    "yolo_nas_s_fp16.onnx",
]


@node("DWPreprocessor", title="DWPose Estimator", category=POSES, outputs=_POSED, reads=Reads(_dwpose_networks))
def dwpose(
    ctx: NodeContext,
    image: Image,
    detect_hand: On = "enable",
    detect_body: On = "enable",
    detect_face: On = "enable",
    resolution: Resolution = 512,
    bbox_detector: Annotated[BoxDetector, Optional()] = "yolox_l.onnx",
    pose_estimator: Annotated[
        Literal["dw-ll_ucoco_384_bs5.torchscript.pt", "dw-ll_ucoco_384.onnx", "dw-ll_ucoco.onnx"], Optional()
    ] = "dw-ll_ucoco_384_bs5.torchscript.pt",
    scale_stick_for_xinsr_cn: Off = "disable",
) -> Outputs:
    """Poses by DWPose: bodies, hands and faces. Without a detector the whole picture is taken for one person.

    A TorchScript file is a program, which is not run: the ONNX file of the same network is used in its place.
    """
    tools, poses = diffusion.annotators, []
    shown = {"hand": detect_hand == "enable", "body": detect_body == "enable", "face": detect_face == "enable"}
    pose, *people = [file_of(ctx, name).path for name in _dwpose_networks(bbox_detector, pose_estimator)]
    sessions = tools.dwpose.open_sessions(pose, people[0] if people else None, ctx.settings.device or "auto")

    def find(pixels: Any) -> Any:
        poses.append(tools.dwpose.dwpose(sessions, pixels))
        canvas = tools.keypoints.drawn(poses[-1], wide=scale_stick_for_xinsr_cn == "enable", **shown)
        frame = tools.frames.fitted(canvas, resolution)
        return frame.cropped(frame.pixels)

    return _posed(tools.frames.each(image, find, ctx.progress), poses)


@node(
    "AnimalPosePreprocessor",
    title="AnimalPose Estimator (AP10K)",
    category=POSES,
    outputs=_POSED,
    reads=Reads(_animal_networks),
)
def animal_pose(
    ctx: NodeContext,
    image: Image,
    bbox_detector: Annotated[BoxDetector, Optional()] = "yolox_l.torchscript.pt",
    pose_estimator: Annotated[
        Literal["rtmpose-m_ap10k_256_bs5.torchscript.pt", "rtmpose-m_ap10k_256.onnx"], Optional()
    ] = "rtmpose-m_ap10k_256_bs5.torchscript.pt",
    resolution: Resolution = 512,
) -> Outputs:
    """Poses of animals by RTMPose. Without a detector the whole picture is taken for one animal; where none is, the picture is black.

    A TorchScript file is a program, which is not run: the ONNX file of the same network is used in its place.
    """
    tools, poses = diffusion.annotators, []
    pose, *found = [file_of(ctx, name).path for name in _animal_networks(bbox_detector, pose_estimator)]
    sessions = tools.dwpose.open_sessions(pose, found[0] if found else None, ctx.settings.device or "auto")

    def find(pixels: Any) -> Any:
        frame = tools.frames.fitted(pixels, resolution)
        poses.append(tools.animals.animal_poses(sessions, frame.pixels[: frame.height, : frame.width]))
        return tools.animals.drawn(poses[-1])

    return _posed(tools.frames.each(image, find, ctx.progress), poses)


@node("RenderAnimalKps", title="Render Pose JSON (Animal)", category=POINTS, outputs=IMAGE)
def render_animals(kps: PoseKeypoint) -> Tensor:
    """The points of animals' poses drawn again, on black."""
    return diffusion.annotators.animals.render(kps)


@node("SavePoseKpsAsJsonFile", title="Save Pose Keypoints", category=POINTS, output_node=True)
def save_pose_keypoints(pose_kps: PoseKeypoint, filename_prefix: str = "PoseKeypoint") -> Outputs:
    """Write the points of poses into the output folder, as OpenPose's JSON."""
    frames = diffusion.annotators.keypoints.checked(pose_kps, "pose_kps")
    data = json.dumps(frames).encode()
    size = {"width": frames[0]["canvas_width"], "height": frames[0]["canvas_height"]}
    return Outputs(files=(OutputFile(data=data, prefix=filename_prefix, extension="json", ui="files", **size),))


@node("RenderPeopleKps", title="Render Pose JSON (Human)", category=POINTS, outputs=IMAGE)
def render_people(
    kps: PoseKeypoint, render_body: bool = True, render_hand: bool = True, render_face: bool = True
) -> Tensor:
    """The points of poses drawn again, on black."""
    return diffusion.annotators.keypoints.render(kps, body=render_body, hand=render_hand, face=render_face)


@node(
    "FacialPartColoringFromPoseKps",
    title="Colorize Facial Parts from PoseKPS",
    category=POINTS,
    outputs=IMAGE,
)
def colour_face_parts(
    pose_kps: PoseKeypoint,
    mode: Literal["point", "polygon"] = "polygon",
    skin: str = "rgb(0, 153, 255)",
    left_eye: str = "rgb(0, 204, 153)",
    right_eye: str = "rgb(255, 153, 0)",
    nose: str = "rgb(255, 102, 255)",
    upper_lip: str = "rgb(102, 0, 51)",
    inner_mouth: str = "rgb(255, 204, 255)",
    lower_lip: str = "rgb(255, 0, 102)",
) -> Tensor:
    """The parts of faces in colours on black, of the points that poses have of them."""
    colours = {"skin": skin, "left_eye": left_eye, "right_eye": right_eye, "nose": nose}
    mouth = {"upper_lip": upper_lip, "inner_mouth": inner_mouth, "lower_lip": lower_lip}
    return diffusion.annotators.face_parts.coloured(pose_kps, colours | mouth, filled=mode == "polygon")
