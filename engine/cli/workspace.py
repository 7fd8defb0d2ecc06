"""What a command works with: the node types, the files, the cache, the folders; built once, passed on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.options import Places, apply_assignments, parse_assignment
from engine.errors import UsageError
from engine.registry import Registry

if TYPE_CHECKING:
    from engine.files import LocalFiles
    from engine.graph.graph import Graph
    from engine.graph.read import Workflow
    from engine.run.cache import OutputCache
    from engine.run.executor import Executor
    from engine.run.last_runs import LastRuns
    from engine.run.settings import DeviceSettings


@dataclass(frozen=True, slots=True)
class Workspace:
    """Node types and the files they may name."""

    registry: Registry
    files: LocalFiles
    places: Places


def open_workspace(places: Places) -> Workspace:
    """Load the node packages and look at the folders. A package that fails is named on standard error; the others load."""
    from engine.files import open_files

    registry = Registry()
    registry.load()
    if not registry and registry.failures:
        raise UsageError("; ".join(f"node package {failure.name}: {failure.reason}" for failure in registry.failures))
    files = open_files(
        models=places.models,
        input=places.input,
        output=places.output,
        temp=places.temp,
        state=places.state,
        extra_model_paths=places.extra_model_paths,
    )
    return Workspace(registry, files, places)


def read_file(path: Path, sets: tuple[str, ...], workspace: Workspace) -> Workflow:
    """The workflow of ``path`` with every ``--set`` done.

    A changed workflow loses the editor's file it came with: kept in a picture, that would no longer make the picture.
    """
    from engine.graph.read import read_workflow

    workflow = read_workflow(path, workspace.registry)
    if not sets:
        return workflow
    assignments = [parse_assignment(argument) for argument in sets]
    return replace(workflow, graph=apply_assignments(workflow.graph, assignments, workspace.registry), editor=None)


def sent(graph: Graph, workflow: Workflow, workspace: Workspace) -> Graph:
    """What an editor would send for ``graph``: its choices drawn by the seeds, its file names filled in.

    An API file was sent by an editor already, so its texts are what they are.
    """
    if workflow.source == "api":
        return graph
    from engine.graph.dynamic_prompts import sent_graph
    from engine.graph.seeds import seed_of

    seed = seed_of(graph, workflow.seeds)
    return sent_graph(graph, workspace.registry, seed=seed, now=datetime.now(), names=workflow.names)


def open_cache(workspace: Workspace) -> OutputCache:
    """The results kept in memory and below the state folder."""
    from engine.run.cache import OutputCache
    from engine.run.disk_tier import DiskTier

    return OutputCache(disk=DiskTier(workspace.places.state / "cache", workspace.registry.codecs))


def open_last_runs(places: Places) -> LastRuns:
    """What earlier runs computed from what."""
    from engine.run.last_runs import LastRuns

    return LastRuns(places.state / "last_runs")


def open_executor(workspace: Workspace, settings: DeviceSettings) -> Executor:
    """An executor over the cache and the folders of this workspace. No torch yet: that comes with the first node that needs it."""
    from engine.run.checkpoint import CheckpointStore
    from engine.run.executor import Executor
    from engine.run.outputs import OutputFolder

    places = workspace.places
    return Executor(
        workspace.registry,
        files=workspace.files,
        cache=open_cache(workspace),
        outputs=OutputFolder(places.output, places.temp),
        numerics=numerics(settings),
        settings=settings,
        checkpoints=CheckpointStore(places.state / "checkpoints"),
        last_runs=open_last_runs(places),
    )


def numerics(settings: DeviceSettings) -> str:
    """What the last bits of every result of this process depend on."""
    from engine.numerics import device_kind, numerics_tag, precision

    return numerics_tag(device_kind(settings.device), precision(settings.dtype))
