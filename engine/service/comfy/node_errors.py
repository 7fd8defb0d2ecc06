"""Problems of a graph as ComfyUI words them: the items of ``node_errors[node]["errors"]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from engine.errors import MezzotintError
from engine.fileref import Files
from engine.files import FILE_KINDS
from engine.graph.checks import Checker
from engine.graph.graph import BadLink, Call, Graph, Link, NodeId
from engine.graph.object_info import object_info
from engine.graph.problems import Problem
from engine.graph.text import clip, shown
from engine.registry import Registry
from engine.service.comfy.failures import split_reason
from engine.spec import InputSpec, NodeSpec
from engine.types import ANY, BOOLEAN, FLOAT, INT, STRING

Reason = dict[str, Any]
"""``type``, ``message``, ``details``, ``extra_info``."""

_MOST_OPTIONS: Final = 20
"""Options that a message lists; where there are more it gives their number."""
_CONVERTERS: Final[Mapping[str, Callable[[Any], Any]]] = {INT: int, FLOAT: float, STRING: str, BOOLEAN: bool}
_CHECK_FAILED: Final = "the node's own check failed with "


@dataclass
class Reasons:
    """Words the problems of one graph."""

    graph: Graph
    """The nodes that the outputs need."""
    registry: Registry
    files: Files | None
    outputs: frozenset[NodeId]
    _infos: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, problem: Problem) -> list[Reason]:
        """What ComfyUI would say; a node's own check speaks of every input that it judges."""
        node = NodeId(str(problem.node))
        call = self.graph[node]
        spec = self.registry[call.type]
        known = spec.input(problem.input) if problem.input is not None else None
        match problem.type:
            case "custom_validation_failed":
                return self._judged(node, call, spec, problem)
            case "exception_during_validation":
                told = self._without_place(node, problem).removeprefix(_CHECK_FAILED)
                type_, text = split_reason(told)
                return [self._exception(node, type_ or "mezzotint.Error", text, problem.message)]
            case "bad_link":
                return [self._bad_link(node, call, problem)]
            case "required_input_missing" if problem.input is not None:
                extra = {"input_name": problem.input}
                return [_reason(problem.type, "Required input is missing", problem.input, extra, problem.message)]
        if known is None:  # a link to an input that is not declared: only its shape can be wrong
            known = InputSpec(problem.input or "", ANY, required=False)
        return [self._of_input(call, known, problem)]

    def without_inputs(self, node: NodeId) -> Reason:
        """Of a node that has no ``inputs`` object."""
        hint = f"node {clip(node)} ({clip(self.graph[node].type)}): expected an object of inputs by name, found none"
        return self._exception(node, "KeyError", "'inputs'", hint)

    # one input

    def _of_input(self, call: Call, spec: InputSpec, problem: Problem) -> Reason:
        value = call.inputs.get(spec.name)
        if isinstance(value, Link):
            return self._mismatch(call, spec, value, problem)
        extra = {
            "input_name": spec.name,
            "input_config": self._config(call.type, spec),
            "received_value": list(value.received) if isinstance(value, BadLink) else value,
        }
        match problem.type:
            case "bad_linked_input":
                message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
                return _reason(problem.type, message, spec.name, extra, problem.message)
            case "value_smaller_than_min":
                message = f"Value {_text(value)} smaller than min of {self._bound(call.type, spec, 'min')}"
                return _reason(problem.type, message, spec.name, extra, problem.message)
            case "value_bigger_than_max":
                message = f"Value {_text(value)} bigger than max of {self._bound(call.type, spec, 'max')}"
                return _reason(problem.type, message, spec.name, extra, problem.message)
            case "missing_file" if spec.files is not None and spec.files.folder in FILE_KINDS:
                what = "image file" if spec.files.upload else "folder" if spec.files.tree else "file"
                return _custom(spec.name, f"Invalid {what}: {_text(value)}", problem.message)
        if problem.type in ("value_not_in_list", "missing_file") or spec.files is not None:
            return self._not_in_list(spec, value, extra, problem)
        return _not_converted(spec, value, extra, problem)

    def _mismatch(self, call: Call, spec: InputSpec, link: Link, problem: Problem) -> Reason:
        extra = {
            "input_name": spec.name,
            "input_config": self._config(call.type, spec),
            "received_type": problem.found,
            "linked_node": [str(link.node), link.output],
        }
        details = f"{spec.name}, received_type({problem.found}) mismatch input_type({problem.expected})"
        return _reason(
            "return_type_mismatch", "Return type mismatch between linked nodes", details, extra, problem.message
        )

    def _not_in_list(self, spec: InputSpec, value: Any, extra: dict[str, Any], problem: Problem) -> Reason:
        options = list(self._options(spec))
        if len(options) > _MOST_OPTIONS:
            extra["input_config"] = None
            among = f"(list of length {len(options)})"
        else:
            among = str(options)
        details = f"{spec.name}: '{_text(value)}' not in {among}"
        return _reason("value_not_in_list", "Value not in list", details, extra, problem.message)

    def _options(self, spec: InputSpec) -> tuple[str, ...]:
        if spec.files is not None:
            return tuple(self.files.choices(spec.files)) if self.files is not None else ()
        return spec.options or ()

    def _bound(self, type_: str, spec: InputSpec, name: str) -> Any:
        """As editors are told of it."""
        return self._config(type_, spec)[1].get(name)

    def _config(self, type_: str, spec: InputSpec) -> list[Any]:
        """``[type, options]`` as ``object_info`` gives it."""
        if type_ not in self._infos:
            self._infos[type_] = self._described(self.registry[type_])
        groups = self._infos[type_]
        for group in ("required", "optional"):
            entry = (groups.get(group) or {}).get(spec.name)
            if isinstance(entry, list | tuple) and entry:
                return [entry[0], entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}]
        return [spec.type, {}]

    def _described(self, spec: NodeSpec) -> Mapping[str, Any]:
        try:
            groups = object_info(spec, self.files).get("input")
        except MezzotintError:  # a class that cannot say what it takes; its inputs are known all the same
            groups = object_info(replace(spec, describe=None), self.files).get("input")
        return groups if isinstance(groups, Mapping) else {}

    # whole nodes

    def _judged(self, node: NodeId, call: Call, spec: NodeSpec, problem: Problem) -> list[Reason]:
        text = self._without_place(node, problem)
        names = [known.name for known in spec.inputs if known.name in spec.judges and known.name in call.inputs]
        if not names:
            names = [known.name for known in spec.inputs if known.name in call.literals][:1]
        return [_custom(name, text, problem.message) for name in names or [""]]

    def _bad_link(self, node: NodeId, call: Call, problem: Problem) -> Reason:
        link = call.inputs[problem.input or ""]
        if isinstance(link, Link) and link.node not in self.graph:
            return self._exception(node, "KeyError", repr(str(link.node)), problem.message)
        return self._exception(node, "IndexError", "tuple index out of range", problem.message)

    def _exception(self, node: NodeId, type_: str, text: str, hint: str) -> Reason:
        """Of an output node it is its own; of others it is told with the link over which they were come upon."""
        consumer = self._first_consumer.get(node)
        if node in self.outputs or consumer is None:
            extra: dict[str, Any] = {"exception_type": type_, "traceback": []}
            return _reason("exception_during_validation", "Exception when validating node", text, extra, hint)
        by, name, link = consumer
        type_of_consumer = self.graph[by].type
        spec = self.registry[type_of_consumer].input(name) or InputSpec(name, ANY, required=False)
        extra = {
            "input_name": name,
            "input_config": self._config(type_of_consumer, spec),
            "exception_message": text,
            "exception_type": type_,
            "traceback": [],
            "linked_node": [str(link.node), link.output],
        }
        return _reason("exception_during_inner_validation", "Exception when validating inner node", text, extra, hint)

    @cached_property
    def _first_consumer(self) -> dict[NodeId, tuple[NodeId, str, Link]]:
        found: dict[NodeId, tuple[NodeId, str, Link]] = {}
        for node, call in self.graph.items():
            for name, link in call.links.items():
                found.setdefault(link.node, (node, name, link))
        return found

    def _without_place(self, node: NodeId, problem: Problem) -> str:
        return problem.message.removeprefix(f"{Checker(self.graph, self.registry).where(node)}: ")


def _not_converted(spec: InputSpec, value: Any, extra: dict[str, Any], problem: Problem) -> Reason:
    exception = _exception_of(spec, value) or f"expected {problem.expected}, found {problem.found}"
    message = f"Failed to convert an input value to a {spec.type} value"
    details = f"{spec.name}, {_text(value)}, {exception}"
    return _reason("invalid_input_type", message, details, {**extra, "exception_message": exception}, problem.message)


def _exception_of(spec: InputSpec, value: Any) -> str | None:
    """What the conversion says of a value; None where it has no objection and we have."""
    convert = _CONVERTERS.get(spec.type)
    try:
        if convert is not None:
            convert(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return clip(str(error), 400)
    return None


def _custom(name: str, text: str, hint: str) -> Reason:
    details = f"{name} - {text}" if name else text
    extra = {"input_name": name}
    return _reason("custom_validation_failed", "Custom validation failed for node", details, extra, hint)


def _reason(type_: str, message: str, details: str, extra: Mapping[str, Any], hint: str) -> Reason:
    return {"type": type_, "message": message, "details": details, "extra_info": {**extra, "hint": hint}}


def _text(value: Any) -> str:
    """A value as Python writes it, within reason."""
    try:
        return clip(str(value), 400)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes
        return shown(value)
