"""ControlNets for the demo checkpoint: `python -m training.control canny`, `python -m training.control depth`.

Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models" (2023): a copy of the denoiser's way down that
reads a hint in pixels and adds to what the frozen denoiser hands over to its way up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file
from torch import Tensor, nn

from training.base import CHECKPOINT, MODELS, arguments, parsed, scene_sets
from training.config import CONTROL, DEPTH, Share, UnetRecipe
from training.evaluate import SEED, Model
from training.export import Weights, save_halves, unet_key
from training.grammar import Meaning, caption
from training.hints import depth_hints, edge_hints
from training.judge import Picture, cut_out, look
from training.loop import Loss, load_averaged, train
from training.sample import sample
from training.sheet import contact_sheet
from training.text import encode
from training.unet import Captions, Latents, Unet, noise_loss
from training.vae import FACTOR, to_pictures
from training.world import HELD_OUT, Scenes, coverage, draw_scenes, scatter, to_bytes

Hints: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""Hints (N, 3, H, W) in 0..1 of what is covered (N, H, W)."""
EDGES = MODELS / "controlnet" / "demo_canny.safetensors"
"""The net that those for other hints go on from."""
HINTS: dict[str, Hints] = {"canny": edge_hints, "depth": depth_hints}


class Controlled(nn.Module):
    """The denoiser with ControlNets beside it, each with the hints of its pictures, so that it can be called as if alone."""

    def __init__(self, unet: Unet, nets: Sequence[tuple[ControlNetModel, Tensor, float]]) -> None:
        super().__init__()
        self._unet, self._nets = unet, nets

    def forward(self, latents: Tensor, times: Tensor, states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        downs, middle = None, None
        for net, hints, strength in self._nets:
            own = hints.repeat(len(latents) // len(hints), 1, 1, 1)
            extra = net(latents, times, states, own, conditioning_scale=strength, return_dict=False)
            downs = extra[0] if downs is None else [a + b for a, b in zip(downs, extra[0], strict=True)]
            middle = extra[1] if middle is None else middle + extra[1]
        out: tuple[Tensor] = self._unet(
            latents,
            times,
            states,
            down_block_additional_residuals=downs,
            mid_block_additional_residual=middle,
            return_dict=return_dict,
        )
        return out


def fresh_net(unet: Unet, seed: int = 0) -> ControlNetModel:
    """A copy of the denoiser's way down that adds nothing yet. Of two layers of zeros in a row the first would learn late."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(unet)
    nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight, std=0.02)
    return net


def train_control(
    base: Model, net: ControlNetModel, hints: Hints, recipe: UnetRecipe, sets: dict[str, Latents], path: Path
) -> None:
    """Train a net beside the frozen denoiser and leave its state at `path`."""

    def begin(seed: int) -> Loss:
        captions, generator = Captions(base.text, recipe, seed), torch.Generator().manual_seed(seed)

        def loss(share: Share) -> Tensor:
            latents = sets[share.latents]
            chosen = torch.randint(len(latents), (share.batch,))
            scenes = latents.scenes[chosen]
            shown = hints(coverage(scenes, latents.side), generator)
            states = captions.states(scenes.meanings)
            both = Controlled(base.unet, [(net, shown, 1.0)])
            return noise_loss(both, latents.values[chosen].float(), states, recipe.cap)

        return loss

    train("control", net, recipe, begin, path)


def original_key(key: str) -> str:
    """A key of diffusers' ControlNetModel as the original has it, below `control_model.`."""
    if found := re.match(r"controlnet_cond_embedding\.(conv_in|conv_out|blocks\.(\d+))\.(.*)", key):
        place = {"conv_in": 0, "conv_out": 14}.get(found[1], 0) or (2 * int(found[2]) + 2 if found[2] else 0)
        return f"input_hint_block.{place}.{found[3]}"
    if found := re.match(r"controlnet_down_blocks\.(\d+)\.(.*)", key):
        return f"zero_convs.{found[1]}.0.{found[2]}"
    if key.startswith("controlnet_mid_block."):
        return f"middle_block_out.0.{key.removeprefix('controlnet_mid_block.')}"
    return unet_key(key, frozenset())


def save_original(weights: Weights, path: Path) -> None:
    """One file in the layout of the ControlNet paper's own repository."""
    _save({f"control_model.{original_key(key)}": value for key, value in weights.items()}, path)


def save_diffusers(weights: Weights, path: Path) -> None:
    """One file with the keys of diffusers' ControlNetModel."""
    _save(weights, path)


SAVES: dict[str, Callable[[Weights, Path], None]] = {"canny": save_original, "depth": save_diffusers}


def _save(weights: Weights, path: Path) -> None:
    save_halves(weights, path, architecture="sd1.5-tiny", unet=json.dumps({"num_heads": 8, "norm_groups": 32}))


def read_control(path: Path, unet: Unet) -> ControlNetModel:
    """A ControlNet for this denoiser from a file of either layout, float32."""
    stored, net = load_file(path), ControlNetModel.from_unet(unet)
    original = any(key.startswith("control_model.") for key in stored)
    own = {key: f"control_model.{original_key(key)}" if original else key for key in net.state_dict()}
    net.load_state_dict({key: stored[name].float() for key, name in own.items()})
    return net.eval().requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Try:
    """A scene, the sentence it is asked for with, and what was drawn."""

    meaning: Meaning
    picture: Picture
    overlap: float
    """Intersection over union of the drawn foreground with the scene's shape."""


def judged_scenes(count: int, seed: int = 77) -> Scenes:
    """Scenes of held-out combinations, half of them anywhere and in any size."""
    generator = torch.Generator().manual_seed(seed)
    return scatter(draw_scenes(count, generator, HELD_OUT, placed=0.25, sized=0.25), 0.7, generator)


def tries(
    base: Model,
    nets: Sequence[tuple[ControlNetModel, Hints, float]],
    count: int,
    *,
    side: int = 128,
    steps: int = 20,
    guidance: float = 5.0,
    batch: int = 25,
) -> list[Try]:
    """Ask for the scenes' colours and shapes, not for their places, and show the hints. No nets: what chance gives."""
    scenes, generator = judged_scenes(count), torch.Generator().manual_seed(78)
    nothing, done = encode(base.text, [""])[0], []
    for start in range(0, count, batch):
        some = scenes[start : start + batch]
        cover = coverage(some, side)
        meanings = [Meaning(*row) for row in some.combo.tolist()]
        shown = [(net, hints(cover, generator), strength) for net, hints, strength in nets]
        latents = sample(
            Controlled(base.unet, shown),
            encode(base.text, [caption(meaning) for meaning in meanings]),
            nothing,
            width=side // FACTOR,
            seed=SEED + start,
            steps=steps,
            guidance=guidance,
            batch=batch,
        )
        pictures = to_bytes(to_pictures(base.vae, latents)).numpy()
        done += [Try(*it) for it in zip(meanings, pictures, map(_overlap, pictures, cover), strict=True)]
    return done


def _overlap(picture: Picture, cover: Tensor) -> float:
    found, wanted = cut_out(picture), (cover > 0.5).numpy()
    return 0.0 if found is None else float((found & wanted).sum() / (found | wanted).sum())


def report(name: str, done: Sequence[Try], sheet: Path | None = None) -> None:
    """Print how well shapes lie on their hints and agree with their prompts; save a sheet of them."""
    right = [look(one.picture).agrees(one.meaning) for one in done]
    overlaps = sorted(one.overlap for one in done)
    print(
        f"{name}: overlap {sum(overlaps) / len(done):.3f} in the mean, {overlaps[0]:.3f} at worst, "
        f"{sum(it >= 0.7 for it in overlaps)}/{len(done)} at least 0.7; prompt followed {sum(right)}/{len(done)}",
        flush=True,
    )
    if sheet:
        texts = [f"{caption(one.meaning)} {one.overlap:.2f}" for one in done]
        contact_sheet([it.picture for it in done], texts, sheet, wrong=[n for n, fits in enumerate(right) if not fits])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("kind", choices=list(HINTS))
    parser.add_argument("--alone", action="store_true", help="judge also what comes without the net")
    given = parsed(parser)
    base, hints, state = Model.load(CHECKPOINT), HINTS[given.kind], given.work / f"control-{given.kind}.pt"
    if given.kind == "canny":
        net, recipe = fresh_net(base.unet, CONTROL.seed), CONTROL
    else:
        net, recipe = read_control(EDGES, base.unet).train().requires_grad_(True), DEPTH
    train_control(base, net, hints, recipe, scene_sets(base, given.work), state)
    file = given.work / f"demo_{given.kind}.safetensors"
    SAVES[given.kind](load_averaged(ControlNetModel.from_unet(base.unet), state).state_dict(), file)
    if given.tries:
        net = read_control(file, base.unet)
        report(given.kind, tries(base, [(net, hints, 1.0)], given.tries), file.with_suffix(".png"))
    if given.tries and given.alone:
        report("without", tries(base, [], given.tries))
    if given.tries and given.kind != "canny":
        both = [(net, hints, 0.6), (read_control(EDGES, base.unet), HINTS["canny"], 0.6)]
        report("with edges, at 0.6 each", tries(base, both, given.tries))
    print(f"{file} belongs into {MODELS / 'controlnet'}")


if __name__ == "__main__":
    main()
