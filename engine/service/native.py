"""``/v1``: our own HTTP interface, described at ``/v1/docs``."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Request
from fastapi.responses import FileResponse, Response

from engine.errors import MezzotintError, UsageError, WorkflowError
from engine.graph.object_info import object_info
from engine.jobs.changes import Conflict, QueueFull
from engine.jobs.records import Job, JobState
from engine.run.disk_tier import DiskTier
from engine.service import intake
from engine.service.bodies import AsciiJSON, BodyTooLarge, Unfit, bounded
from engine.service.comfy.system import system_stats
from engine.service.comfy.uploads import store_input
from engine.service.desk import Desk, Work, desk_of, work_of
from engine.service.native_bodies import JobBody, JobPage, NewJob, Problems, Told, WorkflowBody
from engine.service.served import RASTER_TYPES


def _desk(request: Request) -> Desk:
    return desk_of(request)


def _work(request: Request) -> Work:
    return work_of(request)


DeskOf = Annotated[Desk, Depends(_desk)]
WorkOf = Annotated[Work, Depends(_work)]
JobId = Annotated[str, Path(max_length=256)]
_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": Told},
    409: {"model": Told},
    413: {"model": Told},
    422: {"model": Problems | Unfit},
    429: {"model": Told},
}
_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": Told}}


def router() -> APIRouter:
    """The routes of ``/v1``."""
    routes = APIRouter(prefix="/v1", default_response_class=AsciiJSON)
    routes.post("/jobs", status_code=201, responses={200: {"model": JobBody}, **_REFUSED}, tags=["jobs"])(submit_job)
    routes.get("/jobs", responses={400: {"model": Told}}, tags=["jobs"])(list_jobs)
    routes.get("/jobs/{job}", responses=_MISSING, tags=["jobs"])(show_job)
    routes.delete("/jobs/{job}", responses={**_MISSING, 409: {"model": Told}}, status_code=204, tags=["jobs"])(
        forget_job
    )
    routes.get("/jobs/{job}/workflow", responses=_MISSING, tags=["jobs"])(show_workflow)
    routes.get("/jobs/{job}/outputs", responses=_MISSING, tags=["jobs"])(list_outputs)
    routes.get("/jobs/{job}/events", responses=_MISSING, tags=["jobs"])(list_events)
    for verb, change in (("cancel", cancel_job), ("pause", pause_job), ("resume", resume_job)):
        routes.post(f"/jobs/{{job}}/{verb}", responses={**_MISSING, 409: {"model": Told}}, tags=["jobs"])(change)
    routes.post("/validate", responses={400: {"model": Told}}, tags=["workflows"])(validate_workflow)
    routes.post("/plan", responses={400: {"model": Told}, 422: {"model": Problems | Unfit}}, tags=["workflows"])(
        plan_workflow
    )
    routes.get("/nodes", tags=["nodes"])(list_nodes)
    routes.get("/nodes/{type}", responses=_MISSING, tags=["nodes"])(show_node)
    routes.get("/models", tags=["models"])(list_models)
    routes.get("/models/{folder}", responses=_MISSING, tags=["models"])(list_folder)
    routes.get("/outputs", tags=["files"])(latest_outputs)
    routes.get("/outputs/{digest}", responses=_MISSING, tags=["files"], response_class=FileResponse)(fetch_output)
    routes.put("/inputs/{name}", responses={400: {"model": Told}, 413: {"model": Told}}, tags=["files"])(put_input)
    routes.get("/cache", tags=["system"])(cache_info)
    routes.delete("/cache", status_code=204, tags=["system"])(clear_cache)
    routes.get("/system", tags=["system"])(system)
    return routes


async def submit_job(
    body: NewJob,
    desk: DeskOf,
    work: WorkOf,
    idempotency_key: Annotated[str | None, Header(max_length=256)] = None,
) -> Any:
    """Check a workflow and put it into the queue; it is on disk before this answers.

    With an ``Idempotency-Key`` that was used before, the answer is the job of that time.
    """
    try:
        submitted = await intake.submit(desk, work, {**dict(body), "idempotency_key": idempotency_key})
    except WorkflowError as error:
        return AsciiJSON({"problems": intake.problems_of(error)}, 422)
    except Conflict as error:
        raise HTTPException(409, str(error)) from error
    except QueueFull as error:
        raise HTTPException(429, str(error)) from error
    except MezzotintError as error:
        raise HTTPException(400, str(error)) from error
    return AsciiJSON(intake.job_to_plain(submitted.job), 201 if submitted.is_new else 200)


async def list_jobs(
    work: WorkOf,
    state: Annotated[list[JobState] | None, Query()] = None,
    label: Annotated[list[str] | None, Query(description="NAME=VALUE; all of them")] = None,
    client: str | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: Annotated[int, Query(ge=0, le=intake.MOST)] = 100,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> JobPage:
    """Jobs, the newest first."""
    asked: dict[str, Any] = {
        "states": state or (),
        "labels": dict(_label(text) for text in label or ()),
        "client": client,
        "since": since,
        "until": until,
    }
    jobs = await asyncio.to_thread(lambda: work.store.find(limit=limit, offset=offset, **asked))
    total = await asyncio.to_thread(lambda: work.store.count(**asked))
    return JobPage(jobs=[_body(job) for job in jobs], total=total, limit=limit, offset=offset)


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise HTTPException(400, f"expected a label as NAME=VALUE, found {text[:60]!r}")
    return name, value


def _body(job: Job) -> JobBody:
    return JobBody.model_validate(intake.job_to_plain(job))


async def _known(work: Work, job: str) -> Job:
    found = await asyncio.to_thread(work.store.get, job)
    if found is None:
        raise HTTPException(404, f"there is no job {job[:80]!r}")
    return found


async def show_job(job: JobId, work: WorkOf) -> JobBody:
    """One job as it stands."""
    return _body(await _known(work, job))


async def forget_job(job: JobId, work: WorkOf) -> Response:
    """Delete a job that has ended, and its events. Its files stay."""
    await _known(work, job)
    if not await asyncio.wrap_future(work.store.forget(job)):
        raise HTTPException(409, "the job has not ended; cancel it first")
    return Response(status_code=204)


async def show_workflow(job: JobId, work: WorkOf) -> dict[str, Any]:
    """What the job runs, in the API format."""
    await _known(work, job)
    payload = await asyncio.to_thread(work.store.payload, job)
    return dict(payload.prompt) if payload is not None else {}


async def list_outputs(job: JobId, work: WorkOf) -> list[dict[str, Any]]:
    """The files the job left, by content."""
    await _known(work, job)
    return [intake.output_to_plain(record) for record in await asyncio.to_thread(work.store.outputs, job)]


async def list_events(
    job: JobId,
    work: WorkOf,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=intake.MOST)] = 500,
) -> list[dict[str, Any]]:
    """What happened in the job after a number; ``/v1/stream`` goes on from there."""
    await _known(work, job)
    chunks = await asyncio.to_thread(work.store.events, after, job, limit)
    events = [event for chunk in chunks for event in chunk.events if event.seq > after][:limit]
    return [{"seq": event.seq, "time": event.time, "name": event.name, "data": event.data} for event in events]


async def cancel_job(job: JobId, work: WorkOf) -> JobBody:
    """End a job: at once if it waits, at its next step if it runs."""
    return await _changed(work, job, await work.dispatcher.cancel(job), "has ended")


async def pause_job(job: JobId, work: WorkOf) -> JobBody:
    """Hold a job; one that runs stops at its next step, and goes on from there when it is resumed."""
    return await _changed(work, job, await work.dispatcher.pause(job), "neither waits nor runs")


async def resume_job(job: JobId, work: WorkOf) -> JobBody:
    """Let a paused job wait again."""
    return await _changed(work, job, await work.dispatcher.resume(job), "is not paused")


async def _changed(work: Work, job: str, is_changed: bool, why_not: str) -> JobBody:
    found = await _known(work, job)
    if not is_changed:
        raise HTTPException(409, f"the job {why_not}: it is {found.state}")
    return _body(found)


async def validate_workflow(body: WorkflowBody, desk: DeskOf) -> Problems:
    """Everything that is wrong with a workflow; nothing runs."""
    try:
        await asyncio.to_thread(intake.prepared, desk, body.workflow, body.targets)
    except WorkflowError as error:
        return Problems(problems=intake.problems_of(error))
    except UsageError as error:
        raise HTTPException(400, str(error)) from error
    return Problems(problems=[])


async def plan_workflow(body: WorkflowBody, desk: DeskOf) -> Any:
    """What a run would do: what is kept and where, what would be computed and why."""
    try:
        return AsciiJSON(await asyncio.to_thread(intake.forecast_of, desk, body.workflow, body.targets))
    except WorkflowError as error:
        return AsciiJSON({"problems": intake.problems_of(error)}, 422)
    except MezzotintError as error:
        raise HTTPException(400, str(error)) from error


async def list_nodes(desk: DeskOf) -> list[dict[str, Any]]:
    """All node types, in short."""
    return [
        {"type": spec.type, "title": spec.title, "category": spec.category, "pack": spec.pack}
        for spec in desk.registry.values()
    ]


async def show_node(type: str, desk: DeskOf, work: WorkOf) -> dict[str, Any]:
    """What a node takes and gives."""
    spec = desk.registry.get(type)
    if spec is None:
        raise HTTPException(404, f"there is no node type {type[:80]!r}")
    if not spec.pack:
        return await asyncio.to_thread(object_info, spec, desk.files)
    try:
        return await asyncio.to_thread(work.packs.object_info, spec, desk.files)
    except MezzotintError as error:
        raise HTTPException(404, str(error)) from error


async def list_models(desk: DeskOf) -> list[str]:
    """The model folders there are."""
    return sorted(desk.files.models.keys())


async def list_folder(folder: str, desk: DeskOf) -> list[str]:
    """The model files of one folder."""
    known = desk.files.models.keys()
    if folder not in known:
        raise HTTPException(404, f"there is no model folder {folder[:80]!r}; there are {', '.join(known)}")
    return list(await asyncio.to_thread(desk.files.models.list, folder))


async def latest_outputs(work: WorkOf, limit: Annotated[int, Query(ge=1, le=intake.MOST)] = 20) -> list[dict[str, Any]]:
    """The files that were made last, the newest first."""
    return [intake.output_to_plain(record) for record in await asyncio.to_thread(work.store.latest_outputs, limit)]


async def fetch_output(digest: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], desk: DeskOf, work: WorkOf) -> Response:
    """A file by the blake3 digest of its content."""
    found = await asyncio.to_thread(intake.output_path, desk, work, digest)
    if found is None:
        raise HTTPException(404, "there is no file with this content any more")
    path, record = found
    is_shown = record.media_type in RASTER_TYPES.values()
    return FileResponse(
        path,
        media_type=record.media_type if is_shown else "application/octet-stream",
        filename=record.filename,
        headers={"ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"},
        content_disposition_type="inline" if is_shown else "attachment",
    )


async def put_input(
    name: Annotated[str, Path(max_length=512)],
    request: Request,
    desk: DeskOf,
    overwrite: bool = False,
    subfolder: Annotated[str, Query(max_length=512)] = "",
) -> dict[str, str]:
    """Upload a picture, sound, film, a latent or a 3D model that workflows may load: the body is the file, and is stored as it is.

    A picture is decoded to be verified.
    """
    limits = desk.settings.limits
    try:
        data = await bounded(request, limits.body).body()
        stored = await asyncio.to_thread(
            lambda: store_input(desk.files.roots, limits, name, data, subfolder=subfolder, overwrite=overwrite)
        )
    except BodyTooLarge as error:
        raise HTTPException(413, str(error)) from error
    except MezzotintError as error:
        raise HTTPException(400, str(error)) from error
    return {key: str(value) for key, value in dict(stored).items()}


async def cache_info(desk: DeskOf) -> dict[str, Any]:
    """How much is kept of what was computed."""
    tier = DiskTier(desk.places.state / "cache", desk.registry.codecs)
    found = await asyncio.to_thread(tier.info)
    return {"results": found.results, "bytes": found.bytes, "limit": found.limit, "by_type": dict(found.by_type)}


async def clear_cache(desk: DeskOf, work: WorkOf) -> Response:
    """Forget what was computed: on disk now, in the workers' memory after what they are at. Files in the output folder stay."""
    await asyncio.to_thread(DiskTier(desk.places.state / "cache", desk.registry.codecs).clear)
    work.packs.free(unload_models=False, free_memory=True)
    return Response(status_code=204)


async def system(desk: DeskOf, work: WorkOf) -> dict[str, Any]:
    """The machine, the workers and what they are at."""
    lanes = [
        {
            "device": lane.name,
            "pid": lane.worker.living_pid,
            "job": lane.task.job.id if lane.task else None,
            "models": sorted(lane.models),
            "trouble": lane.trouble,
        }
        for lane in work.dispatcher.lanes
    ]
    return {**system_stats(desk.settings), "workers": lanes, "jobs": await asyncio.to_thread(work.store.totals)}
