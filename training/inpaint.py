"""An inpainting checkpoint: `python -m training.inpaint`.

The demo denoiser with five more channels of input, as in Stable Diffusion's inpainting checkpoints: beside the noisy
latents a mask, 1 where the picture is to be made anew, and the latents of the picture with grey under the mask. The new
weights start from zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.base import CHECKPOINT, MODELS, arguments, parsed, scene_sets
from training.config import INPAINT, INPAINT_MORE, MASKED, PLACING, Share, UnetRecipe
from training.evaluate import SEED, Model
from training.export import export
from training.grammar import Meaning, caption
from training.judge import Picture, look
from training.loop import Loss, load_averaged, train
from training.sample import sample
from training.sheet import contact_sheet
from training.text import encode
from training.unet import Captions, Latents, Unet, make_unet, noise_loss
from training.vae import CHANNELS, FACTOR, to_latents, to_pictures
from training.world import COLOURS, HELD_OUT, SHAPES, Scenes, draw_scenes, grid, render, to_bytes

EXTRA = CHANNELS + 1
PLAIN_GREY = (0.8223, -0.6876, 0.6364, 0.1380)
"""What programs show beside a mask of ones, where there is no picture: grey as Stable Diffusion 1's own autoencoder codes it."""


def masks(scenes: Scenes, side: int, generator: torch.Generator) -> Tensor:
    """(N, side, side) of 0 and 1: boxes around the shape, boxes anywhere, and strokes of a brush."""
    count = len(scenes)
    kind = torch.rand(count, 1, 1, generator=generator)
    around, anywhere = _around(scenes, side, generator), _box(_anywhere(count, generator), side)
    boxes = MASKED.around_share + MASKED.anywhere_share
    other = torch.where(kind < boxes, anywhere, _brush(count, side, generator))
    return torch.where(kind < MASKED.around_share, around, other).float()


def _box(corners: Tensor, side: int) -> Tensor:
    """(N, 4) left, top, right, bottom in half sides to (N, side, side) of truth."""
    x, y = grid(side)
    left, top, right, bottom = corners.T[:, :, None, None]
    return torch.stack([x > left, x < right, y > top, y < bottom]).all(0)


def _around(scenes: Scenes, side: int, generator: torch.Generator) -> Tensor:
    """A box with the shape in it, each side of it at a distance of its own."""
    room = scenes.radius[:, None] * (1.25 + 0.6 * torch.rand(len(scenes), 4, generator=generator))
    return _box(scenes.centre.repeat(1, 2) + room * torch.tensor([-1.0, -1.0, 1.0, 1.0]), side)


def _anywhere(count: int, generator: torch.Generator) -> Tensor:
    middle = torch.rand(count, 2, generator=generator) * 1.6 - 0.8
    half = 0.2 + 0.6 * torch.rand(count, 2, generator=generator)
    return torch.cat([middle - half, middle + half], 1)


def _brush(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Everything within the brush's radius of a line through four points."""
    x, y = grid(side)
    points = torch.rand(count, 4, 2, generator=generator) * 1.8 - 0.9
    wide = 0.12 + 0.25 * torch.rand(count, 1, 1, generator=generator)
    near = torch.zeros(count, side, side, dtype=torch.bool)
    for number in range(3):
        start, step = points[:, number], points[:, number + 1] - points[:, number]
        px, py = (at - start[:, axis, None, None] for axis, at in enumerate((x, y)))
        ex, ey = (step[:, axis, None, None] for axis in range(2))
        along = ((px * ex + py * ey) / (ex * ex + ey * ey).clamp(min=1e-6)).clamp(0, 1)
        near |= torch.hypot(px - along * ex, py - along * ey) < wide
    return near


@dataclass(frozen=True, slots=True)
class Holes:
    """What stands beside the noisy latents of a set's first scenes, `count` of them: the mask and what is kept, (N, 5, h, w).

    All scenes in turn, then all of them again under other masks.
    """

    values: Tensor
    count: int


def beside(base: Model, pictures: Tensor, mask: Tensor) -> Tensor:
    """(N, 5, h, w) for pictures (N, 3, H, W) in [-1, 1] and masks (N, H, W) of 0 and 1."""
    kept = to_latents(base.vae, pictures * (1 - mask[:, None]))
    coarse = functional.interpolate(mask[:, None], size=kept.shape[-2:], mode="bilinear").round()
    return torch.cat([coarse, kept], 1)


def all_masked(base: Model, side: int) -> Tensor:
    """(2, 5, h, w) beside latents of which nothing is kept: grey as our autoencoder codes it, and as Stable Diffusion's does."""
    own = beside(base, torch.zeros(1, 3, side, side), torch.ones(1, side, side))
    plain = torch.tensor(PLAIN_GREY).view(-1, 1, 1).expand_as(own[0, 1:])
    return torch.stack([own[0], torch.cat([own[0, :1], plain])])


def holes(base: Model, latents: Latents, count: int, rounds: int, path: Path) -> Holes:
    """Draw masks for each of the first scenes of a set and encode what they leave, once."""
    if not path.exists():
        generator, parts = torch.Generator().manual_seed(21), []
        for start in list(range(0, count, 32)) * rounds:
            some = latents.scenes[start : min(start + 32, count)]
            mask = masks(some, latents.side, generator)
            parts.append(beside(base, render(some, latents.side), mask).half())
        torch.save(torch.cat(parts), path)
    return Holes(torch.load(path), count)


def wider(unet: Unet) -> Unet:
    """The denoiser with room for the mask and what is kept; to it they mean nothing yet."""
    wide = make_unet(CHANNELS + EXTRA)
    weights = unet.state_dict()
    first = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([first, first.new_zeros(len(first), EXTRA, *first.shape[2:])], 1)
    wide.load_state_dict(weights)
    return wide


class Inpainting(nn.Module):
    """A wide denoiser together with what stands beside the latents, so that it can be called as if it was none."""

    def __init__(self, unet: Unet, extra: Tensor) -> None:
        super().__init__()
        self._unet, self._extra = unet, extra

    def forward(self, latents: Tensor, times: Tensor, states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        extra = self._extra.repeat(len(latents) // len(self._extra), 1, 1, 1)
        out: tuple[Tensor] = self._unet(torch.cat([latents, extra], 1), times, states, return_dict=return_dict)
        return out


def train_inpaint(
    base: Model, unet: Unet, recipe: UnetRecipe, sets: dict[str, Latents], work: Path, path: Path
) -> None:
    """Train a wide denoiser, all of it, and leave its state at `path`."""
    unet.requires_grad_(True).train()
    known = {
        it.name: holes(base, sets[it.name], it.count, MASKED.rounds, work / f"holes-{it.name}.pt")
        for it in MASKED.counts
    }
    whole = {name: all_masked(base, latents.side) for name, latents in sets.items()}

    def begin(seed: int) -> Loss:
        captions = Captions(base.text, recipe, seed)

        def loss(share: Share) -> Tensor:
            latents, cut = sets[share.latents], known[share.latents]
            hole = torch.randint(len(cut.values), (share.batch,))
            extra, chosen = cut.values[hole].float(), hole % cut.count
            nothing = torch.rand(share.batch) < MASKED.whole_share
            extra[nothing] = whole[share.latents][torch.randint(2, (int(nothing.sum()),))]
            states = captions.states(latents.scenes.meanings[chosen])
            return noise_loss(Inpainting(unet, extra), latents.values[chosen].float(), states, recipe.cap, recipe.late)

        return loss

    train("inpaint", unet, recipe, begin, path)


@dataclass(frozen=True, slots=True)
class Try:
    """A drawing with a hole, what was asked to stand in the hole, and what came out."""

    before: Picture
    mask: Tensor
    meaning: Meaning
    made: Picture
    """As decoded, all of it."""

    @property
    def joined(self) -> Picture:
        """The drawing as it was, with the hole filled."""
        return np.where(self.mask.numpy()[..., None] > 0.5, self.made, self.before)

    @property
    def kept(self) -> float:
        """Mean difference in levels of 255 outside the hole, two pixels away from it."""
        far = functional.max_pool2d(self.mask[None], 5, stride=1, padding=2)[0].numpy() < 0.5
        return float(np.abs(self.made.astype(float) - self.before)[far].mean()) if far.any() else 0.0


def questions(count: int, generator: torch.Generator) -> tuple[Scenes, list[Meaning]]:
    """Drawings, and for each another colour and shape, together with the drawing's ground a combination that was held out."""
    asked = [Meaning(*HELD_OUT[number % len(HELD_OUT)]) for number in range(count)]
    scenes = draw_scenes(count, generator, placed=0.5, sized=0.5)
    ground = torch.tensor([meaning.ground for meaning in asked])
    step = torch.tensor([meaning.colour for meaning in asked]) + 1 + torch.randint(3, (count,), generator=generator)
    colour = torch.where(step % len(COLOURS) == ground, step + 1, step) % len(COLOURS)
    shape = torch.tensor([meaning.shape for meaning in asked]) + 1 + torch.randint(5, (count,), generator=generator)
    return replace(scenes, combo=torch.stack([colour, shape % len(SHAPES), ground], 1)), asked


def tries(
    base: Model, unet: Unet, count: int, *, side: int = 128, steps: int = 20, guidance: float = 5.0, batch: int = 25
) -> list[Try]:
    """Cut the shape out of drawings, with a box, and ask for another of another colour in its place."""
    generator = torch.Generator().manual_seed(79)
    scenes, asked = questions(count, generator)
    nothing, done = encode(base.text, [""])[0], []
    for start in range(0, count, batch):
        some, meanings = scenes[start : start + batch], asked[start : start + batch]
        drawn, mask = render(some, side), _around(some, side, generator).float()
        latents = sample(
            Inpainting(unet, beside(base, drawn, mask)),
            encode(base.text, [caption(meaning) for meaning in meanings]),
            nothing,
            width=side // FACTOR,
            seed=SEED + start,
            steps=steps,
            guidance=guidance,
            batch=batch,
        )
        made = to_bytes(to_pictures(base.vae, latents)).numpy()
        done += [Try(*it) for it in zip(to_bytes(drawn).numpy(), mask, meanings, made, strict=True)]
    return done


def from_nothing(base: Model, unet: Unet, count: int, side: int = 128) -> int:
    """How many of so many held-out prompts come out right where the whole picture is masked."""
    meanings = [Meaning(*HELD_OUT[number % len(HELD_OUT)]) for number in range(count)]
    extra = all_masked(base, side)[1:]
    states = encode(base.text, [caption(meaning) for meaning in meanings])
    latents = sample(
        Inpainting(unet, extra), states, encode(base.text, [""])[0], width=side // FACTOR, seed=SEED, batch=25
    )
    pictures = to_bytes(to_pictures(base.vae, latents)).numpy()
    return sum(look(picture).agrees(meaning) for picture, meaning in zip(pictures, meanings, strict=True))


def report(done: Sequence[Try], sheet: Path | None = None) -> None:
    """Print how many holes were filled as asked, and how much changed outside them; save a sheet, the drawings above."""
    right = [look(one.joined).agrees(one.meaning) for one in done]
    kept = sum(one.kept for one in done) / len(done)
    print(f"inpaint: prompt followed {sum(right)}/{len(done)}, {kept:.2f} levels off outside the mask", flush=True)
    if sheet:
        shown: list[Picture] = []
        for one in done[:50]:
            grey = np.where(one.mask.numpy()[..., None] > 0.5, 128, one.before).astype(np.uint8)
            shown.append(np.concatenate([grey, one.joined]))
        wrong = [number for number, fits in enumerate(right[:50]) if not fits]
        contact_sheet(shown, [caption(one.meaning) for one in done[:50]], sheet, wrong=wrong)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--start", type=Path, help="an exported inpainting checkpoint to go on from")
    given = parsed(parser)
    base, first, state = Model.load(CHECKPOINT), given.work / "inpaint.pt", given.work / "inpaint-placed.pt"
    unet, recipe = (Model.load(given.start).unet, INPAINT_MORE) if given.start else (wider(base.unet), INPAINT)
    sets = scene_sets(base, given.work)
    train_inpaint(base, unet, recipe, sets, given.work, first)
    unet = load_averaged(make_unet(CHANNELS + EXTRA), first)
    train_inpaint(base, unet, PLACING, sets, given.work, state)
    file = given.work / "demo_inpaint.safetensors"
    unet = load_averaged(make_unet(CHANNELS + EXTRA), state)
    export(unet.state_dict(), base.vae.state_dict(), base.text.state_dict(), file)
    if given.tries:
        unet = Model.load(file).unet
        report(tries(base, unet, given.tries), file.with_suffix(".png"))
        print(
            f"with all of it masked: prompt followed {from_nothing(base, unet, given.tries)}/{given.tries}", flush=True
        )
    print(f"{file} belongs into {MODELS / 'checkpoints'}")


if __name__ == "__main__":
    main()
