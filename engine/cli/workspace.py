"""What a command works with: the node types, the files, the cache, the folders; built once, passed on."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.options import Places, apply_assignments, parse_assignment
from engine.cli.screen import say
from engine.errors import UsageError
from engine.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.files import LocalFiles
    from engine.graph.graph import Graph
    from engine.graph.read import Workflow
    from engine.jobs.remote import RemoteExecutor
    from engine.run.cache import OutputCache
    from engine.run.executor import Runner
    from engine.run.last_runs import LastRuns
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
def open_workspace(places: Places, settings: DeviceSettings | None = None) -> Iterator[Workspace]:
    """Load the node packages and look at the folders. A package that fails is named on standard error; the others load.

    ``settings`` are for the process that runs third-party packs, if there are packs.
    """
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
    folders = pack_folders(places)
    if not folders:
        yield Workspace(registry, files, places)
        return
    with start_worker(places, folders, settings) as worker:
        _add_packs(registry, worker)
        yield Workspace(registry, files, places, worker)


def pack_folders(places: Places) -> tuple[Path, ...]:
    """The folders of packs that were asked for: by name, or in the configuration file of extra model folders."""
    from engine.model_folders import read_extra_folders

    if places.extra_model_paths is None:
        return places.custom_nodes
    extra = read_extra_folders(places.extra_model_paths)
    named = (*extra.first.get("custom_nodes", ()), *extra.last.get("custom_nodes", ()))
    return tuple(dict.fromkeys((*places.custom_nodes, *named)))


def start_worker(places: Places, folders: tuple[Path, ...], settings: DeviceSettings | None) -> RemoteExecutor:
    """A process that loads the packs of ``folders``. It is started when it is first asked for something."""
    from engine.jobs.messages import WorkerSettings
    from engine.jobs.remote import NODE_TIMEOUT, RemoteExecutor
    from engine.packs.sources import find_packs
    from engine.run.settings import DeviceSettings

    find_packs(folders)  # a folder that is not there is the user's mistake, to be told before anything starts
    started = WorkerSettings(
        models=places.models,
        input=places.input,
        output=places.output,
        temp=places.temp,
        state=places.state,
        extra_model_paths=places.extra_model_paths,
        custom_nodes=folders,
        device=settings or DeviceSettings(),
    )
    return RemoteExecutor(started, node_timeout=places.node_timeout or NODE_TIMEOUT)


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


def open_cache(workspace: Workspace) -> OutputCache:
    """The results kept in memory and below the state folder."""
    from engine.run.cache import OutputCache
    from engine.run.disk_tier import DiskTier

    return OutputCache(disk=DiskTier(workspace.places.state / "cache", workspace.registry.codecs))


def open_last_runs(places: Places) -> LastRuns:
    """What earlier runs computed from what."""
    from engine.run.last_runs import LastRuns

    return LastRuns(places.state / "last_runs")


@contextmanager
def open_executor(workspace: Workspace, settings: DeviceSettings) -> Iterator[Runner]:
    """An executor over the cache and the folders of this workspace. No torch yet: that comes with the first node that needs it.

    Where there are third-party packs it is the process that has loaded them.
    """
    if workspace.worker is not None:
        yield workspace.worker
        return
    from engine.run.checkpoint import CheckpointStore
    from engine.run.executor import Executor
    from engine.run.outputs import OutputFolder

    places = workspace.places
    with Executor(
        workspace.registry,
        files=workspace.files,
        cache=open_cache(workspace),
        outputs=OutputFolder(places.output, places.temp),
        numerics=numerics(settings),
        settings=settings,
        checkpoints=CheckpointStore(places.state / "checkpoints"),
        last_runs=open_last_runs(places),
    ) as executor:
        yield executor


def numerics(settings: DeviceSettings) -> str:
    """What the last bits of every result of this process depend on."""
    from engine.numerics import device_kind, numerics_tag, precision

    return numerics_tag(device_kind(settings.device), precision(settings.dtype))
