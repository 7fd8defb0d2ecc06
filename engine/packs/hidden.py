"""The hidden inputs that a class may ask for: who it is, and what it is part of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from engine.graph.api_format import write_api
from engine.graph.graph import Graph, NodeId
from engine.run.context import NodeContext
from engine.run.live_graph import LiveGraph

KINDS: Final = frozenset(
    {"UNIQUE_ID", "PROMPT", "EXTRA_PNGINFO", "DYNPROMPT", "AUTH_TOKEN_COMFY_ORG", "API_KEY_COMFY_ORG"}
)


def hidden_inputs(declared: Mapping[str, Any]) -> dict[str, str]:
    """Name -> what it asks for, one of ``KINDS``."""
    hidden = {name: _kind(kind) for name, kind in (declared.get("hidden") or {}).items()}
    return {name: kind for name, kind in hidden.items() if kind in KINDS}


def unseen_inputs(declared: Mapping[str, Any]) -> list[str]:
    """Hidden inputs that are none of ``KINDS``: an editor does not show them, an expansion may set them."""
    return [name for name, kind in (declared.get("hidden") or {}).items() if _kind(kind) not in KINDS]


def _kind(declared: Any) -> str:
    first = declared[0] if isinstance(declared, list | tuple) and declared else declared
    return str(getattr(first, "value", first)).upper()


def hidden_value(kind: str, ctx: NodeContext) -> Any:
    """What a node is given for a hidden input; None for what there is none of here (accounts of a service)."""
    if kind == "UNIQUE_ID":
        return str(ctx.node)
    if kind == "PROMPT":
        return DynamicPrompt(ctx.graph, ctx.metadata.get("prompt")).get_original_prompt()
    if kind == "EXTRA_PNGINFO":
        extra = {name: value for name, value in ctx.metadata.items() if name != "prompt"}
        return extra or None
    if kind == "DYNPROMPT":
        return DynamicPrompt(ctx.graph, ctx.metadata.get("prompt"))
    return None


class DynamicPrompt:
    """The workflow as it stands during its run, in API format, under the names that packs use."""

    def __init__(self, graph: LiveGraph, prompt: Any) -> None:
        self._graph = graph
        self._prompt = prompt

    def get_node(self, node_id: str) -> dict[str, Any]:
        """Raises ``KeyError`` for a node that is not there."""
        found: dict[str, Any] = write_api(Graph({NodeId(node_id): self._graph[node_id]}))[node_id]
        return found

    def has_node(self, node_id: str) -> bool:
        return node_id in self._graph

    def get_parent_node_id(self, node_id: str) -> str | None:
        return self._graph.parent(NodeId(node_id))

    def get_real_node_id(self, node_id: str) -> str:
        """The node of the workflow that ``node_id`` was made for."""
        node = NodeId(node_id)
        while (parent := self._graph.parent(node)) is not None:
            node = parent
        return node

    def get_display_node_id(self, node_id: str) -> str:
        return self._graph.shown(NodeId(node_id))

    def all_node_ids(self) -> set[str]:
        return set(self._graph)

    def get_original_prompt(self) -> Any:
        return write_api(self._graph.workflow) if self._prompt is None else self._prompt
