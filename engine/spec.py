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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.inputs import MISSING as MISSING
from engine.inputs import Choices as Choices
from engine.inputs import FileChoice as FileChoice
from engine.inputs import Hint as Hint
from engine.inputs import InputSpec as InputSpec
from engine.inputs import Lazy as Lazy
from engine.inputs import Multiline as Multiline
from engine.inputs import Optional as Optional
from engine.inputs import Range as Range
from engine.inputs import RawLink as RawLink
from engine.inputs import Seed as Seed
from engine.inputs import Socket as Socket
from engine.inputs import SocketOnly as SocketOnly
from engine.signature import read_signature


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
        signature = read_signature(type_, fn)
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
