"""Widgets that nodes of several families have; sockets are in ``sockets``."""

from __future__ import annotations

from typing import Annotated

from engine.fileref import FileRef
from engine.spec import FileChoice, Range, Seed

Percent = Annotated[float, Range(0.0, 1.0, step=0.001)]
"""A part of a whole run."""
SeedInt = Annotated[int, Range(0, 2**64 - 1), Seed()]
Steps = Annotated[int, Range(1, 10_000)]
Cfg = Annotated[float, Range(0.0, 100.0, step=0.1, round=0.01)]
LoraName = Annotated[FileRef, FileChoice("loras")]
