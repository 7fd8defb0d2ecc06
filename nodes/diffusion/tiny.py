"""TAESD's tiny autoencoders in a file: which of its layouts it has, and the configuration of the network.

The encoder and the decoder are each one row of convolutions and blocks, numbered in a ``nn.Sequential``. The original files are two, one
for each; others have both in one file, below ``taesd_encoder.`` and ``taesd_decoder.`` or, as diffusers does, below ``encoder.layers.``
and ``decoder.layers.``. The original decoder counts from 1, because a clamp stands before its first convolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from engine.errors import ModelFileError
from nodes.diffusion.checkpoints import TensorInfo, Tensors
from nodes.diffusion.configs import TinyVaeConfig
from nodes.diffusion.convert import Names, Stored
from nodes.diffusion.family import FAMILIES, Family
from nodes.diffusion.infer import Metadata, given_numbers, shape_of

Half = Literal["encoder", "decoder"]
HALVES: Final[tuple[Half, Half]] = ("encoder", "decoder")

SCALE: Final = "vae_scale"
SHIFT: Final = "vae_shift"
"""Numbers beside the halves of a file: ``(latent - vae_shift) * vae_scale`` is what the networks see of an unscaled latent."""

_LAYOUTS: Final = (("{}.layers.", 0), ("taesd_{}.", 1), ("{}.", 1))
"""What stands before a half's numbers, and from which one its decoder counts."""
_NUMBERED: Final = re.compile(r"(\d+)\.(.+)")


def tiny_names(tensors: Tensors, prefix: str) -> dict[str, Stored] | None:
    """Name in diffusers' network -> where it is, for a file with both halves below ``prefix``; None where there are none."""
    for pattern, first in _LAYOUTS:
        halves = {half: prefix + pattern.format(half) for half in HALVES}
        if f"{halves['encoder']}1.conv.0.weight" in tensors and f"{halves['decoder']}{first}.weight" in tensors:
            return {
                new: Stored(old)
                for old in tensors
                for half, start in halves.items()
                if (new := _placed(old.removeprefix(start), half, first)) and old.startswith(start)
            }
    return None


def _placed(name: str, half: str, first: int) -> str | None:
    """The name in the network of one that begins with its layer's number."""
    found = _NUMBERED.fullmatch(name)
    if found is None:
        return None
    return f"{half}.layers.{int(found[1]) - (first if half == 'decoder' else 0)}.{found[2]}"


def half_of(tensors: Tensors) -> Half | None:
    """Which half a file is that holds one alone, in the original layout."""
    if not tensors or not all(_NUMBERED.fullmatch(name) for name in tensors):
        return None
    if "3.conv.0.weight" not in tensors:
        return None
    return "encoder" if "0.weight" in tensors else "decoder" if "1.weight" in tensors else None


def half_names(tensors: Tensors, half: Half) -> dict[str, Stored]:
    """As ``tiny_names``, of one half in a file of its own."""
    placed = {old: _placed(old, half, 1) for old in tensors}
    return {new: Stored(old) for old, new in placed.items() if new is not None}


def original_place(name: str) -> Stored:
    """Where the layout with both halves below ``taesd_`` has a tensor of diffusers' network."""
    half, _, rest = name.partition(".layers.")
    number, _, leaf = rest.partition(".")
    return Stored(f"taesd_{half}.{int(number) + (half == 'decoder')}.{leaf}")


def tiny_config(tensors: Tensors, names: Names, metadata: Metadata, family: Family | None) -> TinyVaeConfig:
    """The configuration of the network that has ``names`` in ``tensors``.

    How its latents are scaled no shape tells: it follows ``family``, the metadata's ``scale_factor`` and ``shift`` under ``vae``, or the
    family that is commonest among those with as many channels.
    """
    own: Mapping[str, TensorInfo] = {new: tensors[where.name] for new, where in names.items()}
    latent = shape_of(own, "decoder.layers.0.weight", 4)[1]
    usual = family or FAMILIES["sd3" if latent == FAMILIES["sd3"].channels else "sd1"]
    given = given_numbers("vae", metadata, ("scale_factor", "shift"))
    return TinyVaeConfig(
        channels=shape_of(own, "encoder.layers.0.weight", 4)[0],
        latent_channels=latent,
        encoder_blocks=_runs(own, "encoder"),
        decoder_blocks=_runs(own, "decoder"),
        scale_factor=given.get("scale_factor", usual.scale),
        shift=given.get("shift", usual.shift),
        is_scale_told=family is not None or "scale_factor" in given,
    )


def _runs(tensors: Tensors, half: Half) -> tuple[int, ...]:
    """How many blocks stand between one convolution and the next."""
    numbers = {int(name.split(".")[2]) for name in tensors if name.startswith(f"{half}.layers.")}
    runs: list[int] = []
    for number in sorted(numbers):
        if f"{half}.layers.{number}.weight" in tensors:
            runs.append(0)
        elif runs:
            runs[-1] += 1
    if len(runs) < 2 or runs.pop():
        raise ModelFileError(
            f"expected blocks between convolutions in the tiny VAE's {half}, found {len(numbers)} layers"
        )
    return tuple(runs)
