"""Which family a file of weights belongs to, told by the names and shapes of its tensors alone.

``describe`` finds the parts of a model in a file: its UNet or transformer, its autoencoder, its text encoders, or any of them alone.
Whatever else is in the file is recognised only to say what was found: a LoRA given as a checkpoint, a ControlNet, a model of a family
that is not known. The functions are pure; the file's name plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from engine.errors import ModelFileError
from engine.models import Part
from nodes.diffusion.beside import find_beside
from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.configs import (
    AnyVae,
    DiTConfig,
    FamilyName,
    PartConfig,
    Schedule,
    TowersConfig,
    UNetConfig,
)
from nodes.diffusion.control_configs import AdapterConfig, ControlConfig, TransformerControlConfig
from nodes.diffusion.control_find import find_control
from nodes.diffusion.convert import (
    Modules,
    Names,
    Stored,
    old_folder_vae_modules,
    rename,
    unet_modules,
    vae_modules,
)
from nodes.diffusion.family import FAMILIES, Family
from nodes.diffusion.foreign import ANOTHER, CONTROL, foreign_family, lone_encoder, sample
from nodes.diffusion.infer import CLASSES, Metadata, dit_config, unet_config, vae_config
from nodes.diffusion.layouts import UNET_PREFIX, VAE_PREFIX, dit_names, prefix_of, unet_prefix
from nodes.diffusion.parts import PARTS
from nodes.diffusion.text_parts import find_texts
from nodes.diffusion.tiny import tiny_config, tiny_names
from nodes.diffusion.vision_parts import find_vision

_VAE_PREFIXES: Final = (VAE_PREFIX, "vae.", "")
_DIT_MARK: Final = "joint_blocks.0.x_block.attn.qkv.weight"


@dataclass(frozen=True, slots=True)
class PartSource:
    """One part of a model: its configuration and where its tensors are."""

    config: PartConfig
    names: Names = field(repr=False)
    """Name in diffusers' or transformers' network -> where it is in the file."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a checkpoint or a folder holds."""

    parts: Mapping[Part, PartSource]
    schedule: Schedule = field(default_factory=Schedule)
    family: Family = FAMILIES["sd1"]

    def part(self, part: Part, name: str) -> PartSource:
        """The source of ``part``; ModelFileError when the file ``name`` does not hold it."""
        if part not in self.parts and "control" in self.parts:
            raise ModelFileError(f"expected a {PARTS[part].noun} in {name}, found {CONTROL}")
        if part not in self.parts:
            held = " and ".join(f"a {PARTS[found].noun}" for found in self.parts)
            raise ModelFileError(
                f"expected a {PARTS[part].noun} in {name}, found only {held}; load it from another file"
            )
        return self.parts[part]


def describe(name: str, tensors: Tensors, metadata: Metadata, wanted: Part | None = None) -> Description:
    """The parts of a model in a file; ``name`` is for the messages, and so is the part that is ``wanted``.

    Raises ModelFileError naming what was seen, when the file is of no family that is known.
    """
    if (control := control_source(name, tensors, metadata)) is not None:
        return Description({"control": control}, family=control_family(control.config))
    if (beside := find_beside(tensors)) is not None:
        return Description({beside[0]: PartSource(*beside[1])})
    vision = find_vision(tensors, metadata)
    foreign = foreign_family(tensors)
    if foreign is not None and (vision is None or foreign != lone_encoder(tensors)):
        raise ModelFileError(f"expected {_wanted(wanted)} in {name}, found {foreign}")
    texts = find_texts(tensors, metadata)
    parts: dict[Part, PartSource] = {}
    family = FAMILIES[texts[0].kind] if texts is not None else None
    if (prefix := prefix_of(_DIT_MARK, (UNET_PREFIX, ""), tensors)) is not None:
        family = FAMILIES["sd3"]
        config = dit_config(tensors, prefix)
        parts["unet"] = PartSource(config, dit_names(tensors, prefix, config))
    elif (prefix := unet_prefix(tensors)) is not None:
        if family is None or prefix + CLASSES in tensors:
            family = FAMILIES[_unet_family(tensors, prefix)]
        parts["unet"] = unet_source(tensors, prefix, metadata, family)
    if texts is not None:
        parts["clip"] = PartSource(*texts)
    if (prefix := _vae_prefix(tensors)) is not None:
        parts["vae"] = vae_source(tensors, prefix, metadata, family)
    elif (tiny := tiny_source(tensors, metadata, family)) is not None:
        parts["vae"] = tiny
    if vision is not None:
        parts["clip_vision"] = PartSource(*vision)
    if not parts:
        raise ModelFileError(f"expected {_wanted(wanted)} in {name}, found {sample(tensors)}{ANOTHER}")
    check_widths(name, parts)
    family = family or _vae_family(parts)
    return Description(parts, _schedule(tensors, metadata, family), family)


def _wanted(part: Part | None) -> str:
    return "a Stable Diffusion model" if part in (None, "unet") else f"a {PARTS[part].noun}"


def control_source(name: str, tensors: Tensors, metadata: Metadata) -> PartSource | None:
    """The ControlNet or T2I-Adapter of the file ``name``, None where it is of another kind; ModelFileError where it is not whole."""
    try:
        found = find_control(tensors, metadata)
    except ModelFileError as error:
        raise ModelFileError(
            f"expected a whole ControlNet in {name}, found a ControlNet of which parts do not fit: {error}"
        ) from error
    return None if found is None else PartSource(*found)


def control_family(config: PartConfig) -> Family:
    """The family of models that a ControlNet or adapter is made for."""
    if isinstance(config, TransformerControlConfig):
        return FAMILIES["sd3"]
    if isinstance(config, AdapterConfig):
        return FAMILIES["sdxl" if config.kind == "full_adapter_xl" else "sd1"]
    assert isinstance(config, ControlConfig)
    return FAMILIES[_family_of(config.context_dim, has_vector=config.vector_dim is not None)]


def _unet_family(tensors: Tensors, prefix: str) -> FamilyName:
    """The family of a UNet that comes without text encoders, by what it listens to."""
    if prefix + CLASSES in tensors:
        return "upscaler"
    return _family_of(_context_width(tensors, prefix), has_vector=prefix + "label_emb.0.0.weight" in tensors)


def _family_of(context: int | None, *, has_vector: bool) -> FamilyName:
    if has_vector and context != FAMILIES["sd2"].context:
        return "refiner" if context == FAMILIES["refiner"].context else "sdxl"
    return "sd2" if context == FAMILIES["sd2"].context else "sd1"


def _context_width(tensors: Tensors, prefix: str) -> int | None:
    suffix = ".transformer_blocks.0.attn2.to_k.weight"
    found = (info.shape[-1] for name, info in tensors.items() if name.startswith(prefix) and name.endswith(suffix))
    return next(found, None)


def _vae_family(parts: Mapping[Part, PartSource]) -> Family:
    """The family of an autoencoder alone, as far as its latents tell; the widest use wins."""
    config = parts["vae"].config if "vae" in parts else None
    if not isinstance(config, AnyVae):
        return FAMILIES["sd1"]
    return FAMILIES["sd3" if config.latent_channels == FAMILIES["sd3"].channels else "sd1"]


def unet_source(tensors: Tensors, prefix: str, metadata: Metadata, family: Family) -> PartSource:
    """The UNet below ``prefix``, in the original layout."""
    config = unet_config(tensors, prefix, metadata, head_width=family.head_width)
    return PartSource(config, _names(tensors, prefix, unet_modules(config)))


def vae_source(tensors: Tensors, prefix: str, metadata: Metadata, family: Family | None) -> PartSource:
    """The autoencoder below ``prefix``, in the original layout or in that of diffusers."""
    scale = (family or FAMILIES["sd1"]).scale
    if prefix + "encoder.down_blocks.0.resnets.0.conv1.weight" in tensors:
        renamed = {_original_vae_name(prefix, name): info for name, info in tensors.items()}
        config = vae_config(renamed, prefix, metadata, scale)
        return PartSource(config, _names(tensors, prefix, old_folder_vae_modules()))
    config = vae_config(tensors, prefix, metadata, scale)
    return PartSource(config, _names(tensors, prefix, vae_modules(config)))


def tiny_source(tensors: Tensors, metadata: Metadata, family: Family | None) -> PartSource | None:
    """The tiny autoencoder of a file that holds both of its halves, if there is one."""
    for prefix in _VAE_PREFIXES:
        names = tiny_names(tensors, prefix)
        if names is not None:
            return PartSource(tiny_config(tensors, names, metadata, family), names)
    return None


def _original_vae_name(prefix: str, name: str) -> str:
    """The original name of a diffusers tensor, as far as the inference of a configuration looks at names."""
    path = name.removeprefix(prefix).replace("encoder.down_blocks.", "encoder.down.").replace(".resnets.", ".block.")
    return prefix + path


def _names(tensors: Tensors, prefix: str, modules: Modules) -> Names:
    names: dict[str, Stored] = {}
    for old in tensors:
        if old.startswith(prefix):
            new = rename(old.removeprefix(prefix), modules)
            if new in names:
                raise ModelFileError(f"expected one tensor for {new}, found both {names[new].name} and {old}")
            names[new] = Stored(old)
    return names


def _vae_prefix(tensors: Tensors) -> str | None:
    return prefix_of("decoder.conv_in.weight", _VAE_PREFIXES, tensors)


def check_widths(name: str, parts: Mapping[Part, PartSource]) -> None:
    """The text encoders must speak the UNet's language, the autoencoder must make the UNet's latents."""
    unet, text, vae = (parts[part].config if part in parts else None for part in ("unet", "clip", "vae"))
    if isinstance(unet, UNetConfig) and isinstance(text, TowersConfig):
        width = sum(tower.width for _, tower in text.towers)
        if unet.context_dim != width:
            raise ModelFileError(
                f"expected a text encoder {unet.context_dim} wide in {name}, as its UNet listens to, found one {width} wide"
            )
    channels = (
        unet.channels if isinstance(unet, DiTConfig) else unet.out_channels if isinstance(unet, UNetConfig) else None
    )
    if channels is not None and isinstance(vae, AnyVae) and channels != vae.latent_channels:
        raise ModelFileError(f"expected a VAE with {channels} latent channels in {name}, found {vae.latent_channels}")


def _schedule(tensors: Tensors, metadata: Metadata, family: Family) -> Schedule:
    """Marks left by trainers: a tensor ``v_pred`` or ``ztsnr``, or the model specification's prediction type."""
    if family.prediction == "flow":
        return Schedule(prediction="flow")
    v_prediction = "v_pred" in tensors or metadata.get("modelspec.prediction_type", "").lower().startswith("v")
    return Schedule(
        prediction="v_prediction" if v_prediction else family.prediction,
        betas=family.betas,
        zero_terminal_snr="ztsnr" in tensors,
    )
