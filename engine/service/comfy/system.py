"""What the service says of itself, its log and its folders."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from engine.comfy_version import COMFYUI_VERSION
from engine.errors import MezzotintError, UsageError
from engine.files import FILE_KINDS
from engine.numerics import device_kind
from engine.paths import is_inside
from engine.service.bodies import bounded, refusal
from engine.service.comfy.routing import as_json, both, json_body
from engine.service.desk import desk_of
from engine.service.editor import extension_urls
from engine.service.settings import ServiceLimits, ServiceSettings

_SCREEN: Final = {"cols": 120, "rows": 40}
_LONGEST_ID: Final = 256


def routes() -> list[BaseRoute]:
    return [
        *both("/system_stats", _system_stats),
        *both("/features", _features),
        *both("/extensions", _extensions),
        *(route for path in _EMPTY for route in both(path, _empty)),
        *both("/internal/logs", _logs),
        *both("/internal/logs/raw", _raw_logs),
        *both("/internal/logs/subscribe", _subscribe, methods=["PATCH"]),
        *both("/internal/folder_paths", _folder_paths),
        *both("/internal/files/{type}", _files),
    ]


_EMPTY: Final = ("/global_subgraphs", "/node_replacements")
"""What packs may add to, and we have nothing of."""


async def _empty(request: Request) -> Response:
    return as_json({})


async def _system_stats(request: Request) -> Response:
    return as_json(await run_in_threadpool(system_stats, desk_of(request).settings))


def system_stats(settings: ServiceSettings) -> dict[str, Any]:
    """The machine and its devices, found without asking torch: what models hold there only the workers know."""
    total, free = memory()
    names = (settings.device.device or "auto", *settings.devices)
    return {
        "system": {
            "os": os.name,
            "ram_total": total,
            "ram_free": free,
            "comfyui_version": COMFYUI_VERSION,
            "python_version": sys.version,
            "pytorch_version": _version("torch"),
            "embedded_python": False,
            "argv": ["mezzotint", "serve"],  # an argument may be where a secret is: none is told
        },
        "devices": [_device(name) for name in names],
    }


def _device(name: str) -> dict[str, Any]:
    """Of a CPU the memory is the machine's."""
    kind = device_kind(name)
    number = name.partition(":")[2]
    total, free = memory() if kind == "cpu" else (0, 0)
    shown = kind if name == "auto" else name
    return {
        "name": shown,
        "type": kind,
        "index": int(number) if number.isdecimal() else 0,
        "vram_total": total,
        "vram_free": free,
        "torch_vram_total": total,
        "torch_vram_free": free,
    }


def memory() -> tuple[int, int]:
    """Bytes of memory of the machine, and how many are free; zeros where the system does not tell."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    except (AttributeError, ValueError, OSError):
        return 0, 0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def features(limits: ServiceLimits) -> dict[str, Any]:
    """What this service can do, as ``/features`` and the websocket's ``feature_flags`` say it."""
    return {"supports_preview_metadata": True, "max_upload_size": limits.body}


async def _features(request: Request) -> Response:
    return as_json(features(desk_of(request).settings.limits))


async def _extensions(request: Request) -> Response:
    return as_json(await run_in_threadpool(extension_urls, desk_of(request).web_directories))


async def _logs(request: Request) -> Response:
    ring = desk_of(request).log_ring
    return as_json("".join(f"{entry['t']} - {entry['m']}" for entry in (ring.entries() if ring else ())))


async def _raw_logs(request: Request) -> Response:
    ring = desk_of(request).log_ring
    return as_json({"entries": ring.entries() if ring else [], "size": _SCREEN})


async def _subscribe(request: Request) -> Response:
    desk = desk_of(request)
    try:
        said = await json_body(bounded(request, desk.settings.limits.body))
        client = said.get("clientId") if isinstance(said, dict) else None
        if not isinstance(client, str) or not 0 < len(client) <= _LONGEST_ID:
            raise UsageError('expected {"clientId": id, "enabled": true or false}, found something else')
    except MezzotintError as error:
        return refusal(error)
    if desk.log_ring is not None:
        desk.log_ring.follow(client, said.get("enabled") is True)
    return Response()


async def _folder_paths(request: Request) -> Response:
    models = desk_of(request).files.models
    return as_json({key: [str(path.absolute()) for path in models.paths(key)] for key in models.folders})


async def _files(request: Request) -> Response:
    roots = desk_of(request).files.roots
    for kind in FILE_KINDS:
        if kind == request.path_params["type"]:
            return as_json(await run_in_threadpool(newest_files, roots.folder(kind)))
    return as_json({"error": "Invalid directory type"}, 400)


def newest_files(folder: Path) -> list[str]:
    """Names of the files right in ``folder``, the newest first; hidden ones and links that lead out are left out."""
    if not folder.is_dir():
        return []
    found = []
    for entry in os.scandir(folder):
        if entry.name.startswith(".") or not entry.is_file():
            continue
        if not entry.is_symlink() or is_inside(Path(entry.path), (folder,)):
            found.append((entry.stat().st_mtime_ns, entry.name))
    return [name for _, name in sorted(found, reverse=True)]
