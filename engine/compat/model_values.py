"""MODEL, CLIP and VAE as packs hold them: the recipe that travels on links here, with the methods that packs call most.

A pack gets these in the place of ``ModelRef``s and hands them on; what comes out of its node is a recipe again. Their methods run the core
nodes under the pack's own call. There are no weights behind them to reach into: an attribute that only weights have says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from engine.compat.host import current, host
from engine.compat.missing import NotProvidedError, message
from engine.models import ModelRef, Part

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ModelValue:
    """A recipe in a pack's hands. Two are equal when their recipes are."""

    ref: ModelRef
    _socket: ClassVar[str] = "model"

    def clone(self) -> Self:
        """Itself: nothing can change it."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(message(f"{name} of a {self._socket}"), name=name)


@dataclass(frozen=True)
class UnetValue(ModelValue):
    """A MODEL: passed on, or given to ``nodes.common_ksampler``."""

    _socket = "MODEL"


@dataclass(frozen=True)
class VisionValue(ModelValue):
    """A CLIP_VISION: passed on."""

    _socket = "CLIP_VISION"


@dataclass(frozen=True)
class ControlValue(ModelValue):
    """A CONTROL_NET: passed on."""

    _socket = "CONTROL_NET"


@dataclass(frozen=True)
class UpscalerValue(ModelValue):
    """An UPSCALE_MODEL: passed on, or given to ``ImageUpscaleWithModel``."""

    _socket = "UPSCALE_MODEL"

    @property
    def scale(self) -> int:
        """How many times larger it makes a picture."""
        return int(self.ref.setting("scale", 1) or 1)


@dataclass(frozen=True)
class VaeValue(ModelValue):
    """A VAE: pictures float [B,H,W,C] in 0..1, latents [B,C,h,w] in unscaled VAE space."""

    _socket = "VAE"

    def decode(self, samples_in: Any, *_: Any, **__: Any) -> Any:
        """The pictures of latents."""
        return _run("VAEDecode", samples={"samples": samples_in}, vae=self.ref)

    def encode(self, pixel_samples: Any) -> Any:
        """The latents of pictures, cropped to multiples of 8 pixels; channels beyond three are left out."""
        return _run("VAEEncode", pixels=pixel_samples[..., :3], vae=self.ref)["samples"]

    def decode_tiled(self, samples: Any, *_: Any, **__: Any) -> Any:
        """As ``decode``, which takes to tiles by itself where memory is short."""
        return self.decode(samples)

    def encode_tiled(self, pixel_samples: Any, *_: Any, **__: Any) -> Any:
        return self.encode(pixel_samples)


@dataclass(frozen=True)
class Tokens:
    """A prompt on its way to its encoding; what is between the two is not to be seen."""

    text: str


@dataclass(frozen=True)
class ClipValue(ModelValue):
    """A CLIP: prompts into conditionings."""

    _socket = "CLIP"

    def tokenize(self, text: str, return_word_ids: bool = False, **_: Any) -> Tokens:
        """For ``encode_from_tokens``."""
        if return_word_ids:
            raise NotProvidedError(message("the words of tokens"))
        return Tokens(text)

    def encode_from_tokens(self, tokens: Tokens, return_pooled: bool = False, return_dict: bool = False) -> Any:
        """The encoding [1, T, D]; with ``return_pooled`` the pooled one [1, D] beside it; or both in a dict."""
        cond, extra = self._entry(tokens)
        if return_dict:
            return {"cond": cond, **extra}
        return (cond, extra.get("pooled_output")) if return_pooled else cond

    def encode_from_tokens_scheduled(
        self, tokens: Tokens, unprojected: bool = False, add_dict: Mapping[str, Any] | None = None, **_: Any
    ) -> list[list[Any]]:
        """A CONDITIONING, ``add_dict`` in its settings."""
        cond, extra = self._entry(tokens)
        return [[cond, {**extra, **(add_dict or {})}]]

    def encode(self, text: str) -> Any:
        return self.encode_from_tokens(self.tokenize(text))

    def clip_layer(self, layer_idx: int) -> Self:
        """The same with clip skip; ComfyUI's changes the object, and a pack clones it before."""
        object.__setattr__(self, "ref", self.ref.with_settings(last_layer=layer_idx))
        return self

    def clone(self) -> Self:
        return type(self)(self.ref)

    def _entry(self, tokens: Any) -> tuple[Tensor, dict[str, Any]]:
        if not isinstance(tokens, Tokens):
            raise NotProvidedError(f"expected what tokenize gave, found a {type(tokens).__name__}; pass it on as it is")
        cond, extra = _run("CLIPTextEncode", text=tokens.text, clip=self.ref)[0]
        return cond, dict(extra)


def _run(type_: str, **inputs: Any) -> Any:
    """What a core node makes, under the call of the pack."""
    spec, context = host().registry[type_], current.get()
    if context is None:
        raise NotProvidedError("a model was used outside of a node's call; use it in the node's own function")
    return spec.fn(context, **inputs)


_KINDS: Mapping[Part, type[ModelValue]] = {
    "unet": UnetValue,
    "clip": ClipValue,
    "vae": VaeValue,
    "clip_vision": VisionValue,
    "control": ControlValue,
    "upscaler": UpscalerValue,
}


def wrapped(value: Any) -> Any:
    """``value`` as a pack is to have it: a recipe, or one in a list, with its methods."""
    if type(value) is ModelRef:
        kind = _KINDS.get(value.part)
        return value if kind is None else kind(value)
    if type(value) is list and any(type(item) is ModelRef for item in value):
        return [wrapped(item) for item in value]
    return value


def unwrapped(value: Any) -> Any:
    """``value`` as it travels on links."""
    if isinstance(value, ModelValue):
        return value.ref
    if type(value) is list and any(isinstance(item, ModelValue) for item in value):
        return [unwrapped(item) for item in value]
    return value
