"""Random graphs for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from engine.graph.graph import Call, Graph, Link, NodeId


@st.composite
def dags(draw: st.DrawFn, most: int = 12, failing: bool = False) -> Graph:
    """Graphs of ``Add`` nodes (and ``Fail`` ones, if ``failing``), each linked to earlier ones or set to small numbers."""
    count = draw(st.integers(1, most))
    calls: dict[str, Call] = {}
    for index in range(count):

        def value(index: int = index) -> Any:
            if index and draw(st.booleans()):
                return Link(NodeId(f"n{draw(st.integers(0, index - 1))}"), 0)
            return draw(st.integers(0, 3))

        if failing and draw(st.integers(0, 5)) == 0:
            calls[f"n{index}"] = Call("Fail", {"value": value()})
        else:
            calls[f"n{index}"] = Call("Add", {"a": value(), "b": value()})
    return Graph(calls)


def renamed(graph: Graph, names: dict[NodeId, NodeId]) -> Graph:
    """The same graph under other names, its nodes in the order of the new names."""

    def moved(value: Any) -> Any:
        return Link(names[value.node], value.output) if isinstance(value, Link) else value

    calls = {
        names[node]: Call(call.type, {name: moved(value) for name, value in reversed(list(call.inputs.items()))})
        for node, call in graph.items()
    }
    return Graph(dict(sorted(calls.items())))


def shuffled(graph: Graph, seed: int) -> tuple[Graph, dict[NodeId, NodeId]]:
    """The graph under permuted names, and which name each node has now."""
    import random

    names = list(graph)
    others = [NodeId(f"m{index}") for index in range(len(names))]
    random.Random(seed).shuffle(others)
    mapping = dict(zip(names, others, strict=True))
    return renamed(graph, mapping), mapping


__all__ = ["dags", "renamed", "shuffled"]
