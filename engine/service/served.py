"""Names that clients send, the files they reach, and how those are sent so that a browser never runs what a user stored.

A file somebody uploaded or a workflow wrote must not become a page or a script of the service's own origin. So only pictures, sound,
film and plain data say what they are; all else is bytes to be saved.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse

from engine.errors import PathOutsideRoots
from engine.paths import checked_name, is_inside, walk

OCTETS: Final = "application/octet-stream"

RASTER_TYPES: Final[Mapping[str, str]] = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}

STORED_TYPES: Final[Mapping[str, str]] = {
    **RASTER_TYPES,
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
    ".ogv": "video/ogg",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".aif": "audio/aiff",
    ".aiff": "audio/aiff",
    ".weba": "audio/webm",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
"""What a stored file is, by its suffix; whatever is not here is sent as an attachment."""

INSTALLED_TYPES: Final[Mapping[str, str]] = {
    **STORED_TYPES,
    ".html": "text/html; charset=utf-8",
    ".htm": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".cjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
    ".md": "text/markdown; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ico": "image/x-icon",
    ".wasm": "application/wasm",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".ttf": "font/ttf",
    ".otf": "font/otf",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
}
"""What a file of an installed package is. These were chosen by whoever runs the service, so they may be pages and scripts."""

_PAGES: Final = ("text/html", "image/svg+xml")
"""What a browser opens as a page that may run scripts."""

_LONGEST_PART: Final = 255
_LONGEST_NAME: Final = 1024
"""Bytes: file systems have no room for more, and a name that has none is the client's mistake, not a disk's."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class NameTooLong(PathOutsideRoots):
    """A name that no file can have."""


def safe_name(name: str, *, dotted: frozenset[str] = frozenset()) -> PurePosixPath:
    """``name`` as a relative path of plain names.

    Raises ``PathOutsideRoots`` as ``checked_name`` does, and for control characters, what cannot be encoded or is too long, names
    that begin with a dot, of which those in ``dotted`` alone may end a path, and on Windows a colon, which leads to a part of a file.
    """
    path = checked_name(name)
    hidden = any(part.startswith(".") for part in path.parts[:-1])
    hidden = hidden or (path.name.startswith(".") and path.name not in dotted)
    hidden = hidden or (os.name == "nt" and ":" in name)
    if hidden or _CONTROL.search(name) or not _is_encodable(name):
        raise PathOutsideRoots(
            f"expected a plain file name, found {name!r}; use no leading dot and no control character"
        )
    if len(name.encode()) > _LONGEST_NAME or any(len(part.encode()) > _LONGEST_PART for part in path.parts):
        raise NameTooLong(f"expected a file name of at most {_LONGEST_PART} bytes, found {name[:40]!r} and more")
    return path


def _is_encodable(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def inside(folder: Path, name: PurePosixPath) -> Path:
    """Where ``name`` is or would be below ``folder``. Raises ``PathOutsideRoots`` where links lead elsewhere, or nowhere."""
    path = folder / name
    try:
        if is_inside(path, (folder,)):
            return path
    except (OSError, RuntimeError, ValueError) as error:
        raise PathOutsideRoots(f"expected {str(name)!r} to be a file's name, found one that leads nowhere") from error
    raise PathOutsideRoots(f"expected {str(name)!r} to lie in its folder, found a link out of it")


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder whose files are to be had."""

    path: Path
    is_installed: bool = False
    """Whether it came with an installed package. Installers may make that of links to where they keep its files, and what they put there
    is served wherever it leads; a link in any other folder must not lead out of it."""

    def find(self, name: str) -> tuple[Path, os.stat_result] | None:
        """The regular file called ``name``, and what the system says of it.

        None if there is none, or if the name leads out or to what is hidden, or a link out of a folder that is not installed.
        """
        try:
            checked = safe_name(name)
            path = self.path / checked if self.is_installed else inside(self.path, checked)
        except PathOutsideRoots:
            return None
        found = regular_file(path)
        return None if found is None else (path, found)

    def files(self) -> Iterator[Path]:
        """All that ``find`` finds."""
        return walk(self.path, None if self.is_installed else (self.path,))


def regular_file(path: Path) -> os.stat_result | None:
    """What the system says of ``path``; None if no file is there."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def disposition(kind: str, name: str) -> str:
    """A Content-Disposition, as ``FileResponse`` writes it: other alphabets and quotes as RFC 6266 says."""
    quoted = quote(name)
    return f'{kind}; filename="{name}"' if quoted == name else f"{kind}; filename*=utf-8''{quoted}"


def stored_file(request: Request, path: Path, found: os.stat_result, media_type: str | None = None) -> Response:
    """A file that a user or a workflow stored, with the validators and ranges of ``FileResponse``."""
    known = media_type or STORED_TYPES.get(path.suffix.lower())
    response = FileResponse(
        path,
        media_type=known or OCTETS,
        filename=path.name,
        stat_result=found,
        content_disposition_type="attachment" if known is None else "inline",
        headers={"x-content-type-options": "nosniff"},
    )
    return _unless_known(request, response)


def installed_file(
    request: Request, path: Path, found: os.stat_result, cache: str | None = None, *, shut_in: bool = False
) -> Response:
    """A file of an installed package, which may be a page or a script. A page that is ``shut_in`` runs no scripts and has no origin."""
    media_type = INSTALLED_TYPES.get(path.suffix.lower(), OCTETS)
    headers = {"x-content-type-options": "nosniff"} | ({"cache-control": cache} if cache else {})
    if shut_in and media_type.startswith(_PAGES):
        headers["content-security-policy"] = "sandbox"
    return _unless_known(request, FileResponse(path, media_type=media_type, stat_result=found, headers=headers))


def _unless_known(request: Request, response: FileResponse) -> Response:
    return NotModifiedResponse(response.headers) if _is_known(request, response) else response


def _is_known(request: Request, response: Response) -> bool:
    """Whether the client has the file already (RFC 9110, 13.1): its tag decides, and its date where no tag is sent."""
    tags = request.headers.get("if-none-match")
    if tags is not None:
        return tags.strip() == "*" or response.headers["etag"] in [
            tag.strip().removeprefix("W/") for tag in tags.split(",")
        ]
    since = parsedate(request.headers.get("if-modified-since", ""))
    changed = parsedate(response.headers["last-modified"])
    return since is not None and changed is not None and since >= changed
