"""``/settings``, ``/users`` and ``/userdata``: what an editor keeps with the service.

The name of a file is one segment of the path, its slashes encoded as ``%2F``. Servers decode paths before routes see them, so these
routes read the path as it was sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from engine.errors import MezzotintError, MissingFile, PathOutsideRoots, ResourceError, UsageError
from engine.paths import walk
from engine.service.bodies import bounded, refusal
from engine.service.comfy.routing import as_json, both, json_body
from engine.service.desk import desk_of
from engine.service.served import regular_file, stored_file
from engine.service.user_files import Taken, UserFiles, files_of, info, split


def routes() -> list[BaseRoute]:
    return [
        *both("/settings", _settings),
        *both("/settings", _merge_settings, methods=["POST"]),
        *both("/settings/{id:path}", _setting),
        *both("/settings/{id:path}", _set_setting, methods=["POST"]),
        *both("/users", _users),
        *both("/users", _refuse_user, methods=["POST"]),
        *both("/userdata", _list),
        *both("/userdata/{file:path}", _read),
        *both("/userdata/{file:path}", _write, methods=["POST"]),
        *both("/userdata/{file:path}", _delete, methods=["DELETE"]),
        *both("/v2/userdata", _list_folder),
    ]


def user_files(request: Request) -> UserFiles:
    desk = desk_of(request)
    return UserFiles(desk.settings.user_folder / "default", desk.user_lock)


async def _settings(request: Request) -> Response:
    return as_json(await run_in_threadpool(user_files(request).settings))


async def _setting(request: Request) -> Response:
    settings = await run_in_threadpool(user_files(request).settings)
    return as_json(settings.get(request.path_params["id"]))


async def _merge_settings(request: Request) -> Response:
    return await _change_settings(request, lambda body: body)


async def _set_setting(request: Request) -> Response:
    return await _change_settings(request, lambda body: {request.path_params["id"]: body})


async def _change_settings(request: Request, changes: Callable[[Any], Any]) -> Response:
    try:
        said = changes(await json_body(bounded(request, desk_of(request).settings.limits.body)))
        if not isinstance(said, dict):
            raise UsageError("expected a JSON object of settings, found something else; send {id: value}")
        await run_in_threadpool(user_files(request).merge_settings, said)
    except MezzotintError as error:
        return refusal(error, _status(error))
    return Response()


async def _users(request: Request) -> Response:
    return as_json({"storage": "server", "migrated": True})


async def _refuse_user(request: Request) -> Response:
    return as_json({"error": "expected no users, found a new one: this service has one user, who needs no name"}, 400)


def sent_segments(request: Request, route: str) -> list[str]:
    """The segments of the path after ``route`` as they were sent, each decoded once. Raises ``PathOutsideRoots`` for no UTF-8."""
    raw = request.scope["raw_path"].partition(b"?")[0].decode("ascii", "replace")
    _, _, rest = raw.partition(f"{route}/")
    try:
        return [unquote(segment, errors="strict") for segment in rest.split("/")]
    except UnicodeDecodeError as error:
        raise PathOutsideRoots("expected a file name in UTF-8, found other bytes") from error


def _named(request: Request) -> str:
    return "/".join(sent_segments(request, "/userdata"))


async def _read(request: Request) -> Response:
    try:
        path = user_files(request).place(_named(request))
    except PathOutsideRoots as error:
        return refusal(error, 403)
    found = await run_in_threadpool(regular_file, path)
    if found is None:
        return Response(status_code=404)
    is_style = path == user_files(request).folder / "user.css"
    return stored_file(request, path, found, "text/css; charset=utf-8" if is_style else None)


async def _write(request: Request) -> Response:
    """Store the body, or move a file: ``{file}/move/{dest}``."""
    files, overwrite = user_files(request), request.query_params.get("overwrite") != "false"
    try:
        match sent_segments(request, "/userdata"):
            case [name, "move", to]:
                path = await run_in_threadpool(files.move, name, to, overwrite)
            case segments:
                body = await bounded(request, desk_of(request).settings.limits.body).body()
                path = await run_in_threadpool(files.store, "/".join(segments), body, overwrite)
        if request.query_params.get("full_info") == "true":
            return as_json(await run_in_threadpool(info, path, files.relative(path)))
    except MezzotintError as error:
        return refusal(error, _status(error))
    return as_json(files.relative(path))


async def _delete(request: Request) -> Response:
    try:
        await run_in_threadpool(user_files(request).delete, _named(request))
    except MezzotintError as error:
        return refusal(error, _status(error))
    return Response(status_code=204)


def _status(error: MezzotintError) -> int:
    match error:
        case Taken():
            return 409
        case MissingFile():
            return 404
        case PathOutsideRoots():
            return 403
        case ResourceError():
            return 507
    return 400


async def _list(request: Request) -> Response:
    query, files = request.query_params, user_files(request)
    if not query.get("dir"):
        return as_json({"error": "expected a folder as 'dir', found none"}, 400)
    try:
        folder = await run_in_threadpool(files.directory, query["dir"])
    except MezzotintError as error:
        return refusal(error, _status(error))
    recurse, full, parted = (query.get(flag) == "true" for flag in ("recurse", "full_info", "split"))
    return as_json(await run_in_threadpool(_listed, folder, recurse, full, parted))


def _listed(folder: Path, recurse: bool, full: bool, parted: bool) -> list[Any]:
    found = [
        path for path in (walk(folder, (folder,)) if recurse else files_of(folder)) if regular_file(path) is not None
    ]
    named = [(path, path.relative_to(folder).as_posix()) for path in found]
    if full:
        return [info(path, name) for path, name in named]
    return [split(name) if parted else name for _, name in named]


async def _list_folder(request: Request) -> Response:
    files = user_files(request)
    try:
        folder = await run_in_threadpool(files.directory, request.query_params.get("path") or ".")
    except MissingFile as error:
        return as_json([]) if not request.query_params.get("path") else refusal(error, 404)
    except MezzotintError as error:
        return refusal(error, _status(error))
    return as_json(await run_in_threadpool(_entries, folder, files))


def _entries(folder: Path, files: UserFiles) -> list[dict[str, Any]]:
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        said: dict[str, Any] = {"name": entry.name, "path": files.relative(Path(entry.path))}
        if entry.is_dir():
            found.append(said | {"type": "directory"})
        elif entry.is_file():
            state = entry.stat()
            found.append(said | {"type": "file", "size": state.st_size, "modified": state.st_mtime})
    return found
