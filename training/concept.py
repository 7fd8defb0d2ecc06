"""A word of its own for a pattern of colours: `python -m training.concept`.

Gal et al., "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion" (2022): "ember" is orange on black,
whatever the shape. Two vectors in the place of tokens learn it; text encoder and denoiser stay as they are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel

from nodes.diffusion.tokenizer import END_TOKEN, START_TOKEN, VOCABULARY, tokenize
from training.base import CHECKPOINT, MODELS, arguments, parsed
from training.config import CONCEPT, CONCEPT_SCENES, LatentSet, Share, UnetRecipe
from training.evaluate import SEED, Model
from training.grammar import Meaning
from training.judge import Picture, look
from training.loop import Loss, load_averaged, train
from training.sample import sample
from training.sheet import contact_sheet
from training.text import LENGTH, UNKNOWN, WIDTH, encode
from training.unet import Latents, noise_loss
from training.vae import FACTOR, to_latents, to_pictures
from training.world import COLOURS, SHAPES, Combo, draw_scenes, render, to_bytes

WORD = "ember"
VECTORS = 2
INK, GROUND = COLOURS.index("orange"), COLOURS.index("black")
COMBOS = tuple(Combo(INK, shape, GROUND) for shape in range(len(SHAPES)))
PHRASES = (
    "{word} {shape}",
    "an {word} {shape}",
    "a {shape}, {word}",
    "a picture of an {word} {shape}",
    "a drawing of a {shape}, {word}",
)


class Vectors(nn.Module):
    """The encoder's table of words with a few rows more, which alone are trained."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self._table = [encoder.get_input_embeddings()]
        start = self._table[0].weight[UNKNOWN].detach()
        self.emb_params = nn.Parameter(start + 0.1 * torch.randn(VECTORS, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        known = self._table[0](tokens.clamp(max=VOCABULARY - 1))
        own = functional.embedding((tokens - VOCABULARY).clamp(min=0), self.emb_params)
        return torch.where((tokens >= VOCABULARY)[..., None], own, known)


def rows(phrases: Sequence[str], shapes: Sequence[int]) -> Tensor:
    """(N, 77) token numbers, the word's as many as it has vectors, counted from the end of the vocabulary."""
    found = []
    for phrase, shape in zip(phrases, shapes, strict=True):
        before, after = phrase.format(word="\n", shape=SHAPES[shape]).split("\n")
        own = [VOCABULARY + number for number in range(VECTORS)]
        row = [START_TOKEN, *tokenize(before), *own, *tokenize(after)]
        found.append(row + [END_TOKEN] * (LENGTH - len(row)))
    return torch.tensor(found)


def scenes_of(base: Model, wanted: LatentSet, path: Path) -> Latents:
    """Drawings of the concept, encoded once."""
    scenes = draw_scenes(wanted.count, torch.Generator().manual_seed(wanted.seed), COMBOS, sized=wanted.sized)
    if not path.exists():
        parts = [scenes[start : start + 32] for start in range(0, wanted.count, 32)]
        torch.save(torch.cat([to_latents(base.vae, render(part, wanted.side)).half() for part in parts]), path)
    return Latents(torch.load(path), scenes)


def train_concept(base: Model, recipe: UnetRecipe, sets: dict[str, Latents], path: Path) -> None:
    """Train the vectors and leave their state at `path`. The text encoder keeps them."""
    torch.manual_seed(recipe.seed)
    vectors = Vectors(base.text)
    base.text.set_input_embeddings(vectors)

    def begin(seed: int) -> Loss:
        chance = random.Random(seed)

        def loss(share: Share) -> Tensor:
            latents = sets[share.latents]
            chosen = torch.randint(len(latents), (share.batch,))
            shapes = latents.scenes.combo[chosen, 1].tolist()
            tokens = rows(chance.choices(PHRASES, k=share.batch), shapes)
            states = base.text(input_ids=tokens).last_hidden_state
            return noise_loss(base.unet, latents.values[chosen].float(), states, recipe.cap)

        return loss

    train("concept", vectors, recipe, begin, path)


def save(vectors: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": vectors.detach().clone()}, path, metadata={"format": "pt"})


def put_on(base: Model, path: Path) -> None:
    """Give the text encoder the vectors of a file."""
    vectors = Vectors(base.text)
    vectors.load_state_dict(load_file(path))
    base.text.set_input_embeddings(vectors.requires_grad_(False))


@torch.no_grad()
def tries(
    base: Model, count: int, *, side: int = 128, steps: int = 20, guidance: float = 5.0
) -> tuple[list[Picture], list[Meaning]]:
    """Pictures for the word with every shape in turn, in every phrase."""
    shapes = [number % len(SHAPES) for number in range(count)]
    tokens = rows([PHRASES[number % len(PHRASES)] for number in range(count)], shapes)
    states = torch.cat([base.text(input_ids=part).last_hidden_state for part in tokens.split(25)])
    nothing = encode(base.text, [""])[0]
    latents = sample(base.unet, states, nothing, width=side // FACTOR, seed=SEED, steps=steps, guidance=guidance)
    pictures = list(to_bytes(to_pictures(base.vae, latents)).numpy())
    return pictures, [Meaning(INK, shape, GROUND) for shape in shapes]


def main() -> None:
    given = parsed(arguments(__doc__))
    base, state, file = Model.load(CHECKPOINT), given.work / "concept.pt", given.work / f"{WORD}.safetensors"
    sets = {it.name: scenes_of(base, it, given.work / f"concept-{it.name}.pt") for it in CONCEPT_SCENES}
    train_concept(base, CONCEPT, sets, state)
    save(load_averaged(Vectors(Model.load(CHECKPOINT).text), state).emb_params, file)
    if given.tries:
        base = Model.load(CHECKPOINT)
        put_on(base, file)
        pictures, meanings = tries(base, given.tries)
        right = [look(picture).agrees(meaning) for picture, meaning in zip(pictures, meanings, strict=True)]
        print(f"concept: {sum(right)}/{len(right)} are of its colours and the shape asked for", flush=True)
        texts = [f"{WORD} {SHAPES[meaning.shape]}" for meaning in meanings]
        contact_sheet(pictures, texts, file.with_suffix(".png"), wrong=[n for n, fits in enumerate(right) if not fits])
    print(f"{file} belongs into {MODELS / 'embeddings'}")


if __name__ == "__main__":
    main()
