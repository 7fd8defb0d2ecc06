"""Every sampler with every schedule on the demo model, judged and laid out: ``docs/images/samplers.png``.

    python -m benchmarks.contact_sheet [--out FILE] [--steps 20]

A cell is one picture of one prompt and seed. The judge's verdict is its border: green where shape and both colours are the prompt's, red
where not, grey where it cannot be, for the reason that ``excuse`` gives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw

from engine.models import Digest, ModelRef
from engine.run.settings import DeviceSettings
from nodes.diffusion import sample, text, unet, vae
from nodes.diffusion.names import SAMPLER_NAMES, SCHEDULER_NAMES
from nodes.diffusion.store import LocalModelStore, make_store
from training.judge import Picture, look
from training.world import COLOURS, SHAPES

CHECKPOINT: Final = Path(__file__).parents[1] / "models" / "checkpoints" / "demo.safetensors"
SHEET: Final = Path(__file__).parents[1] / "docs" / "images" / "samplers.png"
PROMPT: Final = ("red", "circle", "blue")
_CONSISTENCY: Final = (
    "made for models distilled to consistency (an LCM LoRA); on others every step is a guess from noise"
)
_JUMPS: Final = "half of its steps stay close to full noise, and what is left is done in jumps; made for video models"
_UNEVEN: Final = "extrapolates over three or four steps as if they were alike, and the last ones are not; right at 40 steps or a lower cfg"
_HIGH_ORDER: Final[Mapping[str, frozenset[str]]] = {
    "ipndm": frozenset({"ddim_uniform", "beta", "normal", "kl_optimal"}),
    "ipndm_v": frozenset({"ddim_uniform", "normal"}),
    "dpmpp_3m_sde": frozenset({"ddim_uniform", "normal"}),
    "dpmpp_3m_sde_gpu": frozenset({"ddim_uniform", "normal"}),
}

CFG_PP_SCALE: Final = 1.6
"""CFG++ guides with scales of another size."""

SIDE: Final = 128
_PAD, _LEFT, _TOP = 4, 150, 24


def conditionings(store: LocalModelStore) -> tuple[Any, Any]:
    colour, shape, ground = PROMPT
    with store.lease(_ref("clip")) as clip:
        return text.encode(f"a {colour} {shape} on a {ground} background", clip), text.encode("", clip)


def _ref(part: Any) -> ModelRef:
    return ModelRef(Digest("demo"), part, str(CHECKPOINT))


def pictures(steps: int) -> Iterator[tuple[str, str, Picture]]:
    """(sampler, schedule, picture) for every combination."""
    store = make_store(DeviceSettings(device="cpu"))
    assert isinstance(store, LocalModelStore)
    positive, negative = conditionings(store)
    empty = {"samples": torch.zeros(1, 4, SIDE // 8, SIDE // 8)}
    for sampler in SAMPLER_NAMES:
        for scheduler in SCHEDULER_NAMES:
            cfg = CFG_PP_SCALE if "cfg_pp" in sampler else 5.0
            settings = sample.Settings(seed=42, steps=steps, cfg=cfg, sampler=sampler, scheduler=scheduler)
            with store.lease(_ref("unet")) as loaded:
                latent = sample.sample_latent(unet.denoiser(loaded), settings, positive, negative, empty)
            assert bool(latent["samples"].isfinite().all()), f"{sampler} with {scheduler} is not finite"
            with store.lease(_ref("vae")) as loaded:
                image = vae.decode(latent["samples"], loaded)[0]
            yield sampler, scheduler, (image.numpy() * 255).astype(np.uint8)


def excuse(sampler: str, scheduler: str) -> str | None:
    """Why a combination cannot be good with so few steps of a plain model, if there is a reason."""
    if scheduler in _HIGH_ORDER.get(sampler, ()):
        return _UNEVEN
    if sampler == "lcm":
        return _CONSISTENCY
    return _JUMPS if scheduler == "linear_quadratic" else None


def is_right(picture: Picture) -> bool:
    """Whether the picture shows the prompt."""
    seen = look(picture)
    colour, shape, ground = PROMPT
    return (seen.colour, seen.shape, seen.ground) == (COLOURS.index(colour), SHAPES.index(shape), COLOURS.index(ground))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=SHEET)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    cell = SIDE // 2 + 2 * _PAD
    size = _LEFT + cell * len(SCHEDULER_NAMES), _TOP + cell * len(SAMPLER_NAMES)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(SCHEDULER_NAMES):
        draw.text((_LEFT + column * cell + _PAD, _PAD), name[:12], fill="black")
    wrong: list[str] = []
    for sampler, scheduler, picture in pictures(arguments.steps):
        column, row = SCHEDULER_NAMES.index(scheduler), SAMPLER_NAMES.index(sampler)
        right = is_right(picture)
        reason = excuse(sampler, scheduler)
        if not right:
            wrong.append(f"{sampler} with {scheduler}" + (f" ({reason})" if reason else ""))
        x, y = _LEFT + column * cell, _TOP + row * cell
        colour = "#2a9d3a" if right else "#999999" if reason else "#d02020"
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=colour)
        sheet.paste(
            Image.fromarray(picture).resize((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS), (x + _PAD, y + _PAD)
        )
        draw.text((_PAD, y + cell // 2 - 5), sampler, fill="black")
        print(f"{sampler} {scheduler}: {'right' if right else 'WRONG'}", file=sys.stderr, flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.out)
    total = len(SAMPLER_NAMES) * len(SCHEDULER_NAMES)
    print(f"{total - len(wrong)} of {total} combinations show the prompt; {arguments.out}")
    for name in wrong:
        print(f"  not: {name}")


if __name__ == "__main__":
    main()
