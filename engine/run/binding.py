"""What a node will really be called with: defaults filled in, files found and known by content, fingerprints taken.

All that can be slow or go wrong before a node runs happens here, so that keys are a pure function of what comes out.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.errors import InputError, NodeFailed
from engine.fileref import Files
from engine.graph.graph import Call, Link, NodeId
from engine.run.failures import node_failure
from engine.spec import MISSING, FileChoice, NodeSpec


@dataclass(frozen=True, slots=True)
class Bound:
    """Calls that are ready to be keyed and run, and those that never will be."""

    calls: dict[NodeId, Call] = field(default_factory=dict)
    """Literals of file choices are ``FileRef``s; undeclared inputs are gone; defaults are there."""
    fingerprints: dict[NodeId, Any] = field(default_factory=dict)
    failures: dict[NodeId, NodeFailed] = field(default_factory=dict)
    """Nodes that cannot be called, by what is wrong. They are in ``calls`` without inputs."""

    def without(self, nodes: Collection[NodeId]) -> Bound:
        """The same but for some nodes."""
        return Bound(
            {node: call for node, call in self.calls.items() if node not in nodes},
            {node: value for node, value in self.fingerprints.items() if node not in nodes},
            {node: failure for node, failure in self.failures.items() if node not in nodes},
        )


@dataclass(frozen=True, slots=True)
class _Shape:
    """What binding asks of a node type, looked up once per type."""

    spec: NodeSpec
    names: frozenset[str]
    defaults: dict[str, object]
    files: dict[str, FileChoice]


def bind(
    calls: Mapping[NodeId, Call],
    specs: Mapping[str, NodeSpec],
    files: Files,
    *,
    around: dict[NodeId, Call] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Bound:
    """Bind every call. Links may go to calls of ``around`` too.

    ``check`` is called before each one and may raise to stop: reading a large file's digest takes its time.
    """
    everything: Mapping[NodeId, Call] = ChainMap({**calls}, around) if around else calls
    bound = Bound()
    shapes: dict[str, _Shape] = {}
    for node, call in calls.items():
        check()
        try:
            shape = shapes.get(call.type) or shapes.setdefault(call.type, _shape(node, call, specs))
            ready = _bind_call(node, call, shape, files)
            _check_links(node, ready, everything, specs)
            if shape.spec.fingerprint is not None or shape.spec.reads is not None:
                bound.fingerprints[node] = _fingerprint(node, shape.spec, ready, files)
            bound.calls[node] = ready
        except (Exception, SystemExit) as error:  # files, fingerprints and declarations of plugins may fail in any way
            bound.failures[node] = node_failure(node, call.type, error)
            bound.calls[node] = Call(call.type, title=call.title)
    return bound


def _shape(node: NodeId, call: Call, specs: Mapping[str, NodeSpec]) -> _Shape:
    spec = specs.get(call.type)
    if spec is None:
        raise NodeFailed(
            node, call.type, "no such node type is loaded; install the pack that brings it or replace the node"
        )
    return _Shape(
        spec=spec,
        names=frozenset(entry.name for entry in spec.inputs),
        # what a pack's function is not given it has a default of its own for
        defaults={entry.name: entry.default for entry in spec.inputs if entry.default is not MISSING and not spec.pack},
        files={entry.name: entry.files for entry in spec.inputs if entry.files is not None},
    )


def _bind_call(node: NodeId, call: Call, shape: _Shape, files: Files) -> Call:
    given = call.inputs
    extra = not (shape.spec.takes_extra and not shape.spec.extra_links_only) and not given.keys() <= shape.names
    missing = not shape.defaults.keys() <= given.keys()
    if not (extra or missing or shape.files):
        return call
    inputs = {**shape.defaults, **given}
    if extra:
        links = shape.spec.takes_extra
        inputs = {
            name: value for name, value in inputs.items() if name in shape.names or (links and type(value) is Link)
        }
    for name, choice in shape.files.items():
        if isinstance(inputs.get(name), str):
            inputs[name] = _file(node, call.type, name, choice, inputs[name], files)
    return replace(call, inputs=inputs)


def _file(node: NodeId, type_: str, name: str, choice: FileChoice, value: Any, files: Files) -> Any:
    try:
        return files.ref(choice, value)
    except Exception as error:
        raise node_failure(node, type_, error, input=name) from error


def _check_links(node: NodeId, call: Call, calls: Mapping[NodeId, Call], specs: Mapping[str, NodeSpec]) -> None:
    for name, value in call.inputs.items():
        if type(value) is not Link:
            continue
        source = calls.get(value.node)
        if source is None:
            raise NodeFailed(node, call.type, f"linked to node {value.node}, which is not in the workflow", input=name)
        spec = specs.get(source.type)
        if spec is not None and not 0 <= value.output < len(spec.outputs):
            found = f"output {value.output} of node {value.node} ({source.type}), which has {len(spec.outputs)}"
            raise NodeFailed(node, call.type, f"linked to {found}", input=name)


def _fingerprint(node: NodeId, spec: NodeSpec, call: Call, files: Files) -> Any:
    """What the node's hooks say: its fingerprint, and the content of the files its literals name inside a text."""
    literals = {name: None if type(value) is Link else value for name, value in call.inputs.items()}
    own = spec.fingerprint(**literals, **spec.identity(node)) if spec.fingerprint is not None else None
    if spec.reads is None:
        return own
    read = spec.reads(**literals)
    return [own, [[folder, _spelled(name), _content(files, folder, name)] for folder, name in read]]


def _spelled(name: str | re.Pattern[str] | None) -> str | None:
    return name.pattern if isinstance(name, re.Pattern) else name


def _content(files: Files, folder: str, name: str | re.Pattern[str] | None) -> Any:
    """The digest of a file, None where there is none; for a pattern, or without a name, those of all files it may be by their names."""
    if not isinstance(name, str):
        there = files.choices(FileChoice(folder))
        meant = (known for known in there if name is None or name.search(known))
        return [[known, _content(files, folder, known)] for known in meant]
    try:
        return files.ref(FileChoice(folder), name).digest
    except InputError:  # no such file, or a name no file may have: the node will say so, and may run without it
        return None
