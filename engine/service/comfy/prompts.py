"""``/prompt``, ``/queue``, ``/interrupt``, ``/free``, ``/object_info``: what ComfyUI's clients have run."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from engine.errors import MezzotintError, UsageError
from engine.jobs.changes import Conflict, QueueFull
from engine.jobs.records import Job, Submission
from engine.service.comfy.history import clean_extra_data, queue_item
from engine.service.comfy.refusals import NO_PROMPT, Checked, Refusal, check_prompt, model_files
from engine.service.comfy.routing import as_json, both, entry_text, ids_among, json_body, list_text
from engine.service.desk import Desk, Work, desk_of, work_of
from engine.service.plain import TooDeep

_ID: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,128}")


class UnfitId(UsageError):
    """An id that no job can have."""


def routes() -> list[BaseRoute]:
    return [
        *both("/prompt", _remaining),
        *both("/prompt", _post, ["POST"]),
        *both("/queue", _queue),
        *both("/queue", _change_queue, ["POST"]),
        *both("/interrupt", _interrupt, ["POST"]),
        *both("/free", _free, ["POST"]),
        *both("/object_info", _object_info),
        *both("/object_info/{type:path}", _one_object_info),
    ]


async def _remaining(request: Request) -> Response:
    return as_json({"exec_info": {"queue_remaining": work_of(request).hub.remaining}})


async def _post(request: Request) -> Response:
    work, desk = work_of(request), desk_of(request)
    try:
        posted = await json_body(request)
    except TooDeep as error:
        return as_json(_error("invalid_prompt", str(error)), 400)
    except UsageError as error:  # as ComfyUI answers, and its clients expect
        return PlainTextResponse(f"500 Internal Server Error\n\n{error}", 500)
    if not _has_prompt(posted):  # packs' handlers take it that there is one
        return as_json({"error": NO_PROMPT, "node_errors": {}}, 400)
    try:
        posted = await work.packs.on_prompt(posted)
    except TooDeep as error:
        return as_json(_error("invalid_prompt", str(error)), 400)
    if not _has_prompt(posted):
        return as_json({"error": NO_PROMPT, "node_errors": {}}, 400)
    too_large = _too_large(posted["prompt"], desk)
    if too_large is not None:
        return too_large
    targets = posted.get("partial_execution_targets")
    wanted = [str(target) for target in targets] if isinstance(targets, list) else None
    checked = await asyncio.to_thread(check_prompt, posted["prompt"], desk.registry, desk.files, wanted)
    if isinstance(checked, Refusal):
        return as_json(checked.body, checked.status)
    try:
        submission = _submission(posted, checked, desk)
        submitted = await work.submit(submission)
    except (Conflict, UnfitId) as error:
        return as_json(_error("invalid_prompt_id", str(error)), 400)
    except UsageError as error:
        return as_json(_error("invalid_prompt", str(error)), 400)
    except QueueFull as error:
        return as_json(_error("queue_full", str(error)), 429)
    job = submitted.job
    number = int(job.number) if job.number.is_integer() else job.number
    return as_json({"prompt_id": job.id, "number": number, "node_errors": checked.node_errors})


def _has_prompt(posted: Any) -> bool:
    return isinstance(posted, dict) and posted.get("prompt") is not None


def _too_large(prompt: Any, desk: Desk) -> Response | None:
    most = desk.settings.limits.nodes
    if not isinstance(prompt, dict) or len(prompt) <= most:
        return None
    return as_json(_error("invalid_prompt", f"expected at most {most} nodes, found {len(prompt)}"), 400)


def _error(type_: str, message: str) -> dict[str, Any]:
    return {"error": {"type": type_, "message": message, "details": message, "extra_info": {}}, "node_errors": {}}


def _submission(posted: Mapping[str, Any], checked: Checked, desk: Desk) -> Submission:
    client = posted.get("client_id")
    extra = posted.get("extra_data")
    extra_data: dict[str, Any] = dict(clean_extra_data(extra)) if isinstance(extra, dict) else {}
    if isinstance(client, str):
        extra_data["client_id"] = client
    return Submission(
        job=_job_id(posted.get("prompt_id")),
        prompt=checked.prompt,
        targets=tuple(map(str, checked.targets)),
        client=client[:256].encode(errors="replace").decode() if isinstance(client, str) else "",
        number=_number(posted.get("number")),
        front=posted.get("front") is True,
        in_order=True,
        extra_data=extra_data,
        node_errors=checked.node_errors,
        models=model_files(checked.graph, desk.registry),
    )


def _job_id(given: Any) -> str:
    if given is None:
        return str(uuid.uuid4())
    if not _ID.fullmatch(str(given)):
        raise UnfitId("prompt_id must be Unicode text of at most 128 characters, without control characters")
    return str(given)


def _number(given: Any) -> float | None:
    if given is None:
        return None
    try:
        number = float(given)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"number must be a number, found {str(given)[:40]!r}") from None
    if number - number != 0:
        raise UsageError("number must be finite")
    return number


async def _queue(request: Request) -> Response:
    work = work_of(request)

    running, pending = work.dispatcher.running(), list(work.dispatcher.queue)
    told = [await asyncio.to_thread(_queue_text, work, jobs) for jobs in (running, pending)]
    return Response(f'{{"queue_running":{told[0]},"queue_pending":{told[1]}}}', media_type="application/json")


def _queue_text(work: Work, jobs: Iterable[Job]) -> str:
    """Reads the store: for a thread."""
    return list_text(entry_text(f"job {job.id}", partial(_queue_item, work, job)) for job in jobs)


def _queue_item(work: Work, job: Job) -> list[Any] | None:
    payload = work.store.payload(job.id)
    return None if payload is None else queue_item(job, payload)


async def _change_queue(request: Request) -> Response:
    """Takes waiting jobs out; one that runs is for ``/interrupt``."""
    work = work_of(request)
    body = await _object(request)
    if body is None:
        return Response(status_code=400)
    unwanted = [job.id for job in work.dispatcher.queue] if body.get("clear") else _ids(body.get("delete"))
    running = {job.id for job in work.dispatcher.running()}
    for job in unwanted:
        if job not in running:
            await work.dispatcher.cancel(job)
    return Response()


async def _interrupt(request: Request) -> Response:
    work = work_of(request)
    body = await _object(request)
    wanted = (body or {}).get("prompt_id")
    for job in work.dispatcher.running():
        if not wanted or wanted == job.id:
            await work.dispatcher.cancel(job.id)
    return Response()


async def _free(request: Request) -> Response:
    body = await _object(request) or {}
    free_memory = body.get("free_memory") is True
    work_of(request).packs.free(unload_models=free_memory or body.get("unload_models") is True, free_memory=free_memory)
    return Response()


async def _object_info(request: Request) -> Response:
    desk = desk_of(request)
    text = await asyncio.to_thread(work_of(request).packs.object_info_text, desk.registry, desk.files)
    return Response(text, media_type="application/json")


async def _one_object_info(request: Request) -> Response:
    desk, type_ = desk_of(request), request.path_params["type"]
    if type_ not in desk.registry:
        return as_json({})
    try:
        info = await asyncio.to_thread(work_of(request).packs.object_info, desk.registry[type_], desk.files)
    except MezzotintError:  # a class that cannot say what it takes; all others are served
        return as_json({})
    return as_json({type_: info})


async def _object(request: Request) -> dict[str, Any] | None:
    """The JSON object in a body, ``{}`` for an empty one; None for anything else."""
    try:
        body = await json_body(request)
    except UsageError:
        return None
    return {} if body is None else body if isinstance(body, dict) else None


def _ids(given: Any) -> list[str]:
    return ids_among(given) if isinstance(given, list) else []
