"""``comfy_execution.graph_utils``: subgraphs that a node becomes, in the API format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.compat.host import call_state
from engine.compat.missing import module_getattr


class ExecutionBlocker:
    """As an output: what depends on it does not run; with a message the user is told."""

    def __init__(self, message: str | None) -> None:
        self.message = message


def is_link(obj: object) -> bool:
    """Whether a value is ``[node id, output]``."""
    return isinstance(obj, list) and len(obj) == 2 and isinstance(obj[0], str) and type(obj[1]) in (int, float)


class Node:
    """A node of a subgraph under construction."""

    def __init__(self, id: str, class_type: str, inputs: dict[str, Any]) -> None:
        self.id = id
        self.class_type = class_type
        self.inputs = inputs
        self.override_display_id: str | None = None

    def out(self, index: int) -> list[Any]:
        """A link to one of its outputs."""
        return [self.id, index]

    def set_input(self, key: str, value: Any) -> None:
        """None takes the input away."""
        if value is None:
            self.inputs.pop(key, None)
        else:
            self.inputs[key] = value

    def get_input(self, key: str) -> Any:
        return self.inputs.get(key)

    def set_override_display_id(self, override_display_id: str | None) -> None:
        """Show this node as another one of the workflow than that which became it."""
        self.override_display_id = override_display_id

    def serialize(self) -> dict[str, Any]:
        plain = {"class_type": self.class_type, "inputs": self.inputs}
        return plain if self.override_display_id is None else plain | {"override_display_id": self.override_display_id}


_OUTSIDE: Final = ["", 0, 0]
"""Where the prefixes of builders stand that are made while no node is called: root, call, count."""


class GraphBuilder:
    """A subgraph under construction; its ids are the same each time a node is called with the same inputs.

    The ids of the ``n``-th builder of a call begin ``<node>.<call>.<n>.``, all counted from 0.
    """

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = self.alloc_prefix() if prefix is None else prefix
        self.nodes: dict[str, Node] = {}
        self.id_gen = 1

    @classmethod
    def set_default_prefix(cls, prefix_root: str, call_index: int, graph_index: int = 0) -> None:
        """What ids begin with. During the call of a node that follows from the call, save the count."""
        state = call_state()
        if state is None:
            _OUTSIDE[:] = [prefix_root, call_index, graph_index]
        else:
            state.builders = graph_index

    @classmethod
    def alloc_prefix(
        cls, root: str | None = None, call_index: int | None = None, graph_index: int | None = None
    ) -> str:
        """A prefix for one more subgraph; what is not given follows from the call under way."""
        state = call_state()
        if state is None:
            known = tuple(_OUTSIDE)
            _OUTSIDE[2] += 1  # type: ignore[operator]
        else:
            known = (state.context.node, state.context.index, state.builders)
            state.builders += 1
        given = (root, call_index, graph_index)
        return "".join(f"{usual if asked is None else asked}." for asked, usual in zip(given, known, strict=True))

    def node(self, class_type: str, id: str | None = None, **kwargs: Any) -> Node:
        """Add a node, or get the one that already has this id."""
        if id is None:
            id, self.id_gen = str(self.id_gen), self.id_gen + 1
        return self.nodes.setdefault(self.prefix + id, Node(self.prefix + id, class_type, kwargs))

    def lookup_node(self, id: str) -> Node | None:
        """The node that was added as ``id``."""
        return self.nodes.get(self.prefix + id)

    def finalize(self) -> dict[str, Any]:
        """The subgraph, for ``expand``."""
        return {id: node.serialize() for id, node in self.nodes.items()}

    def replace_node_output(self, node_id: str, index: int, new_value: Any) -> None:
        """Put ``new_value`` where the graph links to an output of a node (by its whole id); None takes those inputs away."""
        for node in self.nodes.values():
            for key, value in list(node.inputs.items()):
                if is_link(value) and value[0] == node_id and value[1] == index:
                    node.set_input(key, new_value)

    def remove_node(self, id: str) -> None:
        """Take a node away, by its whole id."""
        del self.nodes[id]


def add_graph_prefix(
    graph: Mapping[str, Mapping[str, Any]], outputs: Sequence[Any], prefix: str
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The graph, and its outputs, with ``prefix`` before every id."""

    def moved(value: Any) -> Any:
        return [prefix + value[0], value[1]] if is_link(value) else value

    nodes = {
        prefix + id: {**node, "inputs": {key: moved(value) for key, value in node.get("inputs", {}).items()}}
        for id, node in graph.items()
    }
    return nodes, tuple(map(moved, outputs))


__getattr__ = module_getattr(__name__)
