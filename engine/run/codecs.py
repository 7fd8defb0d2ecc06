"""Values as bytes and back: plain structure for msgpack, and leaves, each encoded by the codec of its Python type. Never pickle.

Structure is tagged lists: ``["t", 1, ["x", 0]]`` is a tuple of 1 and the first leaf. Scalars are themselves. A value of a type that is
neither known here nor has a codec is not encodable, and whoever holds it keeps it in memory alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from engine.fileref import FileRef
from engine.models import Digest, ModelRef, Recipe
from engine.run.results import Blocked, OutputFile, Outputs

Buffer = bytes | bytearray | memoryview
Plain = Any
"""What msgpack can hold: None, bool, int of 64 bits, float, str, bytes, and lists and str-keyed dicts of these."""

LARGE: Final = 4096
"""Bytes from which on a ``bytes`` value is a leaf of its own."""

BYTES: Final = "bytes"
_SCALARS: Final = frozenset({str, bool, float, type(None)})


class LeafCodec(Protocol):
    """Encodes the values of exactly one Python type. Stateless; called from any thread."""

    type_name: str
    """``f"{type.__module__}.{type.__qualname__}"``: ``"torch.Tensor"``."""
    version: int
    """Raise it when the encoding changes; what was stored before is then computed again."""

    def encode(self, value: Any) -> tuple[Plain, Sequence[Buffer]]:
        """A small plain header (dtype, shape) and the raw bytes, without a copy where the value's own memory will do.

        A buffer is read before the value can change, may be of any size, and must be contiguous. Raises ``Unencodable``.
        """
        ...

    def decode(self, header: Plain, buffers: Sequence[memoryview]) -> Any:
        """The value of ``header`` and as many buffers as were encoded.

        Each buffer starts at a multiple of 64 bytes in memory and may be used without a copy: it is writable, private to this value,
        and lives as long as anything refers to it (it is a private mapping of the stored file, so writing changes no file).
        """
        ...


class Unencodable(Exception):
    """A value, or something in it, has no codec."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One encoded leaf."""

    type_name: str
    version: int
    header: Plain
    buffers: Sequence[Buffer]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded value: structure with places for leaves."""

    tree: Plain
    leaves: list[Leaf] = field(default_factory=list)


def encode(value: Any, codecs: Mapping[str, LeafCodec]) -> Encoded:
    """Encode ``value``. Raises ``Unencodable``."""
    leaves: list[Leaf] = []
    try:
        return Encoded(_encode(value, codecs, leaves), leaves)
    except RecursionError as error:
        raise Unencodable("nested too deeply, or within itself") from error


def _encode(value: Any, codecs: Mapping[str, LeafCodec], leaves: list[Leaf]) -> Plain:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else ["i", str(value)]
    if kind is bytes:
        return ["b", value] if len(value) < LARGE else _leaf(Leaf(BYTES, 1, None, [value]), leaves)
    if kind is list or kind is tuple:
        return ["l" if kind is list else "t", *(_encode(item, codecs, leaves) for item in value)]
    if kind is dict:
        return ["d", *(_encode(item, codecs, leaves) for pair in value.items() for item in pair)]
    if kind in _ENCODERS:
        tag, parts = _ENCODERS[kind]
        return [tag, *(_encode(part, codecs, leaves) for part in parts(value))]
    codec = codecs.get(f"{kind.__module__}.{kind.__qualname__}")
    if codec is None:
        raise Unencodable(f"no codec for {kind.__module__}.{kind.__qualname__}")
    header, buffers = codec.encode(value)
    return _leaf(Leaf(codec.type_name, codec.version, header, buffers), leaves)


def _leaf(leaf: Leaf, leaves: list[Leaf]) -> Plain:
    leaves.append(leaf)
    return ["x", len(leaves) - 1]


def decode(tree: Plain, leaf: Callable[[int], Any]) -> Any:
    """The value of ``tree``; ``leaf`` gives its leaves by index and is asked for those that occur in it alone.

    Raises ``ValueError`` for what ``encode`` did not write.
    """
    if not isinstance(tree, list):
        return tree
    match tree:
        case ["x", int(index)]:
            return leaf(index)
        case ["i", str(digits)]:
            return int(digits)
        case ["b", bytes(data)]:
            return data
        case [str(tag), *parts] if tag in _DECODERS:
            return _DECODERS[tag]([decode(part, leaf) for part in parts])
    raise ValueError("not an encoded value")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


_ENCODERS: Final[Mapping[type, tuple[str, Callable[[Any], Sequence[Any]]]]] = {
    ModelRef: ("m", lambda ref: [ref.to_plain()]),
    Recipe: ("e", lambda recipe: [recipe.kind, dict(recipe.parts)]),
    FileRef: ("f", lambda ref: [ref.digest, str(ref.path), ref.name, *map(str, ref.more)]),
    OutputFile: (
        "o",
        lambda file: [
            file.data,
            file.prefix,
            file.extension,
            file.width,
            file.height,
            file.batch_index,
            file.kind,
            file.ui,
            file.numbered,
            file.bare,
        ],
    ),
    Outputs: ("r", lambda outputs: [outputs.values, outputs.files, dict(outputs.ui)]),
    Blocked: ("k", lambda blocked: [blocked.reason]),
}

_DECODERS: Final[Mapping[str, Callable[[list[Any]], Any]]] = {
    "l": list,
    "t": tuple,
    "d": _pairs,
    "m": lambda parts: ModelRef.from_plain(parts[0]),
    "e": lambda parts: Recipe(*parts),
    "f": lambda parts: FileRef(Digest(parts[0]), Path(parts[1]), parts[2], tuple(map(Path, parts[3:]))),
    "o": lambda parts: OutputFile(*parts),
    "r": lambda parts: Outputs(*parts),
    "k": lambda parts: Blocked(parts[0]),
}
