"""What the keys of each workflow's last run were made of, so that the next one can say what changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgpack
from blake3 import blake3

from engine.graph.graph import Graph, NodeId
from engine.run.atomic import replace_file
from engine.run.explain import KeyParts

_MAGIC: Final = b"mezzotint run 1\n"


def identity(graph: Graph) -> str:
    """Names a workflow through its changes: by its nodes and their types, not by what they are set to."""
    nodes = sorted([node, call.type] for node, call in graph.items())
    return blake3(msgpack.packb(nodes, unicode_errors="surrogatepass")).hexdigest()[:32]


class LastRuns:
    """A folder with one small file for each workflow that ran."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def remember(self, graph: Graph, parts: Mapping[NodeId, KeyParts]) -> None:
        """Keep ``parts`` as those of the last run of ``graph``. Raises ``OSError``."""
        plain = {node: entry.to_plain() for node, entry in parts.items()}
        replace_file(self._path(graph), [_MAGIC, msgpack.packb(plain, unicode_errors="surrogatepass")])

    def recall(self, graph: Graph) -> dict[NodeId, KeyParts] | None:
        """The parts of the last run; None if there was none, or its record cannot be read."""
        try:
            content = self._path(graph).read_bytes()
            plain = msgpack.unpackb(content.removeprefix(_MAGIC), unicode_errors="surrogatepass")
            return {NodeId(node): KeyParts.from_plain(entry) for node, entry in plain.items()}
        except Exception:  # not there, cut short, or of another version: all the same to who asks
            return None

    def _path(self, graph: Graph) -> Path:
        return self._directory / identity(graph)
