"""Upscalers: networks of many kinds that make a picture larger or cleaner, as spandrel finds them in a file.

spandrel reads the architecture and its sizes off the names and shapes of the tensors. Its networks are built with their weights; where each
weight came from in the file is noted meanwhile, so that the weights themselves stay there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.errors import MissingFile, ModelFileError
from engine.models import ModelRef, Part, Setting
from nodes.diffusion.checkpoints import Header, Tensors, WeightFile
from nodes.diffusion.configs import PartConfig, Schedule, UpscalerConfig
from nodes.diffusion.convert import Shapes
from nodes.diffusion.families import PartSource
from nodes.diffusion.foreign import ANOTHER, sample
from nodes.diffusion.instead import what_it_is
from nodes.diffusion.parts import PARTS
from nodes.diffusion.sources import Facts

if TYPE_CHECKING:
    from spandrel import ArchRegistry, ImageModelDescriptor

SCALE: Final = "scale"
"""The setting of a recipe that says how many times larger the upscaler makes a picture."""

ALLOWED_DTYPES: Final = "dtypes"
"""The setting of a recipe that lists the dtypes beside float32 that its network can compute in, by their names in ``store.DTYPES``."""

_UPSCALER: Final[Part] = "upscaler"
_FACTS: Final = Facts(latent_channels=0, scale_factor=1.0, downscale=1, schedule=Schedule())
_TILINGS: Final[Mapping[str, Literal["fine", "discouraged", "internal"]]] = {
    "SUPPORTED": "fine",
    "DISCOURAGED": "discouraged",
    "INTERNAL": "internal",
}


_RESTORERS: Final[Mapping[str, Callable[[nn.Module, Tensor, float], Any]]] = {
    "GFPGAN": lambda network, faces, fidelity: network(faces, return_rgb=False),
    "CodeFormer": lambda network, faces, fidelity: network(faces, weight=fidelity),
}
"""Restorers of faces by what spandrel calls them, and how they are called."""
FACE_RESTORERS: Final = frozenset({"CodeFormer", "GFPGAN", "RestoreFormer"})
"""Of what spandrel knows, those whose purpose is FaceSR."""
_EXTRA: Final = "pip install 'mezzotint[faces]'"
_CODE_FORMER: Final = ("idx_pred_layer.1.weight", "quantize.embedding.weight")


class Upscaler(nn.Module):
    """A network of spandrel's: pictures [1,C,H,W] in 0..1 to [1,C',H*scale,W*scale]; sizes that it does not take are filled up and cut."""

    def __init__(self, descriptor: ImageModelDescriptor[Any]) -> None:
        super().__init__()
        self.network = descriptor.model
        self._descriptor = descriptor
        if (
            descriptor.architecture.id == "GFPGAN"
        ):  # it draws noise anew for each picture, unless told to use that in its file
            self.network.forward = partial(self.network.forward, randomize_noise=False)

    def forward(self, pictures: Tensor) -> Tensor:
        result: Tensor = self._descriptor(pictures)
        return result

    def restored(self, faces: Tensor, fidelity: float) -> Tensor:
        """Faces [1,3,512,512] in 0..1 as a restorer makes them.

        GFPGAN (Wang et al. 2021) and CodeFormer (Zhou et al. 2022) were trained on colours in -1..1, which is what they are shown here;
        ``forward`` shows them 0..1, as their library does. ``fidelity`` is CodeFormer's weight of what it saw against what it knows, 0..1.
        Networks of other kinds are called as always.
        """
        call = _RESTORERS.get(self._descriptor.architecture.id)
        made: Tensor = self(faces) if call is None else (call(self.network, faces * 2 - 1, fidelity)[0] + 1) / 2
        return made


class UpscalerSource:
    """An upscaler's file, opened: see ``sources.Source``, which has the other models.

    Raises MissingFile or ModelFileError, saying what was expected and what was found.
    """

    def __init__(self, path: Path, wanted: str = "upscaler") -> None:
        if not path.exists():
            raise MissingFile(
                f"expected {_article(wanted)} at {path}, found nothing; it was moved or deleted since it was chosen"
            )
        self.path = path
        self._wanted = wanted
        self._file = WeightFile(path)
        self._unused: nn.Module | None
        self._unused, self._weights, self._config = self._built()

    facts: Facts = _FACTS
    can_stream = False
    """It runs in a library, which asks for its weights where they are."""
    keeps_tensors = False
    """Some of the many kinds write to tensors of their own as they run."""

    def part(self, part: Part) -> PartSource:
        if part != _UPSCALER:
            raise ModelFileError(f"expected a {PARTS[part].noun} in {self.path.name}, found an upscaler")
        return PartSource(self._config, {})

    def config(self, part: Part) -> PartConfig:
        return self.part(part).config

    def network(self, part: Part) -> nn.Module:
        """The network of its part, with weights that are to be taken out of it."""
        self.part(part)
        module, self._unused = self._unused, None
        return self._built()[0] if module is None else module

    def weights(self, part: Part, wanted: Shapes) -> Mapping[str, Tensor]:
        """The mapped weights by the names of ``wanted``."""
        return {name: self._weights[name] for name in wanted}

    def _built(self) -> tuple[nn.Module, Mapping[str, Tensor], UpscalerConfig]:
        with _Copies() as copies:
            descriptor = _loaded(self.path.name, self._file, self._wanted)
        module = Upscaler(descriptor)
        weights = {
            name: copies.origins.get(id(tensor), tensor.detach())
            for name, tensor in module.state_dict(keep_vars=True).items()
        }
        return module.requires_grad_(False).eval(), weights, _config(descriptor)


class _Copies(TorchFunctionMode):
    """Notes what is copied into which tensor, in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.copy_:
            self.origins[id(args[0])] = args[1]
        return func(*args, **(kwargs or {}))


def recipe(ref: ModelRef, wanted: str = "upscaler") -> ModelRef:
    """The recipe of the upscaler at ``ref.location``, with what its users must know before it is loaded; messages call it ``wanted``."""
    config = UpscalerSource(Path(ref.location), wanted).part(_UPSCALER).config
    assert isinstance(config, UpscalerConfig)
    settings: dict[str, Setting] = {SCALE: config.scale, ALLOWED_DTYPES: ",".join(config.dtypes)}
    return ref.with_settings(**settings)


def scale_of(ref: ModelRef) -> int:
    """How many times larger the upscaler of a recipe makes a picture."""
    return int(ref.setting(SCALE, 1) or 1)


def recognised(tensors: Tensors) -> str | None:
    """The name of the architecture that tensors of these names and shapes are of; None where spandrel knows none."""
    shapes = {name: torch.empty(info.shape, device="meta") for name, info in tensors.items()}
    state = _spandrel().canonicalize_state_dict(shapes)
    found = (it.architecture.name for it in _registry()[0].architectures("detection") if it.detect(state))
    return next(found, None)


@cache
def _registry() -> tuple[ArchRegistry, bool]:
    """The architectures that are known, and whether those of the extra ``faces`` are among them."""
    known = _spandrel().MAIN_REGISTRY.copy()
    with _quiet():
        try:
            from spandrel_extra_arches import EXTRA_REGISTRY
        except ImportError:
            return known, False
    known.add(*EXTRA_REGISTRY)
    return known, True


@contextmanager
def _quiet() -> Iterator[None]:
    """What spandrel's architectures are warned of is theirs to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _spandrel() -> Any:
    with _quiet():
        import spandrel
    return spandrel


def _article(noun: str) -> str:
    return f"an {noun}" if noun.startswith(tuple("aeiou")) else f"a {noun}"


def _loaded(name: str, file: WeightFile, wanted: str) -> ImageModelDescriptor[Any]:
    known, is_whole = _registry()
    try:
        with _quiet():
            descriptor: ImageModelDescriptor[Any] = known.load(dict(file))
    except _spandrel().UnsupportedModelError as error:
        raise ModelFileError(
            f"expected {_article(wanted)} in {name}, found {_found(name, file.header, is_whole)}"
        ) from error
    except Exception as error:  # architectures read sizes off tensors that a broken file lacks, each in its own way
        reason = " ".join(str(error).split())[:300]
        raise ModelFileError(
            f"expected a whole {wanted} in {name}, found one that cannot be built ({type(error).__name__}: {reason})"
        ) from error
    if not isinstance(descriptor, _spandrel().ImageModelDescriptor):
        raise ModelFileError(
            f"expected {_article(wanted)} in {name}, found a model that paints masked parts ({descriptor.architecture.name}); "
            "choose another file"
        )
    return descriptor


def _found(name: str, header: Header, is_whole: bool) -> str:
    known, tensors = what_it_is(name, header), header.tensors
    is_unknown = known.endswith(ANOTHER)
    if "upscaler" not in known and not is_unknown:
        return known
    if is_whole:
        return sample(tensors) + ANOTHER
    if all(any(name.endswith(mark) for name in tensors) for mark in _CODE_FORMER):
        return f"CodeFormer, which the extra faces is needed for: {_EXTRA}"
    return f"{sample(tensors)}; CodeFormer and some others take {_EXTRA}"


def _config(descriptor: ImageModelDescriptor[Any]) -> UpscalerConfig:
    sizes = descriptor.size_requirements
    return UpscalerConfig(
        architecture=descriptor.architecture.name,
        purpose=descriptor.purpose,
        scale=descriptor.scale,
        in_channels=descriptor.input_channels,
        out_channels=descriptor.output_channels,
        minimum=sizes.minimum,
        multiple=sizes.multiple_of,
        square=sizes.square,
        tiling=_TILINGS[descriptor.tiling.name],
        dtypes=(*(["fp16"] if descriptor.supports_half else []), *(["bf16"] if descriptor.supports_bfloat16 else [])),
    )
