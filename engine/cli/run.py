"""``mezzotint run``."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.cli.checking import checked
from engine.cli.options import find_node
from engine.cli.screen import say, watch
from engine.cli.workspace import Workspace, open_runner, open_workspace, read_file, sent
from engine.graph.graph import Graph, NodeId
from engine.graph.seeds import next_seeds, randomized
from engine.places import Places
from engine.run.cancel import CancelToken
from engine.run.events import Event, NodeBlocked, NodeWarning
from engine.run.settings import DeviceSettings

if TYPE_CHECKING:
    from engine.graph.read import Workflow
    from engine.run.executor import Run, Runner, RunResult

EXIT_CODES: Final = {"succeeded": 0, "failed": 1, "cancelled": 130}
"""130 is what shells expect of a program that Ctrl-C ended."""


@dataclass(frozen=True, slots=True)
class RunArguments:
    file: Path
    sets: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    count: int = 1
    randomize: bool = False
    use_cache: bool = True
    node_timeout: float | None = None
    stop_on_failure: bool = False
    watch_inputs: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What one run did, as it is told."""

    result: RunResult
    files: tuple[Path, ...]
    warnings: tuple[NodeWarning | NodeBlocked, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.result.status,
            "job": self.result.job,
            "files": [str(path) for path in self.files],
            "outputs": {node: {key: list(items) for key, items in ui.items()} for node, ui in self.result.ui.items()},
            "ran": list(self.result.ran),
            "cached": list(self.result.cached),
            "errors": [
                {
                    "node": error.node,
                    "shown": error.shown,
                    "class_type": error.class_type,
                    "pack": error.pack,
                    "input": error.input,
                    "message": error.reason,
                }
                for error in self.result.failures
            ],
            "warnings": [
                {"node": event.node, "shown": event.shown, "message": event.message} for event in self.warnings
            ],
            "seconds": round(self.seconds, 3),
        }


def run_command(arguments: RunArguments, places: Places, settings: DeviceSettings, server: str | None = None) -> int:
    """Run the workflow as often as asked; the first run that does not succeed is the last. Returns the exit code.

    With ``server`` it runs there, and the files come back into the output folder.
    """
    if server is not None:
        from engine.cli.remote import RemoteRunner

        with open_workspace(places, settings) as workspace, RemoteRunner(server, places) as runner:
            return _run_in(workspace, arguments, runner)
    with (
        open_workspace(places, settings, arguments.node_timeout) as workspace,
        open_runner(workspace, settings) as runner,
    ):
        return _run_in(workspace, arguments, runner)


def _run_in(workspace: Workspace, arguments: RunArguments, executor: Runner) -> int:
    workflow = read_file(arguments.file, arguments.sets, workspace)
    for warning in workflow.warnings:
        say(f"warning: {warning}")
    targets = tuple(find_node(workflow.graph, name) for name in arguments.targets) or None
    runs = [
        _make_run(graph, workflow, workspace, targets, arguments) for graph in _variants(workflow, arguments, workspace)
    ]
    reports: list[Report] = []
    with _interruptible() as cancel:
        for run in runs:
            reports.append(_run_one(executor, run, cancel, workspace.places, quiet=arguments.json))
            if reports[-1].result.status != "succeeded":
                break
    if arguments.json:
        plain = [report.to_json() for report in reports]
        say(json.dumps(plain[0] if arguments.count == 1 else {"runs": plain}, indent=2), to=sys.stdout)
    return EXIT_CODES[reports[-1].result.status]


def _variants(workflow: Workflow, arguments: RunArguments, workspace: Workspace) -> Iterator[Graph]:
    """The graph of each run: seeds change in between as the editor would change them, or all and at once with ``--randomize``."""
    seeds = randomized(workflow.seeds) if arguments.randomize else workflow.seeds
    graph = workflow.graph
    for turn in range(arguments.count):
        if turn or arguments.randomize:
            graph = next_seeds(graph, seeds, workspace.registry, random.randrange)
        yield graph


def _make_run(
    graph: Graph, workflow: Workflow, workspace: Workspace, targets: tuple[NodeId, ...] | None, arguments: RunArguments
) -> Run:
    from engine.graph.api_format import write_api
    from engine.run.executor import Run

    final = checked(sent(graph, workflow, workspace), workflow, workspace, targets)
    metadata: dict[str, Any] = {"prompt": write_api(final)}
    if workflow.editor is not None and graph == workflow.graph:
        metadata["workflow"] = workflow.editor
    return Run(
        graph=final,
        targets=targets,
        metadata=metadata,
        use_cache=arguments.use_cache,
        stop_on_failure=arguments.stop_on_failure,
        watch_inputs=arguments.watch_inputs,
    )


def _run_one(executor: Runner, run: Run, cancel: CancelToken, places: Places, *, quiet: bool) -> Report:
    started = time.perf_counter()
    warnings: list[NodeWarning | NodeBlocked] = []

    with nullcontext(lambda event: None) if quiet else watch(run.graph) as show:

        def on_event(event: Event) -> None:
            if isinstance(event, NodeWarning | NodeBlocked):
                warnings.append(event)
            show(event)

        result = asyncio.run(executor.run(run, on_event, cancel))
    folders = {"output": places.output, "temp": places.temp}
    files = tuple(
        folders[item["type"]] / item["subfolder"] / item["filename"]
        for ui in result.ui.values()
        for items in ui.values()
        for item in items
        if _is_file(item) and item["type"] in folders
    )
    report = Report(result, files, tuple(warnings), time.perf_counter() - started)
    if not quiet:
        _tell(report)
    return report


def _is_file(item: Any) -> bool:
    """Whether a node shows a file: packs show what they like."""
    return isinstance(item, dict) and all(isinstance(item.get(key), str) for key in ("filename", "subfolder", "type"))


def _tell(report: Report) -> None:
    for path in report.files:
        say(str(path), to=sys.stdout)
    for error in report.result.failures:
        say(f"error: {error}")
    ran = len(report.result.ran)
    what = {"succeeded": "done", "failed": "failed", "cancelled": "cancelled"}[report.result.status]
    say(
        f"{what} in {report.seconds:.1f} s: {ran} node{'' if ran == 1 else 's'} ran, {len(report.result.cached)} cached"
    )


@contextmanager
def _interruptible() -> Iterator[CancelToken]:
    """The first Ctrl-C cancels the run, which ends at its next step; a second one ends the process."""
    cancel = CancelToken()
    before = signal.getsignal(signal.SIGINT)

    def interrupt(signum: int, frame: object) -> None:
        cancel.cancel()
        signal.signal(signal.SIGINT, before)
        say("stopping at the next step; press Ctrl-C again to stop at once")

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)
