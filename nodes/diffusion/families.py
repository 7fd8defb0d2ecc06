"""Which family a file of weights belongs to, told by the names and shapes of its tensors alone.

``describe`` finds the parts of a Stable Diffusion 1 model in a file: its UNet, its autoencoder, its text tower, or any of them
alone. Whatever else is in the file is recognised only to say what was found: a LoRA given as a checkpoint, an SDXL
checkpoint, a ControlNet. The functions are pure; the file's name plays no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from engine.errors import ModelFileError
from engine.models import Part
from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.configs import PartConfig, Schedule, TextConfig, UNetConfig, VaeConfig
from nodes.diffusion.convert import Modules, old_folder_vae_modules, rename, some, unet_modules, vae_modules
from nodes.diffusion.infer import Metadata, shape_of, text_config, unet_config, vae_config

UNET_PREFIX: Final = "model.diffusion_model."
VAE_PREFIX: Final = "first_stage_model."
TEXT_PREFIXES: Final = (
    "cond_stage_model.transformer.text_model.",
    "cond_stage_model.transformer.",
    "text_model.",
)
"""Where CLIP's text tower lives; files from before 2023 lack the middle name, text encoder files the first."""

PART_NAMES: Final[Mapping[Part, str]] = {"unet": "UNet", "clip": "text encoder", "vae": "VAE"}


@dataclass(frozen=True, slots=True)
class PartSource:
    """One part of a model: its configuration and where its tensors are."""

    config: PartConfig
    names: Mapping[str, str] = field(repr=False)
    """Name in diffusers' or transformers' network -> name in the file."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a checkpoint or a folder holds."""

    parts: Mapping[Part, PartSource]
    schedule: Schedule = field(default_factory=Schedule)

    def part(self, part: Part, name: str) -> PartSource:
        """The source of ``part``; ModelFileError when the file ``name`` does not hold it."""
        if part not in self.parts:
            held = " and ".join(f"a {PART_NAMES[found]}" for found in self.parts)
            raise ModelFileError(
                f"expected a {PART_NAMES[part]} in {name}, found only {held}; load it from another file"
            )
        return self.parts[part]


def describe(name: str, tensors: Tensors, metadata: Metadata) -> Description:
    """The parts of Stable Diffusion 1 in a file; ``name`` is for the messages.

    Raises ModelFileError naming what was seen, when the file is of another family or of none that is known.
    """
    foreign = foreign_family(tensors)
    if foreign is not None:
        raise ModelFileError(f"expected a Stable Diffusion 1 model in {name}, found {foreign}")
    parts: dict[Part, PartSource] = {}
    if (prefix := _unet_prefix(tensors)) is not None:
        parts["unet"] = unet_source(tensors, prefix, metadata)
    if (prefix := _text_prefix(tensors)) is not None:
        text = text_config(tensors, prefix, metadata)
        parts["clip"] = PartSource(text, _names(tensors, prefix, {}))
    if (prefix := _vae_prefix(tensors)) is not None:
        parts["vae"] = vae_source(tensors, prefix, metadata)
    if not parts:
        raise ModelFileError(f"expected a Stable Diffusion 1 model in {name}, found {sample(tensors)}")
    _check_widths(name, parts)
    return Description(parts, _schedule(tensors, metadata))


def unet_source(tensors: Tensors, prefix: str, metadata: Metadata) -> PartSource:
    """The UNet below ``prefix``, in the original layout."""
    config = unet_config(tensors, prefix, metadata)
    return PartSource(config, _names(tensors, prefix, unet_modules(config)))


def vae_source(tensors: Tensors, prefix: str, metadata: Metadata) -> PartSource:
    """The autoencoder below ``prefix``, in the original layout or in that of diffusers."""
    if prefix + "encoder.down_blocks.0.resnets.0.conv1.weight" in tensors:
        renamed = {_original_vae_name(prefix, name): info for name, info in tensors.items()}
        return PartSource(vae_config(renamed, prefix, metadata), _names(tensors, prefix, old_folder_vae_modules()))
    config = vae_config(tensors, prefix, metadata)
    return PartSource(config, _names(tensors, prefix, vae_modules(config)))


def _original_vae_name(prefix: str, name: str) -> str:
    """The original name of a diffusers tensor, as far as the inference of a configuration looks at names."""
    path = name.removeprefix(prefix).replace("encoder.down_blocks.", "encoder.down.").replace(".resnets.", ".block.")
    return prefix + path


def _names(tensors: Tensors, prefix: str, modules: Modules) -> Mapping[str, str]:
    names: dict[str, str] = {}
    for old in tensors:
        if old.startswith(prefix):
            new = rename(old.removeprefix(prefix), modules)
            if new in names:
                raise ModelFileError(f"expected one tensor for {new}, found both {names[new]} and {old}")
            names[new] = old
    return names


def _unet_prefix(tensors: Tensors) -> str | None:
    return _prefix_of("input_blocks.0.0.weight", (UNET_PREFIX, ""), tensors)


def _text_prefix(tensors: Tensors) -> str | None:
    return _prefix_of("embeddings.token_embedding.weight", TEXT_PREFIXES, tensors)


def _vae_prefix(tensors: Tensors) -> str | None:
    return _prefix_of("decoder.conv_in.weight", (VAE_PREFIX, ""), tensors)


def _prefix_of(name: str, prefixes: Iterable[str], tensors: Tensors) -> str | None:
    return next((prefix for prefix in prefixes if prefix + name in tensors), None)


def _check_widths(name: str, parts: Mapping[Part, PartSource]) -> None:
    """The text tower must speak the UNet's language, the autoencoder must make the UNet's latents."""
    unet, text, vae = (parts[part].config if part in parts else None for part in ("unet", "clip", "vae"))
    if isinstance(unet, UNetConfig) and isinstance(text, TextConfig) and unet.context_dim != text.width:
        raise ModelFileError(
            f"expected a text encoder {unet.context_dim} wide in {name}, as its UNet listens to, found one {text.width} wide"
        )
    if isinstance(unet, UNetConfig) and isinstance(vae, VaeConfig) and unet.out_channels != vae.latent_channels:
        raise ModelFileError(
            f"expected a VAE with {unet.out_channels} latent channels in {name}, found {vae.latent_channels}"
        )


def _schedule(tensors: Tensors, metadata: Metadata) -> Schedule:
    """Marks left by trainers: a tensor ``v_pred`` or ``ztsnr``, or the model specification's prediction type."""
    v_prediction = "v_pred" in tensors or metadata.get("modelspec.prediction_type", "").lower().startswith("v")
    return Schedule(
        prediction="v_prediction" if v_prediction else "epsilon",
        zero_terminal_snr="ztsnr" in tensors,
    )


def foreign_family(tensors: Tensors) -> str | None:
    """What the file is, when it is something known that is no Stable Diffusion 1 model; else None.

    The answer completes "found ...", and says where such a file belongs.
    """
    return next((found for test in _FOREIGN if (found := test(tensors)) is not None), None)


def _any_part(tensors: Tensors, marks: Iterable[str]) -> bool:
    return any(mark in name for name in tensors for mark in marks)


def _lora(tensors: Tensors) -> str | None:
    marks = (".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", ".lora.up.", "_lora.up.", ".lora_linear_layer.", ".hada_w1_",
             ".lokr_w", ".oft_blocks", ".dora_scale")  # fmt: skip
    if not _any_part(tensors, marks):
        return None
    return (
        f"a LoRA ({len(tensors)} tensors such as {next(iter(tensors))}); put it in models/loras and use a LoRA loader"
    )


def _control(tensors: Tensors) -> str | None:
    if _any_part(
        tensors, ("input_hint_block.", "controlnet_cond_embedding.", "controlnet_down_blocks.", "zero_convs.")
    ):
        return "a ControlNet; put it in models/controlnet and use a ControlNet loader"
    if _any_part(tensors, ("adapter.body.", "body.0.resnets.0.block1.", "body.0.block1.")):
        return "a T2I adapter; put it in models/controlnet and use a ControlNet loader"
    if _any_part(tensors, ("ip_adapter.1.to_k_ip.", "to_k_ip.weight")):
        return "an IP-Adapter; put it in models/ipadapter and use an IP-Adapter loader"
    return None


def _upscaler(tensors: Tensors) -> str | None:
    esrgan = "conv_first.weight" in tensors or "model.0.weight" in tensors
    if esrgan or _any_part(tensors, ("params_ema.", "params.conv_first", "upsample.0.weight", "RDB1.conv1.")):
        return "an upscaler; put it in models/upscale_models and use an upscale model loader"
    return None


def _embedding(tensors: Tensors) -> str | None:
    named = not tensors.keys().isdisjoint(("emb_params", "clip_l", "clip_g", "string_to_param"))
    lone = len(tensors) == 1 and all(len(info.shape) <= 2 for info in tensors.values())
    if not named and not lone:
        return None
    return (
        f"a textual inversion embedding ({next(iter(tensors))}); put it in models/embeddings and write embedding:name"
    )


def _other_checkpoint(tensors: Tensors) -> str | None:
    marks = (
        ("joint_blocks.", "a Stable Diffusion 3 model"),
        ("double_blocks.", "a FLUX model"),
        ("time_stack.", "a Stable Video Diffusion model"),
        ("conditioner.embedders.1.", "an SDXL checkpoint"),
        ("conditioner.embedders.0.", "an SDXL refiner checkpoint"),
        ("label_emb.0.0.weight", "an SDXL UNet"),
        ("cond_stage_model.model.transformer.resblocks.", "a Stable Diffusion 2 checkpoint"),
    )
    found = next((what for mark, what in marks if _any_part(tensors, (mark,))), None)
    return None if found is None else f"{found}; this version runs Stable Diffusion 1 only"


def _other_unet(tensors: Tensors) -> str | None:
    prefix = _unet_prefix(tensors)
    if prefix is None:
        return None
    channels = shape_of(tensors, prefix + "input_blocks.0.0.weight", 4)[1]
    outputs = shape_of(tensors, prefix + "out.2.weight", 4)[0]
    if channels == outputs:
        return None
    kind = {9: "an inpainting checkpoint", 8: "an image-editing (pix2pix) checkpoint", 5: "a depth checkpoint"}
    what = kind.get(channels, "a UNet with extra inputs")
    return f"{what}: its UNet takes {channels} channels and gives {outputs}; this version runs plain checkpoints only"


def _encoder(tensors: Tensors) -> str | None:
    if _any_part(tensors, ("vision_model.encoder.", "visual.transformer.resblocks.")):
        return "a CLIP vision model; put it in models/clip_vision"
    if any(name.startswith(("encoder.block.0.layer.", "shared.weight")) for name in tensors):
        return "a T5 text encoder, which Stable Diffusion 1 does not use"
    if "down_blocks.0.resnets.0.conv1.weight" in tensors:
        return "a diffusers UNet alone; load the whole diffusers folder it belongs to"
    return None


_FOREIGN: Final[tuple[Callable[[Tensors], str | None], ...]] = (
    _lora,
    _control,
    _other_checkpoint,
    _encoder,
    _upscaler,
    _embedding,
    _other_unet,
)


def sample(tensors: Tensors) -> str:
    """A file of no known family in a few words: how many tensors, what they are called."""
    if not tensors:
        return "no tensors at all"
    groups = len({name.split(".", 1)[0] for name in tensors})
    return f"{len(tensors)} tensors in {groups} groups, of no known family: {some(sorted(tensors))}"
