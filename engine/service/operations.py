"""``/healthz`` and ``/metrics``: for those who keep the service running."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from engine.jobs.feed import JobPreview
from engine.jobs.records import Chunk
from engine.run.events import NodeBytes
from engine.service.comfy.routing import as_json
from engine.service.desk import Work, desk_of, work_of

_PATIENCE = 2.0
"""Seconds for the store to answer."""
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def routes() -> list[BaseRoute]:
    return [Route("/healthz", _healthz), Route("/metrics", _metrics)]


async def _healthz(request: Request) -> Response:
    """200 when jobs can be taken and kept, 503 when not."""
    work = desk_of(request).work
    if work is None:
        return as_json({"status": "starting"}, 503)
    try:
        async with asyncio.timeout(_PATIENCE):
            await asyncio.wrap_future(work.store.check())
    except Exception as error:  # whatever it is, no job can be kept
        return as_json({"status": "the job store cannot be written", "error": type(error).__name__}, 503)
    return as_json({"status": "ok"})


async def _metrics(request: Request) -> Response:
    work = work_of(request)
    work.metrics.look(work)
    return Response(generate_latest(work.metrics.registry), media_type=_TEXT)


class Metrics:
    """Counts what is stored as it comes; ``engine.jobs.feed.Listener``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._jobs = Counter("mezzotint_jobs", "Jobs that have ended", ["status"], registry=self.registry)
        self._nodes = Counter("mezzotint_nodes", "Nodes that were done", ["how"], registry=self.registry)
        self._lost = Counter("mezzotint_jobs_requeued", "Jobs that were given back", registry=self.registry)
        self._seconds = Histogram("mezzotint_node_seconds", "Seconds nodes took that ran", registry=self.registry)
        self._queued = Gauge("mezzotint_queue_length", "Jobs that wait", registry=self.registry)
        self._running = Gauge("mezzotint_jobs_running", "Jobs that run", registry=self.registry)
        self._sockets = Gauge("mezzotint_sockets", "Websockets of ComfyUI's clients", registry=self.registry)
        self._events = Counter("mezzotint_events", "Events that were stored", registry=self.registry)

    def hear(self, chunk: Chunk) -> None:
        self._events.inc(len(chunk.events))
        for event in chunk.events:
            match event.name:
                case "job_finished":
                    self._jobs.labels(str(event.data["status"])).inc()
                case "job_queued" if event.data.get("reason"):
                    self._lost.inc()
                case "node_finished":
                    self._nodes.labels("ran").inc()
                    self._seconds.observe(event.data["seconds"])
                case "node_cached":
                    self._nodes.labels("cached").inc()
                case "node_failed":
                    self._nodes.labels("failed").inc()

    def show(self, preview: JobPreview) -> None:
        """Pictures are not counted."""

    def carry(self, message: NodeBytes) -> None:
        """Nor are bytes."""

    def look(self, work: Work) -> None:
        """Take what is now."""
        self._queued.set(len(work.dispatcher.queue))
        self._running.set(len(work.dispatcher.running()))
        self._sockets.set(len(work.hub))
