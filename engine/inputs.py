"""What an input of a node may be: the markers that an annotation says it with, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from engine.types import WIDGETS, SocketType


class _Missing:
    """The type of ``MISSING``; a class of its own so that ``None`` can be a default."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Socket:
    """The socket type of a parameter that is no plain widget."""

    type: str
    widget: bool = False
    """Editors have a widget of their own for the type: whatever they send of it is taken."""


@dataclass(frozen=True, slots=True)
class Range:
    """Inclusive bounds of an INT or FLOAT; ``step`` and ``round`` are hints for editors and never enforced."""

    min: float
    max: float
    step: float | None = None
    round: float | None = None


@dataclass(frozen=True, slots=True)
class Seed:
    """An INT an editor may redraw after queueing (``control_after_generate``)."""


@dataclass(frozen=True, slots=True)
class Multiline:
    """A STRING edited in a text box; with ``dynamic_prompts`` its ``{a|b}`` choices are drawn before the run."""

    dynamic_prompts: bool = False


@dataclass(frozen=True, slots=True)
class Lazy:
    """The input is computed only when the node asks for it."""


@dataclass(frozen=True, slots=True)
class RawLink:
    """The function gets the link itself, ``Link(node, output)``, instead of what comes over it. The source still runs first."""


@dataclass(frozen=True, slots=True)
class SocketOnly:
    """A widget type that only comes over a link (``forceInput``)."""


@dataclass(frozen=True, slots=True)
class Optional:
    """A widget input that may be left out."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What an editor may show: a tooltip, a display style such as ``"color"``."""

    tooltip: str | None = None
    display: str | None = None


@dataclass(frozen=True, slots=True)
class Choices:
    """A choice among names that are computed: where the node is declared, or each time somebody looks. ``Literal`` says the others."""

    names: tuple[str, ...] | Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True)
class FileChoice:
    """A choice among files. ``folder`` is a model folder (``"checkpoints"``) or ``"input"``.

    The node's function receives an ``engine.fileref.FileRef`` (name, path, content digest), never the bare name, and the input counts
    in the node's key by the file's content.
    """

    folder: str
    suffixes: tuple[str, ...] = ()
    upload: bool = False
    tree: bool = False
    """The choice is among the folders below an input folder. The ``FileRef`` is then a folder's, and its digest covers names and
    contents of the files in it, at any depth, that ``engine.fileref.tree_files`` gives for these suffixes."""
    entries: bool = False
    """The choice is among the styles in the files of the folder. The ``FileRef`` is then of the file, with the style's own digest."""
    route: str | None = None
    """Where editors fetch the names from, the newest first, in place of a list in the node's definition."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a node."""

    name: str
    type: SocketType
    required: bool
    default: object = MISSING
    range: Range | None = None
    choices: tuple[str, ...] | Callable[[], Sequence[str]] | None = None
    files: FileChoice | None = None
    seed: bool = False
    multiline: bool = False
    dynamic_prompts: bool = False
    lazy: bool = False
    raw_link: bool = False
    socket_only: bool = False
    tooltip: str | None = None
    display: str | None = None
    own_type: bool = False
    """The type is one that a pack made up, or that editors have a widget for: a literal is taken as it is."""

    @property
    def options(self) -> tuple[str, ...] | None:
        """What can be chosen now; None where the input is no choice, or one among files."""
        return tuple(self.choices()) if callable(self.choices) else self.choices

    @property
    def is_widget(self) -> bool:
        """Whether the value can be typed in; a pure socket's cannot."""
        return self.type in WIDGETS and not self.socket_only
