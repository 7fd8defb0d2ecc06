"""What packs brought when they were last imported, on disk: a service that starts knows its node types before a worker is ready."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack
from blake3 import blake3

import engine
from engine.packs.report import LoadedPack, NotedRoute, PackFailure
from engine.packs.sources import PackSource, source_digest
from engine.places import Places
from engine.run.atomic import replace_file

_BIG_INT: Final = 1
_DIGEST: Final = 32
"""Bytes in front of the content."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedPacks:
    """What a worker said when it was ready, and what its types said of themselves."""

    specs: tuple[Mapping[str, Any], ...]
    """As ``engine.packs.describe.to_plain`` has them."""
    packs: tuple[LoadedPack, ...]
    failures: tuple[PackFailure, ...]
    routes: tuple[NotedRoute, ...] = ()
    prompt_handlers: int = 0
    infos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The ``object_info`` of each type."""


def cache_key(sources: Iterable[PackSource], settings: Places) -> str:
    """What the content depends on: the packs' sources, this engine's, Python, and what the worker is started with."""
    package = engine.__file__
    assert package is not None
    told = {
        "packs": [[source.name, str(source.path), source.digest, source.module] for source in sources],
        "engine": source_digest(Path(package).parent),
        "python": sys.version,
        "settings": asdict(settings),
    }
    return blake3(json.dumps(told, sort_keys=True, default=str).encode(errors="surrogatepass")).hexdigest()


class SpecCache:
    """One file below the state folder: of another key, or damaged, it counts as none, and is written anew."""

    def __init__(self, state: Path) -> None:
        self.path = state / "packs" / "specs.msgpack"

    def load(self, key: str) -> CachedPacks | None:
        """What was saved under ``key``."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s cannot be read, and counts as none: %s", self.path, error)
            return None
        try:
            return _read(content, key)
        except Exception as error:  # whatever the bytes make of it
            _log.warning("%s is damaged, and counts as none: %s", self.path, error)
            return None

    def save(self, key: str, packs: CachedPacks) -> None:
        """Put ``packs`` in place of what was there, whole or not at all. Raises ``OSError``."""
        body: bytes = msgpack.packb({"key": key, **asdict(packs)}, default=_odd, unicode_errors="surrogatepass")
        replace_file(self.path, [blake3(body).digest(), body])


def _read(content: bytes, key: str) -> CachedPacks | None:
    digest, body = content[:_DIGEST], content[_DIGEST:]
    if blake3(body).digest() != digest:
        raise ValueError("its digest is not that of its content")
    plain = msgpack.unpackb(body, unicode_errors="surrogatepass", strict_map_key=False, ext_hook=_integer)
    if plain["key"] != key:
        return None
    return CachedPacks(
        specs=tuple(plain["specs"]),
        packs=tuple(LoadedPack(**{**pack, "nodes": tuple(pack["nodes"])}) for pack in plain["packs"]),
        failures=tuple(PackFailure(**failure) for failure in plain["failures"]),
        routes=tuple(NotedRoute(**route) for route in plain["routes"]),
        prompt_handlers=plain["prompt_handlers"],
        infos=plain["infos"],
    )


def _integer(code: int, data: bytes) -> Any:
    return int.from_bytes(data, "big", signed=True) if code == _BIG_INT else msgpack.ExtType(code, data)


def _odd(value: Any) -> Any:
    """A large integer, which ``object_info`` may have as a range's end."""
    if isinstance(value, int):
        return msgpack.ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    raise TypeError(f"expected plain data, found {type(value).__name__}")
