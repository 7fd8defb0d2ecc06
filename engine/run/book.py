"""The calls of one run, ready to run: bound, keyed, and each computation once however often the workflow asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.errors import NodeFailed
from engine.fileref import Files
from engine.graph.graph import Call, Link, NodeId
from engine.run.binding import Bound, bind
from engine.run.keys import Deriver, Key, Keyed
from engine.spec import NodeSpec


@dataclass(slots=True)
class Book:
    """What is known about the nodes of a run. It grows when a node expands.

    Nodes with equal keys are twins: the first of them, in the order of the graph, stands for all, and links to the others go to it.
    """

    specs: Mapping[str, NodeSpec]
    files: Files
    numerics: str
    job: str
    check: Callable[[], None]
    """Raises to stop; called between nodes."""
    calls: dict[NodeId, Call] = field(default_factory=dict)
    fingerprints: dict[NodeId, Any] = field(default_factory=dict)
    failures: dict[NodeId, NodeFailed] = field(default_factory=dict)
    """Nodes that cannot be called, and why."""
    twins: dict[NodeId, list[NodeId]] = field(default_factory=dict)
    """For a node that stands for others, those others."""
    names: set[NodeId] = field(default_factory=set)
    """Every node there is, twins and unneeded ones too."""
    _standing: dict[NodeId, NodeId] = field(default_factory=dict)
    _by_key: dict[Key, NodeId] = field(default_factory=dict)
    _deriver: Deriver = field(init=False)

    def __post_init__(self) -> None:
        self._deriver = Deriver(self.specs, self.numerics, self.job)

    @property
    def keyed(self) -> Keyed:
        """The keys of all of them."""
        return self._deriver.keyed

    def admit(self, calls: Mapping[NodeId, Call]) -> dict[NodeId, Call]:
        """Take in more calls, which may link to those taken in before. Returns the calls to run, without the twins."""
        return self.enter(self.bind(calls))

    def bind(self, calls: Mapping[NodeId, Call]) -> Bound:
        """Make ``calls`` ready to be entered: what reads files and asks nodes, and so may take its time."""
        return bind(calls, self.specs, self.files, around=self.calls, check=self.check)

    def enter(self, bound: Bound) -> dict[NodeId, Call]:
        """Take in bound calls. Quick; those that were entered in the meantime are left as they are."""
        again = self.names & bound.calls.keys()
        bound = bound.without(again) if again else bound
        self.names |= bound.calls.keys()
        self._deriver.derive(bound.calls, bound.fingerprints)
        self.fingerprints |= bound.fingerprints
        self.failures |= bound.failures
        admitted = self._without_twins(bound.calls)
        self.calls |= admitted
        return admitted

    def standing(self, node: NodeId) -> NodeId:
        """The node that stands for ``node``: itself, or its twin."""
        return self._standing.get(node, node)

    def spec(self, node: NodeId) -> NodeSpec:
        return self.specs[self.calls[node].type]

    def cache_key(self, node: NodeId) -> Key | None:
        """The key of ``node`` if any other run could have the same one."""
        return None if node in self.keyed.salted else self.keyed.keys.get(node)

    def is_tainted(self, node: NodeId) -> bool:
        """Whether the node's key says less than its inputs: they may be the same again under another key, in a later process."""
        return node in self.keyed.salted or node in self.keyed.fleeting

    def _without_twins(self, calls: Mapping[NodeId, Call]) -> dict[NodeId, Call]:
        for node in calls:
            key = self.keyed.keys.get(node)
            first = self._by_key.setdefault(key, node) if key is not None else node
            if first != node:
                self._standing[node] = first
                self.twins.setdefault(first, []).append(node)
        if not self._standing:
            return dict(calls)
        return {node: self._relinked(call) for node, call in calls.items() if node not in self._standing}

    def _relinked(self, call: Call) -> Call:
        moved = {
            name: Link(self._standing[value.node], value.output)
            for name, value in call.inputs.items()
            if type(value) is Link and value.node in self._standing
        }
        return replace(call, inputs={**call.inputs, **moved}) if moved else call
