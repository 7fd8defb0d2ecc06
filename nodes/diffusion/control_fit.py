"""Whether a ControlNet or adapter is made for a model."""

from __future__ import annotations

from engine.errors import InputError
from nodes.diffusion.configs import DiTConfig, PartConfig, UNetConfig
from nodes.diffusion.control_configs import (
    AdapterConfig,
    AnyControl,
    ControlConfig,
    TransformerControlConfig,
    handed_over,
)
from nodes.diffusion.families import control_family
from nodes.diffusion.family import Family


def check_fits(config: AnyControl, model: PartConfig, family: Family, name: str, input: str | None = None) -> None:
    """Raise InputError where the net of ``config``, called ``name``, cannot steer the network of ``model``, which is of ``family``.

    What counts are the shapes inside: a net fits pruned models as far as these have what it is added to.
    """
    wrong = _mismatch(config, model)
    if wrong is None:
        return
    own = control_family(config)
    if own.name != family.name:
        raise InputError(
            f"expected a ControlNet for {family.title}, as the model is, found {name}, one for {own.title}; choose one for {family.title}",
            input=input,
        )
    raise InputError(
        f"expected a ControlNet that fits this {family.title} model, found {name}, {wrong}; choose one made for this model",
        input=input,
    )


def _mismatch(config: AnyControl, model: PartConfig) -> str | None:
    """What does not fit, None where all does."""
    if isinstance(config, TransformerControlConfig):
        return _of_transformer(config, model)
    if not isinstance(model, UNetConfig):
        return "which is one for UNets"
    widths = tuple(model.model_channels * mult for mult in model.channel_mult)
    if isinstance(config, AdapterConfig):
        wanted = (*widths, widths[-1]) if config.kind == "full_adapter_xl" else widths
        return (
            None if config.channels == wanted else f"whose levels are {_row(config.channels)} wide, not {_row(wanted)}"
        )
    return _of_unet(config, model, widths)


def _of_unet(config: ControlConfig, model: UNetConfig, widths: tuple[int, ...]) -> str | None:
    wanted = handed_over(model.model_channels, widths, model.res_blocks)
    if config.residuals != wanted:
        return f"which steers blocks {_row(config.residuals)} wide, where the model has {_row(wanted)}"
    if config.in_channels != model.out_channels:
        return f"which sees latents of {config.in_channels} channels, not {model.out_channels}"
    if config.context_dim not in (None, model.context_dim):
        return f"which reads texts {config.context_dim} wide, not {model.context_dim}"
    if config.vector_dim not in (None, model.vector_dim):
        return f"which is told {config.vector_dim} numbers beside the text, not {model.vector_dim}"
    return None


def _of_transformer(config: TransformerControlConfig, model: PartConfig) -> str | None:
    if not isinstance(model, DiTConfig):
        return "which is one for transformers"
    if config.width != model.width or config.layers > model.layers:
        return f"which is {config.width} wide with {config.layers} layers, where the model is {model.width} wide with {model.layers}"
    if config.channels != model.channels or config.patch != model.patch:
        return f"which sees latents of {config.channels} channels, not {model.channels}"
    if config.context_dim not in (None, model.context_dim) or config.pooled_dim != model.pooled_dim:
        return f"which reads texts {config.context_dim} wide, not {model.context_dim}"
    return None


def _row(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))
