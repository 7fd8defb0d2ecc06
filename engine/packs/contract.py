"""A node class as packs write them (INPUT_TYPES, RETURN_TYPES, FUNCTION, ...), read as a ``NodeSpec``.

Newer classes, with a schema, present the same attributes (``engine.compat.comfy_api``), so there is one adapter.
"""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from engine.compat import interrupts
from engine.compat.host import calling, host
from engine.compat.model_values import wrapped
from engine.errors import DefinitionError
from engine.graph.graph import Link
from engine.packs.gradients import no_gradients, without_gradients
from engine.packs.hidden import hidden_inputs, hidden_value
from engine.packs.hooks import check_of, fingerprint_of, judged, run, takes_keywords
from engine.packs.info import object_info_of
from engine.packs.inputs import input_types, read_inputs, takes_any_input
from engine.packs.outputs import declared_outputs, read_outputs
from engine.packs.returns import Outlet, understood
from engine.run.context import NodeContext
from engine.run.results import Demand, Expand, Outputs
from engine.spec import NodeSpec

PURE_ATTRIBUTE: Final = "MEZZOTINT_PURE"
"""A class that sets this to true says that its outputs follow from its inputs alone, and may be kept on disk."""

_MOST_INSTANCES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Pack:
    """Which pack a class comes from."""

    name: str
    digest: str
    """Of its source, in hex."""


class Instances:
    """One object for each node of a workflow and its class: what a node keeps in ``self`` is there at its next run."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, type], Any] = OrderedDict()
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget what the nodes keep."""
        with self._lock:
            self._kept.clear()

    def of(self, node: str, cls: type) -> Any:
        with self._lock:
            if (node, cls) not in self._kept:
                self._kept[node, cls] = cls()
            self._kept.move_to_end((node, cls))
            while len(self._kept) > _MOST_INSTANCES:
                self._kept.popitem(last=False)
            return self._kept[node, cls]


def read_class(type_: str, cls: Any, title: str | None, pack: Pack, instances: Instances) -> NodeSpec:
    """The node type that ``cls`` declares. Raises whatever reading it raises, ``DefinitionError`` for what contradicts itself."""
    declared = input_types(cls)
    outputs = read_outputs(cls)
    method = getattr(cls, str(getattr(cls, "FUNCTION", None)), None)
    if not callable(method):
        raise DefinitionError(f"FUNCTION is {getattr(cls, 'FUNCTION', None)!r}, which is no method of the class")
    hidden = hidden_inputs(declared)
    takes_lists = bool(getattr(cls, "INPUT_IS_LIST", False))
    lists = tuple(output.is_list for output in outputs)
    node = PackNode(cls, hidden, lists, len(declared_outputs(cls)), takes_lists, instances)
    is_async = inspect.iscoroutinefunction(method)
    judges, judges_types = judged(cls, declared)
    return NodeSpec(
        type=type_,
        fn=node.call_async if is_async else node.call,
        inputs=read_inputs(partial(input_types, cls)),
        outputs=outputs,
        title=title or type_,
        category=str(getattr(cls, "CATEGORY", "sd")),
        description=inspect.cleandoc(str(getattr(cls, "DESCRIPTION", None) or "")),
        version=pack.digest,
        output_node=bool(getattr(cls, "OUTPUT_NODE", False)),
        lasting=bool(getattr(cls, PURE_ATTRIBUTE, False)),
        by_id=not {"UNIQUE_ID", "DYNPROMPT"}.isdisjoint(hidden.values()) or bool(getattr(cls, "NOT_IDEMPOTENT", False)),
        takes_context=True,
        takes_lists=takes_lists,
        takes_extra=takes_any_input(declared) or takes_keywords(method),
        extra_links_only=not takes_any_input(declared),
        is_async=is_async,
        expands=True,  # any of them may
        deprecated=bool(getattr(cls, "DEPRECATED", False)),
        experimental=bool(getattr(cls, "EXPERIMENTAL", False)),
        fingerprint=fingerprint_of(cls),
        check=check_of(cls),
        hidden=hidden,
        judges=judges,
        judges_types=judges_types,
        pack=pack.name,
        describe=partial(object_info_of, type_, cls, title, pack.name),
    )


@dataclass(frozen=True, slots=True)
class PackNode:
    """Calls the methods of one node class."""

    cls: Any
    hidden: Mapping[str, str]
    lists: tuple[bool, ...]
    """Which outputs are lists."""
    declared: int
    """How many of them have to be there."""
    takes_lists: bool
    instances: Instances = field(repr=False)

    def call(self, ctx: NodeContext, **inputs: Any) -> Outputs | Expand | Demand:
        with self._at_work(ctx), no_gradients():
            instance, arguments = self._arguments(ctx, inputs)
            wanted = self._wanted(ctx, run(self._lazy_status(instance, arguments)))
            if wanted:
                return wanted
            return self._understood(ctx, getattr(instance, self.cls.FUNCTION)(**arguments))

    async def call_async(self, ctx: NodeContext, **inputs: Any) -> Outputs | Expand | Demand:
        with self._at_work(ctx):
            instance, arguments = self._arguments(ctx, inputs)
            status = self._lazy_status(instance, arguments)
            wanted = self._wanted(ctx, await without_gradients(status) if inspect.iscoroutine(status) else status)
            if wanted:
                return wanted
            return self._understood(ctx, await without_gradients(getattr(instance, self.cls.FUNCTION)(**arguments)))

    def _understood(self, ctx: NodeContext, returned: Any) -> Outputs | Expand:
        return understood(returned, Outlet(self.lists, ctx.node, ctx.graph, ctx.warn, self.declared))

    @contextmanager
    def _at_work(self, ctx: NodeContext) -> Iterator[None]:
        """What a pack finds around it: the call it is in. One that asked for its run to stop is stopped at the end of the call."""
        host().at_work(ctx, False)
        try:
            with calling(ctx):
                yield
                interrupts.check(ctx)
        finally:
            host().at_work(ctx, True)

    def _arguments(self, ctx: NodeContext, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        arguments = {name: wrapped(_plain_links(value)) for name, value in inputs.items()}
        for name, kind in self.hidden.items():
            value = hidden_value(kind, ctx)
            arguments[name] = [value] if self.takes_lists else value
        return self.instances.of(ctx.node, self.cls), arguments

    def _lazy_status(self, instance: Any, arguments: Mapping[str, Any]) -> Any:
        """What ``check_lazy_status`` says, perhaps to be awaited; nothing where there is none."""
        method = getattr(instance, "check_lazy_status", None)
        return None if method is None else method(**arguments)

    def _wanted(self, ctx: NodeContext, names: Any) -> Demand | None:
        """The inputs it asks for that it was not given yet. One that there is none of is passed on, to be told of."""
        asked = {str(name) for name in names or ()}
        known = ctx.graph[ctx.node].inputs.keys()
        wanted = {name for name in asked if name in ctx.missing or name not in known}
        return Demand(frozenset(wanted)) if wanted else None


def _plain_links(value: Any) -> Any:
    """Links as packs know them: a list of id and output."""
    if type(value) is Link:
        return [str(value.node), value.output]
    if type(value) is list and value and type(value[0]) is Link:
        return [_plain_links(item) for item in value]
    return value
