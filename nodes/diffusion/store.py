"""Leases: the one way from a recipe to weights on a device.

A ``LocalModelStore`` keeps the models of one device. A lease finds or opens the model's source, makes room by the budget's
decisions, puts the weights on the device (or lets them stream, when they do not fit), and pins them until it ends. Weights
are told apart by content, part, dtype and patches; settings of a recipe, clip skip say, are read by those who use the
model and never cause a load, but for the one that names a dtype.

What has to go from the device leaves its module stripped and its source mapped: main memory holds no second copy, the
file's pages are the copy. Nothing done under a lease is seen by the next: a module that came back changed is thrown away.

Locks are taken in this order: a model's own (held for the whole lease), then the store's (held while weights move).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, cast
from weakref import WeakSet

import torch
from torch import nn

from engine.errors import InputError
from engine.models import Digest, ModelRef, Part, Patch
from engine.numerics import precision
from engine.run.settings import DeviceSettings, parse_budget
from nodes.diffusion import networks
from nodes.diffusion.annotators.source import AnnotatorSource
from nodes.diffusion.budget import Budget, Resident
from nodes.diffusion.configs import PartConfig
from nodes.diffusion.devices import DevicePolicy, device_policy, free_memory, release_unused
from nodes.diffusion.ip_prompts import KIND as IMAGE_PROMPT
from nodes.diffusion.opened import AnySource, Opened, State, are_opened_alike, built, new_source, opened
from nodes.diffusion.overlay import Overlaid
from nodes.diffusion.parts import PARTS
from nodes.diffusion.sources import Facts
from nodes.diffusion.upscalers import ALLOWED_DTYPES

Patcher = Callable[[ModelRef, PartConfig, nn.Module, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
"""Gives, for a recipe, its configuration, its network and its pristine weights, those tensors that the patches change, as new tensors
in any dtype. It may make them when they are asked for, and may leave hooks on the network."""

COMPUTE_DTYPE: Final = "compute_dtype"
"""The setting of a recipe that names the dtype its network computes in, by a name in ``DTYPES``."""

DTYPES: Final = MappingProxyType({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16})

_KEPT_MODELS = 16


@dataclass(frozen=True, slots=True)
class WeightsKey:
    """What makes two models' weights the same."""

    source: Digest
    part: Part
    dtype: torch.dtype
    patches: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model under a lease. Inputs belong on ``device``, in ``dtype``; the module's outputs come back there."""

    ref: ModelRef
    module: nn.Module
    config: PartConfig
    """Of an annotator it is an ``AnnotatorConfig``, which none of those who use a part look at."""
    facts: Facts
    device: torch.device
    dtype: torch.dtype
    derived: dict[str, Any]
    """What users of the model worked out from its weights, a preview's colours say; kept for as long as the weights are known."""
    exchanged: Callable[[Mapping[str, nn.Parameter]], AbstractContextManager[None]]
    """While open, the module computes with the tensors given in place of its own by these names, which come back untouched.

    They are in ``dtype``, on ``device``, or in main memory where the model is streamed."""
    streamed: bool
    spare: int
    """Bytes of the budget on ``device`` that neither models nor the work the lease was told of take."""


@dataclass(slots=True)
class Counters:
    """``reads``: parts opened from a file; ``loads``: times weights were put on the device or set to stream."""

    reads: int = 0
    loads: int = 0


@dataclass(slots=True)
class _Model:
    """A model the store knows; ``opened`` is None until the first lease and after one that left it changed."""

    key: WeightsKey
    opened: Opened | None = None
    last_used: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    owner: int | None = None
    """The thread that holds the lease."""
    users: int = 0
    """Leases held or waited for."""

    @property
    def on_device(self) -> bool:
        return self.opened is not None and self.opened.state != "stripped"


def make_store(settings: DeviceSettings) -> LocalModelStore:
    """The store of this process. Raises UsageError when the settings name a device or an amount that is none."""
    from nodes.diffusion.patches import patcher

    policy = device_policy(settings.device, precision(settings.dtype))
    budget = Budget(parse_budget(settings.vram_budget, free_memory(policy.device)))
    return LocalModelStore(policy, budget, patcher(policy.device))


class LocalModelStore:
    """The models of one device: ``engine.models.ModelStore`` for this process.

    Args:
        policy: device and dtypes; None is the best device there is.
        budget: bytes that models and their work may take on it; None is most of what is free now.
        patcher: makes patched weights; without one, a recipe with patches is refused.
    """

    def __init__(
        self, policy: DevicePolicy | None = None, budget: Budget | None = None, patcher: Patcher | None = None
    ) -> None:
        self.policy = policy or device_policy()
        self.budget = budget or Budget(parse_budget(None, free_memory(self.policy.device)))
        self.counters = Counters()
        self._patcher = patcher
        self._lock = threading.Lock()
        self._models: dict[WeightsKey, _Model] = {}
        self._soiled: WeakSet[AnySource] = WeakSet()
        self._clock = 0

    @contextmanager
    def lease(self, ref: ModelRef, *, working_bytes: int = 0) -> Iterator[LoadedModel]:
        """See ``engine.models.ModelStore.lease``.

        Raises:
            MissingFile, ModelFileError: the source is gone, broken or lacks the part.
            InputError: the recipe has patches and the store no patcher.
            ResourceError: the device ran out of memory while the weights were put there.
            RuntimeError: this thread already holds a lease of the same weights, and would wait for itself.
        """
        key = WeightsKey(ref.source, ref.part, self._dtype(ref), _weight_patches(ref))
        with self._in_use(key) as model, self._exclusive(model):
            with self._lock:
                opened = self._bring(model, ref, working_bytes)
                before = opened.trace()
                spare = max(0, self.budget.free(self._residents()) - working_bytes)
            try:
                yield LoadedModel(
                    ref=ref,
                    module=opened.module,
                    config=cast("PartConfig", opened.source.config(ref.part)),
                    facts=opened.source.facts,
                    device=self.policy.device,
                    dtype=key.dtype,
                    derived=opened.derived,
                    exchanged=opened.exchanged,
                    streamed=opened.sent is not None,
                    spare=spare,
                )
            finally:
                with self._lock:
                    self._check_untouched(model, opened, before)

    def _dtype(self, ref: ModelRef) -> torch.dtype:
        """What the recipe says its network computes in, or else the device's policy."""
        named = ref.setting(COMPUTE_DTYPE)
        if named is not None:
            return DTYPES[str(named)]
        usual, allowed = self.policy.dtype(ref.part), ref.setting(ALLOWED_DTYPES)
        if allowed is None or usual in {DTYPES[name] for name in str(allowed).split(",") if name}:
            return usual
        return torch.float32

    def resident(self) -> list[Resident[WeightsKey]]:
        """The models on the device now."""
        with self._lock:
            return self._residents()

    def evict_all(self) -> None:
        """Take everything off the device that nobody leases."""
        with self._lock:
            self._evict(key for key, model in self._models.items() if model.owner is None)

    @contextmanager
    def _in_use(self, key: WeightsKey) -> Iterator[_Model]:
        """The record of ``key``, which is not forgotten meanwhile."""
        with self._lock:
            model = self._models.setdefault(key, _Model(key))
            model.users += 1
        try:
            yield model
        finally:
            with self._lock:
                model.users -= 1
                self._forget_oldest()

    @contextmanager
    def _exclusive(self, model: _Model) -> Iterator[None]:
        """This thread's turn with a model."""
        if model.owner == threading.get_ident():
            raise RuntimeError("expected one lease of a model at a time in a thread, found a second inside the first")
        with model.lock:
            model.owner = threading.get_ident()
            try:
                yield
            finally:
                model.owner = None

    def _residents(self) -> list[Resident[WeightsKey]]:
        return [
            Resident(model.key, model.opened.device_bytes, model.last_used, model.owner is not None)
            for model in self._models.values()
            if model.opened is not None and model.on_device
        ]

    def _bring(self, model: _Model, ref: ModelRef, working_bytes: int) -> Opened:
        """Open, make room, load."""
        self._clock += 1
        model.last_used = self._clock
        found = model.opened = model.opened or self._open(model.key, ref)
        placement = self.budget.place(
            [resident for resident in self._residents() if resident.key != model.key],
            weights=found.nbytes,
            working=working_bytes,
            largest_block=found.block_bytes,
        )
        self._evict(placement.evict)
        can_stream = found.source.can_stream and PARTS[ref.part].can_stream
        mode: State = placement.mode if can_stream else "resident"
        if found.state != mode:
            found.load(mode, self.policy.device)
            self.counters.loads += 1
        return found

    def _open(self, key: WeightsKey, ref: ModelRef) -> Opened:
        source = self._known_source(ref) or new_source(ref)
        module, weights = built(source, ref.part)
        if key.patches and not isinstance(source, AnnotatorSource):
            weights = self._patched(replace(ref, patches=key.patches), source.config(ref.part), module, weights)
        self.counters.reads += 1
        return opened(source, module, weights, key.dtype)

    def _known_source(self, ref: ModelRef) -> AnySource | None:
        """The source that another part of the same file has opened, if it was left as it was."""
        for model in self._models.values():
            known = model.opened.source if model.opened is not None else None
            is_same = model.key.source == ref.source and are_opened_alike(model.key.part, ref.part)
            if known is not None and is_same and known not in self._soiled:
                return known
        return None

    def _patched(
        self, ref: ModelRef, config: PartConfig, module: nn.Module, pristine: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        """All weights, those that patches change made when they are asked for: what has gone from the device is made anew."""
        if self._patcher is None:
            kinds = ", ".join(sorted({patch.kind for patch in ref.patches}))
            raise InputError(f"expected a model without patches, found {kinds}; this store was made without a patcher")
        return Overlaid(self._patcher(ref, config, module, pristine), pristine)

    def _evict(self, keys: Iterable[WeightsKey]) -> None:
        for key in keys:
            model = self._models[key]
            if model.opened is not None:
                model.opened.strip()
                release_unused(self.policy.device)

    def _check_untouched(self, model: _Model, opened: Opened, before: networks.Trace) -> None:
        """Throw away what came back changed. The mapped weights may be written to as well, so the file is opened anew."""
        if opened.trace() != before:
            self._soiled.add(opened.source)
            model.opened = None

    def _forget_oldest(self) -> None:
        idle = [model for model in self._models.values() if model.users == 0 and not model.on_device]
        for model in sorted(idle, key=lambda model: model.last_used)[:-_KEPT_MODELS]:
            del self._models[model.key]


def _weight_patches(ref: ModelRef) -> tuple[Patch, ...]:
    """The patches that make other weights. Pictures are read by those who sample the model, and never cause a load."""
    return tuple(patch for patch in ref.patches if patch.kind != IMAGE_PROMPT)
