"""``/v1/docs``: our own interface as a page, made in the browser from the OpenAPI description. It asks no other host for anything."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from engine.service.served import installed_file

_FOLDER: Final = Path(__file__).parent / "pages" / "docs"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def routes() -> list[BaseRoute]:
    return [
        Route("/v1/docs", _page),
        Route("/v1/docs/page.css", _part),
        Route("/v1/docs/page.js", _part),
    ]


async def _page(request: Request) -> Response:
    return _sent(request, "page.html")


async def _part(request: Request) -> Response:
    return _sent(request, request.url.path.rpartition("/")[2])


def _sent(request: Request, name: str) -> Response:
    path = _FOLDER / name
    response = installed_file(request, path, path.stat(), "no-cache")
    response.headers["content-security-policy"] = _POLICY
    return response
