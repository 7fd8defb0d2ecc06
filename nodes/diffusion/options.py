"""Options that change how a model computes, as a setting of its recipe: a list, in the order in which they were given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from engine.errors import InputError
from engine.models import ModelRef
from nodes.diffusion.alterations import Alteration, Altered, altered
from nodes.diffusion.configs import UNetConfig
from nodes.diffusion.deep_shrink import DeepShrink
from nodes.diffusion.free_u import FreeU
from nodes.diffusion.hyper_tile import HyperTile
from nodes.diffusion.token_merging import TokenMerging

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

ALTERATIONS: Final = "alterations"
"""The setting that lists changes of the network."""

_UNET_ALTERATIONS: Final[Mapping[str, Callable[..., Alteration]]] = MappingProxyType(
    {"FreeU": FreeU, "HyperTile": HyperTile, "token merging": TokenMerging, "deep shrink": DeepShrink}
)


def with_option(model: ModelRef, setting: str, name: str, **values: Any) -> ModelRef:
    """``model`` with an option behind those that ``setting`` lists already."""
    return model.with_settings(**{setting: json.dumps([*options(model, setting), [name, values]], sort_keys=True)})


def options(model: ModelRef, setting: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and values of the options that ``setting`` of ``model`` lists."""
    listed = model.setting(setting)
    return [] if listed is None else [(name, values) for name, values in json.loads(str(listed))]


def alterations(unet: LoadedModel) -> tuple[Altered, ...]:
    """The changes of a leased network that its recipe asks for. Raises InputError where it is not of their kind."""
    return tuple(
        altered(unet.module, _UNET_ALTERATIONS[name](**values))
        for name, values in options(unet.ref, ALTERATIONS)
        if is_unet(unet, name)
    )


def is_unet(unet: LoadedModel, name: str) -> bool:
    """True, or InputError: the option ``name`` is for UNets."""
    if isinstance(unet.config, UNetConfig):
        return True
    raise InputError(
        f"expected a UNet for {name}, found the transformer of {unet.facts.family.title}; sample this model without it",
        input="model",
    )
