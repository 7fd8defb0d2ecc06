"""The networks of annotators, filled with the weights of a file or folder.

A network of controlnet_aux is built without memory and given the file's tensors; one of transformers is read by transformers itself,
from a folder on this machine and from safetensors alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn

from engine.errors import ModelFileError
from nodes.diffusion.annotators.files import NETWORKS
from nodes.diffusion.annotators.packaged import package, quiet
from nodes.diffusion.checkpoints import SAFE_SUFFIXES, WeightFile
from nodes.diffusion.faces.files import FINDERS
from nodes.diffusion.pickles import read_pickle

Tensors = Mapping[str, Tensor]
Build = Callable[[], nn.Module]
Rename = Callable[[Tensors], Tensors]
Loader = Callable[[Path], nn.Module]


def load(network: str, path: Path) -> nn.Module:
    """The network called ``network``, evaluating, with the weights at ``path`` in main memory.

    Raises ModelFileError where these are broken, or another network's.
    """
    with torch.inference_mode(False), torch.no_grad():
        module = _LOADERS[network](path)
    return module.requires_grad_(False).eval()


def read_tensors(path: Path) -> Tensors:
    """The tensors of a file, mapped where its format allows. Raises ModelFileError where it is broken or holds more than tensors."""
    if path.suffix.lower() in SAFE_SUFFIXES:
        return WeightFile(path)
    try:
        return read_pickle(path)
    except ModelFileError as error:
        raise ModelFileError(f"expected a file of tensors, found {path.name}: {error}") from error


def filled(module: nn.Module, tensors: Tensors, path: Path, label: str) -> nn.Module:
    """``module``, built without memory, with ``tensors`` in it. What it has no use for is left out."""
    wanted = module.state_dict()
    # counts of batches, which files older than them lack, tell nothing but how the mean was kept in training
    given = {
        name: torch.zeros((), dtype=torch.long) if name.endswith(".num_batches_tracked") else tensors[name]
        for name in wanted
        if name in tensors or name.endswith(".num_batches_tracked")
    }
    missing = [name for name in wanted if name not in given]
    if missing:
        there = ", ".join(sorted(tensors)[:2]) or "no tensors"
        raise ModelFileError(
            f"expected the weights of {label} in {path.name}, found {there} and {len(missing)} tensors too few, {missing[0]} "
            "the first; get the right file"
        )
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{list(wanted[name].shape)} for {name}, found {list(tensor.shape)}"
            raise ModelFileError(
                f"expected the weights of {label} in {path.name}, of shape {shapes}; get the right file"
            )
    module.load_state_dict(given, assign=True)
    return module


def without_prefix(tensors: Tensors) -> Tensors:
    """Names as they were before training was spread over several devices."""
    return {name.removeprefix("module."): tensors[name] for name in tensors}


def _packaged(network: str, build: Build, rename: Rename = without_prefix) -> Loader:
    def fill(path: Path) -> nn.Module:
        with quiet(), torch.device("meta"):
            module = build()
        return filled(module, rename(read_tensors(path)), path, NETWORKS[network].label)

    return fill


def from_folder(class_name: str, path: Path, label: str) -> nn.Module:
    """A network of transformers, of the class or of the one that ``class_name`` finds by the folder's configuration."""
    import transformers

    if not any(path.glob("*.safetensors")):
        pickles = [file.name for file in path.glob("*.bin")]
        hint = f"make one of {pickles[0]}: mezzotint models convert" if pickles else "get all of its files"
        raise ModelFileError(f"expected model.safetensors of {label} in {path}, found none; {hint}")
    return _pretrained(getattr(transformers, class_name), str(path), path, label, use_safetensors=True)


def from_tensors(kind: Any, config: Any, tensors: Tensors, path: Path, label: str) -> nn.Module:
    """A network of transformers of the class ``kind``, with ``tensors`` by the names that its folders have them under."""
    return _pretrained(kind, None, path, label, config=config, state_dict=dict(tensors))


def _pretrained(kind: Any, folder: str | None, path: Path, label: str, **told: Any) -> nn.Module:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        module, info = kind.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32, **told
        )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelFileError(f"expected {label} in {path}, found what cannot be read as that: {reason}") from error
    lacking = sorted(map(str, [*info["missing_keys"], *(info.get("mismatched_keys") or ())]))
    if lacking:
        raise ModelFileError(
            f"expected the weights of {label} in {path}, found {len(lacking)} tensors too few, {lacking[0]} the first; "
            "get the right ones"
        )
    loaded: nn.Module = module
    return loaded


def _folder(network: str, class_name: str) -> Loader:
    return lambda path: from_folder(class_name, path, NETWORKS[network].label)


def _either(of_folder: Loader, of_file: Loader) -> Loader:
    return lambda path: of_folder(path) if path.is_dir() else of_file(path)


def _openpose(build: Build) -> Rename:
    """Files name a layer by itself, the network by the stage it is in."""

    def rename(tensors: Tensors) -> Tensors:
        with torch.device("meta"):
            names = list(build().state_dict())
        places = {name: name.partition(".")[2] for name in names}
        return {name: tensors[place if place in tensors else name] for name, place in places.items()
                if place in tensors or name in tensors}  # fmt: skip

    return rename


def _line_network() -> nn.Module:
    module: nn.Module = package("lineart").Generator(3, 1, 3)
    return module


def _anime_network() -> nn.Module:
    norm = functools.partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    module: nn.Module = package("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False)
    return module


def _bae_network() -> nn.Module:
    told = SimpleNamespace(
        mode="client", architecture="BN", pretrained="scannet", sampling_ratio=0.4, importance_ratio=0.7
    )
    module: nn.Module = package("normalbae.nets.NNET").NNET(told)
    return module


def _boost_network() -> nn.Module:
    networks = package("leres.pix2pix.models.networks")
    module: nn.Module = networks.define_G(2, 1, 64, "unet_1024", "none", False, "normal", 0.02, [])
    return module


def _midas_network() -> nn.Module:
    module: nn.Module = package("midas.midas.dpt_depth").DPTDepthModel(
        path=None, backbone="vitb_rn50_384", non_negative=True
    )
    return module


def _of(module: str, name: str, **arguments: Any) -> Build:
    return lambda: getattr(package(module), name)(**arguments)


def _manga_network() -> nn.Module:
    from nodes.diffusion.annotators.manga import MangaLines

    return MangaLines()


def _depth_anything(network: str) -> Loader:
    def load_original(path: Path) -> nn.Module:
        from nodes.diffusion.annotators.depth_anything import load_depth_anything

        return load_depth_anything(network, path)

    return _either(_folder(network, "DepthAnythingForDepthEstimation"), load_original)


def _sam(path: Path) -> nn.Module:
    from nodes.diffusion.annotators.sam_files import load_sam

    return load_sam(path)


def _retinaface(finder: str) -> Loader:
    def fill(path: Path) -> nn.Module:
        from nodes.diffusion.faces.retinaface import load_retinaface

        return load_retinaface(finder, path)

    return fill


_BODY: Final = _of("open_pose.model", "bodypose_model")
_HAND: Final = _of("open_pose.model", "handpose_model")

_LOADERS: Final[Mapping[str, Loader]] = {
    "hed": _packaged("hed", _of("hed", "ControlNetHED_Apache2")),
    "pidinet": _packaged("pidinet", _of("pidi.model", "pidinet")),
    "lineart": _packaged("lineart", _line_network),
    "lineart_coarse": _packaged("lineart_coarse", _line_network),
    "lineart_anime": _packaged("lineart_anime", _anime_network),
    "manga_line": _packaged("manga_line", _manga_network),
    "mlsd": _packaged("mlsd", _of("mlsd.models.mbv2_mlsd_large", "MobileV2_MLSD_Large")),
    "teed": _packaged("teed", _of("teed.ted", "TED")),
    "mteed": _packaged("mteed", _of("teed.ted", "TED")),
    "normal_bae": _packaged("normal_bae", _bae_network),
    "leres": _packaged("leres", _of("leres.leres.multi_depth_model_woauxi", "RelDepthModel", backbone="resnext101")),
    "leres_boost": _packaged("leres_boost", _boost_network),
    "openpose_body": _packaged("openpose_body", _BODY, _openpose(_BODY)),
    "openpose_hand": _packaged("openpose_hand", _HAND, _openpose(_HAND)),
    "openpose_face": _packaged("openpose_face", _of("open_pose.face", "FaceNet")),
    "midas": _either(_folder("midas", "DPTForDepthEstimation"), _packaged("midas", _midas_network)),
    "zoe": _folder("zoe", "ZoeDepthForDepthEstimation"),
    "oneformer_coco": _folder("oneformer_coco", "OneFormerForUniversalSegmentation"),
    "oneformer_ade20k": _folder("oneformer_ade20k", "OneFormerForUniversalSegmentation"),
    "ade20k": _folder("ade20k", "AutoModelForSemanticSegmentation"),
    "sam_picture": _sam,
    "sam": _sam,
    **{name: _retinaface(name) for name in FINDERS},
    **{name: _depth_anything(name) for name in NETWORKS if name.startswith("depth_anything")},
}
