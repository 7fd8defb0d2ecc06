"""A safetensors file, checked before it is trusted and mapped instead of read.

A safetensors file is eight bytes of header length, a JSON header that gives every tensor a name, a dtype, a shape and a
byte range, and the bytes. ``read_header`` believes none of it until it is consistent with itself and with the file's
size. ``WeightFile`` then hands out tensors that are views of the mapped file: no byte is read before it is used, and
none is copied.

Pickles are refused: reading one runs code. ``nodes.diffusion.pickles`` converts them in a process of its own.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.errors import MissingFile, ModelFileError

if TYPE_CHECKING:
    import torch

SAFE_SUFFIXES: Final = frozenset({".safetensors", ".sft"})
PICKLE_SUFFIXES: Final = frozenset({".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl"})

BITS: Final[Mapping[str, int]] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "C64": 64,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits of one element, by the dtype's name in a header."""

_LENGTH_BYTES: Final = 8
_GLANCE_BYTES: Final = 32
"""Enough to tell a file of another format by."""
_PRINTED: Final = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F))
_MAX_HEADER_BYTES: Final = 100_000_000
_MAX_TENSORS: Final = 200_000
_MAX_DIMENSIONS: Final = 16
_PICKLE_STARTS: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of one tensor; ``start`` and ``stop`` count bytes from the first byte after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int = 0

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class Header:
    """The checked header of one file."""

    tensors: Tensors
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The header of ``path``.

    Raises:
        MissingFile: there is no such file.
        ModelFileError: the file is a pickle, is cut short, or its header contradicts itself or the file's size.
    """
    refuse_pickle(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_GLANCE_BYTES)
            length = _header_length(path, start, size)
            file.seek(_LENGTH_BYTES)
            text = file.read(length)
    except FileNotFoundError as error:
        raise MissingFile(f"expected a model file at {path}, found none; check the name") from error
    except OSError as error:
        raise ModelFileError(f"expected a readable model file, found {path}: {error.strerror or error}") from error
    return parse_header(path.name, text, size - _LENGTH_BYTES - length)


def refuse_pickle(path: Path) -> None:
    """Raise ModelFileError when the name says that the file is a pickle."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise _pickle_error(path)


def is_pickle(start: bytes) -> bool:
    """Whether a file that begins with these eight bytes is a pickle. Lengths of headers may begin as pickles do; no header is as long as
    what follows in a pickle would make it."""
    if not start.startswith(_PICKLE_STARTS):
        return False
    return int.from_bytes(start[:_LENGTH_BYTES], "little") > _MAX_HEADER_BYTES


def _pickle_error(path: Path) -> ModelFileError:
    return ModelFileError(
        f"{path.name} is a pickle, and reading one can run code; make a safetensors file of it: "
        f"mezzotint models convert {path}"
    )


def _header_length(path: Path, start: bytes, size: int) -> int:
    if is_pickle(start):
        raise _pickle_error(path)
    if len(start) < _LENGTH_BYTES:
        raise _broken(path.name, f"the file has {size} bytes, too few for a header")
    (length,) = struct.unpack_from("<Q", start)
    if (length > _MAX_HEADER_BYTES or length > size) and (other := _other_format(path, start)) is not None:
        raise other
    if length > _MAX_HEADER_BYTES:
        raise _broken(path.name, f"it announces a header of {length} bytes, more than {_MAX_HEADER_BYTES} are allowed")
    if length > size - _LENGTH_BYTES:
        raise _broken(path.name, f"it announces a header of {length} bytes and is {size} bytes long")
    return int(length)


def _other_format(path: Path, start: bytes) -> ModelFileError | None:
    """What a file that begins with ``start`` is, where that is known and no safetensors file."""
    name = path.name
    if start.startswith(b"GGUF"):
        return ModelFileError(
            f"expected a safetensors file, found GGUF in {name}; that is read as a diffusion model from a file that ends in .gguf"
        )
    if start.startswith(b"version https://git-lfs"):
        return ModelFileError(
            f"expected tensors in {name}, found a pointer of Git LFS to them; get the file itself, by git lfs pull or from its page"
        )
    if all(byte in _PRINTED for byte in start):
        text = " ".join(start.decode("ascii").split())
        return ModelFileError(
            f"expected tensors in {name}, found a text that begins with {text!r}; download the file again"
        )
    return None


def _broken(name: str, found: str) -> ModelFileError:
    return ModelFileError(f"{name} is not a whole safetensors file: {found}; download it again")


def parse_header(name: str, text: bytes, data_bytes: int) -> Header:
    """Check a header's JSON ``text`` against the ``data_bytes`` that follow it. ``name`` is for the messages.

    Raises ModelFileError, see ``read_header``.
    """
    try:
        raw = json.loads(text.decode("utf-8"), object_pairs_hook=_object_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _broken(name, f"its header is not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise _broken(name, f"its header is a JSON {type(raw).__name__}, not an object")
    metadata = _metadata(name, raw.pop("__metadata__", {}))
    if len(raw) > _MAX_TENSORS:
        raise _broken(name, f"its header lists {len(raw)} tensors, more than {_MAX_TENSORS} are allowed")
    tensors = {key: _tensor_info(name, key, entry) for key, entry in raw.items()}
    _check_ranges(name, tensors, data_bytes)
    return Header(tensors, metadata)


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is given twice")
    return result


def _metadata(name: str, raw: object) -> Mapping[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise _broken(name, "its __metadata__ is not an object of strings")
    return raw


def _tensor_info(name: str, key: str, entry: object) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(name, f"tensor {key!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _broken(name, f"tensor {key!r} has the unknown dtype {dtype!r}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _broken(name, f"tensor {key!r} has no shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(name, f"tensor {key!r} has no byte range")
    info = TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])
    if info.count * BITS[dtype] != (info.stop - info.start) * 8:
        raise _broken(name, f"tensor {key!r}, {dtype} {list(shape)}, does not fit its {info.stop - info.start} bytes")
    return info


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_ranges(name: str, tensors: Tensors, data_bytes: int) -> None:
    """The byte ranges must follow each other without gap or overlap and end where the file ends."""
    position = 0
    for key, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.stop > data_bytes:
            raise _broken(
                name, f"tensor {key!r} ends at byte {info.stop} and only {data_bytes} bytes of data are there"
            )
        if info.start != position:
            kind = "overlaps another tensor" if info.start < position else "leaves a gap before it"
            raise _broken(name, f"tensor {key!r} {kind}")
        position = info.stop
    if position != data_bytes:
        raise _broken(name, f"{data_bytes - position} bytes at its end belong to no tensor")


_EIGHT_BITS: Final = frozenset({"F8_E4M3", "F8_E5M2"})
_SCALED_MARK: Final = "scaled_fp8"
"""Stands in a file, or behind the prefix of each part in a checkpoint of several."""
_SCALE_NAMES: Final = ("scale_weight", "weight_scale")
_BESIDE_SCALES: Final = ("scale_input", "input_scale", "comfy_quant")
"""What such files hold for arithmetic in eight bits, which is not done here."""


def scales_of(tensors: Tensors) -> Mapping[str, str]:
    """Names of 8-bit weights -> names of the numbers they are to be multiplied by, in files that keep these apart."""
    found = {}
    for name, info in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and info.dtype in _EIGHT_BITS:
            scale = next((s for s in (f"{module}.{known}" for known in _SCALE_NAMES) if s in tensors), None)
            if scale is not None and tensors[scale].count == 1:
                found[name] = scale
    return found


def without_scales(header: Header, scales: Mapping[str, str]) -> Header:
    """The header of the weights alone."""
    modules = {name.removesuffix("weight") for name in scales}
    hidden = {*scales.values(), *(module + leaf for module in modules for leaf in _BESIDE_SCALES)}
    hidden.update(name for name in header.tensors if name.rpartition(".")[2] == _SCALED_MARK)
    kept = {name: info for name, info in header.tensors.items() if name not in hidden}
    return Header(kept, header.metadata)


class WeightFile(Mapping[str, "torch.Tensor"]):
    """The tensors of one safetensors file, each a view of the mapped file.

    Writing to such a view never reaches the file: the mapping is private. ``header`` is the checked header. Weights in eight bits that
    have a scale beside them are no views: they come multiplied, in float32, and the scales are not among the tensors.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        whole = read_header(path)
        self._scales = scales_of(whole.tensors)
        self.header = without_scales(whole, self._scales)
        try:
            self._file = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise _broken(path.name, str(error)) from error

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.header.tensors:
            raise KeyError(name)
        tensor: torch.Tensor = self._file.get_tensor(name)
        scale = self._scales.get(name)
        return tensor if scale is None else tensor.float() * self._file.get_tensor(scale).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.tensors)

    def __len__(self) -> int:
        return len(self.header.tensors)
