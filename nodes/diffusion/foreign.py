"""Files that are no model of the families at hand: what they are instead, and where they belong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.convert import some
from nodes.diffusion.family import FAMILIES
from nodes.diffusion.infer import CLASSES, shape_of
from nodes.diffusion.layouts import unet_prefix
from nodes.diffusion.tiny import half_of


def foreign_family(tensors: Tensors) -> str | None:
    """What the file is, when it is something known that is no model of the families at hand; else None.

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


CONTROL: Final = "a ControlNet; put it in models/controlnet and use a ControlNet loader"


def _control(tensors: Tensors) -> str | None:
    if _any_part(
        tensors, ("input_hint_block.", "controlnet_cond_embedding.", "controlnet_down_blocks.", "zero_convs.")
    ):
        return CONTROL
    if _any_part(tensors, ("adapter.body.", "body.0.resnets.0.block1.", "body.0.block1.")):
        return "a T2I adapter; put it in models/controlnet and use a ControlNet loader"
    if "style_embedding" in tensors and "ln_pre.weight" in tensors:
        return "a T2I style adapter, which is no ControlNet; put it in models/style_models"
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
        ("double_blocks.", "a FLUX model"),
        ("time_stack.", "a Stable Video Diffusion model"),
        ("prior.text_model_projection", "a Stable Cascade model"),
        ("clf.1.weight", "a Stable Cascade model"),
    )
    found = next((what for mark, what in marks if _any_part(tensors, (mark,))), None)
    return None if found is None else f"{found}; known are {', '.join(family.title for family in FAMILIES.values())}"


def _other_unet(tensors: Tensors) -> str | None:
    prefix = unet_prefix(tensors)
    if prefix is None:
        return None
    channels = shape_of(tensors, prefix + "input_blocks.0.0.weight", 4)[1]
    outputs = shape_of(tensors, prefix + "out.2.weight", 4)[0]
    known = {extra: what for extra, what in CONCATENATED.items() if what != "upscaling" or prefix + CLASSES in tensors}
    if channels - outputs in (0, *known):
        return None
    kinds = " or ".join(f"{outputs + extra} ({what})" for extra, what in known.items())
    return f"a UNet that takes {channels} channels and gives {outputs}; expected {outputs} in, or {kinds}"


CONCATENATED: Final[Mapping[int, str]] = {5: "inpainting", 4: "image editing", 3: "upscaling", 1: "depth"}
"""What UNets with more inputs than outputs see beside the latent, by how many channels."""


def _half(tensors: Tensors) -> str | None:
    half = half_of(tensors)
    if half is None:
        return None
    other = "decoder" if half == "encoder" else "encoder"
    return (
        f"the {half} of a tiny VAE alone; put it and its {other} into models/vae_approx, "
        "as taesd_encoder and taesd_decoder say, and choose taesd"
    )


def lone_encoder(tensors: Tensors) -> str | None:
    """What ``foreign_family`` says of an image encoder, or of a diffusers UNet, without the rest of its model."""
    if _any_part(tensors, ("vision_model.encoder.", "visual.transformer.resblocks.")):
        return "a CLIP vision model; put it in models/clip_vision"
    if "down_blocks.0.resnets.0.conv1.weight" in tensors:
        return "a diffusers UNet alone; load the whole diffusers folder it belongs to"
    return None


_FOREIGN: Final[tuple[Callable[[Tensors], str | None], ...]] = (
    _lora,
    _control,
    _other_checkpoint,
    lone_encoder,
    _half,
    _upscaler,
    _embedding,
    _other_unet,
)


ANOTHER: Final = "; choose another file"
"""What to do with a file that ``sample`` tells of."""


def sample(tensors: Tensors) -> str:
    """A file of no known family in a few words: how many tensors, what they are called."""
    if not tensors:
        return "no tensors at all"
    groups = len({name.split(".", 1)[0] for name in tensors})
    grouped = f"{groups} group{'s' if groups > 1 else ''}"
    return f"{len(tensors)} tensors in {grouped}, of no known family: {some(sorted(tensors))}"
