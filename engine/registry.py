"""The node types a process knows: an instance, filled by whoever builds the process, never a module's state."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.errors import DefinitionError
from engine.spec import NodeSpec
from engine.types import VALUE_CHECKS, ValueCheck

if TYPE_CHECKING:
    from engine.model_info import ModelInfo
    from engine.models import ModelStore
    from engine.run.codecs import LeafCodec
    from engine.run.settings import DeviceSettings

ENTRY_POINT_GROUP: Final = "mezzotint.nodes"

Converter = Callable[[Path, Path], None]
Inspector = Callable[[Path], "ModelInfo"]
StoreFactory = Callable[["DeviceSettings"], "ModelStore"]


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """An entry point that could not be loaded, and why."""

    name: str
    reason: str


class Registry(Mapping[str, NodeSpec]):
    """Node types by id, the codecs of the values they exchange, and what makes their models."""

    def __init__(self, specs: Iterable[NodeSpec] = ()) -> None:
        self._specs: dict[str, NodeSpec] = {}
        self._codecs: dict[str, LeafCodec] = {}
        self._checks: dict[str, ValueCheck] = dict(VALUE_CHECKS)
        self._store_factory: StoreFactory | None = None
        self._converter: Converter | None = None
        self._inspector: Inspector | None = None
        self.failures: list[PluginFailure] = []
        self.add(*specs)

    def __getitem__(self, type_: str) -> NodeSpec:
        return self._specs[type_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def add(self, *specs: NodeSpec) -> None:
        """Add node types; all or, if one of the ids is taken, none of them (``DefinitionError``)."""
        incoming: dict[str, NodeSpec] = {}
        for spec in specs:
            known = self._specs.get(spec.type) or incoming.get(spec.type)
            if known is not None:
                raise DefinitionError(
                    f"node type {spec.type} of {spec.module} is already defined by {known.module}; rename one of them"
                )
            incoming[spec.type] = spec
        self._specs |= incoming

    def add_codecs(self, *codecs: LeafCodec) -> None:
        """Add codecs for leaf values, by the qualified name of their Python type."""
        self._codecs |= {codec.type_name: codec for codec in codecs}

    @property
    def codecs(self) -> Mapping[str, LeafCodec]:
        return self._codecs

    def add_checks(self, checks: Mapping[str, ValueCheck]) -> None:
        """Say what values of a socket type must be; nodes that return others fail."""
        self._checks |= checks

    @property
    def checks(self) -> Mapping[str, ValueCheck]:
        return self._checks

    def provide_models(self, factory: StoreFactory) -> None:
        """Set what makes the model store; it is called when the first node of a run asks for a model."""
        self._store_factory = factory

    def make_store(self, settings: DeviceSettings) -> ModelStore:
        if self._store_factory is None:
            raise DefinitionError("no model store: none of the loaded node packages provides one")
        return self._store_factory(settings)

    def provide_converter(self, converter: Converter) -> None:
        """Set what rewrites a pickle checkpoint as safetensors."""
        self._converter = converter

    def convert_model(self, source: Path, target: Path) -> None:
        """Write the tensors of the pickle checkpoint ``source`` to the safetensors file ``target``."""
        if self._converter is None:
            raise DefinitionError("no converter: none of the loaded node packages provides one")
        self._converter(source, target)

    def provide_inspector(self, inspector: Inspector) -> None:
        """Set what says what a model file is. It answers for any file that can be read, known or not."""
        self._inspector = inspector

    def inspect_model(self, path: Path) -> ModelInfo:
        """What the model file or diffusers folder at ``path`` is."""
        if self._inspector is None:
            raise DefinitionError("no inspector of models: none of the loaded node packages provides one")
        return self._inspector(path)

    def nearest(self, type_: str) -> str | None:
        """The known id most like ``type_``, if any is like it."""
        folded = {name.casefold(): name for name in self._specs}
        close = difflib.get_close_matches(type_.casefold(), folded, n=1)
        return folded[close[0]] if close else None

    def load(self, points: Iterable[EntryPoint] | None = None) -> None:
        """Fill this registry from entry points (default: group ``mezzotint.nodes``).

        An entry point names a function ``register(registry)``. One that fails adds nothing; it is recorded in ``failures``.
        """
        for point in entry_points(group=ENTRY_POINT_GROUP) if points is None else points:
            trial = Registry()
            try:
                point.load()(trial)
                self.add(*trial.values())
            except Exception as error:  # a plugin may fail in any way; the others must load
                self.failures.append(PluginFailure(point.name, f"{type(error).__name__}: {error}"))
                continue
            self._codecs |= trial._codecs
            self._checks |= trial._checks
            self._store_factory = self._store_factory or trial._store_factory
            self._converter = self._converter or trial._converter
            self._inspector = self._inspector or trial._inspector
