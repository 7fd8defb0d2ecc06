"""Routes as ComfyUI's clients find them: each exists bare and below ``/api``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from engine.errors import UsageError

Handler = Callable[[Request], Awaitable[Response]]

_SEPARATORS: Final = (",", ":")


def both(path: str, handler: Handler, methods: Sequence[str] = ("GET",)) -> list[BaseRoute]:
    """``path`` and ``/api`` + ``path``. GET answers HEAD too."""
    return [Route(prefix + path, handler, methods=list(methods)) for prefix in ("", "/api")]


def as_json(value: Any, status: int = 200) -> Response:
    """JSON that every browser reads: never NaN or Infinity, which become null."""
    return Response(json_text(value), status, media_type="application/json")


def json_text(value: Any) -> str:
    """``value`` in ASCII, so that half characters which a client sent come back as they came."""
    try:
        return json.dumps(value, allow_nan=False, separators=_SEPARATORS)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=_SEPARATORS)


def is_unicode(text: str) -> bool:
    """Whether a text can be stored: JSON and msgpack may carry halves of a character, which UTF-8 has no place for."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def ids_among(items: list[Any]) -> list[str]:
    """What may be the id of something that is stored."""
    return [text for text in map(str, items) if is_unicode(text)]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


async def json_body(request: Request) -> Any:
    """The JSON a request carries, whatever its Content-Type says; None for an empty body. Raises ``UsageError`` for anything else."""
    body = await request.body()
    if not body.strip():
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected JSON, found something else: {type(error).__name__}") from error
