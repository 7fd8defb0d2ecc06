"""Which files and folders hold the weights of which annotator, below ``models/annotators`` or in the Hugging Face cache.

Names are those of the hub, ``owner/repository/file`` for a file and ``owner/repository`` for a folder that transformers reads. Nothing
here needs torch, so that a plan can say which files it depends on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

FOLDER: Final = "annotators"
"""The key of the model folder."""

_PICKLES: Final = frozenset({".pth", ".pt", ".bin"})
_LLLYASVIEL: Final = "lllyasviel/Annotators"


@dataclass(frozen=True, slots=True)
class Known:
    """A network: what it is called, where its weights may be, and the short name they are pulled by."""

    label: str
    places: tuple[str, ...]
    """In the order in which they are looked for; the first is the one to get."""
    pull: str = ""

    def names(self) -> Iterator[str]:
        """All names under which the weights may be there: a safetensors file made of a pickle counts before it."""
        for place in self.places:
            path = PurePosixPath(place)
            if path.suffix in _PICKLES:
                yield str(path.with_suffix(".safetensors"))
            yield place


def _of_lllyasviel(label: str, file: str, pull: str) -> Known:
    return Known(label, (f"{_LLLYASVIEL}/{file}",), pull)


NETWORKS: Final[Mapping[str, Known]] = {
    "hed": _of_lllyasviel("HED", "ControlNetHED.pth", "hed"),
    "pidinet": _of_lllyasviel("PiDiNet", "table5_pidinet.pth", "pidinet"),
    "lineart": _of_lllyasviel("line art", "sk_model.pth", "lineart"),
    "lineart_coarse": _of_lllyasviel("coarse line art", "sk_model2.pth", "lineart-coarse"),
    "lineart_anime": _of_lllyasviel("anime line art", "netG.pth", "lineart-anime"),
    "manga_line": _of_lllyasviel("manga lines", "erika.pth", "manga-line"),
    "mlsd": _of_lllyasviel("M-LSD", "mlsd_large_512_fp32.pth", "mlsd"),
    "teed": Known("TEED", ("bdsqlsz/qinglong_controlnet-lllite/Annotators/7_model.pth",), "teed"),
    "mteed": Known("AnyLine's TEED", ("TheMistoAI/MistoLine/Anyline/MTEED.pth",), "anyline"),
    "normal_bae": _of_lllyasviel("BAE normals", "scannet.pt", "normal-bae"),
    "leres": _of_lllyasviel("LeReS", "res101.pth", "leres"),
    "leres_boost": _of_lllyasviel("LeReS boosting", "latest_net_G.pth", "leres-boost"),
    "openpose_body": _of_lllyasviel("OpenPose's bodies", "body_pose_model.pth", "openpose-body"),
    "openpose_hand": _of_lllyasviel("OpenPose's hands", "hand_pose_model.pth", "openpose-hand"),
    "openpose_face": _of_lllyasviel("OpenPose's faces", "facenet.pth", "openpose-face"),
    "midas": Known("MiDaS", ("Intel/dpt-hybrid-midas", f"{_LLLYASVIEL}/dpt_hybrid-midas-501f0c75.pt"), "midas"),
    "zoe": Known("ZoeDepth", ("Intel/zoedepth-nyu-kitti",), "zoe-depth"),
    "oneformer_coco": Known("OneFormer for COCO", ("shi-labs/oneformer_coco_swin_large",), "oneformer-coco"),
    "oneformer_ade20k": Known("OneFormer for ADE20K", ("shi-labs/oneformer_ade20k_swin_large",), "oneformer-ade20k"),
    "ade20k": Known(
        "a segmenter for ADE20K",
        (
            "openmmlab/upernet-convnext-small",
            "openmmlab/upernet-swin-small",
            "nvidia/segformer-b4-finetuned-ade-512-512",
        ),
        "upernet-ade20k",
    ),
    "sam_picture": Known(
        "Segment Anything", ("facebook/sam-vit-base", "facebook/sam-vit-large", "facebook/sam-vit-huge"), "sam-vit-base"
    ),
    "yolox_l.onnx": Known("the finder of people YOLOX", ("yzd-v/DWPose/yolox_l.onnx",), "yolox"),
    "yolo_nas_l_fp16.onnx": Known("the finder of people YOLO-NAS L", ("hr16/yolo-nas-fp16/yolo_nas_l_fp16.onnx",)),
    "yolo_nas_m_fp16.onnx": Known("the finder of people YOLO-NAS M", ("hr16/yolo-nas-fp16/yolo_nas_m_fp16.onnx",)),
    "yolo_nas_s_fp16.onnx": Known("the finder of people YOLO-NAS S", ("hr16/yolo-nas-fp16/yolo_nas_s_fp16.onnx",)),
    "dw-ll_ucoco_384.onnx": Known("DWPose", ("yzd-v/DWPose/dw-ll_ucoco_384.onnx",), "dwpose"),
    "rtmpose-m_ap10k_256.onnx": Known(
        "RTMPose for animals", ("hr16/UnJIT-DWPose/rtmpose-m_ap10k_256.onnx",), "animalpose"
    ),
    "dw-ll_ucoco.onnx": Known("the smaller DWPose", ("hr16/UnJIT-DWPose/dw-ll_ucoco.onnx",)),
    **{
        f"depth_anything_{size}": Known(
            f"Depth Anything, {word}",
            (
                f"LiheYoung/depth-anything-{word}-hf",
                f"LiheYoung/Depth-Anything/checkpoints_depth_anything/depth_anything_{size}14.pth",
            ),
            f"depth-anything-{word}",
        )
        for size, word in (("vits", "small"), ("vitb", "base"), ("vitl", "large"))
    },
    **{
        f"depth_anything_v2_{size}": Known(
            f"Depth Anything V2, {word.lower()}",
            (
                *((f"depth-anything/Depth-Anything-V2-{word}-hf",) if size != "vitg" else ()),
                f"depth-anything/Depth-Anything-V2-{word}/depth_anything_v2_{size}.pth",
            ),
            f"depth-anything-v2-{word.lower()}" if size != "vitg" else "",
        )
        for size, word in (("vits", "Small"), ("vitb", "Base"), ("vitl", "Large"), ("vitg", "Giant"))
    },
}
"""By the names that recipes have them under."""


def missing(network: str) -> str:
    """What to say where the weights of a network are nowhere."""
    known = NETWORKS[network]
    got = f"get it with: mezzotint models pull {known.pull}" if known.pull else "put it there"
    places = " or ".join((f"models/{FOLDER}/{known.places[0]}", *known.places[1:]))
    return f"expected the weights of {known.label} at {places}, or in the Hugging Face cache, found none; {got}"
