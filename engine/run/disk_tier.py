"""Results on disk, for later processes and for several at once.

    records/ab/<key>        what one node came to: a small tree, its leaves named by the content of their bytes
    blobs/cd/<digest>       bytes of leaves, stored once however many results hold them

A file is written under a temporary name and renamed, so no reader sees half of one; a record ends in its checksum, and a blob's name
is one, so that what a failing disk or a lost power supply did is noticed (nothing is forced to the disk: it can be computed again).
What does not match is a miss and is removed. Processes need no lock: they only ever add whole files, and remove files whose loss is a
miss. When the folder grows over its limit the results not used for longest go.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgpack
from blake3 import blake3

from engine.run.atomic import remove, replace_file
from engine.run.blobs import Blob, Blobs
from engine.run.codecs import BYTES, LeafCodec, Unencodable, decode, encode
from engine.run.disk_usage import StoredFile, StoredRecord, scan, to_remove, touch
from engine.run.failures import one_line
from engine.run.keys import Key
from engine.run.results import OutputFile
from engine.run.values import NodeValue, locations, nbytes
from engine.run.writer import Writer

DEFAULT_LIMIT: Final = 20 << 30
"""Bytes a cache folder may take by default."""

_MAGIC: Final = b"mezzotint result 1\n"
_CHECKSUM: Final = 32
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """What a cache folder holds."""

    results: int
    bytes: int
    limit: int
    by_type: Mapping[str, int]
    """Bytes of leaves by the type they are of (``torch.Tensor``); what several results hold is counted once for each."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A result that could not be written, and why."""

    key: Key
    message: str


@dataclass(frozen=True, slots=True)
class _StoredLeaf:
    type_name: str
    version: int
    header: Any
    blob: Blob

    def to_plain(self) -> list[Any]:
        return [self.type_name, self.version, self.header, self.blob.digest, self.blob.size, self.blob.spans]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> _StoredLeaf:
        type_name, version, header, digest, size, spans = plain
        return cls(type_name, version, header, Blob(digest, size, tuple((start, length) for start, length in spans)))


@dataclass(frozen=True, slots=True)
class _Record:
    seconds: float
    locations: tuple[str, ...]
    """Files the value refers to; it is of no use without them."""
    trees: tuple[Any, Any, Any]
    """Slots, files, ui."""
    leaves: tuple[_StoredLeaf, ...]

    def to_bytes(self) -> bytes:
        body: bytes = msgpack.packb(
            [self.seconds, self.locations, self.trees, [leaf.to_plain() for leaf in self.leaves]],
            unicode_errors="surrogatepass",
        )
        return _MAGIC + body + blake3(body).digest()

    @classmethod
    def from_bytes(cls, content: bytes) -> _Record:
        """Raises ``ValueError`` for what is no whole record."""
        body = content[len(_MAGIC) : -_CHECKSUM]
        if not content.startswith(_MAGIC) or blake3(body).digest() != content[-_CHECKSUM:]:
            raise ValueError("not a whole record")
        seconds, files, (slots, outputs, ui), leaves = msgpack.unpackb(
            body, unicode_errors="surrogatepass", strict_map_key=False
        )
        return cls(seconds, tuple(files), (slots, outputs, ui), tuple(map(_StoredLeaf.from_plain, leaves)))


class Stored:
    """A result on disk, found whole. Its slots are decoded when they are first loaded, once."""

    def __init__(
        self, record: _Record, buffers: Sequence[Sequence[memoryview]], codecs: Mapping[str, LeafCodec]
    ) -> None:
        self._record = record
        self._buffers = buffers
        self._codecs = codecs
        self._lock = threading.Lock()
        self._value: NodeValue | None = None
        self._then: Callable[[NodeValue], None] | None = None
        self.seconds = record.seconds
        """What it took to compute."""
        self.files: tuple[OutputFile, ...] = decode(record.trees[1], self._leaf)
        self.ui: Mapping[str, Sequence[Any]] = decode(record.trees[2], self._leaf)

    def load(self) -> NodeValue:
        with self._lock:
            if self._value is None:
                self._value = NodeValue(decode(self._record.trees[0], self._leaf), self.files, self.ui)
                if self._then is not None:
                    self._then(self._value)
            return self._value

    def when_loaded(self, then: Callable[[NodeValue], None]) -> None:
        """Have ``then`` called with the value once it is decoded, if ever."""
        self._then = then

    def _leaf(self, index: int) -> Any:
        leaf, buffers = self._record.leaves[index], self._buffers[index]
        if leaf.type_name == BYTES:
            return bytes(buffers[0])
        return self._codecs[leaf.type_name].decode(leaf.header, buffers)


class DiskTier:
    """A cache folder. Reading happens where it is asked for, writing on a thread of its own."""

    def __init__(self, directory: Path, codecs: Mapping[str, LeafCodec], *, limit: int = DEFAULT_LIMIT) -> None:
        """``codecs`` are a registry's; ``limit`` is in bytes."""
        self._directory = directory
        self._records = directory / "records"
        self._blobs = Blobs(directory / "blobs")
        self._codecs = codecs
        self._limit = limit
        self._writer = Writer()
        self._size: int | None = None
        self._problem: Problem | None = None

    def get(self, key: Key) -> Stored | None:
        """The result of ``key`` if it is there, whole, and can be decoded here."""
        place = self._place(key)
        try:
            with open(place, "rb") as file:
                content = file.read()
        except OSError:
            return None
        path = Path(place)
        try:
            record = _Record.from_bytes(content)
            if not all(map(self._can_decode, record.leaves)):
                return None  # it may well be of use to another process
            stored = self._open(record)
        except Exception:  # whatever is in the file, it is not what was written
            stored = None
        if stored is None:
            remove(path)
            return None
        touch(path)
        return stored

    def has(self, key: Key) -> bool:
        """Whether there is a record of ``key``, without reading it."""
        return os.path.exists(self._place(key))

    def put(self, key: Key, value: NodeValue, seconds: float) -> None:
        """Keep ``value``, soon. What cannot be encoded is not kept; what cannot be written is a problem that ``flush`` tells."""
        self._writer.put(partial(self._write, key, value, seconds), nbytes(value))

    @property
    def is_writing(self) -> bool:
        """Whether ``flush`` would have to wait, or has a problem to tell."""
        return self._writer.is_busy or self._problem is not None

    def flush(self) -> list[Problem]:
        """Wait until everything is written. Returns the problem there was since the last time, if any: after the first, writing stopped."""
        self._writer.flush()
        problem, self._problem = self._problem, None
        return [problem] if problem else []

    def info(self) -> DiskInfo:
        """What is in the folder; reads every record."""
        records = list(scan(self._records))
        blobs = sum(file.size for file in scan(self._blobs.directory))
        types: Counter[str] = Counter()
        for file in records:
            for leaf in self._leaves(file):
                types[leaf.type_name] += leaf.blob.size
        return DiskInfo(len(records), blobs + sum(file.size for file in records), self._limit, dict(types))

    def clear(self) -> None:
        """Remove everything."""
        self._writer.flush()
        for folder in (self._records, self._blobs.directory):
            shutil.rmtree(folder, ignore_errors=True)
        self._size = None

    def _place(self, key: Key) -> str:
        # a text, since a Path takes longer to make than a look for a file that is not there
        name = key.hex()
        return f"{self._records}{os.sep}{name[:2]}{os.sep}{name}"

    def _open(self, record: _Record) -> Stored | None:
        if not all(map(os.path.exists, record.locations)):
            return None
        buffers = [self._blobs.open(leaf.blob) for leaf in record.leaves]
        whole = [views for views in buffers if views is not None]
        return Stored(record, whole, self._codecs) if len(whole) == len(buffers) else None

    def _can_decode(self, leaf: _StoredLeaf) -> bool:
        if leaf.type_name == BYTES:
            return True
        codec = self._codecs.get(leaf.type_name)
        return codec is not None and codec.version == leaf.version

    def _write(self, key: Key, value: NodeValue, seconds: float) -> None:
        if self._problem is not None:
            return
        try:
            written = self._store(key, value, seconds)
        except Unencodable:
            return
        except OSError as error:
            self._problem = Problem(key, self._explained(error))
            return
        except Exception as error:  # a codec of a plugin may fail in any way
            self._problem = Problem(key, f"a result was not kept on disk, encoding it failed ({one_line(error)})")
            return
        self._make_room(written)

    def _store(self, key: Key, value: NodeValue, seconds: float) -> int:
        """Write ``value``, its blobs before the record that names them. Returns the bytes written."""
        encoded = encode([value.slots, value.files, dict(value.ui)], self._codecs)
        written = 0
        leaves = []
        for leaf in encoded.leaves:
            blob, added = self._blobs.write(leaf.buffers)
            written += added
            leaves.append(_StoredLeaf(leaf.type_name, leaf.version, leaf.header, blob))
        _, slots, files, ui = encoded.tree
        try:
            content = _Record(seconds, locations(value.slots), (slots, files, ui), tuple(leaves)).to_bytes()
        except ValueError as error:  # msgpack's limits: 511 levels, 4 GB
            raise Unencodable(str(error)) from error
        replace_file(Path(self._place(key)), [content])
        return written + len(content)

    def _explained(self, error: OSError) -> str:
        reason = (error.strerror or str(error)).lower()
        if error.errno in _FULL:
            return f"the cache in {self._directory} cannot grow ({reason}): results of this run are not kept; free some space"
        return f"the cache in {self._directory} cannot be written ({reason}): results of this run are not kept; make it writable"

    def _make_room(self, written: int) -> None:
        if self._size is None:
            self._size = sum(file.size for root in (self._records, self._blobs.directory) for file in scan(root))
        else:
            self._size += written
        if self._size > self._limit:
            self._size = None  # other processes write and remove too: counted anew at the next write
            records = [
                StoredRecord(file, tuple(leaf.blob.digest.hex() for leaf in self._leaves(file)))
                for file in scan(self._records)
            ]
            blobs = {file.path.name: file for file in scan(self._blobs.directory)}
            for path in to_remove(records, blobs, self._limit, time.time()):
                remove(path)

    def _leaves(self, file: StoredFile) -> Sequence[_StoredLeaf]:
        try:
            return _Record.from_bytes(file.path.read_bytes()).leaves
        except Exception:  # a broken record holds nothing; it is removed when it is asked for
            return ()
