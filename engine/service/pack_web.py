"""Browser scripts of node packs: the files of their web directories below ``/extensions/<pack>/``."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from engine.service.comfy.routing import as_json

WebDirectories = Mapping[str, str | Path]
"""The web directory of each pack that has one."""

_TYPES: Final[Mapping[str, str]] = {
    ".js": "text/javascript", ".mjs": "text/javascript", ".cjs": "text/javascript", ".css": "text/css",
    ".json": "application/json", ".map": "application/json", ".html": "text/html", ".htm": "text/html",
    ".txt": "text/plain", ".md": "text/markdown", ".wasm": "application/wasm", ".svg": "image/svg+xml",
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
    ".avif": "image/avif", ".ico": "image/x-icon", ".woff": "font/woff", ".woff2": "font/woff2", ".ttf": "font/ttf",
    ".otf": "font/otf", ".mp3": "audio/mpeg", ".wav": "audio/wav", ".ogg": "audio/ogg", ".flac": "audio/flac",
    ".mp4": "video/mp4", ".webm": "video/webm", ".glb": "model/gltf-binary", ".gltf": "model/gltf+json",
}  # fmt: skip
"""What a file is; the machine's own tables differ. Any other is bytes, which a browser saves."""

_TEXT: Final = ("text/", "image/svg")
_ACTIVE: Final = frozenset({"text/html", "image/svg+xml"})
"""Can run scripts as a page of its own, which must not be one of the service's."""
_SCRIPTS: Final = ".js"
_PRIVATE: Final = frozenset({".py", ".pyc", ".pyd", ".so", ".dll"})
_ENCODED: Final = ("%2f", "%5c", "%00", "%25")


def web_files(directories: WebDirectories) -> list[str]:
    """The scripts that an editor is to load, as paths of this service. Reads the folders."""
    return [
        f"/extensions/{quote(pack, safe='')}/{quote(name)}"
        for pack, directory in directories.items()
        for name in _scripts(Path(directory))
    ]


def _scripts(root: Path) -> list[str]:
    found = [
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)  # which follows no links
        for name in names
        if name.endswith(_SCRIPTS)
    ]
    return sorted(name for name in found if file_below(root, name) is not None)


def web_routes(directories: Callable[[], WebDirectories]) -> list[BaseRoute]:
    """``/extensions/<pack>/<path>``; ``directories`` is asked at each request."""

    async def serve(request: Request) -> Response:
        root = directories().get(request.path_params["pack"])
        raw = (request.scope.get("raw_path") or b"").decode("latin-1").lower()
        if root is None or any(code in raw for code in _ENCODED):
            return as_json({"error": "no such file of a pack"}, 404)
        return await run_in_threadpool(file_answer, request, Path(root), request.path_params["path"])

    return [Route("/extensions/{pack}/{path:path}", serve, methods=["GET"])]


def file_answer(request: Request, root: Path, name: str) -> Response:
    """The file ``name`` below ``root``, to be looked for anew each time; 304 where the client has it. Blocks."""
    path = file_below(root, name)
    if path is None or path.suffix.lower() in _PRIVATE:
        return as_json({"error": "no such file of a pack"}, 404)
    media_type = _TYPES.get(path.suffix.lower(), "application/octet-stream")
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    if media_type in _ACTIVE:
        headers["Content-Security-Policy"] = "sandbox"
    typed = f"{media_type}; charset=utf-8" if media_type.startswith(_TEXT) else media_type
    response = FileResponse(path, headers={**headers, "Content-Type": typed}, media_type=typed, stat_result=path.stat())
    etag = response.headers["etag"]
    if etag in {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}:
        return Response(status_code=304, headers={**headers, "ETag": etag})
    return response


def file_below(root: Path, name: str) -> Path | None:
    """The regular file ``name`` below ``root``; None if there is none, or if its name or a link in it leads out, or to what is hidden."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        return None
    if os.name == "nt" and any(":" in part for part in parts):
        return None
    try:
        real, path = root.resolve(strict=True), root.joinpath(*parts).resolve(strict=True)
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (OSError, RuntimeError, ValueError):  # not there, a link in a circle, a name that is none
        return None
    return path if is_file and path.is_relative_to(real) else None
