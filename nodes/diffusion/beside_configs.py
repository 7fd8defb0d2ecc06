"""Networks beside a model, in numbers: what is told of boxes, of a picture's style, of a person."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GligenConfig:
    """GLIGEN's layers for boxes with words (Li et al. 2023, "GLIGEN: Open-Set Grounded Text-to-Image Generation")."""

    text_width: int
    """Of the words' state that a box comes with."""
    frequencies: int
    """Of the Fourier features of a box's corners."""
    hidden: int
    token_width: int
    """Of the tokens that boxes are made into."""
    widths: tuple[int, ...]
    """Channels of the transformer blocks with a fuser, from the way in to the way out."""


@dataclass(frozen=True, slots=True)
class StyleConfig:
    """T2I-Adapter's style adapter (Mou et al. 2023, "T2I-Adapter: Learning Adapters to Dig out More Controllable Ability")."""

    width: int
    """Of the states of CLIP's image encoder."""
    layers: int
    heads: int
    tokens: int
    """That are made of a picture."""
    context_dim: int
    """Width of the states that the model listens to."""
