"""What a person sees while a workflow runs: a bar for each node at work, on a terminal; a line for each node, elsewhere."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from engine.graph.graph import Graph, NodeId
from engine.run.events import (
    Event,
    NodeBlocked,
    NodeFailed,
    NodeFinished,
    NodeProgress,
    NodeStarted,
    NodeWarning,
    OnEvent,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def say(text: str, *, to: TextIO | None = None) -> None:
    """A line on standard error, or on ``to``."""
    print(text, file=to or sys.stderr, flush=True)


@contextmanager
def watch(graph: Graph) -> Iterator[OnEvent]:
    """Show the events of one run of ``graph`` on standard error."""
    if sys.stderr.isatty():
        with _bars(graph) as on_event:
            yield on_event
    else:
        yield functools.partial(_line, graph)


def _name(graph: Graph, node: NodeId) -> str:
    call = graph.get(node)
    return node if call is None else f"{call.title or call.type} ({node})"


def _line(graph: Graph, event: Event) -> None:
    """A line for each node that ran: for logs and pipes."""
    match event:
        case NodeFinished(node=node, shown=shown, seconds=seconds) if node == shown:
            say(f"{_name(graph, node)}: {seconds:.2f} s")
        case NodeWarning(shown=shown, message=message) | NodeBlocked(shown=shown, message=message):
            say(f"warning: {_name(graph, shown)}: {message}")


@contextmanager
def _bars(graph: Graph) -> Iterator[OnEvent]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bars(graph, progress)


class _Bars:
    """One bar for each node of the workflow. A node that reports no steps counts as one; what it became is told at its bar."""

    def __init__(self, graph: Graph, progress: Progress) -> None:
        self._graph = graph
        self._progress = progress
        self._tasks: dict[NodeId, TaskID] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case NodeStarted(node=node, shown=shown, class_type=type_):
                name = _name(self._graph, shown)
                if shown not in self._tasks:
                    self._tasks[shown] = self._progress.add_task(name, total=1)
                if node != shown:
                    self._progress.update(self._tasks[shown], description=f"{name} > {type_}")
            case NodeProgress(shown=shown, done=done, total=total) if shown in self._tasks:
                self._progress.update(self._tasks[shown], completed=done, total=total)
            case NodeFinished(node=node) if node in self._tasks:
                self._finish(self._tasks[node])
            case NodeFailed(node=node) if node in self._tasks:
                self._progress.stop_task(self._tasks[node])
            case NodeWarning(shown=shown, message=message) | NodeBlocked(shown=shown, message=message):
                self._progress.console.print(f"warning: {_name(self._graph, shown)}: {message}", markup=False)

    def _finish(self, task: TaskID) -> None:
        self._progress.update(task, completed=self._progress.tasks[task].total)
        self._progress.stop_task(task)
