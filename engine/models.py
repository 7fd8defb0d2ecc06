"""A model on a wire is a recipe, never weights.

MODEL, CLIP and VAE values are ``ModelRef``s: small, hashable, immutable, good to send to another process. What is made
without weights of its own, a sampler say, is a ``Recipe``. A node that changes a
model returns a new recipe; only a lease of a ``ModelStore`` turns one into weights on a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NewType, Protocol

Digest = NewType("Digest", str)
"""Hex digest of a file's (or folder's) content."""

Part = Literal[
    "unet", "clip", "vae", "clip_vision", "control", "upscaler", "gligen", "style_model", "photomaker", "annotator"
]
"""``annotator`` is a network that says something of pictures: their edges, depth, poses, or what is where in them."""
Setting = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Patch:
    """A change to weights, applied at lease from pristine weights: a LoRA file with its strength, say.

    A patch that needs no file has an empty ``source`` and ``location``.
    """

    kind: str
    source: Digest
    strength: float
    location: str = field(compare=False)
    options: tuple[tuple[str, Setting], ...] = ()
    """What else the kind takes, in an order that may mean something."""
    model: ModelRef | None = None
    """The other model of a merge."""

    def to_plain(self) -> list[Any]:
        """Plain data for msgpack; ``from_plain`` reads it back."""
        plain = [self.kind, self.source, self.strength, self.location]
        if not self.options and self.model is None:
            return plain
        return [*plain, [list(pair) for pair in self.options], self.model and self.model.to_plain()]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> Patch:
        kind, source, strength, location, *more = plain
        options, model = more or ((), None)
        pairs = tuple((name, value) for name, value in options)
        return cls(kind, source, strength, location, pairs, model and ModelRef.from_plain(model))


@dataclass(frozen=True, slots=True)
class ModelRef:
    """How to make one model.

    Equality and hash are by content: ``location`` says where the file was seen and may differ between two equal recipes. Of text encoders
    from several files ``source`` names all contents and ``location`` all files, one a line.
    """

    source: Digest
    part: Part
    location: str = field(compare=False)
    patches: tuple[Patch, ...] = ()
    settings: tuple[tuple[str, Setting], ...] = ()

    def with_settings(self, **changes: Setting) -> ModelRef:
        """The same recipe with settings added or replaced; settings are kept in order of name."""
        merged = dict(self.settings) | changes
        return replace(self, settings=tuple(sorted(merged.items())))

    def setting(self, name: str, default: Setting = None) -> Setting:
        return dict(self.settings).get(name, default)

    def with_patches(self, *patches: Patch) -> ModelRef:
        """The same recipe with more patches behind those it has."""
        return replace(self, patches=(*self.patches, *patches))

    def locations(self) -> Iterator[str]:
        """Where the files were seen that the recipe is made of, those of other models in it included."""
        yield from self.location.splitlines()
        for patch in self.patches:
            yield patch.location
            if patch.model is not None:
                yield from patch.model.locations()

    def to_plain(self) -> dict[str, Any]:
        """Plain data for msgpack; ``from_plain`` reads it back."""
        return {
            "source": self.source,
            "part": self.part,
            "location": self.location,
            "patches": [patch.to_plain() for patch in self.patches],
            "settings": [list(pair) for pair in self.settings],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ModelRef:
        return cls(
            source=Digest(plain["source"]),
            part=plain["part"],
            location=plain["location"],
            patches=tuple(map(Patch.from_plain, plain["patches"])),
            settings=tuple((name, value) for name, value in plain["settings"]),
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make something that has no weights of its own: a sampler, a noise, a guider. Whoever uses it makes it.

    ``kind`` says what it is; ``parts`` are values like those on any link, never changed.
    """

    kind: str
    parts: Mapping[str, Any] = field(default_factory=dict)


class ModelStore(Protocol):
    """Turns recipes into models. Implemented by ``nodes.diffusion.store``."""

    def lease(self, ref: ModelRef, *, working_bytes: int = 0) -> AbstractContextManager[Any]:
        """The model of ``ref``, loaded on the device and pinned there while the context is open.

        ``working_bytes`` is room the caller will need beside the weights (activations), in bytes. A lease is exclusive:
        a second lease of the same weights waits, and nothing done under a lease is seen by the next one.
        """
        ...

    def evict_all(self) -> None:
        """Take everything off the device that nobody leases."""
        ...
