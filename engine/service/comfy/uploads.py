"""``/upload/image`` and ``/upload/mask``: pictures and other media that come into the input folder."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final

from PIL import ImageOps
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from engine.errors import InputError, MezzotintError, PathOutsideRoots, ResourceError, UsageError
from engine.files import FILE_KINDS, FileKind, FileRoots
from engine.graph.png import is_png, read_text, with_text
from engine.run.atomic import remove, replace_file, take_name, write_temporary
from engine.service.bodies import bounded, refusal
from engine.service.comfy.routing import as_json, both
from engine.service.comfy.view import Refused, find_viewed
from engine.service.desk import Desk, desk_of
from engine.service.media import check_content, check_suffix
from engine.service.pictures import ONE_AT_A_TIME, eight_bits, encoded, read_picture
from engine.service.served import inside, regular_file, safe_name
from engine.service.settings import ServiceLimits

_LONGEST_NAME: Final = 200
"""Bytes: file systems have room for 255, and a number may be added."""
_RESERVED: Final = re.compile(r'[<>:"|?*]')
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_MOST_PARTS: Final = 32
_ENVELOPE: Final = 2**16
"""Bytes of a form besides its file."""

Stored = dict[str, str]
"""``{"name", "subfolder", "type"}``: how a workflow finds the file."""


def routes() -> list[BaseRoute]:
    return [
        *both("/upload/image", _upload_image, methods=["POST"]),
        *both("/upload/mask", _upload_mask, methods=["POST"]),
    ]


async def _upload_image(request: Request) -> Response:
    return await _upload(request, _store_form)


async def _upload_mask(request: Request) -> Response:
    return await _upload(request, _store_mask)


async def _upload(request: Request, store: Callable[[Desk, FormData, str, bytes], Stored]) -> Response:
    desk = desk_of(request)
    most = desk.settings.limits.body
    try:
        async with bounded(request, most + _ENVELOPE).form(
            max_files=_MOST_PARTS, max_fields=_MOST_PARTS, max_part_size=most
        ) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile) or not image.filename:
                raise UsageError("expected a form with a file called 'image', found none; send the file as multipart")
            data = await image.read()
            stored = await run_in_threadpool(store, desk, form, image.filename, data)
    except HTTPException as error:
        return as_json({"error": f"expected a multipart form, found: {error.detail}"}, error.status_code)
    except ResourceError as error:
        return refusal(error, 507)
    except MezzotintError as error:
        return refusal(error)
    return as_json(stored)


def _store_form(desk: Desk, form: FormData, name: str, data: bytes) -> Stored:
    return store_input(
        desk.files.roots,
        desk.settings.limits,
        name,
        data,
        subfolder=_text(form, "subfolder"),
        kind=_text(form, "type") or "input",
        overwrite=_text(form, "overwrite") in ("true", "1"),
    )


def _store_mask(desk: Desk, form: FormData, name: str, data: bytes) -> Stored:
    original = _original(desk.files.roots, _text(form, "original_ref"))
    masked = _masked(original, data, desk.settings.limits)
    return _store_form(desk, form, str(PurePosixPath(input_name(name)).with_suffix(".png")), masked)


def _text(form: FormData, key: str) -> str:
    value = form.get(key, "")
    return value if isinstance(value, str) else ""


def _original(roots: FileRoots, reference: str) -> Path:
    """The picture that a mask was drawn on."""
    try:
        said: Any = json.loads(reference)
    except (ValueError, RecursionError) as error:
        raise InputError(
            "expected JSON in 'original_ref', found something else; name the picture under the mask"
        ) from error
    if not isinstance(said, dict) or not isinstance(said.get("filename"), str):
        raise InputError(
            "expected an object with a 'filename' in 'original_ref', found none; name the picture under the mask"
        )
    try:
        path = find_viewed(roots, {key: value for key, value in said.items() if isinstance(value, str)})
    except Refused as error:
        raise InputError(f"expected a picture of ours in 'original_ref', found {said['filename']!r}") from error
    if regular_file(path) is None:
        raise InputError(
            f"expected the picture {said['filename']!r} of 'original_ref' to be there, found none; upload it first"
        )
    return path


def _masked(original: Path, mask: bytes, limits: ServiceLimits) -> bytes:
    """A PNG of the original's colours and text with the alpha of ``mask``."""
    with ONE_AT_A_TIME:
        colours = eight_bits(ImageOps.exif_transpose(read_picture(original, limits.pixels))).convert("RGBA")
        alpha = eight_bits(read_picture(mask, limits.pixels)).convert("RGBA").getchannel("A")
        if alpha.size != colours.size:
            raise InputError(
                f"expected a mask of {colours.width}x{colours.height} as its picture, found {alpha.width}x{alpha.height}"
            )
        colours.putalpha(alpha)
        data = encoded(colours, "PNG", compress_level=4)
    kept = original.read_bytes()
    return with_text(data, read_text(kept)) if is_png(kept) else data


def store_input(
    roots: FileRoots,
    limits: ServiceLimits,
    name: str,
    data: bytes,
    subfolder: str = "",
    kind: str = "input",
    overwrite: bool = False,
) -> Stored:
    """Put a picture, sound, film, a latent or a 3D model into a folder, byte for byte, and say how a workflow names it.

    A file of the same name and bytes is used again; another one keeps its name and this one gets a number, unless ``overwrite``.
    Raises ``InputError`` for what is none of these, is too large, or has a name that cannot be used; ``ResourceError`` when it cannot
    be written.
    """
    if len(data) > limits.body:
        raise InputError(f"expected a file of at most {limits.body} bytes, found {len(data)}; send a smaller one")
    folder = roots.folder(_kind(kind))
    below = safe_name(subfolder) if subfolder.strip("/") else PurePosixPath()
    wanted = below / input_name(name)
    inside(folder, wanted)
    check_content(wanted.name, data, limits.pixels)
    try:
        stored = _write(folder, wanted, data, overwrite)
    except OSError as error:
        raise _explained(error, name) from error
    return {"name": stored, "subfolder": "" if below == PurePosixPath() else below.as_posix(), "type": kind}


def _kind(name: str) -> FileKind:
    for kind in FILE_KINDS:
        if kind == name:
            return kind
    raise InputError(f"expected a type among {', '.join(FILE_KINDS)}, found {name!r}")


def input_name(name: str) -> str:
    """The name a file is stored under: characters that some file systems reserve become ``_``. Raises ``InputError``."""
    plain = safe_name(name)
    if len(plain.parts) != 1 or "/" in name or "\\" in name:
        raise PathOutsideRoots(f"expected a file name without folders, found {name!r}; say the folder as 'subfolder'")
    cleaned = _RESERVED.sub("_", plain.name)
    check_suffix(cleaned)
    if _DEVICES.fullmatch(cleaned) or len(cleaned.encode()) > _LONGEST_NAME:
        raise InputError(
            f"expected a file name of at most {_LONGEST_NAME} bytes that is no device, found {name[:80]!r}"
        )
    return cleaned


def _write(folder: Path, wanted: PurePosixPath, data: bytes, overwrite: bool) -> str:
    if overwrite:
        replace_file(folder / wanted, [data])
        return wanted.name
    temporary = write_temporary((folder / wanted).parent, [data])
    try:
        for candidate in _candidates(wanted):
            path = inside(folder, candidate)
            if take_name(temporary, path) or _holds(path, data):
                return candidate.name
        raise AssertionError("there is always another number")
    finally:
        remove(temporary)


def _candidates(wanted: PurePosixPath) -> itertools.chain[PurePosixPath]:
    numbered = (wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}") for number in itertools.count(1))
    return itertools.chain([wanted], numbered)


def _holds(path: Path, data: bytes) -> bool:
    found = regular_file(path)
    return found is not None and found.st_size == len(data) and path.read_bytes() == data


def _explained(error: OSError, name: str) -> MezzotintError:
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError):
        return InputError(f"expected a free place for {name!r}, found something else there ({reason}); choose another")
    return ResourceError(f"cannot store {name!r} ({reason}); make room, or make the folder writable")
