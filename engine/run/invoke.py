"""From slots to calls and from what the calls return to slots: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from engine.errors import DefinitionError
from engine.graph.graph import Link
from engine.run.results import Blocked, Demand, Expand, NodeResult, OutputFile, Outputs
from engine.run.values import NodeValue, Slot, broadcast, nbytes
from engine.spec import NodeSpec, Output
from engine.types import STRING, ValueCheck


def calls(spec: NodeSpec, slots: Mapping[str, Slot]) -> Iterator[dict[str, Any] | Blocked]:
    """The arguments of each call of a node; a ``Blocked`` where one of them is blocked and the call does not take place."""
    if spec.takes_lists:
        lists = {name: list(slot) for name, slot in slots.items()}
        yield _block_in([item for items in lists.values() for item in items]) or lists
        return
    for arguments in broadcast(slots):
        yield _block_in(arguments.values()) or arguments


def _block_in(values: Iterable[Any]) -> Blocked | None:
    return next((value for value in values if type(value) is Blocked), None)


def interpret(spec: NodeSpec, returned: Any, checks: Mapping[str, ValueCheck]) -> NodeResult:
    """What a node's function meant. Raises ``DefinitionError`` where that is not what its declaration says.

    ``checks`` say by socket type what is wrong with a value, if anything.
    """
    if returned is None and spec.outputs:
        raise returned_nothing(len(spec.outputs))
    if isinstance(returned, Blocked | Demand):
        return returned
    if isinstance(returned, Expand):
        if not spec.expands:
            raise DefinitionError("returned an Expand, but is not declared with expands=True; add that to its @node")
        _check_count(spec, returned.outputs)
        _check_values(spec, returned.outputs, checks)
        return returned
    outputs = returned if isinstance(returned, Outputs) else Outputs(_as_tuple(spec, returned))
    _check_count(spec, outputs.values)
    _check_values(spec, outputs.values, checks)
    _check_ui(outputs.ui)
    return outputs


def _check_values(spec: NodeSpec, values: Sequence[Any], checks: Mapping[str, ValueCheck]) -> None:
    for output, value in zip(spec.outputs, values, strict=True):
        if type(value) is Link:
            continue
        if output.is_list and not isinstance(value, list | tuple | Blocked):
            raise DefinitionError(
                f"output {output.label} is declared a list, but a {type(value).__name__} was returned; return a list"
            )
        if output.type in checks:
            _check_value(output, value, checks[output.type], lenient=spec.pack is not None)


def _check_value(output: Output, value: Any, check: ValueCheck, *, lenient: bool) -> None:
    """``lenient``: what packs return beside what they declare passes where ComfyUI lets it: None, and anything for a text."""
    for item in value if output.is_list and not isinstance(value, Blocked) else (value,):
        if isinstance(item, Blocked) or (lenient and (item is None or output.type == STRING)):
            continue
        wrong = check(item)
        if wrong:
            raise DefinitionError(f"output {output.label} is declared {output.type}; expected {wrong}")


_MOST_UI: Final = 32 << 20


def _check_ui(ui: Mapping[str, Sequence[Any]]) -> None:
    """What is shown goes to every listener and into the history; a picture belongs into a file."""
    if ui and nbytes(ui) > _MOST_UI:
        raise DefinitionError(
            f"returned {nbytes(ui) >> 20} MiB of ui data, at most {_MOST_UI >> 20} are taken; save a file and name it instead"
        )


def _as_tuple(spec: NodeSpec, returned: Any) -> tuple[Any, ...]:
    if isinstance(returned, tuple):
        return returned
    return () if returned is None and not spec.outputs else (returned,)


def returned_nothing(count: int) -> DefinitionError:
    """Of a function without a result whose node has ``count`` outputs; None as the value of an output is another thing."""
    return DefinitionError(
        f"returned nothing; expected {_counted(count, 'output')}: does its function end in a return?"
    )


def _check_count(spec: NodeSpec, values: tuple[Any, ...]) -> None:
    if len(values) != len(spec.outputs):
        raise wrong_count(len(values), len(spec.outputs))


def wrong_count(values: int, outputs: int) -> DefinitionError:
    return DefinitionError(
        f"returned {_counted(values, 'value')}, but declares {_counted(outputs, 'output')}; make the two agree"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _append(spec: NodeSpec, slots: Sequence[list[Any]], outputs: Outputs) -> None:
    for slot, output, value in zip(slots, spec.outputs, outputs.values, strict=True):
        if output.is_list and not isinstance(value, Blocked):
            slot.extend(value)
        else:
            slot.append(value)


def collect(spec: NodeSpec, results: Sequence[Outputs | Blocked | NodeValue]) -> NodeValue:
    """One value from all calls: slots, files and ui data in the order of the calls. A ``NodeValue`` is one call's, collected before."""
    slots: list[list[Any]] = [[] for _ in spec.outputs]
    files: list[OutputFile] = []
    ui: dict[str, list[Any]] = {}
    for result in results:
        if isinstance(result, Blocked):
            for slot in slots:
                slot.append(result)
            continue
        if isinstance(result, NodeValue):
            for slot, items in zip(slots, result.slots, strict=True):
                slot.extend(items)
        else:
            _append(spec, slots, result)
        files.extend(result.files)
        for name, shown in result.ui.items():
            ui.setdefault(name, []).extend(shown)
    return NodeValue(tuple(map(tuple, slots)), tuple(files), ui)
