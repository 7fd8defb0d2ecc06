"""Judge an exported model: `python -m training.evaluate models/checkpoints/demo.safetensors`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel

from training.export import read
from training.grammar import Meaning, caption, prompts
from training.judge import Finding, Picture, describe, look
from training.sample import METHODS, SPACINGS, Method, Spacing, sample
from training.sheet import contact_sheet
from training.text import encode
from training.unet import Unet
from training.vae import FACTOR, to_pictures
from training.world import COMBOS, HELD_OUT, PLACED_RADII, PLACES, RADII, SIZES, Combo, to_bytes

SEED = 4_000_000
"""First seed of the judged noise; training uses seeds below a thousand."""


@dataclass(frozen=True, slots=True)
class Model:
    unet: Unet
    vae: AutoencoderKL
    text: CLIPTextModel

    @classmethod
    def load(cls, path: Path) -> Model:
        return cls(*read(path))

    def draw(
        self,
        captions: Sequence[str],
        *,
        side: int = 128,
        seed: int = SEED,
        method: Method = "euler",
        spacing: Spacing = "normal",
        guidance: float = 5.0,
        steps: int = 20,
    ) -> list[Picture]:
        """One (side, side, 3) picture for each caption."""
        states, nothing = encode(self.text, captions), encode(self.text, [""])[0]
        latents = sample(
            self.unet,
            states,
            nothing,
            width=side // FACTOR,
            seed=seed,
            steps=steps,
            guidance=guidance,
            method=method,
            spacing=spacing,
        )
        return list(to_bytes(to_pictures(self.vae, latents)).numpy())


@dataclass(frozen=True, slots=True)
class Report:
    """Counts over a set of pictures, and means over those that agree with their caption."""

    pictures: int
    colour: int
    shape: int
    ground: int
    agree: int
    clean: int
    wobble: float
    softness: float
    unevenness: float

    @classmethod
    def of(cls, findings: Sequence[Finding], meanings: Sequence[Meaning]) -> Report:
        pairs = list(zip(findings, meanings, strict=True))
        right = [found for found, meaning in pairs if found.agrees(meaning)]
        return cls(
            pictures=len(pairs),
            colour=sum(found.colour == meaning.colour for found, meaning in pairs),
            shape=sum(found.shape == meaning.shape for found, meaning in pairs),
            ground=sum(found.ground == meaning.ground for found, meaning in pairs),
            agree=len(right),
            clean=sum(found.clean() for found in right),
            wobble=_mean([found.wobble for found in right]),
            softness=_mean([found.softness for found in right]),
            unevenness=_mean([found.unevenness for found in right]),
        )

    def __str__(self) -> str:
        return (
            f"agree {self.agree}/{self.pictures} (colour {self.colour}, shape {self.shape}, ground {self.ground}), "
            f"clean {self.clean}, wobble {self.wobble:.2f} px, softness {self.softness:.2f}, "
            f"unevenness {self.unevenness:.1f}"
        )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def place_kept(found: Finding, place: int) -> bool:
    """Whether the shape's centre lies where the caption puts it, at least a fifth of the half side off the middle."""
    x, y = found.centre
    checks = {"left": x < -0.2, "right": x > 0.2, "top": y < -0.2, "bottom": y > 0.2}
    return checks.get(PLACES[place], abs(x) < 0.25 and abs(y) < 0.25)


def size_kept(found: Finding, meaning: Meaning) -> bool:
    """Whether the shape's radius is nearer to the named size than to the ordinary one."""
    radii = PLACED_RADII if meaning.place else RADII
    ordinary, named = radii[0], radii[meaning.size]
    if SIZES[meaning.size] == "small":
        return found.radius < (ordinary[0] + named[1]) / 2
    return found.radius > (ordinary[1] + named[0]) / 2


def plain_prompts(combos: Sequence[Combo], count: int) -> list[tuple[str, Meaning]]:
    """The customary sentence for these combinations, taking turns."""
    chosen = [combos[number % len(combos)] for number in range(count)]
    return [(caption(Meaning(*combo)), Meaning(*combo)) for combo in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--kind", choices=["grammar", "plain", "any"], default="grammar")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--spacing", choices=SPACINGS, default="normal")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--sheet", type=Path, help="save a contact sheet of each method's pictures beside this name")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = Model.load(arguments.file)
    if arguments.kind == "grammar":
        asked = prompts(HELD_OUT, arguments.prompts, seed=1)
    else:
        asked = plain_prompts(HELD_OUT if arguments.kind == "plain" else COMBOS, arguments.prompts)
    texts, meanings = [text for text, _ in asked], [meaning for _, meaning in asked]
    for method in arguments.methods:
        pictures = model.draw(
            texts,
            side=arguments.side,
            seed=arguments.seed,
            method=method,
            spacing=arguments.spacing,
            guidance=arguments.guidance,
        )
        judge(method, pictures, texts, meanings, arguments.sheet)


def judge(method: str, pictures: list[Picture], texts: list[str], meanings: list[Meaning], sheet: Path | None) -> None:
    """Print the report, each wrong picture, the places and sizes kept; save the sheet."""
    findings = [look(picture) for picture in pictures]
    print(f"{method}: {Report.of(findings, meanings)}", flush=True)
    wrong = [n for n, found in enumerate(findings) if not found.agrees(meanings[n])]
    for number in wrong:
        print(f"  {texts[number]!r} looks like {describe(findings[number])!r} ({findings[number].overlap:.2f})")
    pairs = list(zip(findings, meanings, strict=True))
    placed = [place_kept(found, meaning.place) for found, meaning in pairs if meaning.place]
    sized = [size_kept(found, meaning) for found, meaning in pairs if meaning.size]
    print(f"  places kept {sum(placed)}/{len(placed)}, sizes kept {sum(sized)}/{len(sized)}", flush=True)
    if sheet:
        contact_sheet(pictures, texts, sheet.with_stem(f"{sheet.stem}-{method}"), wrong=wrong)


if __name__ == "__main__":
    main()
