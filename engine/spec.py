"""A node is a typed signature and a function; ``@node`` reads the one into a ``NodeSpec`` around the other.

    @node("ImageInvert", title="Invert Image", category="image", outputs=[Output("IMAGE")])
    def image_invert(image: Image) -> tuple[Tensor]: ...

A parameter's annotation says its socket: ``int``, ``float``, ``str``, ``bool`` and ``Literal["a", "b"]`` are widgets, everything else
is ``Annotated[..., Socket("NAME")]``. Further markers in the ``Annotated`` add ranges, file choices and hints. A first parameter named
``ctx`` receives the run's ``NodeContext``. The signature is checked when the module is read: a contradiction is a ``DefinitionError``.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from engine.errors import DefinitionError
from engine.types import ANY, BOOLEAN, COMBO, FLOAT, INT, STRING, WIDGETS, SocketType


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


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a node. ``is_list``: the value is a list to be spread over the consumers."""

    type: str
    name: str | None = None
    is_list: bool = False
    tooltip: str | None = None

    @property
    def label(self) -> str:
        return self.name or self.type


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a node will take, as far as it can be told without running it."""

    steps: int = 0
    """Sampling steps."""
    model_bytes: int = 0
    """Memory of the weights it brings in, in the dtype they are stored in."""


Fingerprint = Callable[..., Any]
"""Called with a node's literal inputs (links are None); its value enters the key."""
Check = Callable[..., str | None]
"""Called with a node's literal inputs (links are None); returns what is wrong, or None."""
FilesRead = Callable[..., Iterable[tuple[str, str | re.Pattern[str] | None]]]
"""Called with a node's literal inputs (links are None); gives (folder, name) of the files these name inside a text, (folder, pattern) where
it may be any that the pattern is found in the name of, and (folder, None) where it may be any file of the folder.

The contents of those files enter the key. A name there is no file for counts as missing, and counts again once there is one.
"""
Estimator = Callable[..., Estimate]
"""Called with a node's literal inputs (links are None, file choices are ``FileRef``s)."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node type: everything about it that can be known without running it."""

    type: str
    fn: Callable[..., Any]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[Output, ...]
    title: str
    category: str
    description: str = ""
    version: int | str = 1
    output_node: bool = False
    pure: bool = True
    """The outputs follow from the inputs alone. An impure node's key is salted with the run's id."""
    lasting: bool = True
    """Results may be kept on disk; otherwise in memory alone, and so may all that is made of them."""
    by_id: bool = False
    """The function is told the node's id, which then counts in the key."""
    takes_context: bool = False
    takes_lists: bool = False
    """The function gets whole lists and is called once, instead of once per element."""
    takes_extra: bool = False
    """Inputs that are not declared are passed on too (``**kwargs``)."""
    extra_links_only: bool = False
    """Of these only what comes over links."""
    is_async: bool = False
    concurrency: int | None = None
    """How many calls of an async function may be under way at once in this process; None: any number."""
    expands: bool = False
    """The function may return an ``Expand``; what it then comes to is not kept on disk, what it became is."""
    deprecated: bool = False
    experimental: bool = False
    fingerprint: Fingerprint | None = None
    check: Check | None = None
    estimate: Estimator | None = None
    reads: FilesRead | None = None
    hidden: Mapping[str, str] = field(default_factory=dict)
    """Hidden inputs as editors know them (name -> ``"PROMPT"``...), for ``object_info`` alone."""
    judges: frozenset[str] = frozenset()
    """Inputs whose literals ``check`` alone judges: neither choices nor ranges are looked at."""
    judges_types: bool = False
    """``check`` is passed ``input_types``, the types that come over links by input, and judges them instead of the engine."""
    pack: str | None = None
    """The third-party pack it comes from."""
    describe: Callable[[], dict[str, Any]] | None = None
    """The node's ``object_info`` in its own words, where it has some."""
    lazy_inputs: frozenset[str] = field(init=False, repr=False, compare=False)
    """The inputs that are computed only when the node asks for them."""
    _by_name: Mapping[str, InputSpec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # looked up for every input of every node of every run
        object.__setattr__(self, "lazy_inputs", frozenset(spec.name for spec in self.inputs if spec.lazy))
        object.__setattr__(self, "_by_name", {spec.name: spec for spec in self.inputs})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    @property
    def module(self) -> str:
        return f"custom_nodes.{self.pack}" if self.pack else self.fn.__module__

    @property
    def raw_links(self) -> frozenset[str]:
        """Inputs that are passed as links."""
        return frozenset(spec.name for spec in self.inputs if spec.raw_link)

    def identity(self, node: str) -> dict[str, str]:
        """The hidden inputs that say which node it is, for the hooks of ``node``."""
        return {name: node for name, kind in self.hidden.items() if kind == "UNIQUE_ID"}

    def input(self, name: str) -> InputSpec | None:
        return self._by_name.get(name)


def node(
    type_: str,
    *,
    category: str,
    outputs: Sequence[Output] = (),
    title: str | None = None,
    version: int = 1,
    output_node: bool = False,
    pure: bool = True,
    lasting: bool = True,
    takes_lists: bool = False,
    concurrency: int | None = None,
    expands: bool = False,
    deprecated: bool = False,
    experimental: bool = False,
    fingerprint: Fingerprint | None = None,
    check: Check | None = None,
    estimate: Estimator | None = None,
    reads: FilesRead | None = None,
    hidden: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], NodeSpec]:
    """Declare a node. Raise ``version`` whenever what the function computes changes: cached results of the old one then miss."""

    def declare(fn: Callable[..., Any]) -> NodeSpec:
        signature = _read_signature(type_, fn)
        return NodeSpec(
            type=type_,
            fn=fn,
            inputs=signature.inputs,
            outputs=tuple(outputs),
            title=title or type_,
            category=category,
            description=(inspect.getdoc(fn) or "").replace("``", ""),  # as people read it, in a terminal or an editor
            version=version,
            output_node=output_node,
            pure=pure,
            lasting=lasting,
            takes_context=signature.takes_context,
            takes_lists=takes_lists,
            takes_extra=signature.takes_extra,
            is_async=inspect.iscoroutinefunction(fn),
            concurrency=concurrency,
            expands=expands,
            deprecated=deprecated,
            experimental=experimental,
            fingerprint=fingerprint,
            check=check,
            estimate=estimate,
            reads=reads,
            hidden=dict(hidden or {}),
        )

    return declare


@dataclass(frozen=True, slots=True)
class _Signature:
    inputs: tuple[InputSpec, ...]
    takes_context: bool
    takes_extra: bool


def _read_signature(type_: str, fn: Callable[..., Any]) -> _Signature:
    parameters = list(inspect.signature(fn).parameters.values())
    hints = typing.get_type_hints(fn, include_extras=True)
    takes_context = bool(parameters) and parameters[0].name == "ctx"
    declared = parameters[1:] if takes_context else parameters
    takes_extra = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in declared)
    inputs = []
    for parameter in declared:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise DefinitionError(
                f"{type_}: parameter {parameter.name} must be a plain named one: inputs are passed by name"
            )
        if parameter.name not in hints:
            raise DefinitionError(
                f"{type_}: parameter {parameter.name} has no annotation; its socket type is read from it"
            )
        inputs.append(_read_input(type_, parameter, hints[parameter.name]))
    return _Signature(tuple(inputs), takes_context, takes_extra)


def _read_input(node_type: str, parameter: inspect.Parameter, hint: Any) -> InputSpec:
    base, markers, nullable = _unwrap(hint)
    default = MISSING if parameter.default is inspect.Parameter.empty else parameter.default
    marks = {type(marker): marker for marker in markers}
    type_, choices = _socket(node_type, parameter.name, base, marks)
    bounds = marks.get(Range)
    hint_mark = marks.get(Hint, Hint())
    multiline = marks.get(Multiline)
    spec = InputSpec(
        name=parameter.name,
        type=type_,
        required=Optional not in marks and not (nullable and default is None),
        default=MISSING if default is None and nullable else default,
        range=bounds,
        choices=choices,
        files=marks.get(FileChoice),
        seed=Seed in marks,
        multiline=multiline is not None,
        dynamic_prompts=multiline is not None and multiline.dynamic_prompts,
        lazy=Lazy in marks,
        raw_link=RawLink in marks,
        socket_only=SocketOnly in marks,
        tooltip=hint_mark.tooltip,
        display=hint_mark.display,
        own_type=Socket in marks and marks[Socket].widget,
    )
    _check_input(node_type, spec)
    return spec


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """The plain type under ``Annotated`` and ``X | None``, the markers met on the way, whether None is allowed."""
    markers: tuple[Any, ...] = ()
    nullable = False
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint, *found = get_args(hint)
            markers += tuple(found)
        elif origin in (typing.Union, types.UnionType) and type(None) in get_args(hint):
            nullable = True
            rest = [arg for arg in get_args(hint) if arg is not type(None)]
            if len(rest) != 1:
                return hint, markers, nullable
            hint = rest[0]
        else:
            return hint, markers, nullable


_WIDGET_TYPES: Final[dict[Any, SocketType]] = {int: INT, float: FLOAT, str: STRING, bool: BOOLEAN}


def _socket(
    node_type: str, name: str, base: Any, marks: Mapping[type, Any]
) -> tuple[SocketType, tuple[str, ...] | Callable[[], Sequence[str]] | None]:
    if Socket in marks:
        return SocketType(marks[Socket].type), None
    if FileChoice in marks:
        return COMBO, None
    if Choices in marks:
        return COMBO, marks[Choices].names
    if get_origin(base) is Literal:
        return COMBO, tuple(get_args(base))
    if base in _WIDGET_TYPES:
        return _WIDGET_TYPES[base], None
    if base is Any:
        return ANY, None
    raise DefinitionError(
        f"{node_type}: parameter {name} is annotated {base!r}; use int, float, str, bool, Literal[...] or Annotated[..., Socket(NAME)]"
    )


def _check_input(node_type: str, spec: InputSpec) -> None:
    where = f"{node_type}: input {spec.name}"
    if spec.range and spec.type not in (INT, FLOAT):
        raise DefinitionError(f"{where} has a range but is of type {spec.type}; ranges are for INT and FLOAT")
    if spec.lazy and spec.raw_link:
        raise DefinitionError(
            f"{where} is both lazy and a raw link; whoever gets the link itself cannot ask for its value"
        )
    if spec.seed and spec.type != INT:
        raise DefinitionError(f"{where} is marked Seed but is of type {spec.type}; a seed is an INT")
    if spec.default is MISSING:
        return
    if isinstance(spec.choices, tuple) and spec.default not in spec.choices:
        raise DefinitionError(f"{where} defaults to {spec.default!r}, which is not among {', '.join(spec.choices)}")
    if spec.range and isinstance(spec.default, int | float) and not spec.range.min <= spec.default <= spec.range.max:
        raise DefinitionError(f"{where} defaults to {spec.default}, outside {spec.range.min}..{spec.range.max}")
