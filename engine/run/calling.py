"""Calling a node's function: its arguments out of the values of its sources, what it returned understood, what it raised caught."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from engine.errors import Cancelled, DefinitionError
from engine.graph.graph import Link, NodeId
from engine.run import events
from engine.run.cache import Made
from engine.run.contents import Contents, content_digest
from engine.run.context import NodeContext
from engine.run.invoke import calls, collect, interpret
from engine.run.keys import Key
from engine.run.ledger import Called, CallResult, Ledger
from engine.run.node_context import ContextMaker
from engine.run.results import Blocked, Outputs
from engine.run.values import NodeValue, Slot
from engine.spec import NodeSpec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Turn:
    """One call that may take place."""

    index: int
    arguments: dict[str, Any]
    blocked: Blocked | None = None
    """What keeps it from taking place; it then has no arguments."""
    key: Key | None = None
    """To look its result up by; None where the node's own key says enough."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls the nodes of one run."""

    ledger: Ledger
    contexts: ContextMaker
    _started: set[NodeId] = field(default_factory=set)

    def call(self, node: NodeId, spec: NodeSpec) -> Called:
        called = Called()
        for turn in self._turns(node, spec):
            result = self._known(node, spec, turn, called)
            if result is None:
                context = self._begin(node, spec, turn, called)
                began = perf_counter()
                with self._guarded(node), self._watched(turn):
                    returned = spec.fn(*context, **turn.arguments)
                result = self._made(node, spec, turn, returned, perf_counter() - began, called)
            called.results.append(result)
        return called

    async def call_async(self, node: NodeId, spec: NodeSpec) -> Called:
        """All calls at once, or as many as the node's declaration allows in this process."""
        called = Called()
        # on the loop if it can be: the other thread may be busy for long
        here = self._is_loaded(node) and not self._counts_content(node, spec, many=True)
        look = partial(self._looked_up, node, spec, called)
        turns = look() if here else await self.contexts.tools.io.run(look)
        called.results += await _together([self._turn_async(node, spec, *turn, called) for turn in turns])
        return called

    def _looked_up(self, node: NodeId, spec: NodeSpec, called: Called) -> list[tuple[_Turn, CallResult | None]]:
        """The calls ahead, with what is known of their results."""
        return [(turn, self._known(node, spec, turn, called)) for turn in self._turns(node, spec)]

    async def _turn_async(
        self, node: NodeId, spec: NodeSpec, turn: _Turn, known: CallResult | None, called: Called
    ) -> CallResult:
        if known is not None:
            return known
        async with self.contexts.tools.gates.of(spec):
            context = self._begin(node, spec, turn, called)
            began = perf_counter()
            with self._guarded(node), self._watched(turn):
                returned = await spec.fn(*context, **turn.arguments)
        return self._made(node, spec, turn, returned, perf_counter() - began, called)

    # before the calls

    def _turns(self, node: NodeId, spec: NodeSpec) -> list[_Turn]:
        """The calls ahead. Where their arguments count by content they are looked at here, which may take its time."""
        ahead = list(calls(spec, self._slots(node)))
        if not self._counts_content(node, spec, many=len(ahead) > 1):
            return [_turn(index, arguments, None) for index, arguments in enumerate(ahead)]
        book = self.ledger.book
        contents = Contents(self.contexts.tools.registry.codecs)
        missing = self._missing(node)

        def key(arguments: dict[str, Any]) -> Key | None:
            return contents.key(spec, arguments, book.numerics, book.fingerprints.get(node), missing)

        return [_turn(index, arguments, key) for index, arguments in enumerate(ahead)]

    def _counts_content(self, node: NodeId, spec: NodeSpec, *, many: bool) -> bool:
        """Whether results are kept call by call: one of many may be known, or what cannot be told by the node's key alone."""
        if not (self.contexts.run.use_cache and spec.pure and spec.lasting and not spec.by_id):
            return False
        return many or self.ledger.book.is_tainted(node)

    def _slots(self, node: NodeId) -> dict[str, Slot]:
        """What ``node`` is called with. Values that are on disk are decoded here; lazy inputs not asked for are None."""
        given, raw = self.ledger.given(node), self.ledger.book.spec(node).raw_links

        def slot(name: str, value: Any) -> Slot:
            if type(value) is not Link:
                return (value,)
            if name in raw:
                return (self.ledger.live[node].inputs[name],)
            return self.ledger.slot(value) if name in given else (None,)

        return {name: slot(name, value) for name, value in self.ledger.book.calls[node].inputs.items()}

    def _missing(self, node: NodeId) -> frozenset[str]:
        """Lazy inputs that are linked and were not asked for so far."""
        return frozenset(self.ledger.book.calls[node].links.keys() - self.ledger.given(node))

    def _is_loaded(self, node: NodeId) -> bool:
        return all(
            isinstance(self.ledger.handles.get(link.node), NodeValue | None)
            for link in self.ledger.book.calls[node].links.values()
        )

    # around one call

    def _known(self, node: NodeId, spec: NodeSpec, turn: _Turn, called: Called) -> CallResult | None:
        """What the call comes to without taking place, if it need not."""
        if turn.blocked is not None:
            return self._told(node, turn.blocked)
        hit = self.contexts.tools.cache.lookup(turn.key) if turn.key is not None else None
        if hit is None or turn.key is None:
            return None
        if spec.takes_context:
            self.contexts.call_known(turn.key)
        called.count += 1
        called.hits.append(hit)
        return hit.value.load()

    def _begin(self, node: NodeId, spec: NodeSpec, turn: _Turn, called: Called) -> tuple[NodeContext, ...]:
        """About to call the node's function: returns what it is called with in front of its inputs."""
        self.ledger.book.check()
        called.count += 1
        if node not in self._started:
            self._started.add(node)
            self.contexts.post(events.NodeStarted(self.contexts.run.job, node, self.ledger.live.shown(node), spec.type))
        if not spec.takes_context:
            return ()
        kept = (self.ledger.book.cache_key(node), turn.index) if turn.key is None else (turn.key, 0)
        return (self.contexts.make(node, spec.type, turn.index, self._missing(node), kept),)

    def _made(
        self, node: NodeId, spec: NodeSpec, turn: _Turn, returned: Any, seconds: float, called: Called
    ) -> CallResult:
        called.seconds += seconds
        with self._guarded(node):
            result = interpret(spec, returned, self.contexts.tools.registry.checks)
        if turn.key is not None and isinstance(result, Outputs):
            value = collect(spec, [result])
            self.contexts.tools.cache.keep(turn.key, Made(value, seconds, lasting=spec.lasting))
        return result

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
            raise self.ledger.failure(node, error) from error

    @contextlib.contextmanager
    def _watched(self, turn: _Turn) -> Iterator[None]:
        """Where the run asks for it: see that the node leaves what it is given as it is, since others are given the same."""
        if not self.contexts.run.watch_inputs:
            yield
            return
        before = self._digests(turn.arguments)
        yield
        after = self._digests(turn.arguments)
        for name, digest in before.items():
            if after[name] != digest:
                raise DefinitionError(
                    f"changed its input {name}, which other nodes are given too; it must copy before it writes"
                )

    def _digests(self, arguments: Mapping[str, Any]) -> dict[str, bytes | None]:
        codecs = self.contexts.tools.registry.codecs
        return {name: content_digest(value, codecs) for name, value in arguments.items()}


def _turn(index: int, arguments: dict[str, Any] | Blocked, key: Callable[[dict[str, Any]], Key | None] | None) -> _Turn:
    if isinstance(arguments, Blocked):
        return _Turn(index, {}, blocked=arguments)
    return _Turn(index, arguments, key=key(arguments) if key else None)


async def _together(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What they return, in order. The first that raises ends the others, and its error is the one that counts."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [task.result() for task in tasks]


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
