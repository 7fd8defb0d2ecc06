"""What a value is, as a digest of its content: it finds the result of a call wherever its arguments come from.

A node's key follows from how its inputs were made. That is enough, and cheap, as long as the ways they are made can be known by name.
Where it says too little (a list of which one element changed, a source that gives another result each time, or one that is not kept
beyond the process) the arguments themselves are looked at: ``docs/keys.md``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgpack
from blake3 import blake3

from engine.run.codecs import LeafCodec, Unencodable, encode
from engine.run.keys import Key, Opaque, canonical, has_nan
from engine.spec import NodeSpec

SCHEME: Final = "mezzotint-call-1"
"""Raise it when the pre-image changes."""


class Contents:
    """Digests of the values that one node is called with; each object is looked at once, so it must not change meanwhile."""

    def __init__(self, codecs: Mapping[str, LeafCodec]) -> None:
        self._codecs = codecs
        self._seen: dict[int, tuple[Any, bytes | None]] = {}
        """By identity. The values are held, so that no other gets the same."""

    def digest(self, value: Any) -> bytes | None:
        """32 bytes; None for a value that has no codec."""
        if id(value) not in self._seen:
            self._seen[id(value)] = (value, content_digest(value, self._codecs))
        return self._seen[id(value)][1]

    def key(
        self,
        spec: NodeSpec,
        arguments: Mapping[str, Any],
        numerics: str,
        fingerprint: Any,
        missing: Collection[str] = (),
    ) -> Key | None:
        """The key of one call with these arguments; None if one of them has no digest, or the fingerprint equals no other.

        ``missing`` are lazy inputs that were not asked for: None stands in their place, and is not a None that was asked for.
        """
        plain = _repeatable(fingerprint)
        inputs: list[Any] = []
        for name in sorted(arguments):
            digest = _NOT_ASKED_FOR if name in missing else self.digest(arguments[name])
            if digest is None or plain is None:
                return None
            inputs += (name, digest)
        packed = msgpack.packb([SCHEME, numerics, spec.type, spec.version, plain, *inputs], **_SURROGATES)
        return Key(blake3(packed).digest())


_NOT_ASKED_FOR: Final = b"not asked for"
_SURROGATES: Final[Mapping[str, Any]] = {"unicode_errors": "surrogatepass"}


def _repeatable(fingerprint: Any) -> list[Any] | None:
    """The fingerprint's part of the pre-image, None if it can never be equal to another."""
    if has_nan(fingerprint):
        return None
    try:
        return [canonical(fingerprint)]
    except Opaque:
        return None


def content_digest(value: Any, codecs: Mapping[str, LeafCodec]) -> bytes | None:
    """The digest of one value, None if something in it has no codec."""
    try:
        preimage: list[Any] = ["plain", canonical(value)]
    except Opaque:
        try:
            encoded = encode(value, codecs)
        except Unencodable:
            return None
        leaves = [[leaf.type_name, leaf.version, leaf.header, _of_buffers(leaf.buffers)] for leaf in encoded.leaves]
        preimage = ["encoded", encoded.tree, leaves]
    return blake3(msgpack.packb(preimage, **_SURROGATES)).digest()


def _of_buffers(buffers: Any) -> list[bytes]:
    return [blake3(buffer, max_threads=blake3.AUTO).digest() for buffer in buffers]
