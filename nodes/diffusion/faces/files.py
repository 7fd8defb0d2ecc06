"""The files of the networks that find faces. Nothing here needs torch, so that a plan can say which files it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nodes.diffusion.annotators.files import Known

FOLDER: Final = "facedetection"
"""The key of the model folder."""

FINDERS: Final[Mapping[str, Known]] = {
    "retinaface_resnet50": Known("RetinaFace on ResNet-50", ("detection_Resnet50_Final.pth", "Resnet50_Final.pth")),
    "retinaface_mobile0.25": Known(
        "RetinaFace on MobileNet-0.25", ("detection_mobilenet0.25_Final.pth", "mobilenet0.25_Final.pth")
    ),
}
"""By the names that nodes have them under. Of the two names of a file the first is facexlib's, the second that of the first release."""

_PUBLISHED: Final = "https://github.com/xinntao/facexlib/releases/download/v0.1.0"


def missing(finder: str) -> str:
    """What to say where the weights of a finder are nowhere."""
    file = FINDERS[finder].places[0]
    return (
        f"expected the weights of {FINDERS[finder].label} at models/{FOLDER}/{file}, or a safetensors file made of them, "
        f"found none; get {_PUBLISHED}/{file} and put it there"
    )
