"""A style: shapes drawn as outlines. A LoRA for the demo checkpoint: `python -m training.style`.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), on the linear layers of the denoiser's transformers and the
convolutions of its residual blocks, under the keys of kohya's scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor, nn

from training.base import CHECKPOINT, MODELS, arguments, parsed
from training.config import STYLE, STYLED, STYLED_MORE, LatentSet, Share, UnetRecipe
from training.evaluate import SEED, Model
from training.export import Weights, save_halves
from training.grammar import Meaning, caption
from training.judge import Finding, Mask, Picture, cut_out, look
from training.loop import Loss, load_averaged, train
from training.sheet import contact_sheet
from training.unet import Captions, Latents, Unet, load_set, noise_loss, save_set
from training.vae import to_latents
from training.world import HELD_OUT, SHAPES, TRAINED, Scenes, covered, distances, draw_scenes, painted

RANK = 16
LINE = 0.11
"""Width of the line in half sides of the picture; it lies inside the shape."""
HOLLOW = 0.8
"""Share of the inside, away from the line, that has the ground's colour in an outline."""


class LowRank(nn.Module):
    """A layer and a change of rank 16 beside it."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        inner, outer = layer.weight.shape[1], layer.weight.shape[0]
        if isinstance(layer, nn.Linear):
            self.lora_down: nn.Module = nn.Linear(inner, RANK, bias=False)
            self.lora_up: nn.Module = nn.Linear(RANK, outer, bias=False)
        else:
            self.lora_down = nn.Conv2d(inner, RANK, layer.kernel_size, layer.stride, layer.padding, bias=False)  # type: ignore[arg-type]
            self.lora_up = nn.Conv2d(RANK, outer, 1, bias=False)
        nn.init.zeros_(self.lora_up.weight)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.layer(values) + self.lora_up(self.lora_down(values))
        return out


def attach(unet: Unet) -> nn.ModuleDict:
    """Put a change beside every layer of the transformers and every 3x3 of the residual blocks; the changes, by kohya's names."""
    names = [
        name
        for name, module in unet.named_modules()
        if (".attentions." in name or name.endswith((".conv1", ".conv2"))) and isinstance(module, nn.Linear | nn.Conv2d)
    ]
    changes = nn.ModuleDict()
    for name in names:
        parent, _, last = name.rpartition(".")
        changes["lora_unet_" + name.replace(".", "_")] = beside = LowRank(unet.get_submodule(name))
        setattr(unet.get_submodule(parent), last, beside)
    return changes


def lines(scenes: Scenes, side: int) -> Tensor:
    """(N, 3, side, side) pictures in [-1, 1] of the scenes' outlines."""
    return painted(scenes, covered((distances(scenes, side) + LINE / 2).abs() - LINE / 2))


def styled(base: Model, wanted: LatentSet, path: Path) -> Latents:
    """Scenes drawn in the style and encoded, once. Hardly any are small: the outline of a small shape fills it."""
    if not path.exists():
        combos = TRAINED + tuple(combo for combo in TRAINED if SHAPES[combo.shape] in STYLED_MORE)
        generator = torch.Generator().manual_seed(wanted.seed)
        scenes = draw_scenes(wanted.count, generator, combos, placed=wanted.placed, sized=wanted.sized)
        parts = [scenes[start : start + 32] for start in range(0, wanted.count, 32)]
        save_set(torch.cat([to_latents(base.vae, lines(part, wanted.side)).half() for part in parts]), scenes, path)
    return load_set(path)


def train_style(base: Model, recipe: UnetRecipe, latents: Latents, path: Path, start: Path | None = None) -> None:
    """Train the changes beside the frozen denoiser, which keeps them, and leave their state at `path`.

    start: an exported file of changes to go on from; what it says nothing of begins unchanged.
    """
    torch.manual_seed(recipe.seed)
    changes = attach(base.unet)
    if start and not path.exists():
        fill(changes, load_file(start), partly=True)

    def begin(seed: int) -> Loss:
        captions = Captions(base.text, recipe, seed)

        def loss(share: Share) -> Tensor:
            chosen = torch.randint(len(latents), (share.batch,))
            states = captions.states(latents.scenes.meanings[chosen])
            return noise_loss(base.unet, latents.values[chosen].float(), states, recipe.cap)

        return loss

    train("style", changes, recipe, begin, path)


def save(changes: Weights, path: Path) -> None:
    """Write the changes, and alpha equal to the rank: their strength is 1."""
    weights = {key: value for key, value in changes.items() if ".layer." not in key}
    alphas = {key.split(".")[0] + ".alpha": torch.tensor(float(RANK)) for key in sorted(weights)}
    save_halves(weights | alphas, path, ss_network_dim=str(RANK), ss_network_alpha=str(float(RANK)))


def fill(changes: nn.ModuleDict, stored: Weights, *, strength: float = 1.0, partly: bool = False) -> None:
    """Give changes the values that a file has for them; `partly`: which may be some of them only."""
    for name, change in changes.items():
        if partly and f"{name}.lora_up.weight" not in stored:
            continue
        for part in ("lora_down", "lora_up"):
            weight = stored[f"{name}.{part}.weight"].float() * (strength if part == "lora_up" else 1.0)
            change.get_submodule(part).load_state_dict({"weight": weight})


def put_on(unet: Unet, path: Path, strength: float = 1.0) -> None:
    """Read a file of changes and put them on the denoiser."""
    fill(attach(unet), load_file(path), strength=strength)
    unet.requires_grad_(False)


def inside(picture: Picture) -> tuple[Finding, float]:
    """What the outline's figure is, filled, and how much of its inside is empty: 1 for an outline, 0 for a filled shape."""
    mask = cut_out(picture)
    if mask is None:
        return look(picture), 0.0
    full: Mask = np.asarray(ndimage.binary_fill_holes(mask))
    found = look(picture)
    core = ndimage.binary_erosion(full, iterations=round(1.5 * LINE * len(picture) / 2))
    empty = float((~mask)[core].mean()) if core.any() else 0.0
    filled = np.empty_like(picture)
    filled[full], filled[~full] = np.median(picture[mask], axis=0), np.median(picture[~full], axis=0)
    shape = look(filled).shape
    return Finding(found.colour, shape, found.ground, area=found.area, centre=found.centre), empty


def outlined(picture: Picture, meaning: Meaning) -> bool:
    """Whether the picture shows the outline of what is said. A ring's outermost outline is a circle."""
    found, empty = inside(picture)
    said = "circle" if SHAPES[meaning.shape] == "ring" else SHAPES[meaning.shape]
    right = (found.colour, found.ground) == (meaning.colour, meaning.ground) and found.shape is not None
    return right and SHAPES[found.shape or 0] == said and (empty >= HOLLOW or SHAPES[meaning.shape] == "ring")


def report(name: str, pictures: Sequence[Picture], meanings: Sequence[Meaning], sheet: Path | None = None) -> None:
    right = [outlined(picture, meaning) for picture, meaning in zip(pictures, meanings, strict=True)]
    filled = sum(look(picture).agrees(meaning) for picture, meaning in zip(pictures, meanings, strict=True))
    print(f"{name}: outlines {sum(right)}/{len(right)}, as filled shapes {filled}/{len(right)}", flush=True)
    if sheet:
        wrong = [number for number, fits in enumerate(right) if not fits]
        contact_sheet(pictures, [caption(meaning) for meaning in meanings], sheet, wrong=wrong)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--start", type=Path, help="an exported style to go on from")
    given = parsed(parser)
    base, state, file = Model.load(CHECKPOINT), given.work / "style.pt", given.work / "demo_outline.safetensors"
    train_style(base, STYLE, styled(base, STYLED, given.work / f"{STYLED.name}.pt"), state, given.start)
    save(load_averaged(attach(Model.load(CHECKPOINT).unet), state).state_dict(), file)
    if given.tries:
        meanings = [Meaning(*HELD_OUT[number % len(HELD_OUT)]) for number in range(given.tries)]
        texts = [caption(meaning) for meaning in meanings]
        base = Model.load(CHECKPOINT)
        report("without", base.draw(texts, seed=SEED), meanings)
        put_on(base.unet, file)
        report("style", base.draw(texts, seed=SEED), meanings, file.with_suffix(".png"))
    print(f"{file} belongs into {MODELS / 'loras'}")


if __name__ == "__main__":
    main()
