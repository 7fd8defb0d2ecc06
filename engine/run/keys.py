"""The key of a node: what its outputs follow from, as one digest. ``docs/keys.md`` says what counts and why.

    key = blake3(msgpack([SCHEME, numerics, type, version, fingerprint?, salt?, name, value, name, value, ...]))

with the inputs in order of name, a link as (key of its source, output), a file as the digest of its content. Pure: files are
digests and fingerprints are values by the time they come here (``engine.run.binding``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NewType

import msgpack
from blake3 import blake3

from engine.fileref import FileRef
from engine.graph.graph import Call, Link, NodeId
from engine.models import ModelRef, Patch, Setting
from engine.run.topology import needs, topological
from engine.spec import NodeSpec

Key = NewType("Key", bytes)
"""32 bytes. Two nodes with equal keys have equal outputs."""

SCHEME: Final = "mezzotint-key-1"
"""Raise it when the pre-image changes; every older key then misses."""

_LINK, _FILE, _BIG_INT, _MODEL = 1, 2, 3, 4
_DEEPEST = 200  # msgpack refuses more than 511 levels


class Opaque(Exception):
    """A value that has no canonical form."""


@dataclass(frozen=True, slots=True)
class Keyed:
    """Keys, and which of them hold for one run only."""

    keys: dict[NodeId, Key] = field(default_factory=dict)
    salted: set[NodeId] = field(default_factory=set)
    """Nodes that are impure or depend on one that is: nothing another run computes can have their key."""
    fleeting: set[NodeId] = field(default_factory=set)
    """Nodes whose results are not to outlive the process, or that depend on one of these."""


def keys(
    graph: Mapping[NodeId, Call],
    specs: Mapping[str, NodeSpec],
    *,
    numerics: str,
    run_id: str = "",
    fingerprints: Mapping[NodeId, Any] | None = None,
) -> dict[NodeId, Key]:
    """The key of every node of ``graph`` that has one: not those of a cycle or with a dangling link, nor what needs them."""
    return derive(graph, specs, numerics=numerics, run_id=run_id, fingerprints=fingerprints).keys


def derive(
    calls: Mapping[NodeId, Call],
    specs: Mapping[str, NodeSpec],
    *,
    numerics: str,
    run_id: str,
    fingerprints: Mapping[NodeId, Any] | None = None,
) -> Keyed:
    """Keys of bound calls."""
    deriver = Deriver(specs, numerics, run_id)
    deriver.derive(calls, fingerprints or {})
    return deriver.keyed


class Deriver:
    """Derives the keys of one run. Calls may link to those derived before: that is how a subgraph made during a run is keyed."""

    def __init__(self, specs: Mapping[str, NodeSpec], numerics: str, run_id: str) -> None:
        self.keyed = Keyed()
        self._specs = specs
        self._numerics = numerics
        self._run_id = run_id
        self._fingerprints: Mapping[NodeId, Any] = {}
        self._vocabulary: bytes | None = None
        # a lone surrogate is legal in JSON and must neither fail nor collide
        self._packer = msgpack.Packer(unicode_errors="surrogatepass")

    def derive(self, calls: Mapping[NodeId, Call], fingerprints: Mapping[NodeId, Any]) -> None:
        """Add the keys of bound calls to ``keyed``."""
        self._fingerprints = fingerprints
        for node in topological(needs(calls)):
            call = calls[node]
            if call.type in self._specs:
                self._add(node, call)

    def _add(self, node: NodeId, call: Call) -> None:
        """Derive the key of ``node``; it gets none if one of its sources has none."""
        spec = self._specs[call.type]
        own_salt = not spec.pure
        tainted, fleeting = False, not spec.lasting
        inputs: list[Any] = []
        for name in sorted(call.inputs):
            value = call.inputs[name]
            if type(value) is Link:
                source = self.keyed.keys.get(value.node)
                if source is None:
                    return
                tainted = tainted or value.node in self.keyed.salted
                fleeting = fleeting or value.node in self.keyed.fleeting
                inputs += (name, msgpack.ExtType(_LINK, source + value.output.to_bytes(4, "big")))
                continue
            plain, known = _try_canonical(value)
            own_salt = own_salt or not known
            inputs += (name, plain)
        fingerprint, repeatable = self._fingerprint(node, spec)
        own_salt = own_salt or not repeatable
        salt = [self._run_id, node] if own_salt else [node] if spec.by_id else None
        self.keyed.keys[node] = self._digest(
            [SCHEME, self._numerics, spec.type, spec.version, fingerprint, salt, *inputs]
        )
        if own_salt or tainted:
            self.keyed.salted.add(node)
        if fleeting:
            self.keyed.fleeting.add(node)

    def _fingerprint(self, node: NodeId, spec: NodeSpec) -> tuple[list[Any] | None, bool]:
        """The fingerprint's part of the pre-image, and whether it can ever be equal to another (NaN cannot)."""
        parts: list[Any] = []
        repeatable = True
        if spec.expands:
            parts.append(self._types())
        if node in self._fingerprints:
            value = self._fingerprints[node]
            plain, repeatable = _try_canonical(value)
            repeatable = repeatable and not has_nan(value)
            parts.append([plain])
        return parts or None, repeatable

    def _types(self) -> bytes:
        """What an expanding node may become depends on every node type there is, so it counts all their versions."""
        if self._vocabulary is None:
            versions = [[spec.type, spec.version] for spec in sorted(self._specs.values(), key=lambda spec: spec.type)]
            self._vocabulary = self._digest(versions)
        return self._vocabulary

    def _digest(self, preimage: list[Any]) -> Key:
        return Key(blake3(self._packer.pack(preimage)).digest())


def has_nan(value: Any) -> bool:
    """Whether a NaN is anywhere in a fingerprint, which is then equal to no other."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, Mapping):
        return any(map(has_nan, value.values()))
    return isinstance(value, list | tuple) and any(map(has_nan, value))


def _try_canonical(value: Any) -> tuple[Any, bool]:
    """The canonical form, and whether there is one. A value without one is keyed by the salt its node then gets."""
    try:
        return canonical(value), True
    except Opaque:
        return None, False


def canonical(value: Any, depth: int = 0) -> Any:
    """``value`` so that msgpack writes equal values alike and different ones differently.

    msgpack's own type bytes tell 1, 1.0, True and "1" apart, and it writes an integer in its shortest form only. Lists and tuples
    are the same (JSON has one of them), a mapping is sorted by key, every NaN is one NaN, -0.0 is not 0.0.
    """
    kind = type(value)
    if kind is str or kind is bool or kind is bytes or value is None:
        return value
    if kind is int:
        return _integer(value)
    if kind is float:
        return value if value == value else math.nan
    if kind is list or kind is tuple:
        return [canonical(item, _deeper(depth)) for item in value]
    if kind is dict or kind is MappingProxyType:
        return _mapping(value, _deeper(depth))
    if isinstance(value, FileRef):
        return msgpack.ExtType(_FILE, value.digest.encode())
    if isinstance(value, ModelRef):
        return msgpack.ExtType(_MODEL, msgpack.packb(_recipe(value)))
    raise Opaque


def _integer(value: int) -> Any:
    if -(2**63) <= value < 2**64:
        return value
    return msgpack.ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    if not all(type(key) is str for key in value):
        raise Opaque
    return {key: canonical(value[key], depth) for key in sorted(value)}


def _deeper(depth: int) -> int:
    if depth >= _DEEPEST:
        raise Opaque
    return depth + 1


def _recipe(ref: ModelRef) -> list[Any]:
    """A model's recipe by content: where its files were seen does not count."""
    return [ref.source, ref.part, [_change(patch) for patch in ref.patches], _pairs(ref.settings)]


def _change(patch: Patch) -> list[Any]:
    change = [patch.kind, patch.source, canonical(patch.strength)]
    if patch.options or patch.model is not None:
        change += [_pairs(patch.options), patch.model and _recipe(patch.model)]
    return change


def _pairs(pairs: Iterable[tuple[str, Setting]]) -> list[Any]:
    return [[name, canonical(value)] for name, value in pairs]
