"""What stands between a workflow file and a run: validation, with download hints for the models it lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.errors import InvalidGraph
from engine.graph.graph import Graph, NodeId
from engine.graph.problems import Problem
from engine.graph.validate import coerced, validate

if TYPE_CHECKING:
    from engine.cli.workspace import Workspace
    from engine.graph.read import Workflow


def checked(graph: Graph, workflow: Workflow, workspace: Workspace, targets: tuple[NodeId, ...] | None) -> Graph:
    """The graph with its literals in the types of their inputs. Raises ``InvalidGraph`` with every problem there is."""
    problems = validate(graph, workspace.registry, workspace.files, targets)
    if problems:
        raise InvalidGraph([with_hint(problem, graph, workflow) for problem in problems])
    return coerced(graph, workspace.registry)


def with_hint(problem: Problem, graph: Graph, workflow: Workflow) -> Problem:
    """A missing model with the place to get it from, where the workflow's own file names one."""
    if problem.type != "missing_file" or problem.node is None or problem.input is None:
        return problem
    wanted = str(graph[problem.node].inputs.get(problem.input))
    for hint in workflow.hints:
        if hint.name == wanted:
            return replace(problem, message=f"{problem.message}; get it from {hint.url} into models/{hint.directory}")
    return problem
