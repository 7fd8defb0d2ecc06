"""Options that change how a model computes, as a setting of its recipe: a list, in the order in which they were given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from engine.errors import InputError
from engine.models import ModelRef
from nodes.diffusion.alterations import Alteration, Altered, altered
from nodes.diffusion.attention_broadcast import attention_broadcast
from nodes.diffusion.attention_guidance import (
    perturbed_attention,
    self_attention,
    skip_layers,
    skip_layers_of_negative,
)
from nodes.diffusion.configs import UNetConfig
from nodes.diffusion.deep_cache import deep_cache
from nodes.diffusion.deep_shrink import DeepShrink
from nodes.diffusion.faster_cache import FasterCache, faster_cache
from nodes.diffusion.first_block_cache import first_block_cache
from nodes.diffusion.free_u import FreeU
from nodes.diffusion.hyper_tile import HyperTile
from nodes.diffusion.listed import options
from nodes.diffusion.mag_cache import mag_cache
from nodes.diffusion.perturbations import Perturbation
from nodes.diffusion.sea_cache import sea_cache
from nodes.diffusion.steering import SETTING as GUIDANCE
from nodes.diffusion.taylor_seer import taylor_seer
from nodes.diffusion.tiled_diffusion import SETTING as TILED
from nodes.diffusion.token_merging import TokenMerging

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

ALTERATIONS: Final = "alterations"
"""The setting that lists changes of the network."""

_UNET_ALTERATIONS: Final[Mapping[str, Callable[..., Alteration]]] = MappingProxyType(
    {"FreeU": FreeU, "HyperTile": HyperTile, "token merging": TokenMerging, "deep shrink": DeepShrink}
)


_RANDOM: Final = frozenset({"HyperTile", "token merging"})

_UNET_PERTURBATIONS: Final[Mapping[str, Callable[..., Perturbation]]] = MappingProxyType(
    {"perturbed-attention guidance": perturbed_attention, "self-attention guidance": self_attention}
)
_TRANSFORMER_PERTURBATIONS: Final[Mapping[str, Callable[..., Perturbation]]] = MappingProxyType(
    {"skip-layer guidance": skip_layers, "skip-layer guidance of the negative": skip_layers_of_negative}
)


_LOOKS_AT_ALL: Final = "self-attention guidance"
"""The kind that must know where in the whole picture the network looks."""

CACHES: Final = "step_caches"
"""The setting that lists what is known from one step to the next."""

FASTER: Final = "FasterCache"
"""The cache that belongs to guidance, and not to the network."""

_CACHES: Final[Mapping[str, Callable[..., Alteration]]] = MappingProxyType(
    {
        "First Block Cache": first_block_cache,
        "MagCache": mag_cache,
        "Pyramid Attention Broadcast": attention_broadcast,
        "SeaCache": sea_cache,
        "TaylorSeer": taylor_seer,
    }
)
"""Those for all networks."""

_UNET_CACHES: Final[Mapping[str, Callable[..., Alteration]]] = MappingProxyType({"DeepCache": deep_cache, **_CACHES})


def alterations(unet: LoadedModel) -> tuple[Altered, ...]:
    """The changes of a leased network that its recipe asks for, caches behind all others, since they leave parts of it out.

    Raises InputError where it is not of their kind, or for two caches.
    """
    kinds = _of_kind(unet, _UNET_ALTERATIONS, {}, options(unet.ref, ALTERATIONS))
    caches = options(unet.ref, CACHES)
    if len(caches) > 1:
        names = " and ".join(name for name, _ in caches)
        raise InputError(f"expected one cache between steps, found {names}; choose one", input="model")
    made = [make(**values) for make, values in kinds]
    caches = [option for option in caches if option[0] != FASTER]
    made += [make(unet.module, **values) for make, values in _of_kind(unet, _UNET_CACHES, _CACHES, caches)]
    return tuple(altered(unet.module, it) for it in made)


def rebuilding(unet: LoadedModel) -> FasterCache | None:
    """What rebuilds the negative side of guidance, where the recipe of a leased network asks for it.

    Raises InputError for a network without attention, where that is to be spared.
    """
    for name, values in options(unet.ref, CACHES):
        if name == FASTER:
            return faster_cache(unet.module, **values)
    return None


def draws(model: ModelRef) -> bool:
    """Whether a change of the network that the recipe asks for is random."""
    return any(name in _RANDOM for name, _ in options(model, ALTERATIONS))


def perturbations(unet: LoadedModel) -> tuple[Perturbation, ...]:
    """The kinds of guidance by worse models that a leased network's recipe asks for, as they stand among its options of guidance.

    Raises InputError where it has no such parts.
    """
    known = _UNET_PERTURBATIONS.keys() | _TRANSFORMER_PERTURBATIONS.keys()
    listed = [option for option in options(unet.ref, GUIDANCE) if option[0] in known]
    if options(unet.ref, TILED) and any(name == _LOOKS_AT_ALL for name, _ in listed):
        raise InputError(
            f"expected {_LOOKS_AT_ALL} or tiled diffusion, found both; what the network looks at is not known of tiles",
            input="model",
        )
    kinds = _of_kind(unet, _UNET_PERTURBATIONS, _TRANSFORMER_PERTURBATIONS, listed)
    return tuple(make(unet.module, **values) for make, values in kinds)


def _of_kind(
    unet: LoadedModel,
    for_unets: Mapping[str, Callable[..., Any]],
    for_transformers: Mapping[str, Callable[..., Any]],
    listed: list[tuple[str, dict[str, Any]]],
) -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """What makes each of the options, and its values."""
    is_unet = isinstance(unet.config, UNetConfig)
    known = for_unets if is_unet else for_transformers
    for name, values in listed:
        if name not in known:
            wanted, found = ("transformer", "UNet") if is_unet else ("UNet", "transformer")
            raise InputError(
                f"expected a {wanted} for {name}, found the {found} of {unet.facts.family.title}; "
                "sample this model without it",
                input="model",
            )
        yield known[name], values


def check_uncached(model: ModelRef) -> None:
    """Raise InputError for a model with a cache between steps."""
    for name, _ in options(model, CACHES):
        raise InputError(f"expected a model without a cache between steps, found {name}; take it off", input="model")


def check_patched(name: str) -> None:
    """Raise InputError for a part of a model, by ComfyUI's name, that no cache is for."""
    if name != "diffusion_model":
        raise InputError(
            f"expected diffusion_model, found {name!r}; no other part has a cache", input="object_to_patch"
        )
