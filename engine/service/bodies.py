"""Bodies of requests, never more of them than a service wants to hold."""

from __future__ import annotations

from typing import Any

from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from engine.errors import UsageError
from engine.service.comfy.routing import as_json, json_text
from engine.service.plain import is_too_deep


class BodyTooLarge(UsageError):
    """A request carries more than the service takes."""


class AsciiJSON(JSONResponse):
    """JSON of whatever a client sent, halves of characters and NaN among it."""

    def render(self, content: Any) -> bytes:
        return json_text(content).encode("ascii")


class Unfit(BaseModel):
    """What is wrong with a request, part by part."""

    detail: list[dict[str, Any]]


async def unfit(request: Request, error: Exception) -> Response:
    """The answer to a request that is not as described: 422."""
    assert isinstance(error, RequestValidationError)
    found = [_without_depths(dict(entry)) for entry in error.errors()]
    return AsciiJSON({"detail": jsonable_encoder(found)}, 422)


def _without_depths(entry: dict[str, Any]) -> dict[str, Any]:
    """What is wrong, without the value where that could not be told back."""
    return {name: value for name, value in entry.items() if not is_too_deep(value)}


def bounded(request: Request, most: int) -> Request:
    """The same request; reading more than ``most`` bytes of its body raises ``BodyTooLarge``, whatever it says of its length."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > most:
        raise _too_large(most)
    count = 0

    async def receive() -> Message:
        nonlocal count
        message = await request.receive()
        count += len(message.get("body", b""))
        if count > most:
            raise _too_large(most)
        return message

    return Request(request.scope, receive)


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"expected at most {most} bytes, found more; send less, or start the service with a higher limit"
    )


def refusal(error: Exception, status: int = 400) -> Response:
    """``{"error": one line}``; 413 for a body that is too large."""
    return as_json({"error": str(error)}, 413 if isinstance(error, BodyTooLarge) else status)
