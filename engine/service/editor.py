"""The editor in the browser: ComfyUI's official frontend where it is installed, one plain page of our own where it is not.

The frontend is a package that whoever runs the service chose to install; it is found, never imported, and sent as it is. A script of
ours makes its first visit show a workflow that runs on the demo model.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from engine.service.comfy.routing import as_json
from engine.service.desk import desk_of
from engine.service.served import RASTER_TYPES, Folder, installed_file

FRONTEND: Final = "comfyui_frontend_package"
_DOCS: Final = "comfyui_embedded_docs"
_TEMPLATES: Final = (
    "comfyui_workflow_templates",
    "comfyui_workflow_templates_core",
    "comfyui_workflow_templates_media_api",
    "comfyui_workflow_templates_media_image",
    "comfyui_workflow_templates_media_other",
    "comfyui_workflow_templates_media_video",
)
"""The templates package, and those that its newer releases are made of."""

PAGES: Final = Path(__file__).parent / "pages"
OWN: Final = "mezzotint"
"""The name our own scripts are served under, as a pack's are under its name."""

_REVALIDATE: Final = "no-cache"
_ONE_DAY: Final = "public, max-age=86400"
_CODE: Final = frozenset({".html", ".htm", ".js", ".mjs", ".cjs", ".css"})
_PRIVATE: Final = frozenset({".py", ".pyc", ".pyd", ".so", ".dll"})
"""What a pack itself is made of, where its folder of scripts is the whole pack."""


class _OnlyGet(Route):
    """A route that lets every other method pass, so that an unknown path is not found rather than not allowed."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found, child = super().matches(scope)
        return (found, child) if found is Match.FULL else (Match.NONE, {})


def routes() -> list[BaseRoute]:
    """The editor's routes. The last one answers every path, so an app adds them after all others."""
    return [
        _OnlyGet("/docs/{path:path}", _docs),
        _OnlyGet("/templates/{path:path}", _templates),
        _OnlyGet("/extensions/{pack}/{path:path}", _extension),
        _OnlyGet("/", _index),
        _OnlyGet("/{path:path}", _static),
    ]


def package_folder(name: str) -> Path | None:
    """Where an installed package is, found without importing it; None if it is not installed."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) if places else None


def frontend_folder() -> Path | None:
    """The static files of the editor; None where it is not installed."""
    package = package_folder(FRONTEND)
    return package / "static" if package is not None and (package / "static" / "index.html").is_file() else None


def extension_urls(web_directories: Mapping[str, Folder]) -> list[str]:
    """The scripts an editor loads: its own, ours, and those of packs."""
    found: list[str] = []
    frontend = frontend_folder()
    if frontend is not None:
        found += _scripts(Folder(frontend / "extensions", is_installed=True), "/extensions")
    for pack, folder in _script_folders(web_directories).items():
        found += _scripts(folder, f"/extensions/{quote(pack, safe='')}")
    return found


def _script_folders(web_directories: Mapping[str, Folder]) -> dict[str, Folder]:
    """Our folder of scripts and those of packs, by name; none takes ours."""
    packs = {pack: folder for pack, folder in web_directories.items() if pack != OWN}
    return {OWN: Folder(PAGES / "extension", is_installed=True), **packs}


def _scripts(folder: Folder, url: str) -> Iterator[str]:
    for path in folder.files():
        if path.suffix == ".js":
            yield f"{url}/{quote(path.relative_to(folder.path).as_posix())}"


async def _index(request: Request) -> Response:
    frontend = frontend_folder()
    page = PAGES / "home.html" if frontend is None else frontend / "index.html"
    return installed_file(request, page, page.stat(), _REVALIDATE)


async def _static(request: Request) -> Response:
    frontend = frontend_folder()
    return await _sent(request, _installed(frontend), request.path_params["path"])


async def _extension(request: Request) -> Response:
    """A script of ours or of a pack, or what else lies beside it; anything else below ``extensions`` is the frontend's.

    A pack's scripts run in the editor's page; no page of its own may run any in the service's name.
    """
    pack, path = request.path_params["pack"], request.path_params["path"]
    folder = _script_folders(desk_of(request).web_directories).get(pack)
    if folder is not None:
        return await _sent(request, [folder], path, of_pack=True)
    frontend = frontend_folder()
    return await _sent(request, _installed(frontend, "extensions"), f"{pack}/{path}")


async def _docs(request: Request) -> Response:
    return await _sent(request, _installed(package_folder(_DOCS), "docs"), request.path_params["path"])


async def _templates(request: Request) -> Response:
    packages = [folder for name in _TEMPLATES for folder in _installed(package_folder(name), "templates")]
    path = request.path_params["path"]
    if not packages and path.startswith("index") and path.endswith(".json"):
        return as_json([])  # no templates; without this an editor reports a fault
    return await _sent(request, packages, path)


def _installed(package: Path | None, part: str = "") -> list[Folder]:
    return [] if package is None else [Folder(package / part, is_installed=True)]


async def _sent(request: Request, folders: list[Folder], name: str, *, of_pack: bool = False) -> Response:
    """The file called ``name`` in the first of ``folders`` that has it; 404 for a folder and for every name that leaves them."""

    def find() -> tuple[Path, os.stat_result] | None:
        return next((found for folder in folders if (found := folder.find(name)) is not None), None)

    found = await run_in_threadpool(find)
    if found is None or (of_pack and found[0].suffix.lower() in _PRIVATE):
        return Response(status_code=404)
    return installed_file(request, *found, _cache_rule(PurePosixPath(name)), shut_in=of_pack)


def _cache_rule(name: PurePosixPath) -> str | None:
    suffix = name.suffix.lower()
    if suffix in _CODE or (suffix == ".json" and name.name.startswith("index")):
        return _REVALIDATE
    return _ONE_DAY if suffix in RASTER_TYPES else None
