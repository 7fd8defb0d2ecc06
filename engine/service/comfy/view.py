"""``/view`` and ``/view_metadata``: pictures and other files of the three folders, and what a model file says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from engine.errors import MezzotintError, PathOutsideRoots, UnreadableWorkflow
from engine.files import FILE_KINDS, FileKind, FileRoots, split_annotation
from engine.graph.safetensors_header import LONGEST_HEADER, header_size, read_metadata
from engine.service.comfy.routing import as_json, both, is_part_of_another_site
from engine.service.desk import desk_of
from engine.service.pictures import ONE_AT_A_TIME, drawn, eight_bits, encoded, read_picture
from engine.service.served import NameTooLong, disposition, inside, regular_file, safe_name, stored_file

_QUALITY: Final = 90
_HEADERS: Final = {"x-content-type-options": "nosniff"}


class Refused(Exception):
    """A name that is not served, with the status ComfyUI's clients know."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(str(status))


def routes() -> list[BaseRoute]:
    return [*both("/view", _view), *both("/view_metadata/{folder}", _view_metadata)]


async def _view(request: Request) -> Response:
    query = request.query_params
    desk = desk_of(request)
    try:
        path = await run_in_threadpool(find_viewed, desk.files.roots, query)
        found = await run_in_threadpool(regular_file, path)
        if found is None:
            raise Refused(404)
        if not (query.get("preview") or query.get("channel", "rgba") in ("rgb", "a")):
            return stored_file(request, path, found)
        if is_part_of_another_site(request):
            raise Refused(403)
        data, media_type = await drawn(partial(_drawn, path, query, desk.settings.limits.pixels))
    except Refused as refused:
        return Response(status_code=refused.status)
    except MezzotintError:  # it is no picture that could be drawn anew
        return Response(status_code=400)
    named = {"content-disposition": disposition("inline", path.name)}
    return Response(data, media_type=media_type, headers={**_HEADERS, **named})


def find_viewed(roots: FileRoots, query: Mapping[str, str]) -> Path:
    """Where the file that a query names is or would be. Raises ``Refused``: 404 for no name, 400 for a bad one or an unknown type,
    403 for a subfolder elsewhere."""
    name, mark = split_annotation(query.get("filename", ""))
    if not name:
        raise Refused(404)
    folder = roots.folder(_kind(mark or query.get("type", "output")))
    try:
        file = safe_name(name)
    except NameTooLong as error:
        raise Refused(404) from error
    except PathOutsideRoots as error:
        raise Refused(400) from error
    try:
        subfolder = query.get("subfolder", "")
        return inside(folder, safe_name(subfolder) / file if subfolder else file)
    except PathOutsideRoots as error:
        raise Refused(403) from error


def _kind(name: str) -> FileKind:
    for kind in FILE_KINDS:
        if kind == name:
            return kind
    raise Refused(400)


def _drawn(path: Path, query: Mapping[str, str], pixels: int) -> tuple[bytes, str]:
    """The picture drawn anew as the query wants it, turned as its EXIF says."""
    channel = query.get("channel", "rgba")
    with ONE_AT_A_TIME:
        picture = eight_bits(ImageOps.exif_transpose(read_picture(path, pixels)))
        if preview := query.get("preview"):
            return _preview(picture, preview, "a" in query.get("channel", ""))
        if channel == "rgb":
            return encoded(picture.convert("RGB"), "PNG", compress_level=1), "image/png"
        alpha = picture.convert("RGBA").getchannel("A")
        only = Image.new("RGBA", picture.size)
        only.putalpha(alpha)
        return encoded(only, "PNG", compress_level=1), "image/png"


def _preview(picture: Image.Image, wanted: str, with_alpha: bool) -> tuple[bytes, str]:
    format, _, quality = wanted.partition(";")
    is_number = quality.isascii() and quality.isdecimal() and len(quality) < 10
    number = min(max(int(quality), 1), 100) if is_number else _QUALITY
    if format == "jpeg" and not with_alpha:
        return encoded(picture.convert("RGB"), "JPEG", quality=number), "image/jpeg"
    return encoded(picture, "WEBP", quality=number), "image/webp"


async def _view_metadata(request: Request) -> Response:
    files = desk_of(request).files
    name = request.query_params.get("filename", "")

    def read() -> dict[str, str] | None:
        if not name.endswith((".safetensors", ".sft")):
            return None
        return model_metadata(files.models.find(request.path_params["folder"], name)) or None

    try:
        metadata = await run_in_threadpool(read)
    except (MezzotintError, OSError, ValueError):
        metadata = None
    return Response(status_code=404) if metadata is None else as_json(metadata)


def model_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself; its tensors are not read. Raises ``UnreadableWorkflow`` or ``OSError``."""
    with path.open("rb") as file:
        start = file.read(9)
        size = header_size(start)
        if size is None or size > LONGEST_HEADER:
            raise UnreadableWorkflow(f"expected a safetensors file at {path.name}, found other data")
        return read_metadata(start + file.read(size - 1))
