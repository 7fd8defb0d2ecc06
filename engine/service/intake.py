"""What can be asked of the service in its own words; the REST routes and the websocket both come here."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from engine.errors import InvalidGraph, UsageError, WorkflowError
from engine.graph.api_format import write_api
from engine.graph.dynamic_prompts import sent_graph
from engine.graph.graph import Graph, NodeId
from engine.graph.read import Workflow, read_data
from engine.graph.seeds import seed_of
from engine.graph.validate import coerced, output_nodes, validate
from engine.jobs.harvest import place_of
from engine.jobs.records import Job, OutputRecord, Submission
from engine.jobs.store import Submitted
from engine.service.comfy.refusals import model_files
from engine.service.desk import Desk, Work
from engine.service.plain import storable

MOST: Final = 1_000
"""Items of one page of a list."""


def prepared(desk: Desk, workflow: Any, targets: list[str] | None) -> tuple[Graph, Workflow, tuple[NodeId, ...]]:
    """A workflow in any format as what is to run: an editor's texts drawn, literals coerced; and the nodes it is for.

    NaN and infinities count as null. Raises ``WorkflowError``, with all problems where the graph is wrong, and ``UsageError``.
    """
    read = read_data(storable(workflow), desk.registry)
    if len(read.graph) > desk.settings.limits.nodes:
        raise UsageError(f"expected at most {desk.settings.limits.nodes} nodes, found {len(read.graph)}")
    graph = read.graph
    if read.source == "editor":
        seed = seed_of(graph, read.seeds)
        graph = sent_graph(graph, desk.registry, seed=seed, now=datetime.now(), names=read.names)
    wanted = tuple(map(NodeId, targets)) if targets is not None else None
    problems = validate(graph, desk.registry, desk.files, wanted)
    if problems:
        raise InvalidGraph(problems)
    graph = coerced(graph, desk.registry)
    return graph, read, wanted if wanted is not None else output_nodes(graph, desk.registry)


async def submit(desk: Desk, work: Work, params: Mapping[str, Any]) -> Submitted:
    """A new job. ``params`` as in ``NewJob`` of ``engine.service.native``. Raises ``WorkflowError``, ``Conflict``, ``QueueFull``."""
    graph, read, targets = await asyncio.to_thread(prepared, desk, params["workflow"], params.get("targets"))
    pnginfo: dict[str, Any] = {"workflow": read.editor} if read.editor is not None else {}
    return await work.submit(
        Submission(
            job=params.get("id") or str(uuid.uuid4()),
            prompt=write_api(graph),
            targets=tuple(map(str, targets)),
            client=params.get("client") or "",
            priority=params.get("priority") or 0,
            front=bool(params.get("front")),
            labels=dict(params.get("labels") or {}),
            idempotency_key=params.get("idempotency_key"),
            request=_digest(params),
            extra_data={"extra_pnginfo": pnginfo} if pnginfo else {},
            models=model_files(graph, desk.registry),
            use_cache=params.get("use_cache", True),
            stop_on_failure=bool(params.get("stop_on_failure")),
        )
    )


_ASKED: Final = ("workflow", "targets", "priority", "front", "labels", "use_cache", "stop_on_failure")


def _digest(params: Mapping[str, Any]) -> str:
    """Of what was asked for as it came: what is drawn or dated in it differs the next time that it is sent."""
    text = json.dumps([params.get(name) for name in _ASKED], sort_keys=True)
    return blake3(text.encode("utf-8", "surrogatepass")).hexdigest()


def problems_of(error: WorkflowError) -> list[dict[str, Any]]:
    """What is wrong, item by item."""
    if isinstance(error, InvalidGraph):
        return [dict(problem.to_json()) for problem in error.problems]
    return [
        {"type": "unreadable", "node": None, "class_type": None, "title": None, "input": None, "message": str(error)}
    ]


def job_to_plain(job: Job) -> dict[str, Any]:
    """A job as clients see it."""
    return {
        "id": job.id,
        "state": job.state,
        "client": job.client,
        "priority": job.priority,
        "number": job.number,
        "labels": dict(job.labels),
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "attempts": job.attempts,
        "outputs": {node: dict(ui) for node, ui in job.outputs.items()},
        "errors": [dict(error) for error in job.errors],
        "last_event": job.last_event,
    }


def output_to_plain(record: OutputRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in OutputRecord.__slots__}


def forecast_of(desk: Desk, workflow: Any, targets: list[str] | None) -> dict[str, Any]:
    """What a run would do now. Reads the disk: for a thread."""
    from engine.run.forecast import forecast
    from engine.run.opening import numerics, open_cache, open_last_runs

    graph, _, wanted = prepared(desk, workflow, targets)
    found = forecast(
        graph,
        desk.registry,
        files=desk.files,
        cache=open_cache(desk.places, desk.registry),
        numerics=numerics(desk.settings.device),
        last_runs=open_last_runs(desk.places),
        targets=wanted,
    )
    plain: dict[str, Any] = found.to_json()
    return plain


def output_path(desk: Desk, work: Work, digest: str) -> tuple[Path, OutputRecord] | None:
    """A file with this content that a job left, if one is still there."""
    for record in work.store.output(digest):
        path = place_of(record, desk.files.roots)
        if path is not None and path.is_file():
            return path, record
    return None
