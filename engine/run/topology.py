"""Which call needs which, and an order in which each comes after what it needs. Iterative: a chain may be as long as it likes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engine.graph.graph import Call, Link, NodeId

Needs = Mapping[NodeId, Sequence[NodeId]]
"""For each node the nodes it takes an input from, in the order of its inputs."""


def needs(calls: Mapping[NodeId, Call]) -> dict[NodeId, list[NodeId]]:
    """Each node's sources among ``calls``; links to nodes that are not there are left out."""
    return {
        node: [value.node for value in call.inputs.values() if type(value) is Link and value.node in calls]
        for node, call in calls.items()
    }


def topological(needed: Needs) -> Iterator[NodeId]:
    """Every node after all it needs. Nodes of a cycle, and what needs them, do not come."""
    open_links = {node: len(sources) for node, sources in needed.items()}
    users: dict[NodeId, list[NodeId]] = {node: [] for node in needed}
    for node, sources in needed.items():
        for source in sources:
            users[source].append(node)
    ready = [node for node, count in open_links.items() if count == 0]
    for node in ready:  # grows while it is walked
        yield node
        for user in users[node]:
            open_links[user] -= 1
            if open_links[user] == 0:
                ready.append(user)
