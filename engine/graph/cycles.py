"""Finds nodes that need themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from engine.graph.graph import Call, NodeId

MOST: Final = 20
"""Cycles that are looked for; more appear once these are gone."""


def cycles(calls: Mapping[NodeId, Call]) -> list[tuple[NodeId, ...]]:
    """Cycles with no node in common, each in the direction the data would flow and begun at its node that comes first
    in the file.

    A depth-first search (Tarjan 1972) that keeps its own stack: a chain may be as long as memory allows.
    """
    order = {node: index for index, node in enumerate(calls)}
    found: list[tuple[NodeId, ...]] = []
    taken: set[NodeId] = set()
    for back_path in _back_paths(calls):
        if taken.isdisjoint(back_path):
            taken.update(back_path)
            first = min(range(len(back_path)), key=lambda index: order[back_path[index]])
            found.append(tuple(back_path[first:] + back_path[:first]))
    return sorted(found, key=lambda cycle: order[cycle[0]])


def _back_paths(calls: Mapping[NodeId, Call]) -> Iterator[list[NodeId]]:
    """Up to ``MOST`` paths that come back to where they began, from source to consumer."""
    left = MOST
    done: set[NodeId] = set()
    for root in calls:
        if root in done:
            continue
        trail = {root: 0}
        waiting = [_sources(calls, root)]
        while waiting:
            source = next(waiting[-1], None)
            if source is None:
                waiting.pop()
                done.add(trail.popitem()[0])
            elif source in trail:
                yield list(trail)[trail[source] :][::-1]
                left -= 1
                if left == 0:
                    return
            elif source not in done:
                trail[source] = len(trail)
                waiting.append(_sources(calls, source))


def _sources(calls: Mapping[NodeId, Call], node: NodeId) -> Iterator[NodeId]:
    return iter(dict.fromkeys(link.node for link in calls[node].links.values() if link.node in calls))
