"""Runs of ``mezzotint run --server``: they happen in a service, and look the same from here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Self

from engine.client import Client
from engine.errors import NodeFailed
from engine.graph.api_format import write_api
from engine.graph.graph import NodeId
from engine.jobs.happenings import event_of
from engine.jobs.records import StoredEvent
from engine.places import Places
from engine.run.atomic import replace_file
from engine.run.cancel import CancelToken
from engine.run.events import NodeCached, NodeFinished, OnEvent
from engine.run.executor import ignore
from engine.run.request import Run, RunResult


class RemoteRunner:
    """``engine.run.executor.Runner`` over a service. Files are written into the output folder here, by the names they have there if
    these are free."""

    def __init__(self, server: str, places: Places) -> None:
        self._server = server
        self._places = places

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing is held between runs."""

    async def run(self, run: Run, on_event: OnEvent = ignore, cancel: CancelToken | None = None) -> RunResult:
        """Raises ``ServiceError`` for a workflow the service refuses, ``Unreachable`` where there is none."""
        ran: list[NodeId] = []
        cached: list[NodeId] = []
        async with Client(self._server, token=os.environ.get("MEZZOTINT_TOKEN"), first_patience=3) as client:
            job = await client.submit(
                write_api(run.graph),
                targets=None if run.targets is None else list(run.targets),
                use_cache=run.use_cache,
                stop_on_failure=run.stop_on_failure,
            )
            with _cancelling(client, job["id"], cancel):
                async for stored in client.events(job["id"]):
                    event = event_of(stored) if isinstance(stored, StoredEvent) else None
                    if event is None:
                        continue
                    if isinstance(event, NodeFinished):
                        ran.append(event.node)
                    elif isinstance(event, NodeCached):
                        cached.append(event.node)
                    on_event(event)
            ended = await client.get(job["id"])
            renamed = await self._bring(client, job["id"])
        return _result(ended, renamed, ran, cached)

    async def _bring(self, client: Client, job: str) -> dict[_Place, str]:
        """Fetch the files of a job. Returns what those are called here whose names were taken."""
        renamed: dict[_Place, str] = {}
        for found in await client.outputs(job):
            folder = self._places.output if found["kind"] == "output" else self._places.temp
            data = await client.fetch(found["digest"])
            path = folder / found["subfolder"] / found["filename"]
            if not path.resolve().is_relative_to(folder.resolve()):
                continue
            if path.exists() and path.read_bytes() != data:
                path = path.with_name(f"{path.stem}-{found['digest'][:8]}{path.suffix}")
                renamed[found["kind"], found["subfolder"], found["filename"]] = path.name
            replace_file(path, [data])
        return renamed


_Place = tuple[str, str, str]
"""Kind, subfolder and name of a file."""


@contextmanager
def _cancelling(client: Client, job: str, cancel: CancelToken | None) -> Iterator[None]:
    """Pass Ctrl-C on."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[bool]] = set()

    def stop() -> None:
        tasks.add(loop.create_task(client.cancel(job)))

    def interrupt() -> None:
        loop.call_soon_threadsafe(stop)

    end = cancel.subscribe(interrupt) if cancel is not None else lambda: None
    try:
        yield
    finally:
        end()


def _here(item: Any, renamed: Mapping[_Place, str]) -> Any:
    """What a node showed, by the name it has here where it is a file."""
    if not isinstance(item, dict):
        return item
    name = renamed.get((item.get("type", ""), item.get("subfolder", ""), item.get("filename", "")))
    return item if name is None else {**item, "filename": name}


def _result(ended: dict[str, Any], renamed: Mapping[_Place, str], ran: list[NodeId], cached: list[NodeId]) -> RunResult:
    status: Literal["succeeded", "failed", "cancelled"] = ended["state"]
    return RunResult(
        job=ended["id"],
        status=status,
        ui={
            NodeId(node): {name: [_here(item, renamed) for item in items] for name, items in ui.items()}
            for node, ui in ended["outputs"].items()
        },
        failures=tuple(
            NodeFailed(
                error["node"] or "-",
                error["class_type"] or "the service",
                error["reason"],
                input=error["input"],
                shown=error["shown"],
                pack=error["pack"],
            )
            for error in ended["errors"]
        ),
        ran=tuple(ran),
        cached=tuple(cached),
        values={},
    )
