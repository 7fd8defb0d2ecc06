"""Which device and precision a run will compute with, found out without importing torch.

Pictures of two devices, two precisions or two versions of torch differ in their last bits, so keys of results carry a
``numerics_tag``. A run in which everything is already known must get that tag, and so the kind of device, in a few
milliseconds: the questions torch would ask are put to the drivers directly.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

from engine.errors import UsageError

DeviceKind = Literal["cuda", "mps", "xpu", "cpu"]
Precision = Literal["float32", "float16", "bfloat16"]

DEVICE_KINDS: Final[tuple[DeviceKind, ...]] = get_args(DeviceKind)
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)

DEFAULT_PRECISION: Final[Mapping[DeviceKind, Precision]] = {
    "cuda": "float16",
    "mps": "float16",
    "xpu": "float16",
    "cpu": "float32",
}
"""What a UNet and a text encoder run in when nobody says otherwise; an autoencoder runs in float32 then."""

_CUDA_DRIVERS: Final = ("libcuda.so.1", "nvcuda.dll")
_HIP_DRIVERS: Final = ("libamdhip64.so", "libamdhip64.so.6", "libamdhip64.so.7")
_LEVEL_ZERO: Final = ("libze_loader.so.1", "ze_loader.dll")


def device_kind(name: str | None = None) -> DeviceKind:
    """The kind of the device called ``name`` ("cuda:1" is of kind "cuda"); None or "auto" asks the machine.

    Raises UsageError when there is no such kind.
    """
    if name is None or name == "auto":
        return guess_device_kind()
    kind = name.split(":", 1)[0]
    for known in DEVICE_KINDS:
        if kind == known:
            return known
    raise UsageError(f"expected a device among auto, {', '.join(DEVICE_KINDS)}, found {name!r}")


def precision(name: str | None) -> Precision | None:
    """The precision called ``name``; None or "auto" is None. Raises UsageError when there is no such precision."""
    if name is None or name == "auto":
        return None
    for known in PRECISIONS:
        if name == known:
            return known
    raise UsageError(f"expected a precision among auto, {', '.join(PRECISIONS)}, found {name!r}")


@functools.cache
def guess_device_kind() -> DeviceKind:
    """The kind of device the installed torch would use on this machine."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    libraries = _torch_libraries()
    if "torch_cuda" in libraries and _device_count(_CUDA_DRIVERS, "cuInit", "cuDeviceGetCount"):
        return "cuda"
    if "torch_hip" in libraries and _device_count(_HIP_DRIVERS, "hipInit", "hipGetDeviceCount"):
        return "cuda"  # torch calls AMD's devices by this name too
    if "torch_xpu" in libraries and _level_zero_drivers():
        return "xpu"
    return "cpu"


def numerics_tag(kind: DeviceKind, precision: Precision | None = None) -> str:
    """Names what the last bits of a result depend on: ``cpu/float32/torch2.6``.

    ``precision`` None means the kind's default. Patch releases of torch are taken to compute alike.
    """
    version = importlib.metadata.version("torch").split("+")[0].split(".")
    return f"{kind}/{precision or DEFAULT_PRECISION[kind]}/torch{version[0]}.{version[1]}"


def _torch_libraries() -> frozenset[str]:
    """Backends the installed torch was built with, by the names of its libraries."""
    spec = importlib.util.find_spec("torch")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    names = {path.stem.removeprefix("lib") for folder in folders for path in Path(folder, "lib").glob("*torch_*")}
    return frozenset(names)


def _load(names: tuple[str, ...]) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _device_count(drivers: tuple[str, ...], init: str, get_count: str) -> int:
    """Devices a driver counts; 0 when there is no driver or it will not start."""
    driver = _load(drivers)
    if driver is None:
        return 0
    number = ctypes.c_int(0)
    if driver[init](0) != 0 or driver[get_count](ctypes.byref(number)) != 0:
        return 0
    return number.value


def _level_zero_drivers() -> int:
    driver = _load(_LEVEL_ZERO)
    if driver is None or driver["zeInit"](0) != 0:
        return 0
    number = ctypes.c_uint32(0)
    return number.value if driver["zeDriverGet"](ctypes.byref(number), None) == 0 else 0
