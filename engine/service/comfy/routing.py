"""Routes as ComfyUI's clients find them: each exists bare and below ``/api``."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from engine.errors import UsageError
from engine.service.plain import UNREADABLE, finite, read_json

Handler = Callable[[Request], Awaitable[Response]]

_SEPARATORS: Final = (",", ":")
_LARGE: Final = 2**20
"""Bytes of JSON that take long enough to read that nobody else should wait for it."""

_log = logging.getLogger(__name__)


def both(path: str, handler: Handler, methods: Sequence[str] = ("GET",)) -> list[BaseRoute]:
    """``path`` and ``/api`` + ``path``. GET answers HEAD too."""
    return [Route(prefix + path, handler, methods=list(methods)) for prefix in ("", "/api")]


def is_part_of_another_site(request: Request) -> bool:
    """Whether a browser loads this for a page of another site, as a picture of it say, and not because somebody goes there.

    Such a page cannot read the answer, but it can ask for a great many. Where there is an Origin, the guard has judged that.
    """
    told = request.headers
    is_foreign = told.get("sec-fetch-site", "none") not in ("same-origin", "none")
    return is_foreign and "origin" not in told and told.get("sec-fetch-mode") != "navigate"


def as_json(value: Any, status: int = 200) -> Response:
    """JSON that every browser reads: never NaN or Infinity, which become null."""
    return Response(json_text(value), status, media_type="application/json")


def json_text(value: Any) -> str:
    """``value`` in ASCII, so that half characters which a client sent come back as they came."""
    try:
        return json.dumps(value, allow_nan=False, separators=_SEPARATORS)
    except ValueError:
        return json.dumps(finite(value), allow_nan=False, separators=_SEPARATORS)


def entry_text(name: str, tell: Callable[[], Any]) -> str | None:
    """The JSON of one entry of a list; None where ``tell`` finds nothing, and, with a line in the log, for one that cannot be told: the
    others are told all the same."""
    try:
        found = tell()
        return None if found is None else json_text(found)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        _log.error("%s cannot be told and is left out (%s: %s)", name, type(error).__name__, reason)
        return None


def list_text(entries: Iterable[str | None]) -> str:
    """A JSON list of what ``entry_text`` gave."""
    return f"[{','.join(entry for entry in entries if entry is not None)}]"


def is_unicode(text: str) -> bool:
    """Whether a text can be stored: JSON and msgpack may carry halves of a character, which UTF-8 has no place for."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def ids_among(items: list[Any]) -> list[str]:
    """What may be the id of something that is stored."""
    return [text for text in map(str, items) if is_unicode(text)]


async def json_body(request: Request) -> Any:
    """The JSON a request carries, whatever its Content-Type says, as ``read_json`` has it; None for an empty body.

    Raises ``TooDeep``, and ``UsageError`` for anything else.
    """
    body = await request.body()
    if not body.strip():
        return None
    try:
        return read_json(body) if len(body) < _LARGE else await run_in_threadpool(read_json, body)
    except ValueError as error:
        raise UsageError(f"expected JSON, found something else: {type(error).__name__}") from error
