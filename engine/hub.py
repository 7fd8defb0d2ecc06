"""Models from the Hugging Face hub, when a person asks for one by name. Nothing else here ever asks the network for anything.

A file is downloaded beside the models under the name of its content, and goes on where it stopped, be that a broken connection or a
process that was ended. It takes its place among the models only when its content is what the hub says it is.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from engine.catalogue import Entry, find_entry
from engine.errors import DownloadError, InputError, ModelFileError, ResourceError, UsageError
from engine.model_folders import DIFFUSERS_INDEX, MODEL_SUFFIXES, OF_HUB, TRANSFORMERS_INDEX
from engine.paths import checked_name, nearest

if TYPE_CHECKING:
    from engine.model_folders import ModelFolders
    from engine.model_info import ModelInfo

SAFE: Final = frozenset({".safetensors", ".sft"})
STAGING: Final = ".pull"
"""Folder below the first models root where downloads are until they are whole. Hidden, so that nothing in it counts as a model."""

_NETWORKS: Final = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
_BESIDE: Final = (DIFFUSERS_INDEX, "scheduler/scheduler_config.json", "tokenizer_3/tokenizer.json")
_WEIGHTS: Final = re.compile(
    r"(?:diffusion_pytorch_model|model)(?P<shard>-\d+-of-\d+)?(?P<variant>\.fp16|\.bf16|\.non_ema)?(?P<late>-\d+-of-\d+)?\.safetensors"
)
_INDEX: Final = "(?:diffusion_pytorch_model|model)\\.safetensors\\.index{variant}\\.json"
_WHOLE: Final = "model.safetensors"
_PICKLED: Final = ".bin"
_VARIANTS: Final = ("", ".fp16", ".bf16", ".non_ema")
"""Of a network's weights, in the order in which they are looked for when such a folder is loaded."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What the hub says of a file: SHA-256 of a large one; of a small one git's digest, SHA-1 over its size and its content."""

    size: int
    digest: str
    is_git: bool

    def of(self, path: Path) -> str:
        """The same digest of the file at ``path``."""
        with path.open("rb") as file:
            if not self.is_git:
                return hashlib.file_digest(file, "sha256").hexdigest()
            total = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            total.update(file.read())
            return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit."""

    repo: str
    commit: str
    files: Mapping[str, Stated]

    def stated(self, file: str) -> Stated:
        if file not in self.files:
            there = nearest(file, [name for name in self.files if PurePosixPath(name).suffix in SAFE])
            raise UsageError(f"expected {file!r} in {self.repo} on the hub, found none; {there}")
        return self.files[file]


class Puller:
    """Downloads into model folders; ``inspect`` says what arrived, ``convert`` makes a safetensors file of a pickle."""

    def __init__(
        self,
        folders: ModelFolders,
        inspect: Callable[[Path], ModelInfo],
        convert: Callable[[Path, Path], None],
    ) -> None:
        self._folders = folders
        self._inspect = inspect
        self._convert = convert
        self._staging = folders.roots[0] / STAGING

    def pull(self, name: str, catalogue: Mapping[str, Entry], to: Path | None) -> tuple[Path, ModelInfo]:
        """Where the model called ``name`` is now, in the folder ``to`` or else where such a model belongs, and what it is.

        Raises UsageError for a name that means nothing, ModelFileError for a pickle, DownloadError for what the hub does not give or
        what did not arrive as it should, InputError where something else is in the way.
        """
        entry = find_entry(name, catalogue)
        if entry.file is not None and not entry.is_converted:
            refuse_unsafe(entry.file)
        listing = list_files(entry.repo)
        if entry.file is None:
            return self._pull_folder(entry, listing, to)
        stated = listing.stated(entry.file)
        if (folder := to or self._folder(entry.folder)) is not None:
            return self._placed(listing, entry, stated, folder)
        staged = self._download(listing, entry.file, stated)
        whole = staged.with_suffix(PurePosixPath(entry.file).suffix)  # what is in a file is told by its suffix first
        os.replace(staged, whole)
        info = self._inspect(whole)
        os.replace(whole, staged)
        if (folder := self._folder(info.folder)) is None:
            raise InputError(
                f"expected a model of a known kind in {entry.source}, found {info.what}; name a folder for it with --to: "
                "it is not downloaded again"
            )
        return self._placed(listing, entry, stated, folder)

    def _folder(self, key: str | None) -> Path | None:
        return self._folders.paths(key)[0] if key in self._folders.keys() else None  # noqa: SIM118

    def _placed(self, listing: Listing, entry: Entry, stated: Stated, folder: Path) -> tuple[Path, ModelInfo]:
        target = folder / checked_name(entry.local_name)
        assert entry.file is not None
        if entry.is_converted:
            if not target.is_file():
                self._converted(self._download(listing, entry.file, stated), target)
        elif not target.is_file() or stated.of(target) != stated.digest:
            refuse_taken(target)
            move(self._download(listing, entry.file, stated), target)
        return target, self._inspect(target)

    def _converted(self, pickle: Path, target: Path) -> None:
        """Make ``target`` of a pickle, which is then gone."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._convert(pickle, target)
        pickle.unlink()

    def _pull_folder(self, entry: Entry, listing: Listing, to: Path | None) -> tuple[Path, ModelInfo]:
        key = entry.folder or "diffusers"
        wanted = network_files(listing) if key in OF_HUB else folder_files(listing)
        target = (to or self._folders.paths(key)[0]) / checked_name(entry.local_name)
        refuse_taken(target)
        staged = self._staging / f"{entry.repo.replace('/', '--')}--{listing.commit}"
        for file in wanted:
            stated, place = listing.stated(file), staged / checked_name(file)
            if place.suffix == _PICKLED:
                if not place.with_name(_WHOLE).is_file():
                    self._converted(self._download(listing, file, stated), place.with_name(_WHOLE))
            elif not place.is_file():
                move(self._download(listing, file, stated), place)
        move(staged, target)
        return target, self._inspect(target)

    def _download(self, listing: Listing, file: str, stated: Stated) -> Path:
        """The whole file, its digest right, where downloads are."""
        self._staging.mkdir(parents=True, exist_ok=True)
        partial = self._staging / f"{stated.digest}.partial"
        have = partial.stat().st_size if partial.exists() else 0
        if have > stated.size:
            partial.unlink()
            have = 0
        if shutil.disk_usage(self._staging).free < stated.size - have:
            raise ResourceError(
                f"expected room for {stated.size - have} bytes in {self._staging}, found less; make room"
            )
        fetch(listing, file, stated, partial, have)
        found = stated.of(partial)
        if found != stated.digest:
            partial.unlink()
            raise DownloadError(
                f"expected {listing.repo}/{file} with the digest {stated.digest} that the hub states, found {found}; "
                "what arrived is removed, pull it again"
            )
        return partial


def refuse_unsafe(file: str) -> None:
    """Raise ModelFileError for a pickle, UsageError for what is no model file."""
    suffix = PurePosixPath(file).suffix.lower()
    if suffix in MODEL_SUFFIXES - SAFE:
        raise ModelFileError(
            f"{file} is a pickle, and reading one can run code; look for a .safetensors file beside it, or download it by other "
            "means and make one of it: mezzotint models convert FILE"
        )
    if suffix not in SAFE | {".json", ".onnx"}:
        raise UsageError(f"expected a .safetensors file, an .onnx file or a tokenizer's .json, found {file!r}")


def refuse_taken(target: Path) -> None:
    """Raise InputError where something is at ``target`` already."""
    if target.exists():
        raise InputError(
            f"expected nothing at {target}, found something else; move it away or name another folder with --to"
        )


def move(source: Path, target: Path) -> None:
    """Put ``source`` where ``target`` is, whole or not at all, on whatever disk that is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.partial")
    shutil.move(source, beside)
    os.replace(beside, target)


def folder_files(listing: Listing) -> list[str]:
    """What of a repository is needed to load it as a diffusers folder.

    Raises UsageError where it is none, ModelFileError where a network is there as a pickle alone.
    """
    if DIFFUSERS_INDEX not in listing.files:
        there = (
            ", ".join(name for name in listing.files if PurePosixPath(name).suffix in SAFE) or "no safetensors files"
        )
        raise UsageError(
            f"expected a diffusers folder with {DIFFUSERS_INDEX} in {listing.repo}, found none; name one file: {there}"
        )
    wanted = [name for name in _BESIDE if name in listing.files]
    for network in _NETWORKS:
        if f"{network}/config.json" in listing.files:
            wanted += [f"{network}/config.json", *_weights(listing, network)]
    return wanted


def network_files(listing: Listing) -> list[str]:
    """What of a repository is needed to load it as one network of transformers; a pickle is among them where there is nothing else.

    Raises UsageError where it is none.
    """
    names = [name for name in (TRANSFORMERS_INDEX, "preprocessor_config.json") if name in listing.files]
    shards = [name for name in listing.files if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?", name)]
    weights = shards or [name for name in ("pytorch_model.bin",) if name in listing.files]
    if TRANSFORMERS_INDEX not in names or not weights:
        raise UsageError(f"expected {TRANSFORMERS_INDEX} and {_WHOLE} in {listing.repo}, found no such network")
    return [*names, *weights]


def _weights(listing: Listing, network: str) -> list[str]:
    names = [name.removeprefix(f"{network}/") for name in listing.files if name.startswith(f"{network}/")]
    matches = {name: match for name in names if (match := _WEIGHTS.fullmatch(name)) is not None}
    for variant in _VARIANTS:
        chosen = [name for name, match in matches.items() if (match["variant"] or "") == variant]
        if chosen:
            index = re.compile(_INDEX.format(variant=re.escape(variant)))
            return [f"{network}/{name}" for name in [*chosen, *filter(index.fullmatch, names)]]
    raise ModelFileError(
        f"expected {network} of {listing.repo} as safetensors, found {', '.join(names)}; pickles are not downloaded, as reading one "
        "can run code: download it by other means and use mezzotint models convert"
    )


def list_files(repo: str) -> Listing:
    """The files of ``repo`` as they are now. Raises DownloadError."""
    from huggingface_hub import HfApi

    with _told(repo):
        info = HfApi(endpoint=_endpoint()).model_info(repo, files_metadata=True)
    files = {sibling.rfilename: _stated(sibling) for sibling in info.siblings or ()}
    return Listing(repo, info.sha or "main", {name: stated for name, stated in files.items() if stated is not None})


def _stated(sibling: Any) -> Stated | None:
    if sibling.lfs is not None:
        return Stated(sibling.lfs.size, sibling.lfs.sha256, is_git=False)
    if sibling.blob_id is None or sibling.size is None:
        return None
    return Stated(sibling.size, sibling.blob_id, is_git=True)


def _endpoint() -> str | None:
    """Where the hub is, when it is a mirror; the library reads this only once."""
    return os.environ.get("HF_ENDPOINT")


def fetch(listing: Listing, file: str, stated: Stated, partial: Path, have: int) -> None:
    """Append to ``partial`` what is missing of ``file`` beyond its first ``have`` bytes. Raises DownloadError."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # listed there, but not for mypy

    with _told(listing.repo):
        url = hf_hub_url(listing.repo, file, revision=listing.commit, endpoint=_endpoint())
        location = get_hf_file_metadata(url).location
        headers = build_hf_headers()
        if urlsplit(location).netloc != urlsplit(url).netloc:
            headers.pop("authorization", None)  # who logs in to the hub does not log in to whom it sends us on to
        with partial.open("ab") as target:
            http_get(
                location,
                target,
                resume_size=have,
                headers=headers,
                expected_size=stated.size,
                displayed_filename=PurePosixPath(file).name,
            )


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """What the library raises, as DownloadError in one line."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    page = f"https://huggingface.co/{repo}"
    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"expected the name of a repository, OWNER/REPO, found {repo!r}") from error
    except GatedRepoError as error:
        raise DownloadError(
            f"{repo} is gated: accept its terms at {page}, then log in with `hf auth login` and pull it again"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"expected a repository {repo} on the hub, found none that may be seen; check the name, or log in with `hf auth login` if "
            "it is private"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise DownloadError(
                f"the hub does not give {repo} to this login ({status}): look at {page}, then log in with `hf auth login`"
            ) from error
        raise DownloadError(f"the hub could not give {repo}: {_line(error)}; try again later") from error
    except _network_errors() as error:
        raise DownloadError(
            f"{repo} did not arrive: {_line(error)}; pull it again, it goes on where it stopped"
        ) from error


def _network_errors() -> tuple[type[Exception], ...]:
    """What can go wrong on the way, by whichever of two libraries the hub's own one speaks."""
    speakers = (("httpx", "HTTPError"), ("requests", "RequestException"))
    return (OSError, *(getattr(sys.modules[name], error) for name, error in speakers if name in sys.modules))


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
