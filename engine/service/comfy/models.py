"""``/models``, ``/embeddings`` and the model library: names, sizes and covers of model files."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from engine.errors import InputError, MezzotintError
from engine.model_folders import ModelFolders
from engine.service.comfy.routing import as_json, both, is_part_of_another_site
from engine.service.comfy.view import model_metadata
from engine.service.desk import desk_of
from engine.service.pictures import ONE_AT_A_TIME, drawn, eight_bits, encoded, read_picture
from engine.service.served import inside, regular_file, safe_name

_NO_MODELS: Final = frozenset({"configs", "custom_nodes", "styles"})
_COVER_SUFFIXES: Final = (".png", ".preview.png", ".jpg", ".jpeg", ".webp", ".preview.jpg", ".preview.webp")
_COVER_SIDE: Final = 1024
_COVER_KEYS: Final = ("modelspec.thumbnail", "ssmd_cover_images")


def routes() -> list[BaseRoute]:
    return [
        *both("/models", _folders),
        *both("/models/{folder}", _models),
        *both("/embeddings", _embeddings),
        *both("/experiment/models", _library),
        *both("/experiment/models/{folder}", _library_folder),
        *both("/experiment/models/preview/{folder}/{index}/{file:path}", _cover),
    ]


async def _folders(request: Request) -> Response:
    return as_json(list(desk_of(request).files.models.keys()))


async def _models(request: Request) -> Response:
    return await _told(request, lambda models: models.list(request.path_params["folder"]))


async def _embeddings(request: Request) -> Response:
    return await _told(request, lambda models: [str(Path(name).with_suffix("")) for name in models.list("embeddings")])


async def _library(request: Request) -> Response:
    return await _told(
        request,
        lambda models: [
            {"name": key, "folders": [str(path.absolute()) for path in models.paths(key)]}
            for key in models.folders
            if key not in _NO_MODELS
        ],
    )


async def _library_folder(request: Request) -> Response:
    return await _told(request, lambda models: list(_described(models, request.path_params["folder"])))


async def _told(request: Request, ask: Callable[[ModelFolders], Any]) -> Response:
    """What ``ask`` finds in the folders, as JSON; 404 where there is no such folder."""
    try:
        return as_json(await run_in_threadpool(ask, desk_of(request).files.models))
    except MezzotintError:
        return Response(status_code=404)


def _described(models: ModelFolders, key: str) -> Iterator[dict[str, Any]]:
    for name in models.list(key):
        for index, folder in enumerate(models.paths(key)):
            found = regular_file(folder / name)
            if found is not None:
                yield {
                    "name": name,
                    "pathIndex": index,
                    "modified": found.st_mtime,
                    "created": found.st_ctime,
                    "size": found.st_size,
                }
                break


async def _cover(request: Request) -> Response:
    if is_part_of_another_site(request):
        return Response(status_code=403)
    desk, asked = desk_of(request), request.path_params
    pixels = desk.settings.limits.pixels

    def read() -> bytes | None:
        index = asked["index"]
        if not (index.isascii() and index.isdecimal() and len(index) < 10):
            return None
        return cover(desk.files.models, asked["folder"], int(index), asked["file"], pixels)

    try:
        data = await drawn(read)
    except (MezzotintError, OSError):
        data = None
    return Response(status_code=404) if data is None else Response(data, media_type="image/webp")


def cover(models: ModelFolders, key: str, index: int, file: str, pixels: int) -> bytes | None:
    """The cover of a model as WEBP: a picture beside it, or the one its header carries; None if it has none.

    Raises ``MezzotintError`` for a name or a picture that cannot be used.
    """
    folders = models.paths(key)
    if not 0 <= index < len(folders):
        return None
    name = safe_name(file)
    for suffix in _COVER_SUFFIXES:
        path = inside(folders[index], name.with_name(f"{name.stem}{suffix}"))
        if regular_file(path) is not None:
            return _as_cover(path, pixels)
    model = inside(folders[index], name)
    if model.suffix not in (".safetensors", ".sft") or regular_file(model) is None:
        return None
    carried = _carried(model_metadata(model))
    return None if carried is None else _as_cover(carried, pixels)


def _as_cover(source: bytes | Path, pixels: int) -> bytes:
    with ONE_AT_A_TIME:
        picture = eight_bits(read_picture(source, pixels))
        picture.thumbnail((_COVER_SIDE, _COVER_SIDE))
        return encoded(picture, "WEBP", quality=90)


def _carried(metadata: dict[str, str]) -> bytes | None:
    """The picture in a model's metadata: a data URI, or a JSON list of pictures in base64, of which the first counts."""
    for text in filter(None, map(metadata.get, _COVER_KEYS)):
        if text.startswith("["):
            try:
                pictures = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InputError("expected a list of pictures in the model's metadata, found something else") from error
            text = pictures[0] if pictures and isinstance(pictures[0], str) else ""
        if text.startswith("data:"):
            text = text.partition(",")[2]
        try:
            return base64.b64decode(text, validate=True) or None
        except (binascii.Error, ValueError) as error:
            raise InputError("expected a picture in base64 in the model's metadata, found something else") from error
    return None
