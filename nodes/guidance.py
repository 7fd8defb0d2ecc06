"""What guidance does beside the usual: options of a model, in the order in which they are given."""

from __future__ import annotations

from typing import Annotated

from engine.models import ModelRef, Recipe
from engine.spec import Hint, Output, Range, node
from nodes import diffusion
from nodes.sockets import Conditioning, Latent, LatentDict, LatentOperation, Model

ADVANCED = "advanced/guidance"
OPERATIONS = "latent/advanced/operations"


@node("RescaleCFG", category="advanced/model", outputs=[Output("MODEL")])
def rescale_cfg(model: Model, multiplier: Annotated[float, Range(0.0, 1.0, step=0.01)] = 0.7) -> ModelRef:
    """Guidance that keeps the contrast of the positive prediction."""
    return diffusion.steering.with_option(model, "rescaled", multiplier=multiplier)


@node(
    "PerpNeg",
    title="Perp-Neg (DEPRECATED by PerpNegGuider)",
    category="_for_testing",
    outputs=[Output("MODEL")],
    deprecated=True,
    experimental=True,
)
def perp_neg(
    model: Model, empty_conditioning: Conditioning, neg_scale: Annotated[float, Range(0.0, 100.0, step=0.01)] = 1.0
) -> ModelRef:
    """Guidance away from that part of the negative condition alone which says nothing of the positive one."""
    empty = diffusion.packed.packed(empty_conditioning)
    return diffusion.steering.with_option(model, "perpendicular", empty=empty, negative_scale=neg_scale)


@node("CFGZeroStar", category=ADVANCED, outputs=[Output("MODEL", "patched_model")])
def cfg_zero_star(model: Model) -> ModelRef:
    """Guidance away from the negative prediction scaled to be as near to the positive one as it can."""
    return diffusion.steering.with_option(model, "zero_star")


@node("CFGNorm", category=ADVANCED, outputs=[Output("MODEL", "patched_model")], experimental=True)
def cfg_norm(model: Model, strength: Annotated[float, Range(0.0, 100.0, step=0.01)] = 1.0) -> ModelRef:
    """Guidance that makes nothing larger than the positive prediction."""
    return diffusion.steering.with_option(model, "normed", strength=strength)


@node("TCFG", title="Tangential Damping CFG", category=ADVANCED, outputs=[Output("MODEL", "patched_model")])
def tcfg(model: Model) -> ModelRef:
    """Guidance away from that part of the negative prediction alone which goes along with the positive one."""
    return diffusion.steering.with_option(model, "tangential")


@node(
    "Mahiro",
    title="Mahiro is so cute that she deserves a better guidance function!! (。・ω・。)",
    category="_for_testing",
    outputs=[Output("MODEL", "patched_model")],
    experimental=True,
)
def mahiro(model: Model) -> ModelRef:
    """Guidance that follows the positive prompt the more, the less it has in common with the negative one."""
    return diffusion.steering.with_option(model, "mahiro")


@node("APG", title="Adaptive Projected Guidance", category="sampling/custom_sampling", outputs=[Output("MODEL")])
def apg(
    model: Model,
    eta: Annotated[float, Range(-10.0, 10.0, step=0.01)] = 1.0,
    norm_threshold: Annotated[float, Range(0.0, 50.0, step=0.1)] = 5.0,
    momentum: Annotated[float, Range(-5.0, 1.0, step=0.01)] = 0.0,
) -> ModelRef:
    """Guidance without oversaturation: what lies along the prediction counts eta times, and no step is too long."""
    return diffusion.steering.with_option(model, "projected", eta=eta, norm_threshold=norm_threshold, momentum=momentum)


@node("FreSca", category="_for_testing", outputs=[Output("MODEL")], experimental=True)
def fresca(
    model: Model,
    scale_low: Annotated[float, Range(0, 10, step=0.01)] = 1.0,
    scale_high: Annotated[float, Range(0, 10, step=0.01)] = 1.25,
    freq_cutoff: Annotated[int, Range(1, 10_000, step=1)] = 20,
) -> ModelRef:
    """Guidance whose low and high frequencies have scales of their own."""
    return diffusion.steering.with_option(model, "frequencies", low=scale_low, high=scale_high, cutoff=freq_cutoff)


@node("Epsilon Scaling", category="model_patches/unet", outputs=[Output("MODEL")])
def epsilon_scaling(
    model: Model, scaling_factor: Annotated[float, Range(0.5, 1.5, step=0.001), Hint(display="number")] = 1.005
) -> ModelRef:
    """The predicted noise divided by a factor, against the error that grows from step to step."""
    return diffusion.steering.with_option(model, "epsilon_scaled", factor=scaling_factor)


@node("LatentOperationTonemapReinhard", category=OPERATIONS, outputs=[Output("LATENT_OPERATION")], experimental=True)
def latent_operation_tonemap_reinhard(
    multiplier: Annotated[float, Range(0.0, 100.0, step=0.01)] = 1.0,
) -> Recipe:
    """Press what is too large in a latent, as tone mapping does with light."""
    return _operation("reinhard", multiplier=multiplier)


@node("LatentOperationSharpen", category=OPERATIONS, outputs=[Output("LATENT_OPERATION")], experimental=True)
def latent_operation_sharpen(
    sharpen_radius: Annotated[int, Range(1, 31, step=1)] = 9,
    sigma: Annotated[float, Range(0.1, 10.0, step=0.1)] = 1.0,
    alpha: Annotated[float, Range(0.0, 5.0, step=0.01)] = 0.1,
) -> Recipe:
    """Sharpen a latent."""
    return _operation("sharpen", radius=sharpen_radius, sigma=sigma, alpha=alpha)


def _operation(name: str, **numbers: float) -> Recipe:
    return Recipe("latent_operation", {"name": name, "numbers": numbers})


@node("LatentApplyOperation", category=OPERATIONS, outputs=[Output("LATENT")], experimental=True)
def latent_apply_operation(samples: Latent, operation: LatentOperation) -> LatentDict:
    """The latent after an operation."""
    return {**samples, "samples": diffusion.latent_operations.operated(samples["samples"], operation.parts)}


@node("LatentApplyOperationCFG", category=OPERATIONS, outputs=[Output("MODEL")], experimental=True)
def latent_apply_operation_cfg(model: Model, operation: LatentOperation) -> ModelRef:
    """The operation on what guidance adds, in every step."""
    return diffusion.steering.with_option(model, "operation", operation=dict(operation.parts))
