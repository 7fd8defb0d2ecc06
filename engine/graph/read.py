"""Reads a workflow from whatever holds one: API JSON, editor JSON, a PNG, WEBP, JPEG, AVIF or SVG picture, a ``.latent``
or ``.safetensors`` file.

What a file is is told by its content, never by its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from engine.errors import UnreadableWorkflow
from engine.graph import avif, jpeg, png, safetensors_header, svg, webp
from engine.graph.api_format import read_api, write_api
from engine.graph.checks import is_leftover
from engine.graph.editor_format import ModelHint, looks_like_editor, read_editor
from engine.graph.graph import Graph, NodeId
from engine.graph.seeds import SeedInput, seed_inputs
from engine.graph.text import clip, kind, listed
from engine.registry import Registry

LARGEST: Final = 200 * 2**20
"""Bytes of a file that is read whole."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow and what came with it."""

    graph: Graph
    source: Literal["api", "editor"]
    editor: dict[str, Any] | None = None
    """The editor's own file, to be kept in pictures as ``workflow``."""
    warnings: tuple[str, ...] = ()
    hints: tuple[ModelHint, ...] = ()
    """Where the models it uses can be had."""
    seeds: tuple[SeedInput, ...] = ()
    """The inputs that a repeated run redraws, with what the editor would do to each."""
    names: Mapping[NodeId, str] = field(default_factory=dict)
    """The names by which an editor's file texts may call nodes, where that is not the node type."""

    @property
    def api(self) -> dict[str, dict[str, Any]]:
        """The graph in the API format, to be kept in pictures as ``prompt``."""
        return write_api(self.graph)


def read_workflow(source: str | Path | bytes, registry: Registry) -> Workflow:
    """The workflow of a file, given by its path or as its bytes.

    Node types the registry does not have are no error here; ``validate`` names them. Raises ``UnreadableWorkflow``
    for a file that is not there, too large, damaged, or no workflow.
    """
    data = source if isinstance(source, bytes) else _read_file(Path(source))
    return read_data(_parse(data), registry)


def read_data(data: object, registry: Registry) -> Workflow:
    """The workflow in parsed JSON: either format, or a job as clients post it with the one or the other inside."""
    if not isinstance(data, dict):
        raise UnreadableWorkflow(f"this is JSON, but no workflow: expected {_EXPECTED}, found {kind(data)}")
    if looks_like_editor(data):
        return _from_editor(data, registry)
    if _looks_like_api(data):
        return _from_api(data, registry)
    for key in ("workflow", "prompt"):
        inner = data.get(key)
        if isinstance(inner, dict) and (looks_like_editor(inner) or _looks_like_api(inner)):
            return read_data(inner, registry)
    raise UnreadableWorkflow(
        f"this is JSON, but no workflow: expected {_EXPECTED}, found an object with the keys {listed(map(str, data))}"
    )


_EXPECTED: Final = (
    "nodes by id, each with class_type and inputs (API format), or an object with a list of nodes (editor format)"
)


def _from_api(data: Mapping[str, Any], registry: Registry) -> Workflow:
    graph = read_api(data)
    return Workflow(graph, "api", warnings=tuple(_leftovers(graph, registry)), seeds=seed_inputs(graph, registry))


def _leftovers(graph: Graph, registry: Registry) -> Iterator[str]:
    """A line for each input that goes without a word elsewhere: here a person reads what is said."""
    for node, call in graph.items():
        spec = registry.get(call.type)
        for name in call.inputs if spec else ():
            if spec and is_leftover(spec, call, name):
                yield f"node {clip(node)} ({clip(call.type)}), input {clip(name)}: the node has no such input; it is left out"


def _from_editor(data: dict[str, Any], registry: Registry) -> Workflow:
    result = read_editor(data, registry)
    return Workflow(result.graph, "editor", data, result.warnings, result.model_hints, result.seeds, result.names)


def _looks_like_api(data: Mapping[str, Any]) -> bool:
    return not data or any(isinstance(entry, Mapping) and "class_type" in entry for entry in data.values())


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _read_open(file, path)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableWorkflow(f"cannot read {clip(str(path), 200)}: {reason}") from None


def _read_open(file: BinaryIO, path: Path) -> bytes:
    head = file.read(9)
    header = safetensors_header.header_size(head)
    if header is not None:
        # a checkpoint of many gigabytes may carry a workflow; its tensors are of no interest
        return head + file.read(header - 1)
    rest = file.read(LARGEST + 1 - len(head))
    if len(head) + len(rest) > LARGEST:
        raise UnreadableWorkflow(f"{clip(path.name, 200)} is larger than {LARGEST // 2**20} MiB; no workflow is")
    return head + rest


def _parse(data: bytes) -> object:
    """The JSON of a file, or the JSON in the text entries of one that is no JSON."""
    if png.is_png(data):
        return _parse_entries(png.read_text(data), "PNG picture")
    if webp.is_webp(data):
        return _parse_entries(webp.read_text(data), "WEBP picture")
    if jpeg.is_jpeg(data):
        return _parse_entries(jpeg.read_text(data), "JPEG picture")
    if avif.is_avif(data):
        return _parse_entries(avif.read_text(data), "AVIF picture")
    if svg.is_svg(data):
        return _parse_entries(svg.read_text(data), "SVG picture")
    if safetensors_header.header_size(data) is not None:
        return _parse_entries(safetensors_header.read_metadata(data), "safetensors file")
    return _parse_json(data, "the file")


def _parse_entries(entries: Mapping[str, str], what: str) -> object:
    for key in ("workflow", "prompt"):
        if key in entries:
            return _parse_json(entries[key], f"the {key} in the {what}")
    if "parameters" in entries:
        raise UnreadableWorkflow(
            f"the {what} carries A1111 parameters, which are no workflow; open it in an editor that lays them out and save that"
        )
    raise UnreadableWorkflow(
        f"the {what} carries no workflow: expected an entry workflow or prompt, found {listed(entries)}; "
        "use the original file, since most programs and sites strip what they do not know"
    )


def _parse_json(text: str | bytes, what: str) -> object:
    if not text.strip():
        raise UnreadableWorkflow(f"{what} is empty; expected a workflow as JSON")
    try:
        return json.loads(text)
    except RecursionError:
        raise UnreadableWorkflow(f"{what} is JSON nested too deeply; no workflow is") from None
    except json.JSONDecodeError as error:
        begin = error.doc[:20]
        raise UnreadableWorkflow(
            f"{what} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}; it begins with {clip(begin)!r}; "
            "expected a workflow as JSON, a PNG, WEBP, JPEG, AVIF or SVG picture or a safetensors file that carries one"
        ) from None
    except UnicodeDecodeError:
        begin = bytes(text[:8]).hex(" ") if isinstance(text, bytes) else clip(text, 20)
        raise UnreadableWorkflow(
            f"{what} is neither text nor a PNG, WEBP, JPEG, AVIF or safetensors file (it begins with the bytes {begin}); "
            "expected a workflow as JSON or a file that carries one"
        ) from None
    except ValueError as error:  # an integer of more digits than Python reads
        raise UnreadableWorkflow(f"{what} cannot be read: {clip(str(error), 200)}") from None
