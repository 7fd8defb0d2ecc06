"""Calling a node's function: its arguments out of the values of its sources, what it returned understood, what it raised caught."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

from engine.errors import Cancelled
from engine.graph.graph import Link, NodeId
from engine.run import events
from engine.run.context import NodeContext
from engine.run.failures import node_failure
from engine.run.invoke import calls, interpret
from engine.run.ledger import Called, Ledger
from engine.run.node_context import ContextMaker
from engine.run.results import Blocked
from engine.run.values import NodeValue, Slot
from engine.spec import NodeSpec


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls the nodes of one run."""

    ledger: Ledger
    contexts: ContextMaker
    _started: set[NodeId] = field(default_factory=set)

    def call(self, node: NodeId, spec: NodeSpec) -> Called:
        called = Called()
        for index, arguments in enumerate(calls(spec, self._slots(node))):
            if isinstance(arguments, Blocked):
                called.results.append(self._told(node, arguments))
                continue
            context = self._begin(node, spec, index, called)
            began = perf_counter()
            with self._guarded(node):
                called.results.append(interpret(spec, spec.fn(*context, **arguments)))
            called.seconds += perf_counter() - began
        return called

    async def call_async(self, node: NodeId, spec: NodeSpec) -> Called:
        called = Called()
        # on the loop if it can be: the other thread may be busy for long
        slots = self._slots(node) if self._is_loaded(node) else await self.contexts.tools.io.run(self._slots, node)
        for index, arguments in enumerate(calls(spec, slots)):
            if isinstance(arguments, Blocked):
                called.results.append(self._told(node, arguments))
                continue
            context = self._begin(node, spec, index, called)
            began = perf_counter()
            with self._guarded(node):
                called.results.append(interpret(spec, await spec.fn(*context, **arguments)))
            called.seconds += perf_counter() - began
        return called

    def _slots(self, node: NodeId) -> dict[str, Slot]:
        """What ``node`` is called with. Values that are on disk are decoded here; lazy inputs not asked for are None."""
        given = self.ledger.given(node)
        return {
            name: (value,) if type(value) is not Link else self.ledger.slot(value) if name in given else (None,)
            for name, value in self.ledger.book.calls[node].inputs.items()
        }

    def _is_loaded(self, node: NodeId) -> bool:
        return all(
            isinstance(self.ledger.handles.get(link.node), NodeValue | None)
            for link in self.ledger.book.calls[node].links.values()
        )

    def _begin(self, node: NodeId, spec: NodeSpec, index: int, called: Called) -> tuple[NodeContext, ...]:
        """About to call the node's function: returns what it is called with in front of its inputs."""
        self.ledger.book.check()
        called.count += 1
        if node not in self._started:
            self._started.add(node)
            self.contexts.post(events.NodeStarted(self.contexts.run.job, node, self.ledger.live.shown(node), spec.type))
        return (
            (self.contexts.make(node, spec.type, self.ledger.book.cache_key(node), index),)
            if spec.takes_context
            else ()
        )

    def _told(self, node: NodeId, blocked: Blocked) -> Blocked:
        """Say once why ``node`` does not run; what depends on it stays silent."""
        if blocked.reason:
            shown, type_ = self.ledger.live.shown(node), self.ledger.book.calls[node].type
            self.contexts.post(events.NodeBlocked(self.contexts.run.job, node, shown, type_, blocked.reason))
        return Blocked()

    @contextlib.contextmanager
    def _guarded(self, node: NodeId) -> Iterator[None]:
        """Nothing a node's function raises gets out but as its failure, nor does a call of ``sys.exit`` in it."""
        try:
            yield
        except (Cancelled, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise node_failure(node, self.ledger.book.calls[node].type, error) from error
