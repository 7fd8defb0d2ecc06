"""Values of links as text, for settings of a model that hold more than a number: a conditioning, say."""

from __future__ import annotations

import base64
import zlib
from typing import Any, Final

import msgpack

from engine.run.codecs import decode, encode
from nodes.codecs import LEAVES

_COMPRESSED: Final = ":"
"""What text begins with that holds compressed bytes; it is no digit of the text itself."""

_CODECS: Final = {codec.type_name: codec for codec in LEAVES}


def packed(value: Any) -> str:
    """``value`` as text. Raises ``Unencodable`` where something in it has no codec."""
    encoded = encode(value, _CODECS)
    leaves = [[leaf.type_name, leaf.header, [bytes(part) for part in leaf.buffers]] for leaf in encoded.leaves]
    data = zlib.compress(msgpack.packb([encoded.tree, leaves]), level=1)  # masks are mostly alike
    return _COMPRESSED + base64.b85encode(data).decode()


def unpacked(text: str) -> Any:
    """The value that ``packed`` made ``text`` of."""
    data = base64.b85decode(text.removeprefix(_COMPRESSED))
    tree, leaves = msgpack.unpackb(zlib.decompress(data) if text.startswith(_COMPRESSED) else data)

    def leaf(index: int) -> Any:
        type_name, header, buffers = leaves[index]
        return _CODECS[type_name].decode(header, [memoryview(bytearray(part)) for part in buffers])

    return decode(tree, leaf)
