"""What can be asked over ``/v1/stream``: each method gets a map of params and gives an answer that msgpack can carry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from engine.errors import UsageError
from engine.service import intake
from engine.service.comfy.routing import is_unicode
from engine.service.desk import Desk, Work


async def call(desk: Desk, work: Work, method: Any, params: Any) -> Any:
    """Raises ``UsageError`` for an unknown method and params that cannot be used, and what the method raises."""
    found = METHODS.get(method) if isinstance(method, str) else None
    if found is None or not isinstance(params, dict):
        raise UsageError(f"expected a method among {', '.join(METHODS)} and params, a map")
    try:
        return await found(desk, work, params)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # params of other types than they should be
        raise UsageError(f"these params cannot be used: {type(error).__name__}: {error}") from error


def _job_id(params: Mapping[str, Any]) -> str:
    job = params.get("job")
    if not isinstance(job, str):
        raise UsageError("expected job, the id of one")
    return job


def _optional_text(params: Mapping[str, Any], name: str) -> str | None:
    text = params.get(name)
    if text is not None and not (isinstance(text, str) and len(text) <= 256 and is_unicode(text)):
        raise UsageError(f"expected {name} to be a text of at most 256 characters, or none")
    return text


def _whole(params: Mapping[str, Any], name: str, default: int) -> int:
    number = params.get(name, default)
    if type(number) is not int or not 0 <= number < 2**40:
        raise UsageError(f"expected {name} to be a whole number from 0, found {str(number)[:40]!r}")
    return number


async def _submit(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    from engine.service.native_bodies import NewJob

    key = _optional_text(params, "idempotency_key")
    params.pop("idempotency_key", None)
    body = NewJob.model_validate(params)
    submitted = await intake.submit(desk, work, {**body.model_dump(), "idempotency_key": key})
    return intake.job_to_plain(submitted.job)


async def _get(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    job = await asyncio.to_thread(work.store.get, _job_id(params))
    if job is None:
        raise UsageError(f"there is no job {_job_id(params)[:80]!r}")
    return intake.job_to_plain(job)


async def _list(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    limit, offset = min(_whole(params, "limit", 100), intake.MOST), _whole(params, "offset", 0)
    client = _optional_text(params, "client")
    states, labels = [str(state) for state in params.get("states") or ()], dict(params.get("labels") or {})
    found = await asyncio.to_thread(
        lambda: work.store.find(
            states=states,  # type: ignore[arg-type]  # an unknown state finds nothing
            labels={str(name): str(value) for name, value in labels.items()},
            client=client,
            limit=limit,
            offset=offset,
        )
    )
    return [intake.job_to_plain(job) for job in found]


async def _cancel(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    return await work.dispatcher.cancel(_job_id(params))


async def _pause(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    return await work.dispatcher.pause(_job_id(params))


async def _resume(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    return await work.dispatcher.resume(_job_id(params))


async def _outputs(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    return [intake.output_to_plain(found) for found in await asyncio.to_thread(work.store.outputs, _job_id(params))]


async def _fetch(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    """Bytes of an output, by the digest of its content: at most ``length`` of them, from ``start`` on."""
    path = await asyncio.to_thread(intake.output_path, desk, work, str(params.get("digest")))
    if path is None:
        raise UsageError("there is no file with this content any more")
    start, length = _whole(params, "start", 0), _whole(params, "length", desk.settings.limits.body)

    def read() -> bytes:
        with path[0].open("rb") as file:
            file.seek(start)
            return file.read(length)

    return await asyncio.to_thread(read)


async def _upload(desk: Desk, work: Work, params: dict[str, Any]) -> Any:
    from engine.service.comfy.uploads import store_input

    name, data = params.get("name"), params.get("data")
    if not isinstance(name, str) or not isinstance(data, bytes):
        raise UsageError("expected name, a text, and data, bytes")
    overwrite = params.get("overwrite") is True
    return await asyncio.to_thread(
        lambda: dict(store_input(desk.files.roots, desk.settings.limits, name, data, overwrite=overwrite))
    )


METHODS: Final[Mapping[str, Callable[[Desk, Work, dict[str, Any]], Awaitable[Any]]]] = {
    "submit": _submit,
    "get": _get,
    "list": _list,
    "cancel": _cancel,
    "pause": _pause,
    "resume": _resume,
    "outputs": _outputs,
    "fetch": _fetch,
    "upload": _upload,
}
