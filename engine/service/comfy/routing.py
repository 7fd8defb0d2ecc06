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
    try:
        text = json.dumps(value, allow_nan=False, separators=_SEPARATORS)
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False, separators=_SEPARATORS)
    return Response(text, status, media_type="application/json")


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
