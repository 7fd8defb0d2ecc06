"""Checks a prompt as ComfyUI's clients post it, and refuses in ComfyUI's words. Pure, but for what the check looks up in folders.

    checked = check_prompt(posted["prompt"], registry, files)
    if isinstance(checked, Refusal): ...

Each of its outputs is judged alone: one that is sound runs, whatever is wrong with the others. What the engine itself would say of a
fault, what was found and what to do, is in ``extra_info["hint"]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from engine.errors import MezzotintError
from engine.fileref import Files
from engine.files import FILE_KINDS
from engine.graph.api_format import read_api, write_api
from engine.graph.graph import Call, Graph, NodeId
from engine.graph.problems import Problem
from engine.graph.text import clip, kind
from engine.graph.validate import coerced, output_nodes, validate
from engine.model_folders import ALIASES
from engine.registry import Registry
from engine.service.comfy.node_errors import Reason, Reasons
from engine.service.plain import DEEPEST, is_too_deep

NO_PROMPT: Final[dict[str, Any]] = {
    "type": "no_prompt",
    "message": "No prompt provided",
    "details": "No prompt provided",
    "extra_info": {},
}

_MOST_WALKED: Final = 500_000
"""Nodes that are looked at to say which outputs depend on which fault; more only a workflow made to that end has."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is answered instead of a job."""

    body: dict[str, Any]
    status: int = 400


@dataclass(frozen=True, slots=True)
class Checked:
    """A prompt that can run."""

    graph: Graph
    """With literals coerced and without inputs that no node takes."""
    prompt: dict[str, Any]
    """The same as API JSON, with what else clients wrote to their nodes, such as ``_meta``."""
    targets: tuple[NodeId, ...]
    """The outputs that are sound."""
    node_errors: dict[str, Any]
    """What is wrong with the others."""


def check_prompt(
    prompt: Any, registry: Registry, files: Files | None = None, targets: Iterable[str] | None = None
) -> Checked | Refusal:
    """Judge any JSON value. ``targets`` limits what it is for to some of its output nodes. Without ``files`` none is looked for."""
    if prompt is None:
        return _refusal(NO_PROMPT)
    malformed = _malformed(prompt, registry)
    if malformed is not None:
        return malformed
    nodes = {str(node): entry for node, entry in prompt.items()}
    bare = {node for node, entry in nodes.items() if not isinstance(entry.get("inputs"), Mapping)}
    try:
        graph = coerced(_known_inputs(_read(nodes, bare), registry), registry)
        outputs = output_nodes(graph, registry)
        if targets is not None:
            wanted = set(targets)
            outputs = tuple(output for output in outputs if output in wanted)
        if not outputs:
            return _refusal(_error("prompt_no_outputs", "Prompt has no outputs", ""))
        return _judge(nodes, graph, bare, outputs, registry, files)
    except MezzotintError as error:  # a pack's own check could not be asked
        return _refusal(_failed(str(error)))


def model_files(graph: Graph, registry: Registry) -> tuple[str, ...]:
    """The model files that a graph names, ``folder/name``, each once."""
    found: dict[str, None] = {}
    for call in graph.values():
        spec = registry.get(call.type)
        for known in spec.inputs if spec is not None else ():
            value = call.inputs.get(known.name)
            if known.files is not None and known.files.folder not in FILE_KINDS and isinstance(value, str):
                found[f"{ALIASES.get(known.files.folder, known.files.folder)}/{value}"] = None
    return tuple(found)


# what is no prompt


def _malformed(prompt: Any, registry: Registry) -> Refusal | None:
    if not isinstance(prompt, Mapping):
        return _invalid(f"expected an object of nodes by id, found {kind(prompt)}", "")
    if is_too_deep(prompt):
        return _invalid(f"expected at most {DEEPEST} objects and lists within each other, found more", "")
    for node, entry in prompt.items():
        details = f"Node ID '#{clip(str(node), 200)}'"
        if not _is_text(str(node)):
            return _invalid("expected node ids that are Unicode text, found half a character", details)
        if not isinstance(entry, Mapping) or "class_type" not in entry:
            return _invalid("Cannot execute because a node is missing the class_type property.", details)
        type_ = entry["class_type"]
        if not isinstance(type_, str) or type_ not in registry:
            name = clip(type_ if isinstance(type_, str) else kind(type_), 200)
            return _invalid(
                f"Cannot execute because node {name} does not exist.", details, _unknown_hint(type_, registry)
            )
    return None


def _unknown_hint(type_: Any, registry: Registry) -> str:
    close = registry.nearest(type_) if isinstance(type_, str) and len(type_) <= 200 else None
    if close is not None:
        return f'did you mean "{close}"?'
    return "install the node package that has it, or take the node out"


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# reading


def _read(nodes: Mapping[str, Any], bare: set[str]) -> Graph:
    return read_api({node: {**entry, "inputs": {}} if node in bare else entry for node, entry in nodes.items()})


def _known_inputs(graph: Graph, registry: Registry) -> Graph:
    """Without the inputs that a node does not take: old workflows have some, and ComfyUI takes no notice of them."""
    return Graph({node: _known_call(call, registry) for node, call in graph.items()})


def _known_call(call: Call, registry: Registry) -> Call:
    spec = registry[call.type]
    if spec.takes_extra:
        return call
    names = {known.name for known in spec.inputs}
    kept = {name: value for name, value in call.inputs.items() if name in names}
    return call if len(kept) == len(call.inputs) else replace(call, inputs=kept)


def _written(nodes: Mapping[str, Any], graph: Graph) -> dict[str, Any]:
    """The prompt as it is kept: what clients wrote, with the inputs that count. ``is_changed`` is left over from another run."""
    plain = write_api(graph)
    return {
        node: {
            **{name: value for name, value in entry.items() if name != "is_changed"},
            "inputs": plain[node]["inputs"],
        }
        for node, entry in nodes.items()
    }


# judging


def _judge(
    nodes: Mapping[str, Any],
    graph: Graph,
    bare: set[str],
    outputs: tuple[NodeId, ...],
    registry: Registry,
    files: Files | None,
) -> Checked | Refusal:
    needed = graph.restrict(graph.ancestors(outputs))
    reasons = Reasons(needed, registry, files, frozenset(outputs))
    problems = [
        problem
        for problem in validate(needed, registry, files, outputs)
        if problem.node is not None and problem.node not in bare
    ]
    cycles = [problem for problem in problems if problem.type == "cycle"]
    found: dict[NodeId, list[Reason]] = {}
    for node in needed:
        if node in bare:
            found[node] = [reasons.without_inputs(node)]
    for problem in problems:
        if problem.type != "cycle":
            found.setdefault(NodeId(str(problem.node)), []).extend(reasons.of(problem))
    unsound = _unsound(needed, found)
    failed = [output for output in outputs if output in unsound]
    node_errors = _node_errors(needed, found, failed)
    sound = tuple(output for output in outputs if output not in unsound)
    if sound:
        return Checked(graph, _written(nodes, graph), sound, node_errors)
    return _refusal(_failed(_details(found, failed, cycles)), node_errors)


def _unsound(graph: Graph, wrong: Iterable[NodeId]) -> set[NodeId]:
    """The nodes that need something wrong, or themselves."""
    consumers: dict[NodeId, list[NodeId]] = {node: [] for node in graph}
    missing: dict[NodeId, int] = {}
    for node, call in graph.items():
        sources = {link.node for link in call.links.values() if link.node in graph}
        missing[node] = len(sources)
        for source in sources:
            consumers[source].append(node)
    bad = set(wrong)
    sound: set[NodeId] = set()
    ready = [node for node, count in missing.items() if not count and node not in bad]
    while ready:  # whatever is not reached from sound nodes alone is on a cycle, behind one, or behind a fault
        node = ready.pop()
        sound.add(node)
        for consumer in consumers[node]:
            missing[consumer] -= 1
            if not missing[consumer] and consumer not in bad:
                ready.append(consumer)
    return set(graph) - sound


def _node_errors(graph: Graph, found: Mapping[NodeId, list[Reason]], failed: Iterable[NodeId]) -> dict[str, Any]:
    dependent: dict[NodeId, list[str]] = {node: [] for node in found}
    walked = 0
    for output in failed:
        cone = graph.ancestors([output])
        for node in cone & found.keys():
            dependent[node].append(str(output))
        walked += len(cone)
        if walked > _MOST_WALKED:
            break
    return {
        str(node): {"errors": found[node], "dependent_outputs": dependent[node], "class_type": graph[node].type}
        for node in graph
        if node in found
    }


def _details(found: Mapping[NodeId, list[Reason]], failed: Iterable[NodeId], cycles: Iterable[Problem]) -> str:
    return "\n".join([*_own(found, failed), *(problem.message for problem in cycles)])


def _own(found: Mapping[NodeId, list[Reason]], failed: Iterable[NodeId]) -> Iterator[str]:
    for output in failed:
        for reason in found.get(output, ()):
            yield f"{reason['message']}: {reason['details']}"


# bodies


def _error(type_: str, message: str, details: str, hint: str | None = None) -> dict[str, Any]:
    return {"type": type_, "message": message, "details": details, "extra_info": {"hint": hint} if hint else {}}


def _invalid(message: str, details: str, hint: str | None = None) -> Refusal:
    return _refusal(_error("invalid_prompt", message, details, hint))


def _failed(details: str) -> dict[str, Any]:
    return _error("prompt_outputs_failed_validation", "Prompt outputs failed validation", details)


def _refusal(error: dict[str, Any], node_errors: dict[str, Any] | None = None) -> Refusal:
    return Refusal({"error": error, "node_errors": node_errors or {}})
