"""A small CLIP image encoder that knows colours, shapes and grounds of drawings: `python -m training.vision`.

CLIP's own layout (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021), taught by naming what it
sees from its projected embedding alone, and then frozen. It looks at 64 pixels where CLIP looks at 224.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from nodes.diffusion.vision import prepared
from training.base import MODELS, arguments, parsed
from training.blur import spoiled
from training.config import SHARPEN, VISION, VISION_MORE, SharpenRecipe, VisionRecipe
from training.export import Weights, save_halves
from training.silhouettes import silhouettes
from training.steps import Average, Meter, cosine
from training.world import COLOURS, COMBOS, SHAPES, Scenes, coverage, draw_scenes, render

SIDE, PATCH = 64, 8
WIDTH, LAYERS, HEADS = 128, 3, 2
EMBEDS = 64
ANSWERS = (len(COLOURS), len(SHAPES), len(COLOURS))


def make_vision() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            image_size=SIDE,
            patch_size=PATCH,
            projection_dim=EMBEDS,
            hidden_act="quick_gelu",
        )
    )


def seen(pictures: Tensor) -> Tensor:
    """(N, 3, H, W) pictures in [-1, 1] as the encoder takes them."""
    return prepared(((pictures + 1) / 2).clamp(0, 1).movedim(1, -1), SIDE, "center")


def embeds(vision: CLIPVisionModelWithProjection, pictures: Tensor) -> Tensor:
    """(N, 64) embeddings of pictures (N, 3, H, W) in [-1, 1]."""
    found: Tensor = vision(pixel_values=seen(pictures)).image_embeds
    return found


def scenes_for(count: int, generator: torch.Generator, spread: float = 1.0) -> Scenes:
    """Scenes of all kinds; at a spread of 0 all shapes stand in the middle and are of one size, at 1 they are where they like."""
    scenes = draw_scenes(count, generator, COMBOS, placed=0.15, sized=0.25)
    return replace(scenes, centre=scenes.centre * spread, radius=0.5 + (scenes.radius - 0.5) * spread)


def train_vision(recipe: VisionRecipe, path: Path, start: Path | None = None) -> None:
    """Teach the encoder and save its averaged weights to `path`; `start` is what an earlier training saved, to go on from.

    Colours it finds at once. Shapes it finds sooner where they all stand in the middle at first, where places weigh as much as what is
    seen there, and where each patch is to say how much the shape covers of its quarters.
    """
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    vision = make_vision()
    nn.init.normal_(vision.vision_model.embeddings.position_embedding.weight, std=0.3)
    where = nn.Linear(WIDTH, 4)
    questions = nn.ModuleList(nn.Linear(EMBEDS, classes) for classes in ANSWERS)
    parameters = [*vision.parameters(), *questions.parameters(), *where.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    spread, told = 0.0, 0.0
    if start:
        known, spread = torch.load(start), 1.0
        vision.load_state_dict(known["vision"])
        questions.load_state_dict(known["questions"])
    average, meter = Average(vision, recipe.decay), Meter("vision", every=50)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * cosine(step, recipe.steps, warm=100, floor=0.01)
        if step > recipe.steps // 3 or told > recipe.told:
            spread = min(1.0, spread + 1 / (recipe.eased_share * recipe.steps))
        scenes = scenes_for(recipe.batch, generator, spread)
        pictures = spoiled(render(scenes, SIDE if step % 4 else 2 * SIDE), recipe.spoiled_share, generator)
        seeing = vision(pixel_values=seen(pictures))
        found = seeing.image_embeds
        guesses = [question(found) for question in questions]
        mapped = where(seeing.last_hidden_state[:, 1:]) - quarters(coverage(scenes, SIDE))
        loss = sum(
            (functional.cross_entropy(guess, right) for guess, right in zip(guesses, scenes.combo.T, strict=True)),
            recipe.small * found.square().mean() + recipe.map_weight * mapped.square().mean(),
        )
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        shapes = (guesses[1].argmax(-1) == scenes.combo[:, 1]).float().mean().item()
        told += 0.05 * (shapes - told)
        meter.note(loss=loss.item(), shapes=shapes, spread=spread, map=mapped.square().mean().item())
    average.apply()
    torch.save({"vision": vision.state_dict(), "questions": questions.state_dict()}, path)


def sharpen(vision: CLIPVisionModelWithProjection, recipe: SharpenRecipe, path: Path) -> None:
    """Go on teaching an encoder on many more drawings, small ones above all, and save its averaged weights to `path`.

    Its questions need not be known: they are learned anew before anything else is. Beside naming, the embedding is to give each answer as
    a 1 among 0s by a linear layer: an adapter's projection is one, and has no use for how sure the encoder is.
    """
    torch.manual_seed(recipe.seed)
    generator, pool = torch.Generator().manual_seed(recipe.seed + 1), silhouettes(recipe, SIDE)
    where, questions = nn.Linear(WIDTH, 4), nn.ModuleList(nn.Linear(EMBEDS, classes) for classes in ANSWERS)
    codes = nn.Linear(EMBEDS, sum(ANSWERS))
    told, asking = [*vision.parameters()], [*questions.parameters(), *where.parameters(), *codes.parameters()]
    groups = [{"params": told}, {"params": asking}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    average, meter = Average(nn.ModuleList([vision, questions]), recipe.decay), Meter("sharpen", every=50)
    for step in range(recipe.steps):
        own = max(0, step - recipe.ask)
        rate = recipe.rate * cosine(own, recipe.steps - recipe.ask, warm=100, floor=0.005)
        optimizer.param_groups[0]["lr"] = rate if step >= recipe.ask else 0.0
        optimizer.param_groups[1]["lr"] = rate if step >= recipe.ask else recipe.asking_rate
        scenes, pictures, cover = pool.painted(recipe.batch, generator)
        seeing = vision(pixel_values=seen(spoiled(pictures, recipe.spoiled_share, generator)))
        guesses = [question(seeing.image_embeds) for question in questions]
        wrongs = [functional.cross_entropy(guess, right) for guess, right in zip(guesses, scenes.combo.T, strict=True)]
        mapped = (where(seeing.last_hidden_state[:, 1:]) - quarters(cover)).square().mean()
        ones = [functional.one_hot(right, classes) for right, classes in zip(scenes.combo.T, ANSWERS, strict=True)]
        coded = (codes(seeing.image_embeds) - torch.cat(ones, 1)).square().mean()
        loss = torch.stack(wrongs).sum() + recipe.small * seeing.image_embeds.square().mean()
        (loss + recipe.map_weight * mapped + recipe.code_weight * coded).backward()
        nn.utils.clip_grad_norm_(told, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        shapes = (guesses[1].argmax(-1) == scenes.combo[:, 1]).float().mean().item()
        meter.note(loss=loss.item(), shapes=shapes, map=mapped.item(), code=coded.item())
    average.apply()
    torch.save({"vision": vision.state_dict(), "questions": questions.state_dict()}, path)


def quarters(cover: Tensor) -> Tensor:
    """(N, patches, 4): how much the shape covers of the quarters of each patch, of coverages (N, SIDE, SIDE)."""
    coarse = functional.pixel_unshuffle(functional.avg_pool2d(cover[:, None], PATCH // 2), 2)
    return coarse.flatten(2).transpose(1, 2)


def save(weights: Weights, path: Path) -> None:
    kept = {key: value for key, value in weights.items() if "position_ids" not in key}
    save_halves(kept, path, vision=json.dumps({"heads": HEADS, "act": "quick_gelu"}))


def read_vision(path: Path) -> CLIPVisionModelWithProjection:
    vision = make_vision()
    stored = {key: value.float() for key, value in load_file(path).items()}
    vision.load_state_dict(vision.state_dict() | stored)
    return vision.eval().requires_grad_(False)


def known(first: Path, more: Path, start: Path | None) -> CLIPVisionModelWithProjection:
    """The encoder to sharpen: an exported one, or one that is taught from nothing and leaves its states at `first` and `more`."""
    if start:
        return read_vision(start).train().requires_grad_(True)
    if not first.exists():
        train_vision(VISION, first)
    if not more.exists():
        train_vision(VISION_MORE, more, first)
    vision = make_vision()
    vision.load_state_dict(torch.load(more)["vision"])
    return vision


@torch.no_grad()
def right_answers(vision: CLIPVisionModelWithProjection, questions: dict[str, Tensor], count: int) -> list[float]:
    """Shares of drawings whose colour, shape and ground the embedding tells."""
    scenes = scenes_for(count, torch.Generator().manual_seed(93))
    found = embeds(vision, render(scenes, 128))
    guesses = [
        functional.linear(found, questions[f"{number}.weight"], questions[f"{number}.bias"]).argmax(-1)
        for number in range(len(ANSWERS))
    ]
    return [float((guess == right).float().mean()) for guess, right in zip(guesses, scenes.combo.T, strict=True)]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--start", type=Path, help="an exported encoder to sharpen, in place of the first two trainings"
    )
    given = parsed(parser)
    first, more, state = (given.work / f"vision{name}.pt" for name in ("", "-more", "-sharp"))
    file = given.work / "demo_vision.safetensors"
    if not state.exists():
        sharpen(known(first, more, given.start), SHARPEN, state)
    stored = torch.load(state)
    save(stored["vision"], file)
    if given.tries:
        answers = right_answers(read_vision(file), stored["questions"], given.tries)
        print("vision: colour, shape, ground told", ", ".join(f"{it:.3f}" for it in answers), flush=True)
    print(f"{file} belongs into {MODELS / 'clip_vision'}")


if __name__ == "__main__":
    main()
