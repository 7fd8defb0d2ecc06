"""ControlNets and T2I-Adapters in a sampling: leased nets, their pictures made to fit, and what they add inside of the model.

A ControlNet's residuals are added to what the UNet's way down hands over to its way up (Zhang et al. 2023, section 3.2); the features of
an adapter to the way down itself (Mou et al. 2023, section 3.3); the residuals of a transformer's net behind its layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.errors import InputError
from engine.models import ModelRef, Recipe
from nodes.diffusion import control
from nodes.diffusion.alterations import Wiring
from nodes.diffusion.conditioning import for_batch
from nodes.diffusion.control_configs import AdapterConfig, AnyControl, ControlConfig, TransformerControlConfig
from nodes.diffusion.control_fit import check_fits
from nodes.diffusion.control_hints import Picture
from nodes.diffusion.control_weights import base_patch
from nodes.diffusion.controlled import BLOCKS, DOWN, MID, WITHIN, Control, ControlCall
from nodes.diffusion.extras import POOLED, VECTOR
from nodes.diffusion.leases import Leases
from nodes.diffusion.schedules import BEYOND_NOISE, ModelSigmas
from nodes.diffusion.vae import encode

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """What is added inside of a network; ``blocks`` is a transformer's, the others are a UNet's."""

    down: tuple[Tensor, ...] = ()
    mid: Tensor | None = None
    within: tuple[Tensor, ...] = ()
    """To the way down, level by level."""
    blocks: tuple[Tensor, ...] = ()

    def __add__(self, other: Residuals) -> Residuals:
        mid = self.mid if other.mid is None else other.mid if self.mid is None else self.mid + other.mid
        return Residuals(
            _sum(self.down, other.down), mid, _sum(self.within, other.within), _sum(self.blocks, other.blocks)
        )

    def times(self, strength: float) -> Residuals:
        if strength == 1.0:
            return self
        rows = (tuple(it * strength for it in row) for row in (self.down, self.within, self.blocks))
        down, within, blocks = rows
        return Residuals(down, None if self.mid is None else self.mid * strength, within, blocks)

    def pooled(self) -> Residuals:
        """Averaged over the picture."""
        mid = None if self.mid is None else self.mid.mean((2, 3), keepdim=True)
        return replace(self, down=tuple(it.mean((2, 3), keepdim=True) for it in self.down), mid=mid)

    def told(self, dtype: torch.dtype) -> dict[str, Any]:
        """By the names of diffusers, whose UNet takes what it uses off the list."""
        found: dict[str, Any] = {}
        if self.mid is not None:
            found[DOWN] = tuple(it.to(dtype) for it in self.down)
            found[MID] = self.mid.to(dtype)
        if self.within:
            found[WITHIN] = [it.to(dtype) for it in self.within]
        if self.blocks:
            found[BLOCKS] = [it.to(dtype) for it in self.blocks]
        return found


def _sum(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a if b is None else b if a is None else a + b for a, b in zip_longest(one, other))


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """One net with its picture, in one sampling; it holds while ``sigma_start >= sigma >= sigma_end``."""

    recipe: Recipe
    net: LoadedModel
    model: LoadedModel
    """What is sampled."""
    picture: Picture
    sigma_start: float
    sigma_end: float
    features: dict[tuple[int, int], tuple[Tensor, ...]] = field(default_factory=dict)
    """Of an adapter, by the size of the latent: they do not change while the sample does."""

    @property
    def strength(self) -> float:
        return float(self.recipe.parts["strength"])

    def active(self, sigma: float) -> bool:
        return self.sigma_start >= sigma >= self.sigma_end

    def residuals(self, call: ControlCall) -> Residuals:
        """What the net says of ``call``, as strong as it is to be."""
        config = self.net.config
        if isinstance(config, AdapterConfig):
            found = self._features(call)
        elif isinstance(config, TransformerControlConfig):
            found = self._blocks(call, config)
        else:
            assert isinstance(config, ControlConfig)
            found = self._levels(call, config)
            found = found.pooled() if config.is_pooled or self.recipe.parts["net"].setting(control.POOLED) else found
        return found.times(self.strength)

    def _hint(self, call: ControlCall) -> Tensor:
        """The picture for the samples of a call, in the net's dtype."""
        return _repeated(self._parts(call), call)

    def _parts(self, call: ControlCall) -> list[Tensor]:
        """The picture as the call shows it: all of it, or window by window."""
        if call.view is None:
            found = [self.picture.sized(*call.x.shape[-2:])]
        else:
            found = call.view.parts(self.picture.sized(call.view.height, call.view.width))
        return [part.to(self.net.device, self.net.dtype) for part in found]

    def _levels(self, call: ControlCall, config: ControlConfig) -> Residuals:
        module: Any = self.net.module
        hint = self._hint(call)
        hint = hint.flip(1) if config.is_bgr else hint
        given: dict[str, Any] = {"return_dict": False}
        if config.vector_dim is not None:
            given["class_labels"] = call.inputs[VECTOR].to(self.net.dtype)
        x, context = call.x.to(self.net.dtype), call.context.to(self.net.dtype)
        if config.union_types:
            down, mid = self._union(x, call.timestep, context, hint, given)
        else:
            down, mid = module(x, call.timestep, context, hint, **given)
        return Residuals(tuple(down), mid)

    def _union(self, x: Tensor, timestep: Tensor, context: Tensor, hint: Tensor, given: Mapping[str, Any]) -> Any:
        """A net that was not told the kind of its picture sees it without what belongs to a kind."""
        module: Any = self.net.module
        number = self.recipe.parts["net"].setting(control.TYPE)
        config = self.net.config
        assert isinstance(config, ControlConfig)
        kinds = torch.zeros(len(x), config.union_types, device=x.device)
        if number is not None:
            kinds[:, int(number)] = 1

        def with_picture(sample: Tensor) -> Tensor:
            seen: Tensor = module.controlnet_cond_embedding(hint)
            return sample + (seen if number is None else seen + self._of_kind(seen, int(number)))

        wiring = Wiring(module)
        try:
            # within the net's own call, where a net that is streamed has its tensors
            wiring.after(module.conv_in, with_picture)
            return module(x, timestep, context, [], kinds, [], **given)
        finally:
            wiring.remove()

    def _of_kind(self, seen: Tensor, number: int) -> Tensor:
        """What is added to every cell of a picture [B,C,h,w] for being of a kind.

        The net's small transformer looks at the picture's mean alone: so does ComfyUI. diffusers lets it look at the sample's, too.
        """
        module: Any = self.net.module
        token = (seen.mean((2, 3)) + module.task_embedding[number])[None]
        for layer in module.transformer_layes:
            token = layer(token)
        added: Tensor = module.spatial_ch_projs(token[0])
        return added[..., None, None]

    def _blocks(self, call: ControlCall, config: TransformerControlConfig) -> Residuals:
        module, model = self.net.module, self.model.module
        x, pooled = call.x.to(self.net.dtype), call.inputs[POOLED].to(self.net.dtype)
        context: Tensor | None = None
        if config.context_dim is None:
            x = model.pos_embed(call.x).to(self.net.dtype)  # type: ignore[operator]  # the model's own beginning
        else:
            context = pad(call.context, (0, config.context_dim - call.context.shape[-1])).to(self.net.dtype)
            pooled = torch.zeros_like(pooled)  # such nets were trained without the pooled text
        found = module(
            hidden_states=x,
            controlnet_cond=self._hint(call),
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=call.timestep,
            return_dict=False,
        )[0]
        layers = len(model.transformer_blocks)  # type: ignore[arg-type]
        # each stands for as many of the model's layers, so that nets of different depths can be added
        return Residuals(blocks=tuple(found[layer * len(found) // layers] for layer in range(layers)))

    def _features(self, call: ControlCall) -> Residuals:
        height, width = call.x.shape[-2:]
        if call.view is not None:
            seen = [tuple(self.net.module(part)) for part in self._parts(call)]
            return Residuals(within=tuple(_repeated(level, call) for level in zip(*seen, strict=True)))
        if (height, width) not in self.features:
            self.features[height, width] = tuple(self.net.module(*self._parts(call)))
        return Residuals(within=tuple(_repeated([level], call) for level in self.features[height, width]))


def _repeated(parts: Sequence[Tensor], call: ControlCall) -> Tensor:
    """What belongs to the windows of a call, or to all of it, [n,...] each, for every one of its samples."""
    each = len(call.x) // (call.entries * len(parts))
    return torch.cat([for_batch(part, each).repeat(call.entries, 1, 1, 1) for part in parts])


@dataclass(frozen=True, slots=True, eq=False)
class Controls:
    """Some nets together: what they say is added."""

    nets: tuple[Applied, ...]

    def told(self, call: ControlCall) -> Mapping[str, Any]:
        total = Residuals()
        for net in self.nets:
            if net.active(call.sigma):
                total = total + net.residuals(call)
        return total.told(call.x.dtype)


@dataclass(slots=True, eq=False)
class Nets:
    """The controls of one sampling of ``model``. Controls that are equal become one, so that their entries share calls."""

    model: LoadedModel
    schedule: ModelSigmas
    beside: Leases
    _applied: list[Applied] = field(default_factory=list)
    _together: list[Controls] = field(default_factory=list)

    def __call__(self, options: Mapping[str, Any], height: int, width: int) -> Control | None:
        """The control that the ``options`` of an entry ask for, on ``height`` x ``width`` cells.

        Raises InputError where a net is made for other models, and what leasing it raises.
        """
        found = options.get(control.OPTION)
        if found is None:
            return None
        applied = tuple(self._one(recipe) for recipe in control.recipes(found))
        for one in applied:
            one.picture.sized(height, width)
        return self._same(applied) if applied else None

    def _same(self, applied: tuple[Applied, ...]) -> Controls:
        for known in self._together:
            if known.nets == applied:
                return known
        self._together.append(Controls(applied))
        return self._together[-1]

    def _one(self, recipe: Recipe) -> Applied:
        known = next((one for one in self._applied if _are_equal(one.recipe, recipe)), None)
        if known is None:
            known = self._made(recipe)
            self._applied.append(known)
        return known

    def _made(self, recipe: Recipe) -> Applied:
        parts = recipe.parts
        start, end = parts["start_percent"], parts["end_percent"]
        net = self._net(parts["net"])
        return Applied(
            recipe=recipe,
            net=net,
            model=self.model,
            picture=self._picture(parts, net),
            # as for entries: a range that is the whole run holds at every sigma
            sigma_start=self.schedule.percent_to_sigma(start) if start > 0 else BEYOND_NOISE,
            sigma_end=self.schedule.percent_to_sigma(end) if end < 1 else 0.0,
        )

    def _picture(self, parts: Mapping[str, Any], net: LoadedModel) -> Picture:
        config = net.config
        assert isinstance(config, AnyControl)
        if not isinstance(config, TransformerControlConfig):
            return Picture(parts["image"], config)
        if parts["vae"] is None:
            raise InputError(
                "expected a VAE for a ControlNet that sees the latent of its picture, found none", input="vae"
            )
        facts = self.model.facts
        # nets that read the text were trained on latents that are scaled, and not moved
        shift = facts.shift if config.context_dim is None else 0.0
        encoded = partial(self._encoded, parts["vae"])
        return Picture(parts["image"], config, encoded, facts.scale_factor, shift, parts["mask"])

    def _encoded(self, vae: ModelRef, pictures: Tensor) -> Tensor:
        with self.beside.store.lease(vae) as loaded:
            return encode(pictures, loaded)

    def _net(self, ref: ModelRef) -> LoadedModel:
        """The leased net. Its settings say how it is used, and make no other one of it."""
        config = control.config_of(ref)
        check_fits(config, self.model.config, self.model.facts.family, Path(ref.location).name, "positive")
        if isinstance(config, ControlConfig) and config.form == "low_rank":
            ref = ref.with_patches(base_patch(ref, self.model.ref))
        return self.beside(replace(ref, settings=()), self.beside.working_bytes)


def _are_equal(one: Recipe, other: Recipe) -> bool:
    """Whether two controls are the same: by content, since what comes out of a cache is a copy."""
    if one is other:
        return True
    return all(_is_same(value, other.parts[name]) for name, value in one.parts.items())


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and bool(torch.equal(one, other)))
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and bool(one == other)
