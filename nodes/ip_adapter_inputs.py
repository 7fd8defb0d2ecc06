"""Inputs that the nodes of IP-Adapters share."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.spec import Range

Weight = Annotated[float, Range(-1, 3, step=0.05)]
StrongWeight = Annotated[float, Range(-1, 5, step=0.05)]
AtOnce = Annotated[int, Range(0, 4096)]
Scaling = Literal["V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty"]
Joining = Literal["concat", "add", "subtract", "average", "norm average"]
WeightType = Literal[
    "linear", "ease in", "ease out", "ease in-out", "reverse in-out", "weak input", "weak output", "weak middle", "strong middle",
    "style transfer", "composition", "strong style transfer", "style and composition", "style transfer precise", "composition precise",
]  # fmt: skip
