"""What a command works with: the node types, the files, the cache, the folders; built once, passed on."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.options import apply_assignments, parse_assignment
from engine.cli.screen import say
from engine.errors import UsageError
from engine.places import Places
from engine.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.files import LocalFiles
    from engine.graph.graph import Graph
    from engine.graph.read import Workflow
    from engine.jobs.remote import RemoteExecutor
    from engine.run.executor import Runner
    from engine.run.settings import DeviceSettings


@dataclass(frozen=True, slots=True)
class Workspace:
    """Node types and the files they may name."""

    registry: Registry
    files: LocalFiles
    places: Places
    worker: RemoteExecutor | None = None
    """The process that has loaded third-party packs, where there are any."""


@contextmanager
def open_workspace(
    places: Places, settings: DeviceSettings | None = None, node_timeout: float | None = None
) -> Iterator[Workspace]:
    """Load the node packages and look at the folders. A package that fails is named on standard error; the others load.

    ``settings`` and ``node_timeout`` are for the process that runs third-party packs, if there are packs.
    """
    registry = Registry()
    registry.load()
    if not registry and registry.failures:
        raise UsageError("; ".join(f"node package {failure.name}: {failure.reason}" for failure in registry.failures))
    files = places.open_files()
    if not places.has_packs:
        yield Workspace(registry, files, places)
        return
    with start_worker(places, settings, node_timeout) as worker:
        _add_packs(registry, worker)
        yield Workspace(registry, files, places, worker)


def start_worker(places: Places, settings: DeviceSettings | None, node_timeout: float | None) -> RemoteExecutor:
    """A process that loads the packs of ``places``. It is started when it is first asked for something."""
    from engine.jobs.messages import WorkerSettings
    from engine.jobs.remote import NODE_TIMEOUT, RemoteExecutor
    from engine.packs.sources import check_folders

    check_folders(places.pack_folders())
    return RemoteExecutor(WorkerSettings.of(places, settings), node_timeout=node_timeout or NODE_TIMEOUT)


def _add_packs(registry: Registry, worker: RemoteExecutor) -> None:
    """Take in the packs' node types, and say on standard error what was loaded and what was not."""
    loaded = worker.loaded
    registry.add(*loaded.specs)
    for pack in loaded.packs:
        count = len(pack.nodes)
        say(f"pack {pack.name} ({pack.digest[:12]}): {count} node type{'' if count == 1 else 's'}")
    for failure in loaded.failures:
        what = f"node {failure.node} of pack {failure.pack}" if failure.node else f"pack {failure.pack}"
        say(f"warning: {what} did not load: {failure.reason}")


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


@contextmanager
def open_runner(workspace: Workspace, settings: DeviceSettings) -> Iterator[Runner]:
    """An executor over the cache and the folders of this workspace. No torch yet: that comes with the first node that needs it.

    Where there are third-party packs it is the process that has loaded them.
    """
    if workspace.worker is not None:
        yield workspace.worker
        return
    from engine.run.opening import open_executor

    with open_executor(workspace.places, workspace.registry, workspace.files, settings) as executor:
        yield executor
