"""Why a key is another than last time: what keys were made of, in words, and the difference between two of these."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from blake3 import blake3

from engine.fileref import FileRef
from engine.graph.graph import Call, Link, NodeId
from engine.models import ModelRef
from engine.run.keys import Keyed
from engine.spec import NodeSpec

_LONGEST = 80


@dataclass(frozen=True, slots=True)
class SourceParts:
    """A linked input."""

    node: str
    output: int
    key: str
    """Of the node it comes from, in hex."""

    def to_plain(self) -> dict[str, Any]:
        return {"node": self.node, "output": self.output, "key": self.key}


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What one key was made of."""

    type: str
    version: int | str
    numerics: str
    literals: Mapping[str, str] = field(default_factory=dict)
    """As a person may read them; long ones cut, with a digest of the whole."""
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Name and content digest."""
    links: Mapping[str, SourceParts] = field(default_factory=dict)
    fingerprint: str | None = None
    pure: bool = True

    def to_plain(self) -> dict[str, Any]:
        """What ``from_plain`` takes, and msgpack writes; made of the same mappings, not of copies."""
        return {
            "type": self.type,
            "version": self.version,
            "numerics": self.numerics,
            "literals": self.literals,
            "files": self.files,
            "links": {name: source.to_plain() for name, source in self.links.items()},
            "fingerprint": self.fingerprint,
            "pure": self.pure,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> KeyParts:
        """Raises ``KeyError`` or ``TypeError`` for what ``to_plain`` did not write."""
        files = {name: (file, digest) for name, (file, digest) in plain["files"].items()}
        links = {name: SourceParts(**source) for name, source in plain["links"].items()}
        return cls(**{**plain, "files": files, "links": links})


_Part = str | tuple[str, str] | SourceParts

Change = Literal["type", "version", "numerics", "impure", "fingerprint", "input", "file", "link", "upstream"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that makes a key another than it was."""

    change: Change
    message: str
    """One line, for a person."""
    input: str | None = None
    node: str | None = None
    """For ``upstream``, the node through which the change comes."""


def describe(
    calls: Mapping[NodeId, Call],
    specs: Mapping[str, NodeSpec],
    keyed: Keyed,
    numerics: str,
    fingerprints: Mapping[NodeId, Any],
) -> dict[NodeId, KeyParts]:
    """The parts of the key of every bound call that has one."""
    return {
        node: _parts(
            call, specs[call.type], keyed, numerics, _shown(fingerprints[node]) if node in fingerprints else None
        )
        for node, call in calls.items()
        if node in keyed.keys
    }


def _parts(call: Call, spec: NodeSpec, keyed: Keyed, numerics: str, fingerprint: str | None) -> KeyParts:
    literals: dict[str, str] = {}
    files: dict[str, tuple[str, str]] = {}
    links: dict[str, SourceParts] = {}
    for name, value in call.inputs.items():
        if type(value) is Link:
            links[name] = SourceParts(value.node, value.output, keyed.keys[value.node].hex())
        elif isinstance(value, FileRef):
            files[name] = (value.name, value.digest)
        else:
            literals[name] = _shown(value)
    return KeyParts(spec.type, spec.version, numerics, literals, files, links, fingerprint, spec.pure)


def _shown(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    text = f"model {value.source[:12]}" if isinstance(value, ModelRef) else repr(value)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 16]}... #{blake3(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def explain(old: KeyParts, new: KeyParts) -> list[Reason]:
    """What changed from ``old`` to ``new``; nothing if their keys are equal."""
    return [*_node_reasons(old, new), *_input_reasons(old, new), *_link_reasons(old, new)]


def _node_reasons(old: KeyParts, new: KeyParts) -> Iterator[Reason]:
    if old.type != new.type:
        yield Reason("type", f"it is a {new.type} now, and was a {old.type}")
    elif old.version != new.version:
        yield Reason("version", f"{new.type} is version {new.version} now, and was {old.version}")
    if old.numerics != new.numerics:
        yield Reason("numerics", f"computed with {new.numerics} now, and with {old.numerics} then")
    if not new.pure:
        yield Reason("impure", f"{new.type} gives another result each time, so nothing of it is kept")
    if old.fingerprint != new.fingerprint or new.fingerprint == "nan":
        yield Reason("fingerprint", f"what it reads has changed: {old.fingerprint} -> {new.fingerprint}")


def _input_reasons(old: KeyParts, new: KeyParts) -> Iterator[Reason]:
    before: dict[str, _Part] = {**old.literals, **old.files, **old.links}
    after: dict[str, _Part] = {**new.literals, **new.files, **new.links}
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if isinstance(was, SourceParts) and isinstance(now, SourceParts):
            continue
        if isinstance(was, tuple) and isinstance(now, tuple):
            if was[1] != now[1]:
                what = f"{was[0]} -> {now[0]}" if was[0] != now[0] else f"the content of {now[0]} has changed"
                yield Reason("file", f"{name}: {what}", name)
        elif was != now:
            yield Reason("input", f"{name}: {_described(was)} -> {_described(now)}", name)


def _link_reasons(old: KeyParts, new: KeyParts) -> Iterator[Reason]:
    for name, now in new.links.items():
        was = old.links.get(name)
        if was is None or (was.key, was.output) == (now.key, now.output):
            continue
        if was.node != now.node or was.output != now.output:
            yield Reason("link", f"{name}: {_described(was)} -> {_described(now)}", name, now.node)
        else:
            yield Reason("upstream", f"{name}: node {now.node}, where it comes from, changed", name, now.node)


def _described(part: _Part | None) -> str:
    if part is None:
        return "nothing"
    if isinstance(part, SourceParts):
        return f"output {part.output} of node {part.node}"
    return part if isinstance(part, str) else part[0]
