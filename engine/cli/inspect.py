"""``mezzotint validate``, ``plan`` and ``nodes``: they look and run nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.cli.checking import checked, with_hint
from engine.cli.options import find_node
from engine.cli.screen import say
from engine.cli.workspace import Workspace, open_workspace, read_file, sent
from engine.errors import UsageError
from engine.graph.validate import validate
from engine.places import Places
from engine.run.settings import DeviceSettings
from engine.spec import MISSING, InputSpec, NodeSpec

if TYPE_CHECKING:
    from engine.run.forecast import Fate, Forecast


def validate_command(file: Path, sets: tuple[str, ...], places: Places, *, as_json: bool) -> int:
    """Print every problem; 0 if there is none, else 2."""
    with open_workspace(places) as workspace:
        workflow = read_file(file, sets, workspace)
        problems = [
            with_hint(problem, workflow.graph, workflow)
            for problem in validate(workflow.graph, workspace.registry, workspace.files)
        ]
    if as_json:
        _print_json({"problems": [problem.to_json() for problem in problems]})
    elif problems:
        for problem in problems:
            say(problem.message, to=sys.stdout)
        say(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {file}")
    else:
        say(f"{file}: {len(workflow.graph)} nodes, nothing wrong", to=sys.stdout)
    return 2 if problems else 0


def plan_command(
    file: Path,
    sets: tuple[str, ...],
    targets: tuple[str, ...],
    places: Places,
    settings: DeviceSettings,
    *,
    as_json: bool,
) -> None:
    """Print what a run would do."""
    from engine.run.forecast import forecast
    from engine.run.opening import numerics, open_cache, open_last_runs

    with open_workspace(places, settings) as workspace:
        workflow = read_file(file, sets, workspace)
        wanted = tuple(find_node(workflow.graph, name) for name in targets) or None
        graph = checked(sent(workflow.graph, workflow, workspace), workflow, workspace, wanted)
        found = forecast(
            graph,
            workspace.registry,
            files=workspace.files,
            cache=open_cache(places, workspace.registry),
            numerics=numerics(settings),
            last_runs=open_last_runs(places),
            targets=wanted,
        )
    if as_json:
        _print_json(found.to_json())
    else:
        _print_forecast(found)


_FATES: Final[Mapping[Fate, str]] = {
    "runs": "runs",
    "memory": "cached in memory",
    "disk": "cached on disk",
    "twin": "the same as another node",
    "lazy": "runs if it is asked for",
    "unneeded": "not needed: what needs it is cached",
    "fails": "fails",
}


def _print_forecast(found: Forecast) -> None:
    for node in found.nodes:
        say(f"{node.title or node.class_type} ({node.node}): {_FATES[node.fate]}", to=sys.stdout)
        for line in (*(reason.message for reason in node.reasons), *([node.problem] if node.problem else [])):
            say(f"    {line}", to=sys.stdout)
    memory = f"{found.model_bytes / 2**20:.0f} MiB of model files"
    say(f"{len(found.runs)} of {len(found.nodes)} nodes run, {found.steps} sampling steps, {memory}", to=sys.stdout)


def nodes_command(name: str | None, places: Places, *, as_json: bool) -> None:
    """List the node types, or describe one."""
    with open_workspace(places) as workspace:
        _tell_nodes(name, workspace, as_json=as_json)


def _tell_nodes(name: str | None, workspace: Workspace, *, as_json: bool) -> None:
    from engine.graph.object_info import object_info

    specs = list(workspace.registry.values()) if name is None else [_find(name, workspace)]
    if as_json:
        _print_json({spec.type: object_info(spec, workspace.files) for spec in specs})
    elif name is None:
        _print_list(specs)
    else:
        _print_spec(specs[0])
    for failure in workspace.registry.failures:
        say(f"warning: node package {failure.name} did not load: {failure.reason}")


def _find(name: str, workspace: Workspace) -> NodeSpec:
    spec = workspace.registry.get(name)
    if spec is None:
        near = workspace.registry.nearest(name)
        raise UsageError(f"there is no node type {name!r}" + (f"; did you mean {near}?" if near else ""))
    return spec


def _print_json(data: Any) -> None:
    say(json.dumps(data, indent=2, allow_nan=False), to=sys.stdout)


def _print_list(specs: list[NodeSpec]) -> None:
    category = None
    for spec in sorted(specs, key=lambda spec: (spec.category, spec.type)):
        if spec.category != category:
            category = spec.category
            say(f"\n{category}", to=sys.stdout)
        summary = spec.description.partition("\n")[0]
        say(f"  {spec.type:<24} {summary}", to=sys.stdout)


def _print_spec(spec: NodeSpec) -> None:
    say(f"{spec.type}: {spec.title} ({spec.category})\n", to=sys.stdout)
    say(f"{spec.description}\n", to=sys.stdout)
    for given in spec.inputs:
        say(f"  in   {given.name:<18} {_describe(given)}", to=sys.stdout)
    for output in spec.outputs:
        say(f"  out  {output.label:<18} {output.type}", to=sys.stdout)


def _describe(given: InputSpec) -> str:
    parts: list[str] = [str(given.type)]
    if given.files:
        parts.append(f"a file of {given.files.folder}")
    if choices := given.options:
        parts.append(", ".join(map(str, choices)))
    if given.range:
        parts.append(f"{given.range.min:g} to {given.range.max:g}")
    if given.default is not MISSING:
        parts.append(f"default {given.default!r}")
    if not given.required:
        parts.append("optional")
    return "; ".join(parts)
