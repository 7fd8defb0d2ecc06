"""``/history`` and ComfyUI's jobs API: what has run, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from engine.errors import UsageError
from engine.jobs.records import ENDED, Job, JobState
from engine.service.comfy.history import Messages, history_entry, is_shown, job_detail, job_item
from engine.service.comfy.routing import as_json, both, entry_text, ids_among, json_body, json_text, list_text
from engine.service.desk import Work, work_of

_MOST: Final = 10_000
_STATES: Final[dict[str, tuple[JobState, ...]]] = {
    "pending": ("queued", "paused"),
    "in_progress": ("running",),
    "completed": ("succeeded",),
    "failed": ("failed",),
    "cancelled": ("cancelled",),
}
_ORDERS: Final = {"created_at": "created", "execution_duration": "duration"}


def routes() -> list[BaseRoute]:
    return [
        *both("/history", _history),
        *both("/history", _change_history, ["POST"]),
        *both("/history/{job:path}", _one_history),
        Route("/api/jobs", _jobs),
        Route("/api/jobs/cancel", _cancel_jobs, methods=["POST"]),
        Route("/api/jobs/{job}", _job),
        Route("/api/jobs/{job}/cancel", _cancel_job, methods=["POST"]),
    ]


async def _history(request: Request) -> Response:
    work = work_of(request)
    try:
        most = _whole(request, "max_items", _MOST, ignores_negative=True)
        offset = _whole(request, "offset", -1, ignores_negative=True)
    except UsageError as error:
        return as_json({"error": str(error)}, 400)
    asked: dict[str, Any] = {"states": ENDED, "hidden": False, "order": "finished", "limit": min(most, _MOST)}
    if offset >= 0:
        jobs = await asyncio.to_thread(lambda: work.store.find(newest_first=False, offset=offset, **asked))
    else:
        jobs = (await asyncio.to_thread(lambda: work.store.find(**asked)))[::-1]
    return await _entries(work, jobs)


async def _one_history(request: Request) -> Response:
    work = work_of(request)
    job = await asyncio.to_thread(work.store.get, request.path_params["job"])
    is_told = job is not None and job.state in ENDED and is_shown(job)
    return await _entries(work, [job] if job is not None and is_told else [])


async def _entries(work: Work, jobs: Sequence[Job]) -> Response:
    """By id."""
    at_hand = {job.id: work.hub.at_hand(job.id) for job in jobs}

    def read() -> str:
        found = {job.id: entry_text(f"job {job.id}", partial(_entry, work, job, at_hand[job.id])) for job in jobs}
        return ",".join(f"{json_text(job)}:{entry}" for job, entry in found.items() if entry is not None)

    return Response(f"{{{await asyncio.to_thread(read)}}}", media_type="application/json")


def _entry(work: Work, job: Job, at_hand: Messages | None) -> dict[str, Any] | None:
    payload = work.store.payload(job.id)
    return None if payload is None else history_entry(job, payload, _messages(work, job, at_hand))


def _messages(work: Work, job: Job, at_hand: Messages | None) -> Messages:
    return work.hub.recalled(job.id) if at_hand is None else at_hand


async def _change_history(request: Request) -> Response:
    try:
        body = await json_body(request)
    except UsageError:
        return Response(status_code=400)
    if not isinstance(body, dict):
        return Response(status_code=400)
    store = work_of(request).store
    if body.get("clear"):
        await asyncio.wrap_future(store.hide(None))
    elif isinstance(body.get("delete"), list):
        await asyncio.wrap_future(store.hide(ids_among(body["delete"])))
    return Response()


async def _jobs(request: Request) -> Response:
    work = work_of(request)
    query = request.query_params
    try:
        states = _states(query.get("status"))
        limit, offset = _whole(request, "limit", 100), _whole(request, "offset", 0)
        order = _choice(query.get("sort_by", "created_at"), _ORDERS, "sort_by")
        newest = _choice(query.get("sort_order", "desc"), {"desc": True, "asc": False}, "sort_order")
    except UsageError as error:
        return as_json({"error": str(error)}, 400)

    def read() -> tuple[str, int, int]:
        jobs = work.store.find(
            states=states, hidden=False, order=order, newest_first=newest, limit=limit, offset=offset
        )
        items = list_text(entry_text(f"job {job.id}", partial(_item, work, job)) for job in jobs)
        return items, len(jobs), work.store.count(states=states, hidden=False)

    items, count, total = await asyncio.to_thread(read)
    pages = json_text({"offset": offset, "limit": limit, "total": total, "has_more": offset + count < total})
    return Response(f'{{"jobs":{items},"pagination":{pages}}}', media_type="application/json")


def _item(work: Work, job: Job) -> dict[str, Any] | None:
    payload = work.store.payload(job.id)
    return None if payload is None else job_item(job, payload)


async def _job(request: Request) -> Response:
    work, id_ = work_of(request), request.path_params["job"]
    at_hand = work.hub.at_hand(id_)

    def read() -> str | None:
        job, payload = work.store.get(id_), work.store.payload(id_)
        if job is None or payload is None or not is_shown(job):
            return None
        return json_text(job_detail(job, payload, _messages(work, job, at_hand)))

    found = await asyncio.to_thread(read)
    return as_json({"error": "Job not found"}, 404) if found is None else Response(found, media_type="application/json")


async def _cancel_job(request: Request) -> Response:
    return as_json({"cancelled": await work_of(request).dispatcher.cancel(request.path_params["job"])})


async def _cancel_jobs(request: Request) -> Response:
    try:
        body = await json_body(request)
    except UsageError as error:
        return as_json({"error": str(error)}, 400)
    jobs = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(jobs, list):
        return as_json({"error": "expected job_ids, a list of ids"}, 400)
    cancelled = [await work_of(request).dispatcher.cancel(job) for job in ids_among(jobs)]
    return as_json({"cancelled": any(cancelled)})


def _states(text: str | None) -> list[JobState]:
    names = [name for name in (text or "").split(",") if name]
    unknown = [name for name in names if name not in _STATES]
    if unknown:
        raise UsageError(f"expected status to be some of {', '.join(_STATES)}, found {unknown[0][:40]!r}")
    return [state for name in names for state in _STATES[name]]


def _whole(request: Request, name: str, default: int, *, ignores_negative: bool = False) -> int:
    """A number of the query; a negative one is refused, or counts as not given, which is how ComfyUI's clients say so of the history."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        number: int | None = int(text)
    except ValueError:
        number = None
    if number is not None and number < 0 and ignores_negative:
        return default
    if number is None or not 0 <= number < 2**31:
        raise UsageError(f"expected {name} to be a whole number from 0, found {text[:40]!r}")
    return number


def _choice(text: str, choices: dict[str, Any], name: str) -> Any:
    if text not in choices:
        raise UsageError(f"expected {name} to be {' or '.join(choices)}, found {text[:40]!r}")
    return choices[text]
