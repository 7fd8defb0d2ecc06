"""LoRAs: small changes to the weights of a model, from a file or into one."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import ModelRef, Patch
from engine.run.context import NodeContext
from engine.run.results import OutputFile, Outputs
from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Clip, Model
from nodes.widgets import LoraName

Strength = Annotated[float, Range(-100.0, 100.0, step=0.01)]


def _with_lora(ctx: NodeContext, file: FileRef, strengths: tuple[tuple[ModelRef, float], ...]) -> tuple[ModelRef, ...]:
    """The recipes with the LoRA at their strengths; what is wrong with it is said here, of the node that names it."""
    try:
        lora = diffusion.lora.open_lora(str(file.path))
        for warning in diffusion.lora.check(lora, [ref for ref, _ in strengths]):
            ctx.warn(warning)
    except InputError as error:
        error.input = "lora_name"
        raise
    location = str(file.path.resolve())
    return tuple(
        ref.with_patches(Patch("lora", file.digest, strength, location)) if strength else ref
        for ref, strength in strengths
    )


@node("LoraLoader", title="Load LoRA", category="loaders", outputs=[Output("MODEL"), Output("CLIP")])
def lora_loader(
    ctx: NodeContext,
    *,
    model: Model,
    clip: Clip,
    lora_name: LoraName,
    strength_model: Strength = 1.0,
    strength_clip: Strength = 1.0,
) -> tuple[ModelRef, ...]:
    """The model and its text encoder with a LoRA; several loaders in a row add up. A negative strength takes away."""
    if strength_model == 0 and strength_clip == 0:
        return model, clip
    return _with_lora(ctx, lora_name, ((model, strength_model), (clip, strength_clip)))


@node("LoraLoaderModelOnly", category="loaders", outputs=[Output("MODEL")])
def lora_loader_model_only(
    ctx: NodeContext, *, model: Model, lora_name: LoraName, strength_model: Strength = 1.0
) -> tuple[ModelRef, ...]:
    """The model with a LoRA, whatever the LoRA has for text encoders left out."""
    if strength_model == 0:
        return (model,)
    return _with_lora(ctx, lora_name, ((model, strength_model),))


@node(
    "LoraSave",
    title="Extract and Save Lora",
    category="_for_testing",
    output_node=True,
    experimental=True,
    version=2,
    hidden={"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
)
def lora_save(
    ctx: NodeContext,
    filename_prefix: str = "loras/ComfyUI_extracted_lora",
    rank: Annotated[int, Range(1, 4096, step=1)] = 8,
    lora_type: Literal["standard", "full_diff"] = "standard",
    bias_diff: bool = True,
    model_diff: Model | None = None,
    text_encoder_diff: Clip | None = None,
) -> Outputs:
    """Write the difference of two models (ModelMergeSubtract, CLIPMergeSubtract) as a LoRA into the output folder."""
    refs = [ref for ref in (model_diff, text_encoder_diff) if ref is not None]
    if not refs:
        raise InputError(
            "expected model_diff or text_encoder_diff, found neither; link a ModelMergeSubtract", input="model_diff"
        )
    device = diffusion.devices.device_policy(ctx.settings.device).device
    tensors = {
        key: tensor
        for ref in refs
        for key, tensor in diffusion.extract.extract(
            diffusion.patches.contents(ref, device),
            rank=rank,
            lora_type=lora_type,
            biases=bias_diff,
            progress=ctx.progress,
        ).items()
    }
    file = OutputFile(diffusion.saving.to_bytes(tensors), filename_prefix, "safetensors", ui="models")
    return Outputs(files=(file,))
