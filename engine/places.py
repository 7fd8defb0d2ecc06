"""The folders of one process: decided where it starts, and passed to whom they concern."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.model_folders import read_extra_folders

if TYPE_CHECKING:
    from engine.files import LocalFiles


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are. Relative folders are taken from where the process was started."""

    models: tuple[Path, ...] = (Path("models"),)
    input: Path = Path("input")
    output: Path = Path("output")
    temp: Path = Path("temp")
    state: Path = Path("state")
    extra_model_paths: Path | None = None
    """A file in the form of ComfyUI's ``extra_model_paths.yaml``."""
    custom_nodes: tuple[Path, ...] = ()
    """Folders of third-party node packs."""
    installed_packs: bool = False
    """Whether packs that are installed as packages are loaded too."""

    def open_files(self) -> LocalFiles:
        """The files that workflows may name. Raises UsageError for a configuration file that cannot be read."""
        from engine.files import open_files

        return open_files(
            models=self.models,
            input=self.input,
            output=self.output,
            temp=self.temp,
            state=self.state,
            extra_model_paths=self.extra_model_paths,
        )

    @property
    def has_packs(self) -> bool:
        """Whether any packs are to be loaded."""
        return self.installed_packs or bool(self.pack_folders())

    def pack_folders(self) -> tuple[Path, ...]:
        """The folders of packs: those named here, and those there are of the file of extra model folders, which may name more."""
        if self.extra_model_paths is None:
            return self.custom_nodes
        extra = read_extra_folders(self.extra_model_paths)
        named = (*extra.first.get("custom_nodes", ()), *extra.last.get("custom_nodes", ()))
        return tuple(dict.fromkeys((*self.custom_nodes, *(folder for folder in named if folder.is_dir()))))
