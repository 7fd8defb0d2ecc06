"""Says everything that is wrong with a graph, at once, without running anything.

Checked are the nodes that the targets need. What no output needs does not run and may be unfinished, as it may in
ComfyUI; but an unknown node type or a cycle is reported wherever it is, what a node of an unknown type needs is checked
as well, and as soon as a broken connection leaves open what the targets need, everything is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from engine.fileref import Files
from engine.graph.checks import Checker, is_leftover
from engine.graph.coerce import NotCoercibleError, coerce
from engine.graph.cycles import cycles
from engine.graph.graph import BadLink, Call, Graph, Link, NodeId, Value
from engine.graph.problems import Problem
from engine.graph.text import clip
from engine.registry import Registry
from engine.spec import NodeSpec

_DISCONNECTS: Final = frozenset(
    {
        "prompt_no_outputs",
        "bad_link",
        "bad_linked_input",
        "required_input_missing",
        "unknown_input",
        "cycle",
    }
)


def output_nodes(graph: Graph, registry: Registry) -> tuple[NodeId, ...]:
    """The nodes a run is for: those that save or show something, in the file's order."""
    return tuple(node for node, call in graph.items() if call.type in registry and registry[call.type].output_node)


def validate(
    graph: Graph, registry: Registry, files: Files | None = None, targets: Iterable[NodeId | str] | None = None
) -> list[Problem]:
    """All problems, in the order of the nodes in the file and of the inputs in the node; none means that the graph
    can be run.

    ``targets``: the nodes whose results are wanted; by default the output nodes. Without ``files`` no file is looked
    for.
    """
    checker = Checker(graph, registry, files)
    wanted = (
        output_nodes(graph, registry)
        if targets is None
        else tuple(NodeId(target) for target in targets if target in graph)
    )
    unknown = () if targets is not None else (node for node, call in graph.items() if call.type not in registry)
    needed = graph.ancestors((*wanted, *unknown))
    general = _general_problems(checker, graph, needed if targets is not None else None)
    if not wanted and (targets is not None or not _may_have_outputs(graph, registry)):
        general.setdefault(None, []).append(_no_outputs(graph, targets is not None))
    inputs = {node: checker.node_problems(node) for node in graph if node in needed}
    if any(problem.type in _DISCONNECTS for found in (*general.values(), *inputs.values()) for problem in found):
        inputs |= {node: checker.node_problems(node) for node in graph if node not in needed}
    in_order = [problem for node in graph for problem in (*general.get(node, ()), *inputs.get(node, ()))]
    return in_order + general.get(None, [])


def coerced(graph: Graph, registry: Registry) -> Graph:
    """The graph with its literals as the types their inputs take: 20.0 for an INT becomes 20, so that equal work has
    equal keys.

    What cannot be coerced stays (``validate`` reports it). Inputs that are left out stay out; leftovers
    of other versions go.
    """
    return Graph({node: _coerced_call(call, registry.get(call.type)) for node, call in graph.items()})


def _general_problems(
    checker: Checker, graph: Graph, within: frozenset[NodeId] | None
) -> dict[NodeId | None, list[Problem]]:
    """Unknown types and cycles by node; ``within`` limits the types that matter."""
    found: dict[NodeId | None, list[Problem]] = {}
    for node in graph if within is None else (node for node in graph if node in within):
        problem = checker.type_problem(node)
        if problem is not None:
            found.setdefault(node, []).append(problem)
    for cycle in cycles(graph):
        found.setdefault(cycle[0], []).append(_cycle_problem(checker, graph, cycle))
    return found


def _cycle_problem(checker: Checker, graph: Graph, cycle: tuple[NodeId, ...]) -> Problem:
    closing = next(name for name, link in graph[cycle[0]].links.items() if link.node == cycle[-1])
    around = [clip(node, 30) for node in (*cycle, cycle[0])]
    path = " -> ".join(around if len(around) <= 12 else [*around[:6], f"... ({len(around) - 11} more)", *around[-5:]])
    message = f"the node needs its own result: {path}; cut one of these links"
    return checker.problem(cycle[0], "cycle", message, input=closing, expected="links without a cycle", found=path)


def _may_have_outputs(graph: Graph, registry: Registry) -> bool:
    """Whether a node of an unknown type stands where an output node would, so that its type is the one problem."""
    used = {link.node for call in graph.values() for link in call.links.values()}
    return any(call.type not in registry and node not in used for node, call in graph.items())


def _no_outputs(graph: Graph, targeted: bool) -> Problem:
    if targeted:
        message = "none of the targets is a node of the workflow; name some by their ids"
    else:
        message = (
            f"none of the workflow's {len(graph)} nodes saves or shows anything; add an output node such as SaveImage"
        )
    return Problem("prompt_no_outputs", message, expected="an output node", found="none")


def _coerced_call(call: Call, spec: NodeSpec | None) -> Call:
    if spec is None:
        return call
    inputs = {
        name: _coerced_value(spec, name, value)
        for name, value in call.inputs.items()
        if not is_leftover(spec, call, name)
    }
    same = len(inputs) == len(call.inputs) and all(inputs[name] is value for name, value in call.inputs.items())
    return call if same else replace(call, inputs=inputs)


def _coerced_value(spec: NodeSpec, name: str, value: Value | Link | BadLink) -> Value | Link | BadLink:
    known = spec.input(name)
    if known is None or isinstance(value, Link | BadLink):
        return value
    try:
        return coerce(known, value)
    except NotCoercibleError:
        return value
