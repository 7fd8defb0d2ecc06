"""What packs bring beside nodes and scripts: texts in other languages, and example workflows."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from engine.packs.sources import PackSource
from engine.service.comfy.routing import as_json, both
from engine.service.served import Folder, installed_file

PackFolders = Mapping[str, Folder]
"""The folder of each pack that is one."""

_PARTS: Final = ("nodeDefs", "commands", "settings")
"""Files of a language that become a part of it each; ``main.json`` is the language itself."""
_EXAMPLES: Final = ("example_workflows", "example", "examples", "workflow", "workflows")
"""Folders of workflows, by the names packs give them; the first that is there counts."""
_SHOWN: Final = frozenset({".json", ".jpg", ".jpeg", ".png", ".webp"})
_LARGEST: Final = 16 << 20
"""Bytes of a file of texts."""

_log = logging.getLogger(__name__)


def pack_folders(sources: Iterable[PackSource]) -> dict[str, Folder]:
    """The folders of those packs that are folders."""
    return {source.name: Folder(source.path, source.is_installed) for source in sources if source.path.is_dir()}


def translations(folders: PackFolders) -> dict[str, dict[str, Any]]:
    """By language, the texts of all packs together; of two for one thing the later pack's counts. A file that is no JSON is left out."""
    found: dict[str, dict[str, Any]] = {}
    for folder in folders.values():
        for language in _subfolders(folder.path / "locales"):
            texts = _texts(folder, f"locales/{language.name}/main.json")
            for part in _PARTS:
                more = _texts(folder, f"locales/{language.name}/{part}.json")
                texts = merged(texts, {part: more}) if more else texts
            if texts:
                found[language.name] = merged(found.get(language.name, {}), texts)
    return found


def templates(folders: PackFolders) -> dict[str, list[str]]:
    """By pack, the names of its example workflows, without ``.json``."""
    found = {pack: _workflows(folder) for pack, folder in folders.items()}
    return {pack: names for pack, names in found.items() if names}


def template_file(folders: PackFolders, pack: str, name: str) -> tuple[Path, os.stat_result] | None:
    """The file ``name`` (``x.json``, or its picture ``x.jpg``) among the examples of ``pack``; None if there is none."""
    examples = _examples(folders[pack]) if pack in folders else None
    if examples is None or Path(name).suffix.lower() not in _SHOWN:
        return None
    return folders[pack].find(f"{examples}/{name}")


def template_routes(folders: Callable[[], PackFolders]) -> list[BaseRoute]:
    """``/workflow_templates/<pack>/<file>``."""

    async def serve(request: Request) -> Response:
        pack, name = request.path_params["pack"], request.path_params["name"]
        return await run_in_threadpool(_template_answer, request, folders(), pack, name)

    return both("/workflow_templates/{pack}/{name:path}", serve)


def _template_answer(request: Request, folders: PackFolders, pack: str, name: str) -> Response:
    found = template_file(folders, pack, name)
    if found is None:
        return as_json({"error": "no such workflow template"}, 404)
    return installed_file(request, *found, "no-cache")


def extra_routes(folders: Callable[[], PackFolders]) -> list[BaseRoute]:
    """``/i18n`` and ``/workflow_templates``: what packs bring for an editor beside their scripts."""

    async def texts(request: Request) -> Response:
        return as_json(await run_in_threadpool(translations, folders()))

    async def names(request: Request) -> Response:
        return as_json(await run_in_threadpool(templates, folders()))

    return [*both("/i18n", texts), *both("/workflow_templates", names), *template_routes(folders)]


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both, and mappings in both merged the same way; otherwise ``second`` counts."""
    result = dict(first)
    for name, value in second.items():
        before = result.get(name)
        both_map = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[name] = merged(before, value) if both_map else value  # type: ignore[arg-type]
    return result


def _texts(folder: Folder, name: str) -> dict[str, Any]:
    found = folder.find(name)
    if found is None:
        return {}
    path, status = found
    try:
        if status.st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")
        texts = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(texts, dict):
            raise ValueError(f"expected a JSON object, found {type(texts).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s is left out: %s", path, error)
        return {}
    return texts


def _examples(folder: Folder) -> str | None:
    return next((name for name in _EXAMPLES if (folder.path / name).is_dir()), None)


def _workflows(folder: Folder) -> list[str]:
    examples = _examples(folder)
    if examples is None:
        return []
    names = sorted(path.name for path in (folder.path / examples).glob("*.json"))
    return [name.removesuffix(".json") for name in names if folder.find(f"{examples}/{name}") is not None]


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
