"""``comfy.utils``: progress, sizes, files of tensors, and small things about modules and state dicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.compat import tiling
from engine.compat.missing import module_getattr
from engine.compat.progress import ProgressBar as ProgressBar
from engine.compat.progress import set_progress_bar_global_hook as set_progress_bar_global_hook
from engine.errors import MissingFile, ModelFileError
from nodes.diffusion import resize

PROGRESS_BAR_ENABLED = True
"""Whether packs draw bars on the terminal; reports to the run do not go by it."""

StateDict = MutableMapping[str, Tensor]
_SAFE_SUFFIXES = (".safetensors", ".sft")


def set_progress_bar_enabled(enabled: bool) -> None:
    global PROGRESS_BAR_ENABLED
    PROGRESS_BAR_ENABLED = enabled


# sizes


def common_upscale(samples: Tensor, width: int, height: int, upscale_method: str, crop: str) -> Tensor:
    """[B,C,...,h,w] at another size; ``crop`` = "center" cuts the middle of the wanted shape out first."""
    between = samples.shape[2:-2]
    if between:  # frames of a video are pictures of a larger batch
        flat = samples.movedim(1, -3).reshape(-1, samples.shape[1], *samples.shape[-2:])
        scaled = common_upscale(flat, width, height, upscale_method, crop)
        return scaled.reshape(samples.shape[0], *between, *scaled.shape[1:]).movedim(-3, 1)
    if upscale_method in ("bislerp", "lanczos", "nearest-exact", "bilinear", "area", "bicubic"):
        return resize.resize(samples, width, height, upscale_method, crop)
    if crop == "center":
        samples = resize.center_crop_to_aspect(samples, width / height)
    return torch.nn.functional.interpolate(samples, size=(height, width), mode=upscale_method)


def bislerp(samples: Tensor, width: int, height: int) -> Tensor:
    return resize.bislerp(samples, width, height)


def lanczos(samples: Tensor, width: int, height: int) -> Tensor:
    return resize.resize(samples, width, height, "lanczos")


def repeat_to_batch_size(tensor: Tensor, batch_size: int, dim: int = 0) -> Tensor:
    """As many as asked for: the first of them, or all of them over and over."""
    count = tensor.shape[dim]
    if count == batch_size:
        return tensor
    if count < batch_size:
        times = [1] * tensor.ndim
        times[dim] = -(-batch_size // count)
        tensor = tensor.repeat(times)
    return tensor.narrow(dim, 0, batch_size)


def resize_to_batch_size(tensor: Tensor, batch_size: int) -> Tensor:
    """As many as asked for, evenly spread over those there are: fewer keep both ends, more repeat each about as often."""
    count = tensor.shape[0]
    if count == batch_size:
        return tensor
    if batch_size <= 1:
        return tensor[:batch_size]
    if batch_size < count:
        places = [round(place * (count - 1) / (batch_size - 1)) for place in range(batch_size)]
    else:
        places = [min(int((place + 0.5) * count / batch_size), count - 1) for place in range(batch_size)]
    return tensor[places]


def get_tiled_scale_steps(width: int, height: int, tile_x: int, tile_y: int, overlap: int) -> int:
    return tiling.step_count(height, tile_y, overlap) * tiling.step_count(width, tile_x, overlap)


def tiled_scale_multidim(
    samples: Tensor,
    function: Callable[[Tensor], Tensor],
    tile: Sequence[int] = (64, 64),
    overlap: int | Sequence[int] = 8,
    upscale_amount: Any = 4,
    out_channels: int = 3,
    output_device: torch.device | str = "cpu",
    downscale: bool = False,
    index_formulas: Any = None,
    pbar: tiling.Bar | None = None,
) -> Tensor:
    """``function`` over [B,C,...] in overlapping tiles of the last sides, one for each length in ``tile``."""
    cut = tiling.tiling(tile, overlap, upscale_amount, divide=downscale, places=index_formulas)
    with torch.inference_mode():
        return tiling.apply(samples, function, cut, out_channels, output_device, pbar)


def tiled_scale(
    samples: Tensor,
    function: Callable[[Tensor], Tensor],
    tile_x: int = 64,
    tile_y: int = 64,
    overlap: int = 8,
    upscale_amount: float = 4,
    out_channels: int = 3,
    output_device: torch.device | str = "cpu",
    pbar: tiling.Bar | None = None,
) -> Tensor:
    """``function`` over pictures [B,C,h,w] in overlapping tiles."""
    return tiled_scale_multidim(
        samples, function, (tile_y, tile_x), overlap, upscale_amount, out_channels, output_device, pbar=pbar
    )


# files


def load_torch_file(
    ckpt: str | Path,
    safe_load: bool = False,
    device: torch.device | str | None = None,
    return_metadata: bool = False,
) -> Any:
    """The tensors of a file by name; with ``return_metadata`` a pair of them and what the header says (None for a pickle).

    A pickle may hold tensors and plain containers and nothing else, whatever ``safe_load`` says: code in it is not run.
    """
    path = Path(ckpt)
    if not path.is_file():
        raise MissingFile(f"expected a file of tensors at {path}, found none; check the name")
    place = torch.device("cpu") if device is None else torch.device(device)
    read = _read_safetensors if path.suffix.lower() in _SAFE_SUFFIXES else _read_pickle
    tensors, metadata = read(path, place)
    return (tensors, metadata) if return_metadata else tensors


def _read_safetensors(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except SafetensorError as error:
        raise ModelFileError(f"{path.name} is no safetensors file, or is cut off ({error}); get it anew") from error


def _read_pickle(path: Path, device: torch.device) -> tuple[Any, None]:
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises a dozen types for a broken or a refused pickle
        raise ModelFileError(
            f"{path.name} is broken or holds more than tensors ({type(error).__name__}); get it as safetensors"
        ) from error
    if isinstance(content, Mapping):
        if "state_dict" in content:
            return content["state_dict"], None
        if len(content) == 1 and isinstance(next(iter(content.values())), Mapping):
            return next(iter(content.values())), None
    return content, None


def save_torch_file(sd: Mapping[str, Tensor], ckpt: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file."""
    save_file(dict(sd), ckpt, metadata=metadata)


# state dicts and modules


def state_dict_key_replace(state_dict: StateDict, keys_to_replace: Mapping[str, str]) -> StateDict:
    """Rename entries in place."""
    for old, new in keys_to_replace.items():
        if old in state_dict:
            state_dict[new] = state_dict.pop(old)
    return state_dict


def state_dict_prefix_replace(
    state_dict: StateDict, replace_prefix: Mapping[str, str], filter_keys: bool = False
) -> StateDict:
    """Rename entries by what their names begin with; with ``filter_keys`` those taken out come back alone, else all in place."""
    result: StateDict = {} if filter_keys else state_dict
    for old, new in replace_prefix.items():
        for name in [name for name in state_dict if name.startswith(old)]:
            result[new + name.removeprefix(old)] = state_dict.pop(name)
    return result


def calculate_parameters(sd: Mapping[str, Tensor], prefix: str = "") -> int:
    """How many numbers the entries hold whose names begin with ``prefix``."""
    return sum(tensor.nelement() for name, tensor in sd.items() if name.startswith(prefix))


def weight_dtype(sd: Mapping[str, Tensor], prefix: str = "") -> torch.dtype | None:
    """The dtype of most of those numbers; None where there are none."""
    counts: Counter[torch.dtype] = Counter()
    for name, tensor in sd.items():
        if name.startswith(prefix):
            counts[tensor.dtype] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else None


def get_attr(obj: Any, attr: str) -> Any:
    """``a.b.c`` of an object; parts that are numbers index a list of modules."""
    for name in attr.split("."):
        obj = getattr(obj, name)
    return obj


def set_attr(obj: Any, attr: str, value: Any) -> Any:
    """Put ``value`` at ``a.b.c`` of an object; returns what was there."""
    parent, _, name = attr.rpartition(".")
    owner = get_attr(obj, parent) if parent else obj
    before = getattr(owner, name)
    setattr(owner, name, value)
    return before


def set_attr_param(obj: Any, attr: str, value: Tensor) -> Any:
    """The same with a tensor that becomes a parameter and is not trained."""
    return set_attr(obj, attr, torch.nn.Parameter(value, requires_grad=False))


def copy_to_param(obj: Any, attr: str, value: Tensor) -> None:
    """Write ``value`` into the parameter that is there."""
    get_attr(obj, attr).data.copy_(value)


__getattr__ = module_getattr(__name__)
